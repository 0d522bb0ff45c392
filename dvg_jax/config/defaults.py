"""Set the default of every setting to the paper's value; files in ``configs/`` change what they need.

Sections of networks and losses are the default fields of the classes that are built from them: defaults that are not
written here are written there.
"""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dvg_jax.config.baselines import baseline_settings
from dvg_jax.config.relations import check_relations
from dvg_jax.config.table import ALL_STAGES, BASELINES, check_fields
from dvg_jax.consistency import Fit
from dvg_jax.diffusion import Sampler, Schedule
from dvg_jax.imperfections import Imperfections
from dvg_jax.networks.refiner import Refiner
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.stages.adversary import Weights
from dvg_jax.stages.latent import LatentWeights
from dvg_jax.stages.refine import RefineWeights

GIVEN = ("angles", "out_dim", "dtype", "param_dtype", "parent", "name")
"""Fields of networks that follow from the rest of a config."""

PUBLISHED = {
    "projector": "published",
    "normalize_new_view": False,
    "head_first": True,
    "floor": 0.04,
    "sampler.clip": 1.0,
}
"""Settings with which the released weights were trained and are sampled, where they are not the default. The scale of
latents is stored with the weights (``torch_import/workdir.py``).
"""


def defaults(kind: type, *without: str) -> dict[str, Any]:
    """Return the fields of a dataclass or Flax module with their defaults, as a section of a config.

    Left out are fields that the rest of the config gives, and those named in ``without``.
    """
    return {
        field.name: field.default
        for field in fields(kind)
        if field.name not in (*GIVEN, *without) and field.default is not MISSING
    }


def training(steps: int, batch_size: int, learning_rate: float, **others: object) -> ConfigDict:
    """Return a section ``train``: constant rate, plain Adam, no averaging, unless ``others`` say so.

    Args:
      steps: of the training.
      batch_size: of all devices together.
      learning_rate: at its highest.
      **others: further fields of the section.
    """
    section = ConfigDict(
        {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "schedule": "constant",  # constant | cosine | linear | staircase
            "warmup_steps": 0,
            # cosine: steps to the lowest rate, 0 is all of them. linear: the last steps, while the rate falls, 0 is
            # half of them. staircase: steps from one drop to a tenth to the next, 0 is a fifth of them.
            "decay_steps": 0,
            "end_rate": 0.0,  # cosine, linear: the lowest rate, as a share of learning_rate
            "beta1": 0.9,
            "beta2": 0.999,
            "clip_norm": 0.0,  # gradient norm; 0 is no clipping
            "weight_decay": 0.0,  # added to the gradient, as PyTorch's Adam does
            "ema_decay": 0.0,  # 0 is no averaging
            "ema_every": 1,
            "ema_start": 0,  # until this step the average is a plain copy
            "cache": False,  # make all examples once, before training; examples of frozen stages are kept on disk
        }
    )
    section.update(others)
    return section


def _vqgan(steps: int) -> dict[str, Any]:
    train = training(steps, batch_size=2, learning_rate=3e-4, beta1=0.5, beta2=0.9, clip_norm=1.0)
    return {"network": defaults(VQGAN3D), "loss": defaults(Weights), "train": train}


def _latent(dim: int, **averaging: float) -> dict[str, Any]:
    train = training(500_000, batch_size=2, learning_rate=2e-4, cache=True, **averaging)
    return {"network": defaults(UNet3D) | {"dim": dim}, "train": train}


def default_config() -> ConfigDict:
    """Return the paper's biplanar setting at 128^3."""
    config = ConfigDict(
        {
            "stage": "all",
            "seed": 0,
            "size": 128,  # voxels along each edge, and detector pixels
            "geometry": "paper",  # paper: 107 of 128 voxels seen at the isocentre | covering: all of them
            "angles": (0.0, 90.0),  # input views, degrees about the foot-head axis
            "new_angles": (45.0,),  # views to synthesise; () for none
            "use_vpge": True,  # Table II: encode V_bp by its own VQGAN
            "use_diffusion": True,  # Table II: off leaves DVG-Net
            # N: one model for any 1 to N views (Fig. 5), trained on sets drawn at each step; V_bp is the views' mean
            "random_views": 0,
            "projector": "default",  # default: Eqs. (1) and (9) | published: the released code's (xray/published.py)
            "normalize_new_view": True,  # the synthesised view min-max as films are; not so in the released code
            "decode_quantized": True,  # D_ct from the nearest codes; so in the released code too
            # With True the networks have the head at index 0 of D and at row 0 of views, as in the released code.
            # Inputs and outputs have the foot there in either case.
            "head_first": False,
            "floor": 0.0,  # lower values become air; 0.04 in the released code
            "dtype": "float32",  # float32 | bfloat16: compute type of the networks; their weights stay float32
            # several devices: each stores a share of weights, moments and averages between steps, not all of them
            "shard_parameters": False,
            # GPUs: no kernels that add in an order of chance; slower, and not needed on a CPU
            "deterministic": False,
            "timesteps": Schedule.timesteps,
            # name: ancestral | ddim | dpmpp_2m (docs/sampling.md); "" goes by eta: 1 ancestral, 0 ddim, or between
            # steps: 0 is all timesteps; clip: the range of z_0 at each step, 0 none, 1 in the released code
            "sampler": {"name": "", "steps": 0, "eta": Sampler.eta, "clip": 0.0},
            # Not in the paper: results that agree with their X-rays (docs/consistency.md). mode: none | films, the
            # smallest change that agrees | refine, the stage of that name before it.
            "consistency": {"mode": "none", "strength": Fit.strength, "iterations": Fit.iterations},
            "init": dict.fromkeys(ALL_STAGES, ""),  # a stage's folder from another run
            "data": {
                # phantom | a folder made by dvg_jax.data.prepare | several with weights: phantom:0.7,FOLDER:0.3
                "source": "phantom",
                # examples of an epoch, 0 without end; a folder alone that is not augmented has as many as scans
                "train_count": 1024,
                "test_count": 64,  # phantoms
                "augment": False,  # move, bend and scale the folders' training chests: dvg_jax/data/augment.py
            },
            # Not in the paper: training films differ from ideal ones, each up to a bound (docs/imperfect_films.md)
            "films": defaults(Imperfections),
            "ct_vqgan": _vqgan(45_800),
            "view_vqgan": _vqgan(22_900),
            "new_view_vqgan": _vqgan(22_900),
            # pixel: weight of the first CT's squared error, from step pixel_start on; not in the paper
            "new_view": _latent(64) | {"loss": defaults(LatentWeights)},
            # target: latent, the paper's z_0 | residual, what DVG-Net's latent lacks of it, also under that latent as a
            # condition: samples then differ where the films leave freedom (docs/sampling.md)
            "diffusion": _latent(128, ema_decay=0.995, ema_every=10, ema_start=2000) | {"target": "latent"},
            "refine": {
                "network": defaults(Refiner),
                "rounds": 1,  # networks that correct the CT one after another
                "loss": defaults(RefineWeights),
                # A choice, as all of this stage. At twice the rate it can end as the identity.
                "train": training(50_000, batch_size=2, learning_rate=1e-3, beta2=0.99, clip_norm=1.0, cache=True),
            },
            "baselines": baseline_settings(defaults, training),
            # The error map: quantiles of a result's error, on cases kept aside, once all stages are trained
            # (docs/page.md). cases: phantoms, 0 leaves it out; of folders all patients in split val. samples: of each.
            "calibration": {"cases": 64, "samples": 8},
            "log": {
                "metrics_every": 10,
                "checkpoint_every": 1000,
                "checkpoints_kept": 2,
                "evaluate_every": 5000,  # steps; 0 is at the end of a stage only
            },
            "evaluate": {
                "cases": 16,
                "batch_size": 4,
                "protocols": ("hu",),  # hu | x2ct | dvg, any of them: docs/metrics.md
                "lpips": "vgg",  # of hu: vgg | alex (60 times faster on a CPU) | "" for none; that of dvg is always vgg
                "lpips_range": "unit",  # of hu: unit, images in [0, 1] as published | signed, [-1, 1] as LPIPS was made
                "pictures": 4,
                "stress": "",  # standard | height_mm:10,curve:0.3 and the like: a table of what imperfect films cost
                "also": "",  # phantom | a folder made by dvg_jax.data.prepare: its test cases are measured too
            },
        }
    )
    config.lock()
    return config


def published_config() -> ConfigDict:
    """Return the biplanar setting at 128^3 under the released code's conventions: for its weights."""
    config = default_config()
    config.update_from_flattened_dict(PUBLISHED)
    return config


def check(config: ConfigDict) -> None:
    """Refuse values that no stage can work with, by the field's name: first each alone, then combinations.

    Raises:
      UserError: the first such value.
    """
    check_fields(config)
    check_relations(config)


def stage_field(name: str) -> str:
    """Return the path of a stage's settings in the config."""
    return f"baselines.{name}" if name in BASELINES else name


def stage_settings(config: ConfigDict, name: str) -> ConfigDict:
    """Return a stage's settings, ``train`` among them."""
    return config.baselines[name] if name in BASELINES else config[name]


CALIBRATION = "calibration.json"
"""A working folder holds the quantiles of its model's errors in this file."""


def files_of_run(workdir: Path) -> list[Path]:
    """List what a trained model is read from, whether or not it is there: no command may write over it."""
    return [workdir / name for name in ("config.json", CALIBRATION, *ALL_STAGES)]
