"""Write published weights as a working folder, as a training run would have left it.

Two things are converted to this library's terms, so that the method needs no switch for either:

- The released code maps the target latent to about [-1, 1] by the least and the greatest number in the CT codebook,
  and leaves conditions as they are. Here every VQGAN stores the mean and deviation by which its latents are
  standardised: the middle and half the span of the CT codebook, and 0 and 1.
- The released G_z returns a latent that is not mapped. Its last layer is a 1 x 1 x 1 convolution, which absorbs the
  map.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.config import STAGES, published_config
from dvg_jax.config.build import build_dvg
from dvg_jax.errors import UserError
from dvg_jax.files.outputs import check_room
from dvg_jax.shapes import Variables, VariablesByStage
from dvg_jax.torch_import.release import UNETS, VQGANS, Release
from dvg_jax.training.checkpoint import save_model
from dvg_jax.training.workdir import check_owner, has_checkpoint

LAST = "final_conv_1"


def write_workdir(release: Release, workdir: Path, size: int | None = None) -> ConfigDict:
    """Write every part as ``<stage>/model``, and ``config.json`` at the end; return the config.

    All parts are checked before anything is written. They stay in their files until then, and are written one by one.

    Args:
      release: the parts.
      workdir: the folder to write.
      size: voxels along each edge, for VQGANs alone, whose files do not record it.

    Raises:
      UserError: parts that are wrong or do not fit together, or a folder that belongs to another run.
    """
    read = {stage: part.read() for stage, part in release.parts.items()}
    variables = {stage: found for stage, (_, found) in read.items()}
    _check_channels(variables)
    variables = _in_our_terms(variables)
    config = _config(release, {stage: network for stage, (network, _) in read.items()}, size)
    build_dvg(config)
    _check_free(config, workdir)
    size_of = {stage: sum(leaf.nbytes for leaf in jax.tree.leaves(found)) for stage, found in variables.items()}
    check_room([("--workdir", workdir / stage / "model", size) for stage, size in size_of.items()])
    workdir.mkdir(parents=True, exist_ok=True)
    # Without a config the folder is no run: models of two imports cannot be mistaken for one.
    (workdir / "config.json").unlink(missing_ok=True)
    for stage, part in release.parts.items():
        # A stage counts as finished at the config's number of steps.
        facts = {"stage": stage, "steps": config[stage].train.steps, "config": json.loads(config.to_json())}
        save_model(workdir / stage / "model", variables[stage], facts | {"source": part.origin})
    configs.save(config, workdir / "config.json")
    return config


def _in_our_terms(variables: VariablesByStage) -> VariablesByStage:
    """Return the variables that stages trained here would have stored."""
    ours = {
        stage: found | {"statistics": _statistics(stage, found)}
        for stage, found in variables.items()
        if stage in VQGANS
    }
    if "new_view" in variables:
        params, target = variables["new_view"]["params"], ours["ct_vqgan"]["statistics"]
        kernel = params[LAST]["kernel"] / target["std"]
        bias = (params[LAST]["bias"] - target["mean"]) / target["std"]
        ours["new_view"] = {"params": params | {LAST: {"kernel": kernel, "bias": bias}}}
    if "diffusion" in variables:
        ours["diffusion"] = {"params": {"unet": variables["diffusion"]["params"]}}
    return ours


def _statistics(stage: str, variables: Variables) -> Variables:
    """Return the mean and deviation per channel that are equivalent to the published scale of a VQGAN's latents."""
    table = np.asarray(variables["codebook"]["embeddings"], np.float64)
    low, high = (table.min(), table.max()) if stage == "ct_vqgan" else (-1.0, 1.0)
    if not high > low:
        raise UserError(f"CT codebook reaches from {low} to {high}; allowed: different finite numbers")
    mean, std = (np.full(table.shape[1], x, np.float32) for x in ((low + high) / 2, (high - low) / 2))
    return {"mean": mean, "std": std}


def _check_channels(variables: VariablesByStage) -> None:
    """Check that inputs and outputs of the U-Nets have the channels of the VQGANs' latents."""
    if not UNETS.keys() <= variables.keys():
        return
    ct, view, new = (variables[stage]["codebook"]["embeddings"].shape[1] for stage in VQGANS)
    for stage, inputs, names in (("new_view", view, "z_in"), ("diffusion", view + new + ct, "z_in, z_new and z_t")):
        params = variables[stage]["params"]
        found = params["init_conv"]["kernel"].shape[-2], params[LAST]["kernel"].shape[-1]
        if found != (inputs, ct):
            raise UserError(
                f"{stage} takes {found[0]} channels and gives {found[1]}; allowed: {inputs}, those of {names}, and {ct}"
            )


def _config(release: Release, networks: dict[str, Any], size: int | None) -> ConfigDict:
    """Return the released conventions with the files' sizes; the paper's where no file records one."""
    config = published_config()
    if release.size and size not in (None, release.size):
        raise UserError(f"size is {size}; allowed: {release.size}, as the checkpoint's projector has it")
    config.size = release.size or size or config.size
    config.timesteps = release.timesteps or config.timesteps
    for stage, network in networks.items():
        config[stage].network.update({name: getattr(network, name) for name in config[stage].network})
    return config


def _check_free(config: ConfigDict, workdir: Path) -> None:
    check_owner(config, workdir, free=("data",))
    for stage in STAGES:
        if has_checkpoint(workdir / stage):
            raise UserError(f"{workdir} holds a training run ({stage}/checkpoints); allowed: another --workdir")
