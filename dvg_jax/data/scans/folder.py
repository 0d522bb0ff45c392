"""Prepare every scan of a folder in parallel; runs can be resumed and do not depend on the number of processes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from tqdm import tqdm

from dvg_jax import viz
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import NAME, Row, file_word, read_manifest, write_manifest
from dvg_jax.data.scans import origin, own
from dvg_jax.data.scans.cube import Prepared, check_cube, cut, prepare_scan
from dvg_jax.data.scans.index import Candidate, choose_series, find_scans
from dvg_jax.data.scans.read import Scan
from dvg_jax.data.scans.splits import SplitRule, assign_splits, check_lists
from dvg_jax.data.scans.workers import Lost, Workers
from dvg_jax.errors import UserError, kind_and_text
from dvg_jax.files.atomic import replacing
from dvg_jax.files.lock import exclusive

CHANGES = "split_changes.txt"
PICTURES = "pictures"

_RULES = 2
"""Version of the protocol, to be raised when the same scan and settings give other files: all are prepared again."""

_HEADERS_A_TASK, _MANY_HEADERS = 256, 2048


@dataclass(frozen=True)
class Settings:
    """Hold the settings that a prepared file depends on besides its source.

    Attributes:
      size: voxels along each axis.
      field_mm: edge of the cube in mm.
      preset: rule for the cube's place.
      min_extent_mm: least extent from foot to head in mm. A tenth of the cube or less is a test shot or a fragment, and
        the rest of the cube would be invented air.
    """

    size: int = 128
    field_mm: float = FIELD_MM
    preset: str = "x2ct"
    min_extent_mm: float = 32.0

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError as ``check_cube`` does."""
        check_cube(self.size, self.field_mm, self.preset)

    def __str__(self) -> str:
        named = f"size={self.size} field_mm={self.field_mm:g} preset={self.preset}"
        return f"{named} min_extent_mm={self.min_extent_mm:g} rules={_RULES}"


@dataclass(frozen=True)
class Job:
    """Hold the output folder of a preparation and its settings; ``pictures`` adds a PNG for each scan."""

    output: Path
    settings: Settings = field(default_factory=Settings)
    pictures: bool = False


def prepare_folder(
    source: Path,
    job: Job,
    rule: SplitRule | None = None,
    all_series: bool = False,
    jobs: int = 0,
) -> tuple[list[Row], list[str]]:
    """Prepare every scan below a folder.

    A prepared file is reused if it still belongs to an unchanged source under the same settings, so an interrupted run
    continues where it stopped. The manifest is whole at any time.

    Args:
      source: folder with scans.
      job: output folder and settings.
      rule: rule by which patients are divided into splits.
      all_series: True to prepare every usable DICOM series, False for the best one of each patient.
      jobs: number of processes, which a damaged scan may end or stall without harm to the others; 0 works in this
        process, where only exceptions are harmless.

    Returns:
      The manifest's rows, and the changes that were made to the split's lists, a line each.

    Raises:
      UserError: the input is absent, contains no scan or was written by this program; or the output is the input,
        belongs to another input, or is being written.
    """
    rule = rule or SplitRule()
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if jobs < 0:
        raise UserError(f"jobs is {jobs}; allowed: 0 (this process) or more")
    if job.output.resolve() == source.resolve():
        raise UserError(f"output {job.output} is the input itself; allowed: a folder inside it or elsewhere")
    with exclusive(job.output, "preparation"):
        return _prepare(source, job, rule, all_series, jobs)


def _prepare(source: Path, job: Job, rule: SplitRule, all_series: bool, jobs: int) -> tuple[list[Row], list[str]]:
    known = {row.source: row for row in read_manifest(job.output)} if (job.output / NAME).is_file() else {}
    # Workers end before half-written files are removed.
    with _cleared(job.output), Workers(jobs, _start_process) if jobs else nullcontext() as workers:
        found = find_scans(source, job.output, partial(_headers, workers))
        if all(item.reason in own.REASONS for item in found):
            but = f" but {found[0].source}, {found[0].reason}" if found else ""
            raise UserError(f"{source}: holds no scan (NIfTI, MetaImage, NRRD, X2CT's HDF5, or DICOM files){but}")
        origin.check(job.output, source, list(known.values()), {item.source for item in found})
        origin.check_preset(job.output, job.settings.preset, list(known.values()))
        check_lists({item.patient for item in found if not item.reason}, rule)
        _clear(job.output)
        ledger = _Ledger(job, rule, known, origin.name_of(source))
        refused: frozenset[str] = frozenset()
        while True:
            chosen = found if all_series else choose_series(found, refused)
            _run(workers, [item for item in chosen if ledger.needs(item)], ledger)
            # A series that could not be read makes way for its patient's next.
            failed = frozenset(item.source for item in chosen if ledger.rows[item.source].status == "refused")
            if failed == refused:
                return ledger.finish([item.source for item in found])
            refused = failed


class _Ledger:
    """Collect the rows so far, in memory and in ``manifest.csv``."""

    def __init__(self, job: Job, rule: SplitRule, known: dict[str, Row], source: str):
        self.job, self.rule, self.rows, self.old, self.source = job, rule, dict(known), known, source

    def needs(self, item: Candidate) -> bool:
        """Return True if a scan must be prepared; a row is added for one that cannot be read."""
        stamp, settings = item.stamp(), str(self.job.settings)
        if item.reason:
            status = "passed over" if item.passed_over else "refused"
            self.rows[item.source] = _row(item, stamp, settings, status=status, reason=item.reason)
            return False
        row = self.rows.get(item.source)
        return row is None or not self._current(row, stamp, settings)

    def add(self, row: Row) -> None:
        """Add a row and write the manifest."""
        self.rows[row.source] = row
        self.write(list(self.rows.values()))

    def write(self, rows: list[Row]) -> tuple[list[Row], list[str]]:
        """Write the manifest with the split of ``rows``."""
        rows, changes = assign_splits([replace(row, input=self.source) for row in rows], self.rule)
        write_manifest(self.job.output, rows)
        return rows, changes

    def finish(self, sources: list[str]) -> tuple[list[Row], list[str]]:
        """Write the manifest of the scans that the folder contains now, and the changes in the lists."""
        rows, changes = self.write([self.rows[source] for source in sources])
        (self.job.output / CHANGES).unlink(missing_ok=True)
        if changes:
            with replacing(self.job.output / CHANGES) as part:
                part.write_text("\n".join(changes) + "\n", encoding="utf-8")
        return rows, changes

    def _current(self, row: Row, stamp: str, settings: str) -> bool:
        if (row.stamp, row.settings) != (stamp, settings):
            return False
        if row.status == "refused":
            return row is not self.old.get(row.source)  # tried again by each run, once
        picture = not self.job.pictures or picture_path(self.job.output, row.file).is_file()
        return row.status == "ok" and (self.job.output / row.file).is_file() and picture


def prepare_one(item: Candidate, job: Job) -> Row:
    """Prepare one scan, write its files, and return a row with the outcome; this may run in any process."""
    stamp, settings = item.stamp(), job.settings
    row = _row(item, stamp, str(settings))
    try:
        scan = item.load()
        extent = scan.hu.shape[0] * scan.spacing_mm[0]
        row = replace(row, spacing=" ".join(f"{mm:.4g}" for mm in scan.spacing_mm), orientation=scan.orientation)
        if extent < settings.min_extent_mm:
            least = f"{settings.min_extent_mm:g} or more (--min_extent_mm)"
            raise UserError(f"{extent:.0f} mm foot to head; allowed: {least}")
        prepared = prepare_scan(scan, settings.size, settings.field_mm, settings.preset)
    except UserError as error:
        return replace(row, status="refused", reason=" ".join(str(error).split()))
    except MemoryError:
        return replace(row, status="refused", reason="too large for this machine's memory")
    except Exception as error:  # a scan of an unforeseen kind is no reason to stop the others
        return replace(row, status="refused", reason=f"cannot be prepared ({kind_and_text(error)})")
    file = f"{file_word(item.patient)}-{hashlib.sha256(item.source.encode()).hexdigest()[:8]}.nii.gz"
    hu = np.asarray(intensity_to_hu(prepared.volume))
    save_nifti(job.output / file, hu, prepared.affine, own.PREPARED_NOTE)
    if job.pictures:
        draw(scan, prepared, settings, picture_path(job.output, file))
    return replace(row, file=file, checks="; ".join(prepared.checks), status="ok")


def draw(scan: Scan, prepared: Prepared, settings: Settings, path: Path) -> None:
    """Draw three planes of a scan before and after preparation.

    Args:
      scan: the scan as read.
      prepared: the prepared cube.
      settings: settings of the cube.
      path: PNG to write.
    """
    before, _ = cut(scan.hu, scan.affine, prepared.middle, settings.field_mm, settings.size)
    viz.slice_sheet({"scan": before, "prepared": prepared.volume}, path)


def picture_path(output: Path, file: str) -> Path:
    """Return the picture's path for a prepared file."""
    return output / PICTURES / f"{file.removesuffix('.nii.gz')}.png"


def _row(item: Candidate, stamp: str, settings: str, status: str = "", reason: str = "") -> Row:
    return Row(item.patient, item.uid, "", item.source, "", "", "", "", status, reason, stamp, settings)


def _run(workers: Workers | None, items: list[Candidate], ledger: _Ledger) -> None:
    with tqdm(total=len(items), desc="prepare", unit="scan", disable=not items) as progress:
        for row in _rows(workers, items, ledger.job):
            ledger.add(row)
            progress.update()


def _rows(workers: Workers | None, items: list[Candidate], job: Job) -> Iterator[Row]:
    """Yield a row for each scan; one that ended or stalled its process is refused like any other unreadable one."""
    todo = partial(prepare_one, job=job)
    if workers is None:
        yield from map(todo, items)
        return
    for place, row in workers.each(todo, items):
        if isinstance(row, Lost):
            item, reason = items[place], f"cannot be read ({row.reason})"
            row = _row(item, item.stamp(), str(job.settings), "refused", reason)
        yield row


def _headers(workers: Workers | None, read: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
    """Return what ``read`` returns for each item, in their order; the reason where it ended or stalled its process."""
    if workers is None:
        return map(read, items)
    found: list[Any] = [None] * len(items)
    done = workers.each(read, items, _HEADERS_A_TASK)
    few = len(items) < _MANY_HEADERS
    for place, header in tqdm(done, desc="headers", unit="file", total=len(items), disable=few):
        found[place] = f"cannot be read ({header.reason})" if isinstance(header, Lost) else header
    return found


def _start_process() -> None:
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


@contextmanager
def _cleared(output: Path) -> Iterator[None]:
    """Remove half-written files at the end: workers are ended in the middle of their work."""
    try:
        yield
    finally:
        _clear(output)


def _clear(output: Path) -> None:
    """Remove half-written files of a killed run."""
    for folder in (output, output / PICTURES):
        for part in folder.glob(".partial-*"):
            part.unlink(missing_ok=True)
