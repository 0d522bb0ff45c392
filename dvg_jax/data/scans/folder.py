"""Prepare every scan of a folder in parallel; runs can be resumed and do not depend on the number of processes."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
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
from dvg_jax.errors import UserError
from dvg_jax.files.atomic import replacing
from dvg_jax.files.lock import exclusive

CHANGES = "split_changes.txt"
PICTURES = "pictures"

_RULES = 2
"""Version of the protocol, to be raised when the same scan and settings give other files: all are prepared again."""

_HEADERS_A_TASK = 64

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_GRACE_S = 20.0
"""Seconds from SIGTERM to the end: enough to finish a scan, and less than a cluster grants."""


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
    jobs: int = 1,
) -> tuple[list[Row], list[str]]:
    """Prepare every scan below a folder.

    A prepared file is reused if it still belongs to an unchanged source under the same settings, so an interrupted run
    continues where it stopped. The manifest is whole at any time.

    Args:
      source: folder with scans.
      job: output folder and settings.
      rule: rule by which patients are divided into splits.
      all_series: True to prepare every usable DICOM series, False for the best one of each patient.
      jobs: number of processes.

    Returns:
      The manifest's rows, and the changes that were made to the split's lists, a line each.

    Raises:
      UserError: the input is absent, contains no scan or was written by this program; or the output is the input,
        belongs to another input, or is being written.
    """
    rule = rule or SplitRule()
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if jobs < 1:
        raise UserError(f"jobs is {jobs}; allowed: 1 or more")
    if job.output.resolve() == source.resolve():
        raise UserError(f"output {job.output} is the input itself; allowed: a folder inside it or elsewhere")
    with exclusive(job.output, "preparation"):
        return _prepare(source, job, rule, all_series, jobs)


def _prepare(source: Path, job: Job, rule: SplitRule, all_series: bool, jobs: int) -> tuple[list[Row], list[str]]:
    known = {row.source: row for row in read_manifest(job.output)} if (job.output / NAME).is_file() else {}
    with _cleared(job.output), _pool(jobs) as pool:
        found = find_scans(source, job.output, partial(_headers, pool))
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
            _run(pool, [item for item in chosen if ledger.needs(item)], ledger)
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


def _run(pool: Executor | None, items: list[Candidate], ledger: _Ledger) -> None:
    todo = partial(prepare_one, job=ledger.job)
    with tqdm(total=len(items), desc="prepare", unit="scan", disable=not items) as progress:
        # A process takes longer to start than a scan to prepare.
        rows = _parallel(pool, todo, items) if pool and len(items) > 1 else map(todo, items)
        for row in rows:
            ledger.add(row)
            progress.update()


def _parallel(pool: Executor, todo: Callable[[Candidate], Row], items: list[Candidate]) -> Iterator[Row]:
    try:
        with _signals_held():
            futures = [pool.submit(todo, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError("a process died (memory?); what is done is kept: run again with fewer --jobs") from error


def _headers(pool: Executor | None, read: Callable[[Path], Any], files: list[Path]) -> Iterable[Any]:
    # Few headers are read sooner than a process starts.
    if pool is None or len(files) < 32 * _HEADERS_A_TASK:
        return map(read, files)
    with _signals_held():
        found = pool.map(read, files, chunksize=_HEADERS_A_TASK)
    return tqdm(found, total=len(files), desc="headers", unit="file")


@contextmanager
def _pool(jobs: int) -> Iterator[Executor | None]:
    """Yield a pool of processes that start when there is work, one thread each; None for a single process.

    On an error or Ctrl-C running scans are finished and waiting ones are dropped.
    """
    if jobs == 1:
        yield None
        return
    for library in ("OPENBLAS", "MKL", "OMP"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_process)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Block signals in processes started in the block until :func:`_start_process` has set their handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_later(number: int, frame: FrameType | None) -> None:
    """End this process after a delay, so that its scan can be finished; the parent, which gets the signal too, ends it.

    If it ended while it returns a result, the parent would wait for the rest for ever.
    """
    end = threading.Timer(_GRACE_S, os._exit, (128 + number,))
    end.daemon = True
    end.start()


def _end_with_parent() -> None:
    """End this process with its parent: a killed parent cannot stop it, and it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


@contextmanager
def _cleared(output: Path) -> Iterator[None]:
    """Remove half-written files at the end: a signal to the group, as ``timeout`` sends, ends processes at once."""
    try:
        yield
    finally:
        _clear(output)


def _clear(output: Path) -> None:
    """Remove half-written files of a killed run."""
    for folder in (output, output / PICTURES):
        for part in folder.glob(".partial-*"):
            part.unlink(missing_ok=True)
