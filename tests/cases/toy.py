"""Train five toy stages in a moment: the whole of training except its networks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.data.sources import ArraySource
from dvg_jax.stages import build_stage
from dvg_jax.stages.base import Stage
from dvg_jax.training import loop, run
from tests.tiny import get_config

STEPS, CASES = 4, 6
STAGES = ("ct_vqgan", "view_vqgan", "new_view_vqgan", "new_view", "diffusion")


@dataclass(frozen=True)
class Scale:
    """Learn one number a stage; noise from the step's key tells one key from another."""

    def constants(self, frozen):
        return {}

    def init(self, key, example):
        return {"model": {"w": jax.random.normal(key, (3,))}}, {}

    def loss(self, params, model_state, constants, example, key, step):
        error = params["model"]["w"] * jnp.mean(example["x"]) - jax.random.normal(key, (3,))
        return jnp.mean(error**2), (model_state, {})


class Moments:
    """Call ``act`` once, when the moment of that name comes for the ``number``-th time."""

    def __init__(self):
        self.name, self.number, self.act, self.passed = "", 0, lambda: None, []

    def set(self, name, number, act):
        self.name, self.number, self.act, self.passed = name, number, act, []

    def __call__(self, name):
        self.passed.append(name)
        if name == self.name and self.passed.count(name) == self.number:
            self.act()


def config(**fields):
    made = get_config()
    made.log.update({"checkpoint_every": 100, "evaluate_every": 2})
    for name in STAGES:
        made[name].train.update({"steps": STEPS, "batch_size": 1, "cache": name != "ct_vqgan"})
    made.update_from_flattened_dict(fields)
    return made


def toys(monkeypatch):
    """Replace stages and data by toys for a test; return the moments that a run passes."""
    moments, needs = Moments(), {}
    every = get_config()
    dvg = build_dvg(every)
    for name in required_stages(every):
        needs[name] = build_stage(name, every, dvg).requires

    def stage(name, *_):
        moments(f"between, before {name}")

        def prepare(frozen, ct, key):
            if name not in ("ct_vqgan", "view_vqgan", "new_view_vqgan"):
                moments(f"preparation of {name}")
            return {"x": ct + sum(jnp.mean(frozen[other]["params"]["w"]) for other in needs[name])}

        def export(params, model_state, examples):
            for _ in examples:
                moments(f"export of {name}")
            return {"params": params}

        def show(variables, ct, key):
            moments(f"validation of {name}")
            return {"psnr": jnp.sum(variables[name]["params"]["w"])}, {}

        return Stage(name, Scale(), needs[name], prepare, export, show)

    def save(folder, *rest):
        moments(f"saving of {folder.parent.name}")
        saved(folder, *rest)

    def stepped(self, *rest):
        moments(f"step of {self.stage.name}")
        return step(self, *rest)

    saved, step = loop.save_model, loop.StageRun._step
    source = ArraySource({"ct": np.random.default_rng(0).random((CASES, 4, 4, 4, 1)).astype(np.float32)})
    monkeypatch.setattr(run, "build_stage", stage)
    monkeypatch.setattr(loop, "build_source", lambda *_: source)
    monkeypatch.setattr(loop, "save_model", save)
    monkeypatch.setattr(loop.StageRun, "_step", stepped)
    return moments
