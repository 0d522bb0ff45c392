"""Define the three VQGAN stages: of the CT, of the input views' V_bp, of the new view's V_bp."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.dvg import DVG
from dvg_jax.keys import named
from dvg_jax.latents import decode, encode
from dvg_jax.metrics import psnr_volume
from dvg_jax.networks import codebook
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.vqgan3d import VQGAN3D, commitment
from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes
from dvg_jax.stages.adversary import Adversary, Weights
from dvg_jax.stages.base import Example, Metrics, Stage


@dataclass(frozen=True)
class VQGANTask:
    """Train a VQGAN, its codebook and, where their weights are not 0, its critics (see ``adversary.py``)."""

    network: VQGAN3D
    weights: Weights

    @property
    def adversary(self) -> Adversary:
        return Adversary(self.weights, self.network.dtype)

    def constants(self, frozen: VariablesByStage) -> Variables:
        return self.adversary.constants()

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        """Return the initial variables. The first entries of the codebook are latents of the example."""
        x = example["x"]
        variables = init_variables(self.network, named(key, "network"), x)
        latent = jax.jit(lambda v, x: self.network.apply(v, x, method="encode"))(variables, x)
        rows = codebook.candidates(named(key, "codes"), latent.reshape(-1, latent.shape[-1]), self.network.n_codes)
        params, state = self.adversary.init(named(key, "critics"), x)
        return {"model": variables["params"], **params}, {"codebook": codebook.from_data(rows), **state}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return reconstruction, commitment and adversarial losses: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``x``, volumes (B, D, H, W, 1).
        """
        x, weights = example["x"], self.weights
        key_codes, key_slices = jax.random.split(key)
        out = self.network.apply({"params": params["model"], "codebook": model_state["codebook"]}, x)
        metrics = {
            "reconstruction": jnp.mean(jnp.abs(out.volume - x)),
            "commitment": commitment(out.latent, out.embeddings),
            "perplexity": codebook.perplexity(out.indices.reshape(-1), self.network.n_codes),
        }
        loss = weights.reconstruction * metrics["reconstruction"] + weights.commitment * metrics["commitment"]
        critics, state, critic_metrics = self.adversary.loss(
            params, model_state, constants, x, out.volume, key_slices, step
        )
        rows = jax.lax.stop_gradient(out.latent).reshape(-1, out.latent.shape[-1])
        codes = codebook.update(
            model_state["codebook"],
            rows,
            out.indices.reshape(-1),
            codebook.candidates(key_codes, rows, self.network.n_codes) if weights.restart_threshold else None,
            weights.restart_threshold,
        )
        return loss + critics, ({"codebook": codes, **state}, metrics | critic_metrics)


def _stage(
    name: str,
    config: ConfigDict,
    dvg: DVG,
    network: VQGAN3D,
    volume: Callable[[Volumes, Key], Volumes],
) -> Stage:
    """Build the stage of a VQGAN of the volumes that ``volume`` derives from CTs, D in the networks' order."""
    task = VQGANTask(network, Weights(**config[name].loss))

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        return {"x": dvg.turned(volume(ct, key))}

    def export(params: Variables, model_state: Variables, examples: Iterator[Example]) -> Variables:
        channels = network.embedding_dim
        raw = {"mean": np.zeros(channels, np.float32), "std": np.ones(channels, np.float32)}
        variables = {"params": params, "codebook": model_state["codebook"], "statistics": raw}
        latents = [np.asarray(encode(network, variables, e["x"])).reshape(-1, channels) for e in examples]
        rows = np.concatenate(latents).astype(np.float64)
        std = np.maximum(rows.std(axis=0), 1e-6)
        return variables | {"statistics": {"mean": np.float32(rows.mean(axis=0)), "std": np.float32(std)}}

    def show(variables: VariablesByStage, ct: Volumes, key: Key) -> tuple[Metrics, dict[str, Volume]]:
        x = volume(ct, key)
        y = dvg.turned(decode(network, True, variables[name], encode(network, variables[name], dvg.turned(x))))
        psnr = jax.vmap(lambda a, b: psnr_volume(a, b, peak=jnp.max(a)))(x[..., 0], y[..., 0])
        return {"psnr": jnp.mean(psnr)}, {"truth": x[0, ..., 0], "reconstruction": y[0, ..., 0]}

    return Stage(name, task, (), prepare, export, show)


def ct_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of D_ct and of the encoder of the target."""
    return _stage("ct_vqgan", config, dvg, dvg.ct_vqgan, lambda ct, key: ct)


def view_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of E_bp of the input views, the view parameter guided encoder: a VQGAN of V_bp."""

    def volume(ct: Volumes, key: Key) -> Volumes:
        return dvg.lift(*dvg.input_views(ct, key))

    return _stage("view_vqgan", config, dvg, dvg.view_vqgan, volume)


def new_view_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of E_bp of the synthesised view, trained on the true view."""

    def volume(ct: Volumes, key: Key) -> Volumes:
        return dvg.lift(dvg.render(ct, dvg.new_angles, dvg.normalize_new_view), dvg.new_angles)

    return _stage("new_view_vqgan", config, dvg, dvg.new_view_vqgan, volume)
