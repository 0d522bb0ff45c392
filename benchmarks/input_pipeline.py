"""How fast examples arrive, and how much of a training step is spent waiting for them.

    python -m benchmarks.input_pipeline [--size 128] [--cases 16] [--steps 40]

Arrival: batches of 2 from a folder of prepared scans (phantoms, .nii.gz) in the first epoch, which reads the files, and
in later ones, which have them in memory; beside PyTorch's ``DataLoader`` over a dataset that reads the same files with
nibabel, in this process and in two of its own. What the two give must be equal first. Waiting: the demo's stages, step
by step as the loop does them, with random weights.
"""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np

from benchmarks.common import save, seconds_of
from benchmarks.full_size import random_variables
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import tiny
from dvg_jax.ct.intensity import hu_to_intensity, intensity_to_hu
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.data.pipeline import training_iterator
from dvg_jax.data.sources import PhantomSource, PreparedSource
from dvg_jax.errors import UserError
from dvg_jax.stages import build_stage
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.loop import StageRun
from dvg_jax.training.state import create

BATCH = 2
EPOCHS = 3
"""First and later ones, whose medians count."""

WARM_UPS = 3
OURS = "dvg_jax"


def prepared_folder(folder: Path, size: int, cases: int) -> Path:
    """Phantoms as ``dvg_jax.data.prepare`` leaves scans, and one more to test on."""
    folder.mkdir()
    rows = []
    for i, example in enumerate(PhantomSource(cases + 1, size)[i] for i in range(cases + 1)):
        file = f"phantom-{i}.nii.gz"
        save_nifti(folder / file, intensity_to_hu(example["ct"][..., 0]), np.diag([1.0, 1.0, 1.0, 1.0]))
        rows.append(
            Row(f"phantom-{i}", "", file, file, "1 1 1", "", "train" if i < cases else "test", "", "ok", "", "", "")
        )
    write_manifest(folder, rows)
    return folder


def our_epochs(folder: Path, size: int) -> Callable[[], list[Any]]:
    """One epoch a call, all of the same source."""
    source = PreparedSource(folder, "train", size)
    data = training_iterator(source, BATCH, seed=0)
    return lambda: [next(data) for _ in range(len(source) // BATCH)]


def their_epochs(folder: Path, size: int, workers: int) -> Callable[[], list[Any]]:
    """The same with PyTorch, the way its tutorials do it; workers stay between epochs."""
    import torch

    class Scans(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.files = PreparedSource(folder, "train", size).files

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> Any:
            hu = np.asarray(nib.load(self.files[index]).dataobj, np.int16).transpose(2, 1, 0)
            return torch.from_numpy(np.asarray(hu_to_intensity(hu), np.float32))[None]

    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = torch.utils.data.DataLoader(Scans(), BATCH, shuffle=True, drop_last=True, **options)
    return lambda: list(loader)


def arrival(size: int, cases: int, folder: Path) -> dict[str, Any]:
    """Examples a second of each, in the first epoch and in later ones."""
    made: dict[str, Callable[[], Callable[[], list[Any]]]] = {OURS: lambda: our_epochs(folder, size)}
    if importlib.util.find_spec("torch"):
        for workers in (0, 2):
            made[f"PyTorch DataLoader, {workers} workers"] = lambda w=workers: their_epochs(folder, size, w)
    found: dict[str, Any] = {}
    totals: dict[str, np.ndarray] = {}
    count = cases // BATCH * BATCH
    for name, make in made.items():
        totals[name] = np.sort([v.astype(np.float64).sum() for b in make()() for v in _volumes(b)])
        if not np.allclose(totals[name], totals[OURS], rtol=1e-6):
            raise UserError(f"{name} gives other volumes than {OURS}")
    for name, make in made.items():
        epochs = [make() for _ in range(EPOCHS)]
        first = statistics.median(seconds_of(epoch) for epoch in epochs)
        later = statistics.median(seconds_of(epochs[-1]) for _ in range(EPOCHS))
        found[name] = {"first": count / first, "later": count / later}
    return found


def _volumes(batch: Any) -> list[np.ndarray]:
    return [np.asarray(volume) for volume in (batch["ct"] if isinstance(batch, dict) else batch)]


def waiting(stage_name: str, cached: bool, steps: int, folder: Path, workdir: Path) -> dict[str, float]:
    """Medians of a step and the share of all steps that went by until a batch was there."""
    config = tiny()
    config.data.source = str(folder)
    config[stage_name].train.cache = cached
    dvg = build_dvg(config)
    stage = build_stage(stage_name, config, dvg)
    frozen = {name: value for name, value in random_variables(dvg).items() if name in stage.requires}
    stage_run = StageRun(config, stage, frozen, workdir)
    spent = np.array(list(_spent(stage_run, steps + WARM_UPS)))[WARM_UPS:]
    return {"step_s": float(np.median(spent.sum(axis=1))), "waiting": float(spent[:, 0].sum() / spent.sum())}


def _spent(stage_run: StageRun, steps: int) -> Iterator[tuple[float, float]]:
    """Seconds until the batch was there and until the step before was done, in the loop's order."""
    examples = stage_run.examples()
    program, fixed = stage_run._program(examples)
    state = create(program, stage_run.key, examples.first())
    before: Any = None
    for _ in range(steps):
        start = time.perf_counter()
        rows = examples.next()
        arrived = time.perf_counter()
        state, metrics = stage_run._step(program, fixed, state, rows)
        if before is not None:
            float(before["loss"])
        before = metrics
        yield arrived - start, time.perf_counter() - arrived


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.input_pipeline")
    parser.add_argument("--size", type=int, default=128, help="of the volumes that arrive")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40, help="of each stage")
    options = parser.parse_args(argv)
    enable_compilation_cache()
    results: dict[str, Any] = {"size": options.size, "cases": options.cases, "batch": BATCH}
    with tempfile.TemporaryDirectory() as name:
        folder = prepared_folder(Path(name) / "scans", options.size, options.cases)
        results["examples a second"] = arrival(options.size, options.cases, folder)
        print(f"| {options.size}^3, batches of {BATCH} | first epoch, examples/s | later |\n|---|---|---|")
        for who, rate in results["examples a second"].items():
            print(f"| {who} | {rate['first']:.1f} | {rate['later']:.1f} |")
        small = prepared_folder(Path(name) / "small", tiny().size, options.cases)
        print("\n| the demo's stage | step, ms | of which waiting |\n|---|---|---|")
        results["waiting"] = {}
        for stage, cached in (("ct_vqgan", False), ("view_vqgan", False), ("view_vqgan", True), ("diffusion", True)):
            what = f"{stage}, {'examples kept' if cached else 'from CTs'}"
            found = waiting(stage, cached, options.steps, small, Path(name) / what)
            results["waiting"][what] = found
            print(f"| {what} | {1000 * found['step_s']:.0f} | {100 * found['waiting']:.1f} % |", flush=True)
    print(f"\nwritten: {save(f'input_pipeline_{jax.default_backend()}', results)}")


if __name__ == "__main__":
    run_command(main)
