"""Compute a function in one of two forms, by the device for which a program is lowered.

JAX's own ``platform_dependent`` leaves a conditional of one branch in the program. Across it XLA's CPU backend does not
join sums over devices. Here the form itself is put in the conditional's place.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

Arrays = tuple[Array, ...]


def by_platform(
    *arrays: Array, cpu: Callable[..., Array], default: Callable[..., Array], **settings: Hashable
) -> Array:
    """Return ``cpu(*arrays, **settings)`` in programs for a CPU, and ``default(*arrays, **settings)`` in all others.

    It is differentiated in reverse only, any number of times. Equal calls, as of equal layers, are traced once.

    Args:
      *arrays: what both functions read.
      cpu: a function of a module, since a function made anew is traced anew.
      default: another one, whose result has the same shape and type.
      **settings: further arguments of both, which are no arrays.
    """
    fixed = tuple(sorted(settings.items()))
    return _chosen(_Form(cpu, fixed), _Form(default, fixed))(*arrays)[0]


@dataclass(frozen=True)
class _Form:
    """Give a function with its settings one result in a tuple; equal forms compare as equal."""

    function: Callable[..., Array]
    settings: tuple[tuple[str, Hashable], ...]

    def __call__(self, *arrays: Array) -> Arrays:
        return (self.function(*arrays, **dict(self.settings)),)


@dataclass(frozen=True)
class _Gradient:
    """Pull the gradients of a form's results, which follow its ``count`` arguments, back to these."""

    form: Callable[..., Arrays]
    count: int

    def __call__(self, *arrays: Array) -> Arrays:
        return jax.vjp(self.form, *arrays[: self.count])[1](arrays[self.count :])


@cache
def _chosen(cpu: Callable[..., Arrays], default: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Return the choice between two forms, with its gradient: the same choice between theirs."""

    @jax.custom_vjp
    def choose(*arrays: Array) -> Arrays:
        types = tuple(map(jax.typeof, arrays))
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        forms = {"cpu": _traced(cpu, types, precision), "default": _traced(default, types, precision)}
        return tuple(_by_platform.bind(*arrays, **forms))

    def forward(*arrays: Array) -> tuple[Arrays, Arrays]:
        return choose(*arrays), arrays

    def backward(arrays: Arrays, given: Arrays) -> Arrays:
        count = len(arrays)
        return _chosen(_Gradient(cpu, count), _Gradient(default, count))(*arrays, *given)

    choose.defvjp(forward, backward)
    return choose


@cache
def _traced(form: Callable[..., Arrays], types: tuple[Any, ...], precision: str | None) -> ClosedJaxpr:
    """Trace a form for arrays of these types, at the ``precision`` of products that holds now."""
    return jax.make_jaxpr(form)(*types)


@cache
def _compiled(cpu: ClosedJaxpr, default: ClosedJaxpr) -> Callable[..., list[Array]]:
    return jax.jit(partial(_by_platform.bind, cpu=cpu, default=default))


def _batched(arrays: Arrays, axes: tuple[int | None, ...], **forms: ClosedJaxpr) -> tuple[list[Array], list[int]]:
    types = tuple(map(jax.typeof, arrays))
    mapped = {name: jax.make_jaxpr(jax.vmap(jaxpr_as_fun(form), axes))(*types) for name, form in forms.items()}
    results = _by_platform.bind(*arrays, **mapped)
    return results, [0] * len(results)


_by_platform = Primitive("by_platform")
_by_platform.multiple_results = True
_by_platform.def_impl(lambda *arrays, cpu, default: _compiled(cpu, default)(*arrays))
_by_platform.def_abstract_eval(lambda *types, cpu, default: default.out_avals)
batching.primitive_batchers[_by_platform] = _batched
mlir.register_lowering(
    _by_platform, mlir.lower_fun(lambda *arrays, cpu, default: jaxpr_as_fun(cpu)(*arrays)), platform="cpu"
)
mlir.register_lowering(_by_platform, mlir.lower_fun(lambda *arrays, cpu, default: jaxpr_as_fun(default)(*arrays)))
