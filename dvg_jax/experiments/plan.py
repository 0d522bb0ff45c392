"""Plan what has to be trained for a row of a table, so that rows share the stages they have in common.

A *job* trains one stage in a folder of its own; a *run* is a method with its views, and the jobs it is made of.
"""

from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax.config import ALL_STAGES, PAPER_STAGES, STAGES, stage_settings
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import any_views
from dvg_jax.experiments.catalogue import Row
from dvg_jax.methods import build_method
from dvg_jax.methods.base import agreeing


@dataclass(frozen=True)
class Job:
    """Describe a stage to be trained: ``config.stage``, from the predecessors that ``config.init`` names."""

    name: str
    config: ConfigDict

    @property
    def volumes(self) -> int:
        """Count the CTs of its training, with repetitions."""
        train = stage_settings(self.config, self.config.stage).train
        return train.steps * train.batch_size


@dataclass(frozen=True)
class Run:
    """Describe a method with its views, measured with ``config``; ``jobs`` train the stages that it requires.

    ``agrees`` are the modes in which its CTs are measured again, see :class:`dvg_jax.methods.base.Method`.
    """

    name: str
    method: str
    jobs: tuple[Job, ...]
    config: ConfigDict
    agrees: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Return the names of its measurements."""
        return rows_named(self.name, self.agrees)

    @property
    def volumes(self) -> dict[str, int]:
        """Count the training CTs of each job, by name."""
        return {job.name: job.volumes for job in self.jobs}


def rows_named(name: str, agrees: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of a measurement, and those of the same CTs made to agree with their X-rays in these modes."""
    return (name, *(agreeing(name, mode) for mode in agrees))


def shorten(config: ConfigDict, share: float) -> None:
    """Multiply the length of every training, and what is counted in its steps."""
    for name in ALL_STAGES:
        train = stage_settings(config, name).train
        for field in ("steps", "warmup_steps", "decay_steps", "ema_start"):
            train[field] = round(share * train[field])
        train.steps = max(train.steps, 1)


def equal_budget(config: ConfigDict) -> None:
    """Give each comparison method as many training CTs as all stages of DVG-Diffusion are shown together.

    CDDPM, which is a variant of it, is trained as its g_theta is (the paper).
    """
    volumes = sum(config[name].train.steps * config[name].train.batch_size for name in PAPER_STAGES)
    for settings in config.baselines.values():
        settings.train.steps = max(volumes // settings.train.batch_size, 1)
    cddpm = config.baselines.cddpm
    cddpm.train.update(config.diffusion.train)
    # In pixels an example is as large as the CTs themselves, and is held in memory.
    cddpm.train.cache &= cddpm.space == "latent"


def plan_run(base: ConfigDict, folder: Path, row: Row) -> Run:
    """Return the run of a row; the folders of its jobs are ``folder/<job>``."""
    config = base.copy_and_resolve_references()
    config.angles, config.new_angles = row.angles, row.new_angles
    config.random_views = row.any_views
    config.use_diffusion = row.method != "dvg_net"
    config.baselines.cddpm.new_view = row.method == "newview_diffusion"
    jobs = []
    method = build_method(row.method, config, build_dvg(config))
    for stage in method.requires:
        job = _job(config, stage, row.method)
        job.config.init.update({**config.init, job.config.stage: ""})
        config.init[stage] = str(folder / job.name / job.config.stage)
        jobs.append(job)
    name = f"{row.method}@{_views(config)}" + (f"-as-{degrees(row.angles)}" if row.any_views else "")
    return Run(name, row.method, tuple(jobs), config, method.agrees)


def _job(config: ConfigDict, stage: str, method: str) -> Job:
    """Return a stage's job. Its config holds only what the stage depends on, so that runs can share it."""
    job = config.copy_and_resolve_references()
    job.calibration.cases = 0  # no table has its map
    job.stage = "view_vqgan" if stage == "new_view_vqgan" else stage
    job.use_diffusion = stage != "new_view"
    if stage in STAGES:
        job.baselines.cddpm.new_view = False
    if stage == "ct_vqgan":
        job.angles, job.random_views = (0.0,), 0
    elif stage == "new_view_vqgan":
        # One encoder a set of views, whether they are taken or synthesised.
        job.angles = config.new_angles
    if stage in STAGES and stage != "diffusion":
        job.new_angles = ()
    if job.random_views:
        job.angles = (0.0,)
        any_views(job, job.random_views)
    name = stage if stage == "ct_vqgan" else f"{job.stage if stage in STAGES else method}@{_views(job)}"
    return Job(name, job)


def _views(config: ConfigDict) -> str:
    """Name a set of views as ``0+90``, ``0+90-new45`` or ``any20``: input views, then new ones."""
    views = f"any{config.random_views}" if config.random_views else degrees(config.angles)
    return views + (f"-new{degrees(config.new_angles)}" if config.new_angles else "")


def degrees(angles: tuple[float, ...]) -> str:
    """Name angles as ``0+90``."""
    return "+".join(f"{a:.4g}" for a in angles)
