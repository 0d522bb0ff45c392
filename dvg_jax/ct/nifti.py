"""Volumes of the project's frame as NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int16

from dvg_jax.ct.frame import Affine, HostVolume
from dvg_jax.files.atomic import replacing
from dvg_jax.files.formats import Format, format_of_bytes, head

_SCANNER = 1
_NOTE_1, _NOTE_2 = slice(148, 228), slice(240, 320)
"""The bytes of ``descrip`` in the headers of NIfTI-1 and NIfTI-2."""


def to_int16(hu: HostVolume) -> Int16[np.ndarray, "D H W"]:
    """HU as files store them: rounded; values outside int16 are clipped."""
    return np.clip(np.rint(np.asarray(hu)), -32768, 32767).astype(np.int16)


def save_nifti(path: str | Path, hu: HostVolume, affine: Affine, note: str = "") -> None:
    """Write HU ``(D, H, W)`` as int16 with sform and qform set from ``affine`` (``(d, h, w)`` to RAS mm),
    atomically.

    The file's axes are (w, h, d), so that its third axis counts axial slices as viewers expect. A qform cannot
    hold shear; the sform is always exact. ``note`` goes into the header, which holds 79 characters of it.
    """
    save_voxels(path, to_int16(hu), affine, note)


def save_voxels(path: str | Path, voxels: np.ndarray, affine: Affine, note: str = "") -> None:
    """:func:`save_nifti` for what is not a CT in HU: any type that NIfTI stores, as it is."""
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, code=_SCANNER)
    image.set_qform(image.affine, code=_SCANNER)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode("ascii", "replace")[:79]
    with replacing(Path(path)) as temporary:
        nib.save(image, temporary)


def note_of(path: Path) -> str | None:
    """Return the note in a file's header, by content and not by name; None where the file is no NIfTI or unreadable."""
    try:
        raw = head(path)
    except OSError:
        return None
    if format_of_bytes(raw) is not Format.NIFTI:
        return None
    return raw[_NOTE_2 if raw[4:7] in (b"n+2", b"ni2") else _NOTE_1].rstrip(b"\0").decode("ascii", "replace")
