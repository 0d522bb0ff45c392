"""Log a run: a progress bar, ``metrics.jsonl`` and, where tensorboardX is installed, TensorBoard."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dvg_jax.files.atomic import replacing

try:
    from tensorboardX import SummaryWriter
except ImportError:
    SummaryWriter = None


class RunLog:
    """Log the scalars of one stage. A resumed run first drops the lines that it is about to write again.

    These are lines of later steps and, where the run ``validates`` at ``start``, that validation.

    Args:
      folder: of the stage.
      name: of the stage.
      start: the step from which the run goes on.
      steps: the last step.
      validates: the run validates at ``start``.
      writes: False in all processes but one; calls then have no effect.
    """

    def __init__(
        self, folder: Path, name: str, start: int, steps: int, validates: bool = False, writes: bool = True
    ) -> None:
        self._bar = tqdm(total=steps, initial=start, desc=f"{name:>15}", disable=not writes, dynamic_ncols=True)
        self._file, self._board = None, None
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line + "\n" for line in lines if _stays(line, start, validates)]
            with replacing(path) as part:
                part.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard")) if SummaryWriter else None

    def advance(self) -> None:
        """Count one more step."""
        self._bar.update()

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Record scalars at a step."""
        if self._file is None:
            return
        values = {k: float(v) for k, v in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        latest = {k: f"{values[k]:.4g}" for k in ("loss", "psnr") if k in values}
        self._bar.set_postfix(latest, refresh=False)

    def close(self) -> None:
        """Close the bar and the files."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _stays(line: str, start: int, validates: bool) -> bool:
    """Tell whether a line stays: a run that goes on from step ``start`` does not write it again."""
    try:
        entry = json.loads(line)
        return entry["step"] < start or (entry["step"] == start and ("loss" in entry or not validates))
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # a kill cut the line off
