"""Open the published files: find the weights of each stage, and what else the files record.

    DVG_Diffusion.pt:  fit_model    G_z      -> new_view
                       fine_model   g_theta  -> diffusion
                       vqgan                 -> ct_vqgan        or CT_VQGAN.ckpt
                       vqgan_bp     E_bp     -> view_vqgan      or VPGE_0_90_VQGAN.ckpt
                       vqgan_bp025  E_new    -> new_view_vqgan  or VPGE_45_VQGAN.ckpt

Opening maps a file, and neither that nor reading copies a weight.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.diffusion import Schedule
from dvg_jax.errors import UserError
from dvg_jax.finite import finite
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.shapes import Variables
from dvg_jax.torch_import.reader import load_checkpoint
from dvg_jax.torch_import.state_dict import StateDict, load_trainer, subtree, weights_of
from dvg_jax.torch_import.unet import unet3d
from dvg_jax.torch_import.vqgan import vqgan3d
from dvg_jax.torch_import.wording import listed_quoted

UNETS = {"new_view": "fit_model", "diffusion": "fine_model"}
VQGANS = {"ct_vqgan": "vqgan", "view_vqgan": "vqgan_bp", "new_view_vqgan": "vqgan_bp025"}
VQGAN_FILES = {"CT_VQGAN": "ct_vqgan", "VPGE_0_90_VQGAN": "view_vqgan", "VPGE_45_VQGAN": "new_view_vqgan"}
NUM_GROUPS = 32
MOST_EDGE = 4096
MOST_STEPS = 10_000

TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
"""The schedule's buffers; ours are computed."""

UNUSED = ("perceptual_model", "fp", "bp")
"""LPIPS, and the projectors' constants."""


@dataclass(frozen=True)
class Part:
    """Hold a stage's weights, still in their file.

    Attributes:
      origin: recorded in the working folder: file, weights (``ema``, ``model`` or ``state_dict``), training step.
      settings: keyword arguments of ``unet3d`` or ``vqgan3d`` that do not follow from shapes.
    """

    stage: str
    state_dict: StateDict
    origin: dict[str, Any]
    settings: dict[str, Any]

    def read(self) -> tuple[UNet3D | VQGAN3D, Variables]:
        """Return the network and views of its variables.

        Raises:
          UserError: names the stage and the keys that do not fit, or variables that are not finite.
        """
        convert: Any = unet3d if self.stage in UNETS else vqgan3d
        try:
            network, variables = convert(self.state_dict, **self.settings, copy=False)
            finite("the network", variables)
        except UserError as error:
            raise UserError(f"{self.origin['file']}, {self.stage}: {error}") from None
        return network, variables


@dataclass(frozen=True)
class Release:
    """Hold parts by stage; ``size`` and ``timesteps`` are None where no file records them."""

    parts: dict[str, Part] = field(default_factory=dict)
    size: int | None = None
    timesteps: int | None = None


def open_trainer(path: Path, which: str, heads: int | None = None, num_groups: int | None = None) -> Release:
    """Open a ``DVG_Diffusion.pt``: all five stages.

    Args:
      path: of the file.
      which: ``ema`` for the averaged weights, ``model`` for the last.
      heads: attention heads of the U-Nets; if given, the file must agree.
      num_groups: of the VQGANs' norms, which no file of this kind records; the published number if None.

    Raises:
      UserError: not such a file, parts missing or unknown, or a noise schedule that is not :class:`Schedule`.
    """
    state_dict, step = load_trainer(path, which)
    known = {*TABLES, *UNUSED, *UNETS.values(), *VQGANS.values()}
    unknown = [key for key in state_dict if key.split(".")[0] not in known]
    if unknown:
        raise UserError(
            f"checkpoint {path}: not a DVG-Diffusion; unknown: {listed_quoted(unknown)}; allowed: its parts alone"
        )
    origin = {"file": path.name, "weights": which, "step": step}
    parts = {}
    for names, settings in ((VQGANS, {"num_groups": num_groups or NUM_GROUPS}), (UNETS, {"heads": heads})):
        for stage, name in names.items():
            parts[stage] = Part(stage, subtree(state_dict, name), origin, settings)
    return Release(parts, _size(path, state_dict), _timesteps(path, state_dict))


def open_vqgan(stage: str, path: Path, num_groups: int | None = None) -> Part:
    """Open a Lightning checkpoint of one VQGAN.

    Args:
      stage: the stage that it becomes.
      path: of the file.
      num_groups: of its norms; by default from the settings in the file.

    Raises:
      UserError: not such a file.
    """
    content = load_checkpoint(path)
    state_dict = weights_of(path, content, "state_dict", "CT_VQGAN.ckpt")
    if num_groups is None:
        settings: Any = content
        for name in ("hyper_parameters", "cfg", "model", "num_groups"):
            settings = settings.get(name) if isinstance(settings, dict) else None
        num_groups = settings if isinstance(settings, int) else NUM_GROUPS
    step = content.get("global_step")
    origin = {"file": path.name, "weights": "state_dict", "step": step if isinstance(step, int) else 0}
    return Part(stage, state_dict, origin, {"num_groups": num_groups})


def vqgan_file(text: str) -> tuple[str, Path]:
    """Split ``STAGE=FILE``, or a file that has its published name, into (stage, file)."""
    stage, equals, name = text.partition("=")
    if equals and stage in VQGANS:
        return stage, Path(name)
    path = Path(text)
    if path.stem.upper() not in VQGAN_FILES:
        raise UserError(
            f"--vqgan is {text}; allowed: {', '.join(f'{name}.ckpt' for name in VQGAN_FILES)}, or STAGE=FILE with one "
            f"of the stages {', '.join(VQGANS)}"
        )
    return VQGAN_FILES[path.stem.upper()], path


def _size(path: Path, state_dict: StateDict) -> int | None:
    """Return the edge in voxels, twice the offset of the projector's isocentre."""
    if "fp.volume_offset" not in state_dict:
        return None
    offset = state_dict["fp.volume_offset"]
    edges = {2 * float(edge) for edge in offset.ravel()[:3]}
    if offset.shape != (3,) or len(edges) != 1 or not min(edges).is_integer() or not 1 <= min(edges) <= MOST_EDGE:
        raise UserError(
            f"checkpoint {path}: volumes of {sorted(edges)} voxels; allowed: cubes around the isocentre, edges of 1 to "
            f"{MOST_EDGE}"
        )
    return int(edges.pop())


def _timesteps(path: Path, state_dict: StateDict) -> int | None:
    """Return T, if the noise schedule is the one that :class:`Schedule` computes."""
    if "betas" not in state_dict:
        return None
    betas = state_dict["betas"]
    if betas.ndim != 1 or not 1 <= len(betas) <= MOST_STEPS:
        raise UserError(f"checkpoint {path}: betas of shape {betas.shape}; allowed: 1 to {MOST_STEPS} steps")
    ours = Schedule(len(betas)).betas
    if not np.allclose(betas, ours, rtol=1e-5, atol=1e-7):
        raise UserError(
            f"checkpoint {path}: betas differ from the cosine schedule of {len(betas)} steps by "
            f"{np.abs(betas - ours).max():.2g}; allowed: that schedule"
        )
    return len(betas)
