"""Draw the initial values of a network's variables without compiling anything."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dvg_jax.keys import digest
from dvg_jax.shapes import Key, Variables

Shape = tuple[int, ...]


@runtime_checkable
class KernelRule(Protocol):
    """Draw the initial values of a kernel, or of the bias that belongs to it. Rules are hashable.

    Args:
      random: the generator to draw from.
      name: ``kernel`` or ``bias``.
      shape: of the result.
      kernel: shape of the kernel; for a bias, of the kernel that it belongs to.
    """

    def __call__(self, random: np.random.Generator, name: str, shape: Shape, kernel: Shape) -> np.ndarray: ...


@dataclass(frozen=True)
class UniformFanIn:
    """Draw kernel and bias uniformly within +-1/sqrt(fan in): PyTorch's default."""

    def __call__(self, random: np.random.Generator, name: str, shape: Shape, kernel: Shape) -> np.ndarray:
        bound = 1 / math.sqrt(math.prod(kernel[:-1]))
        return random.uniform(-bound, bound, shape)


TORCH_DEFAULT = UniformFanIn()


@dataclass(frozen=True)
class Normal:
    """Draw kernels from N(0, std^2), biases 0. Without ``std`` the variance is 2 / (window x output channels)."""

    std: float | None = None

    def __call__(self, random: np.random.Generator, name: str, shape: Shape, kernel: Shape) -> np.ndarray:
        if name == "bias":
            return np.zeros(shape)
        fan_out = math.prod(kernel[:-2]) * kernel[-1]
        return random.standard_normal(shape) * (math.sqrt(2 / fan_out) if self.std is None else self.std)


def init_variables(module: nn.Module, key: Key, *inputs: Any, kernels: KernelRule = TORCH_DEFAULT) -> Variables:
    """Draw variables from the distributions of ``module.init(key, *inputs)``, on the host, from shapes alone.

    Compiling the initialisation of a VQGAN takes 11 s on two CPU cores, running its initialisers one by one 30 s. The
    numbers depend on the key and the parameter's path. ``_draw`` has a rule for every kind of parameter.

    Args:
      module: the network.
      key: decides the numbers.
      *inputs: arrays of the shapes that the network is called with.
      kernels: the rule for kernels and their biases.
    """
    shapes = flatten_dict(jax.eval_shape(module.init, key, *inputs), sep="/")
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    drawn = {}
    for path, like in shapes.items():
        random = np.random.default_rng([*seed, digest(path)])
        kernel = shapes.get(path.rsplit("/", 1)[0] + "/kernel")
        drawn[path] = _draw(random, path, like.shape, None if kernel is None else kernel.shape, kernels)
        drawn[path] = drawn[path].astype(like.dtype)
    if "codebook/z_avg" in drawn:
        drawn["codebook/z_avg"] = drawn["codebook/embeddings"].copy()
    return jax.tree.map(jnp.asarray, unflatten_dict(drawn, sep="/"))


def _draw(
    random: np.random.Generator, path: str, shape: Shape, kernel: Shape | None, kernels: KernelRule
) -> np.ndarray:
    """Draw a parameter by its name; ``kernel`` is the shape of the kernel that it belongs to, if there is one."""
    name = path.rsplit("/", 1)[-1]
    if name in ("kernel", "bias") and kernel is not None:
        return kernels(random, name, shape, kernel)
    if name in ("scale", "var", "gamma"):
        return np.ones(shape)
    if name in ("bias", "mean", "N", "z_avg", "count"):
        return np.zeros(shape)
    if name in ("embedding", "embeddings", "u"):
        return random.standard_normal(shape)
    raise NotImplementedError(f"parameter {path} has no rule in init_variables")
