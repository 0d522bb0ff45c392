"""Take disk, handles or rights away from every command: it ends in one line, and goes on once it has them back.

    a copy of the inputs --command under a fault--> done, or exit 2 and one line --command without it--> done

Faults of a disk (a full one, a read-only one) are left out where none can be mounted.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from dvg_jax.ct.frame import frame_affine
from tests import released
from tests.chaos import Result, commands
from tests.chaos.limited import FILE_SIZE, HANDLES, RIGHTS

DISK = 64 * 2**20
"""The small disk has so many bytes. What a command needs is copied to it; the rest is filled up to what is left."""

SMALL = (
    "--config=tests/tiny.py", "--config.use_diffusion=False", "--config.new_angles=()", "--config.data.train_count=4",
    *(f"--config.{name}.train.steps=2" for name in ("ct_vqgan", "view_vqgan", "new_view")),
)  # fmt: skip
"""It trains two steps of the three stages that one reconstruction needs at least."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "prepare": ("-m", "dvg_jax.data.prepare", "--input={inputs}/scans", "--output={place}/prepared", "--size=16",
                "--jobs=1", "--pictures"),
    "drr": ("-m", "dvg_jax.data.drr", "--ct={inputs}/scans/a.nii.gz", "--angle=0", "--angle=90",
            "--output={place}/films", "--size=16", "--geometry=covering"),
    "train a new run": ("train.py", *SMALL, "--workdir={place}/new", "--config.stage=ct_vqgan"),
    "train on": ("train.py", *SMALL, "--workdir={place}/run"),
    "evaluate": ("evaluate.py", *SMALL, "--workdir={place}/whole", "--report={place}/page.html"),
    "reconstruct": ("reconstruct.py", "--workdir={inputs}/whole", "--xray={inputs}/films/xray_000.png@0",
                    "--xray={inputs}/films/xray_090.png@90", "--output={place}/ct.nii.gz", "--dicom={place}/series",
                    "--report={place}/result.html"),
    "import": ("-m", "dvg_jax.torch_import", "--checkpoint={inputs}/DVG_Diffusion.pt", "--workdir={place}/official",
               "--num_groups=4"),
}  # fmt: skip
"""These commands write. Each has its arguments, with the folders of what it reads and of what it writes."""


@dataclass(frozen=True)
class Fault:
    """Take something away from a process.

    Attributes:
      name: for the table.
      limit: what ``tests.chaos.limited`` takes away, and its size.
      left: bytes that are left on the disk; None for a disk with room.
      read_only: mount the disk so.
    """

    name: str
    limit: tuple[str, ...] = ()
    left: int | None = None
    read_only: bool = False

    @property
    def mounts(self) -> bool:
        """Tell whether a disk must be mounted, as only root may."""
        return self.left is not None or self.read_only


def faults(draw: random.Random, disks: bool) -> Iterator[Fault]:
    """Yield faults without end, their sizes drawn over the orders of magnitude of what commands write.

    Args:
      draw: decides the sizes.
      disks: faults of a disk are among them, which must be mounted.
    """
    while True:
        size, left, handles = (round(2 ** draw.uniform(*bits)) for bits in ((6, 22), (8, 23), (3.5, 7)))
        yield Fault(f"files of at most {size} bytes", (FILE_SIZE, str(size)))
        yield Fault(f"at most {handles} handles", (HANDLES, str(handles)))
        yield Fault("a folder that may not be written", (RIGHTS, "0"))
        if disks:
            yield Fault(f"{left} bytes left on the disk", left=left)
            yield Fault("a read-only disk", read_only=True)


def attack(folder: Path, until: float) -> Result:
    """Run commands under faults, each once more without, until ``time.monotonic()`` reaches ``until``; one at least.

    Everything is written inside ``folder``, which must exist.
    """
    inputs, attempts, tried, failed = folder / "inputs", random.Random(0), 0, list[str]()
    _make_inputs(inputs)
    for fault in faults(attempts, _may_mount(folder)):
        for name in attempts.sample(sorted(COMMANDS), len(COMMANDS)):
            if tried and time.monotonic() >= until:
                return Result("faults", tried, tried - len(failed), tuple(failed))
            tried += 1
            if wrong := tries(name, fault, inputs, folder):
                failed.append(f"{fault.name}, {name}: {wrong}")
    raise AssertionError("faults have no end")


def tries(name: str, fault: Fault, inputs: Path, folder: Path) -> str:
    """Run a command under a fault and then without it; return what was wrong, in one line, or nothing."""
    with _place(folder / "place", inputs, fault) as (place, mend):
        found = _run(name, inputs, place, fault.limit)
        if (wrong := commands.fault(*found)) or found[0] == 0:
            return wrong
        mend()
        code, said = _run(name, inputs, place)
        return "" if code == 0 else f"does not go on afterwards: exit {code}, {said[-200:]!r}"


def _run(name: str, inputs: Path, place: Path, limit: tuple[str, ...] = ()) -> tuple[int | None, str]:
    """Return exit code and output of a command."""
    words = [word.format(inputs=inputs, place=place) for word in COMMANDS[name]]
    return commands.run(["-m", "tests.chaos.limited", *limit, *words] if limit else words, inputs)


def _make_inputs(inputs: Path) -> None:
    """Make what commands read, by the same commands, so that all of their programs are compiled."""
    (inputs / "scans").mkdir(parents=True)
    hu = np.full((32, 32, 32), -1000, np.int16)
    hu[2:30, 6:26, 4:28], hu[4:28, 10:22, 7:14], hu[4:28, 10:22, 18:25] = 40, -850, -850
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(hu, frame_affine(hu.shape, (10.0, 10.0, 10.0))), inputs / "scans" / f"{name}.nii.gz")
    released.write_trainer(inputs / "DVG_Diffusion.pt")
    for name in ("drr", "train on"):
        code, said = _run(name, inputs, inputs)
        if code:
            raise RuntimeError(f"{name} fails without any fault: exit {code}, {said}")
    shutil.copytree(inputs / "run", inputs / "whole")
    # Under a fault the last stage is left to do, and to measure what is trained.
    shutil.rmtree(inputs / "run" / "new_view")


def _may_mount(folder: Path) -> bool:
    """Tell whether disks can be mounted here: it takes root, and a container that lets it."""
    place = folder / "mounted"
    place.mkdir()
    words = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(["mount", *words], capture_output=True).returncode:
        return False
    subprocess.run(["umount", place], check=True)
    return True


@contextmanager
def _place(folder: Path, inputs: Path, fault: Fault) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield a folder with copies of the runs that commands go on with, under the fault, and a call that ends it."""
    folder.mkdir()
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder)
        if fault.mounts:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
            undo.callback(subprocess.run, ["umount", folder], check=True)
        for name in ("run", "whole"):
            shutil.copytree(inputs / name, folder / name)
        mend = _begin(folder, fault)
        undo.callback(mend)
        yield folder, mend


def _begin(folder: Path, fault: Fault) -> Callable[[], None]:
    """Let the part of a fault begin that lies in the disk; return a call that ends it, which may be repeated."""
    ballast = folder / "ballast"
    if fault.left is not None:
        free = os.statvfs(folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - fault.left)
        return lambda: ballast.unlink(missing_ok=True)
    if fault.read_only:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        return lambda: subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    if RIGHTS in fault.limit:
        _may_write(folder, False)
        return lambda: _may_write(folder, True)
    return lambda: None


def _may_write(folder: Path, allowed: bool) -> None:
    """Give or take the right to write in all folders and files of ``folder``."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200 if allowed else path.stat().st_mode & ~0o222)
