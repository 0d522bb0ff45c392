"""Time our projector and training steps beside PyTorch's, on equal weights and inputs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.common import side_by_side
from benchmarks.contest import Contestant
from benchmarks.on_gpu.equality import difference
from benchmarks.on_gpu.plan import SMALLEST, Shared
from benchmarks.on_gpu.programs import timed
from dvg_jax.config import default_config
from dvg_jax.config.scales import tiny
from dvg_jax.xray import ConeBeamGeometry

REFERENCE = "torch eager float32"
PROJECTED = ("45", "tilted")
"""These views of ``benchmarks.projector`` are asked for: one known beforehand, one that is data."""

Results = Iterator[tuple[str, dict[str, Any]]]


def projector(shared: Shared) -> Results:
    """Time projections beside PyTorch's ``grid_sample`` and other peers that are installed.

    ``difference`` compares each with ``grid_sample``. A volume has 32 voxels an axis or more: the methods are 2 % apart
    on a phantom of 16.
    """
    from benchmarks.projector import ALLOWED, CONTESTS, RAYS, Contest

    geometry = ConeBeamGeometry.paper(max(shared.size, SMALLEST))
    for views in PROJECTED:
        contest = Contest(geometry, CONTESTS[views])
        makers = {
            "forward": contest.forward,
            "forward with gradient": partial(contest.gradient, with_pose=False),
            "back": contest.back,
        }
        for task, make in makers.items():
            contestants = {name: run for name, run in make().items() if name != RAYS}  # the slow reference
            made = {name: _numpy(run()) for name, run in contestants.items()}
            apart = {name: difference(image, made[contest.peer.name]) for name, image in made.items()}
            times = side_by_side(contestants, repeats=5)
            seconds = {name: {key: of[key] for key in ("median", "fastest", "slowest")} for name, of in times.items()}
            holds = max(apart.values()) <= ALLOWED[task]
            yield (
                f"{views}: {task}",
                {"seconds": seconds, "difference": apart, "allowed": ALLOWED[task], "holds": holds},
            )


def steps(case: str, shared: Shared) -> Results:
    """Time a training step of ours in bfloat16, and PyTorch's: eager in float32 and bfloat16, compiled in bfloat16.

    ``difference`` compares a first step's loss and gradients with those of PyTorch in float32.
    """
    from benchmarks import contest
    from benchmarks.network_cases import CASES, Size
    from benchmarks.torch_peer.training import Manner

    wide = shared.size >= SMALLEST
    preset, critics, batch = (default_config, 64, 2) if wide else (tiny, 8, 1)
    task, device = CASES[case](Size(preset, shared.size, batch, batch, critics)), contest.device()
    makers: dict[str, Callable[[], Contestant]] = {
        REFERENCE: lambda: task.theirs(Manner(device)),
        "dvg_jax bfloat16": lambda: task.ours("bfloat16"),
        "torch eager bfloat16": lambda: task.theirs(Manner(device, half=True)),
        "torch.compile bfloat16": lambda: task.theirs(Manner(device, half=True, compiled=True)),
    }
    reference: contest.Figures = {}
    for name, make in makers.items():
        try:
            entrant = make()
            found = timed(entrant.run)
            figures = entrant.figures()
        except Exception as error:  # whatever torch.compile or a device may say, the others are measured
            yield name, {"failed": f"{type(error).__name__}: {error}"[:500]}
            continue
        reference = reference or figures
        apart = {what: difference(figures[what], value) for what, value in reference.items()}
        yield name, found | {"peak_gib": _peak(entrant, name), "difference": apart}


def _numpy(result: Any) -> np.ndarray:
    """Return an array of JAX or PyTorch; of several gradients the first."""
    result = result[0] if isinstance(result, tuple) else result
    return np.asarray(result if isinstance(result, jax.Array) else result.detach().cpu(), np.float64)


def _peak(entrant: Contestant, name: str) -> float:
    """Return the GiB in use at the highest moment: of a run of PyTorch's, and of ours since the process began."""
    if not name.startswith("torch"):
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    import torch

    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    entrant.run()
    return torch.cuda.max_memory_allocated() / 2**30


TASKS: dict[str, Callable[[Shared], Results]] = {
    "projector": projector,
    "peer_diffusion": partial(steps, "unet step"),
    "peer_ct_vqgan": partial(steps, "vqgan step with critics"),
}
"""It maps each step that needs PyTorch to its function."""
