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
        self._path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        _drop_end(self._path, start, validates)
        self._file = self._path.open("ab", buffering=0)
        self._board = SummaryWriter(str(folder / "tensorboard")) if SummaryWriter else None

    def advance(self) -> None:
        """Count one more step."""
        self._bar.update()

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Record scalars at a step. An OSError names the file, of which at most the last line is then incomplete."""
        if self._file is None:
            return
        values = {k: float(v) for k, v in scalars.items()}
        line = json.dumps({"step": step, **values}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            error.filename = str(self._path)
            raise
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


def _drop_end(path: Path, start: int, validates: bool) -> None:
    """Remove from the end of a log what a run that goes on from ``start`` writes again, and a line that was cut off.

    The file is replaced as a whole, and only where its end changes. Lines are in the order of their steps, so the
    search ends at the last one that stays.

    Args:
      path: of the log, which may be absent.
      start: the step from which the run goes on.
      validates: the run validates at ``start``.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    end = len(content)
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        if _stays(content[begin:end], start, validates):
            break
        end = begin
    kept = content[:end]
    kept += b"\n" if kept and not kept.endswith(b"\n") else b""
    if kept != content:
        with replacing(path) as part:
            part.write_bytes(kept)


def _stays(line: bytes, start: int, validates: bool) -> bool:
    """Tell whether a line stays: a run that goes on from step ``start`` does not write it again."""
    try:
        entry = json.loads(line)
        return entry["step"] < start or (entry["step"] == start and ("loss" in entry or not validates))
    except (ValueError, KeyError, TypeError):
        return False  # a kill or a full disk cut the line off
