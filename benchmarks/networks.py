"""Our networks beside the same ones in plain PyTorch, in one run, on the CPU or on the GPU if there is one.

    python -m benchmarks.networks [--size demo small] [--only "unet step" ...] [--repeats 7]

Every contestant gets the same weights and inputs. What its first run comes to (output; loss, gradients, codebook) must
equal PyTorch's eager float32 before anything is timed. ``first`` is the first run, compilation included; ``peak_gib``
is what a run needs at its peak above weights and optimiser. Sizes are those of ``network_cases.SIZES``: on a CPU
``demo`` and ``small`` unless asked, on a GPU ``small`` and ``paper``.
"""

import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import contest
from benchmarks.common import RESULTS, save
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser

try:
    from benchmarks.network_cases import CASES, SIZES
    from benchmarks.torch_peer.training import Manner
except ImportError:
    CASES, SIZES = {}, {}

DEFAULT_SIZES = {"cpu": ("demo", "small"), "cuda": ("small", "paper")}


def contestants(case: Any, device: str) -> dict[str, Callable[[], contest.Contestant]]:
    """How each is made, by name."""
    return {
        contest.PEER: lambda: case.theirs(Manner(device)),
        "dvg_jax": lambda: case.ours("float32"),
        "dvg_jax bfloat16": lambda: case.ours("bfloat16"),
        "torch channels_last_3d": lambda: case.theirs(Manner(device, channels_last=True)),
        "torch bfloat16": lambda: case.theirs(Manner(device, half=True)),
        "torch.compile": lambda: case.theirs(Manner(device, compiled=True)),
    }


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.networks")
    parser.add_argument("--size", nargs="*", choices=tuple(SIZES))
    parser.add_argument("--only", nargs="*", choices=tuple(CASES), help="these alone; other figures in the file stay")
    contest.add_flags(parser)
    options = parser.parse_args(argv)
    device = contest.device()
    name = "networks_gpu" if device == "cuda" else "networks_cpu"
    before = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(before.read_text())["results"] if before.exists() else {}
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # first runs compile
        for size in options.size or DEFAULT_SIZES[device]:
            for case in options.only or CASES:
                makers = contestants(CASES[case](SIZES[size]), device)
                measured[f"{case}, {size}"] = results[f"{case}, {size}"] = contest.contest(makers, options)
                path = save(name, results)
    print(contest.table(measured))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    run_command(main)
