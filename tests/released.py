"""Files in the form of the released ones, made of the small golden networks that the project carries."""

from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.diffusion import Schedule
from tests.paths import GOLDEN_SMALL
from tests.test_torch_import import tensor, write

SIZE = 16
TIMESTEPS = 20
NUM_GROUPS = 4
StateDict = dict[str, np.ndarray]


def golden_state(name: str) -> StateDict:
    with np.load(GOLDEN_SMALL / f"{name}.npz") as arrays:
        return {key.removeprefix("sd/"): arrays[key] for key in arrays.files if key.startswith("sd/")}


def vqgan_state(shift: float = 0.0) -> StateDict:
    """A VQGAN with what lies beside one in the files: critics and LPIPS, which nobody needs."""
    beside = {"perceptual_model.lin0.weight": np.ones((1, 4, 1, 1), np.float32)}
    beside["image_discriminator.model1.1.num_batches_tracked"] = np.asarray(7)
    state = golden_state("vqgan")
    state["codebook.embeddings"] = state["codebook.embeddings"] + np.float32(shift)
    return state | beside


def trainer_state(scale: float = 1.0) -> StateDict:
    """One of the two sets of weights in a ``DVG_Diffusion.pt``; ``scale`` tells them apart."""
    unet = golden_state("unet3d_cubic")
    fine = unet | {"init_conv.weight": np.concatenate([unet["init_conv.weight"]] * 3, axis=1)}
    parts = {"fit_model": unet, "fine_model": fine, "vqgan": vqgan_state(0.5), "vqgan_bp": vqgan_state(),
             "vqgan_bp025": vqgan_state()}  # fmt: skip
    state = {f"{part}.{key}": array for part, arrays in parts.items() for key, array in arrays.items()}
    for key in state:
        if key.endswith(("proj.weight", "conv.weight")):
            state[key] = np.float32(scale) * state[key]
    state["betas"] = Schedule(TIMESTEPS).betas.astype(np.float32)
    state["fp.volume_offset"] = np.full(3, SIZE / 2, np.float32)
    state["perceptual_model.lin0.weight"] = np.ones((1, 4, 1, 1), np.float32)
    return state


def write_trainer(path: Path, model: StateDict | None = None, ema: StateDict | None = None) -> Path:
    """A ``DVG_Diffusion.pt`` at ``path``."""
    model = trainer_state() if model is None else model
    ema = trainer_state(1.01) if ema is None else ema
    return _write(path, {"step": 123, "model": model, "ema": ema, "scaler": {}})


def write_lightning(path: Path, state: StateDict) -> Path:
    """A Lightning checkpoint of one VQGAN at ``path``."""
    settings = {"cfg": {"model": {"num_groups": NUM_GROUPS}}}
    return _write(path, {"global_step": 45, "state_dict": state, "hyper_parameters": settings})


def _write(path: Path, content: dict[str, Any]) -> Path:
    storages: dict[str, bytes] = {}

    def saved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: saved(item) for key, item in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        kind = {"f": "FloatStorage", "i": "LongStorage"}[value.dtype.kind]
        array = np.array(value, {"f": "<f4", "i": "<i8"}[value.dtype.kind], order="C")
        key = str(len(storages))
        storages[key] = array.tobytes()
        strides = tuple(step // array.itemsize for step in array.strides)
        return tensor(kind, key, value.shape, strides, count=array.size)

    return write(path, saved(content), storages)
