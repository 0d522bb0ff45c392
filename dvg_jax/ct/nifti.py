"""Write volumes of the patient frame as NIfTI files, and read the note in such a file's header."""

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int16

from dvg_jax.ct.frame import Affine, HostVolume
from dvg_jax.errors import UserError
from dvg_jax.files.atomic import replacing
from dvg_jax.files.formats import Format, format_of_bytes, head

_SCANNER = 1
_NOTE_1, _NOTE_2 = slice(148, 228), slice(240, 320)
"""Byte ranges of ``descrip`` in the headers of NIfTI-1 and NIfTI-2."""


def to_int16(hu: HostVolume) -> Int16[np.ndarray, "D H W"]:
    """Round HU to the integers that files store; values outside int16 are clipped.

    Raises:
      UserError: HU are not finite. As an integer NaN would be 0, which is water.
    """
    if not np.isfinite(hu).all():
        raise UserError("HU to be written have values that are not finite; allowed: numbers")
    return np.clip(np.rint(np.asarray(hu)), -32768, 32767).astype(np.int16)


def save_nifti(path: str | Path, hu: HostVolume, affine: Affine, note: str = "") -> None:
    """Write a CT as an int16 NIfTI file, atomically.

    The file's axes are (w, h, d), so that its third axis counts axial slices as viewers expect. Sform and qform are
    both set. The sform is exact; a qform cannot represent shear.

    Args:
      path: file to write.
      hu: HU ``(D, H, W)``.
      affine: ``(d, h, w)`` to RAS mm.
      note: text for the header's ``descrip`` field, cut to 79 characters.
    """
    save_voxels(path, to_int16(hu), affine, note)


def save_voxels(path: str | Path, voxels: np.ndarray, affine: Affine, note: str = "") -> None:
    """Write a volume of any type that NIfTI stores, without conversion; otherwise like :func:`save_nifti`.

    Args:
      path: file to write.
      voxels: values ``(D, H, W)``.
      affine: ``(d, h, w)`` to RAS mm.
      note: text for the header's ``descrip`` field, cut to 79 characters.
    """
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, code=_SCANNER)
    image.set_qform(image.affine, code=_SCANNER)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode("ascii", "replace")[:79]
    with replacing(Path(path)) as temporary:
        nib.save(image, temporary)


def note_of(path: Path) -> str | None:
    """Return the note in a NIfTI file's header; None if the content is not NIfTI or cannot be read."""
    try:
        raw = head(path)
    except OSError:
        return None
    if format_of_bytes(raw) is not Format.NIFTI:
        return None
    return raw[_NOTE_2 if raw[4:7] in (b"n+2", b"ni2") else _NOTE_1].rstrip(b"\0").decode("ascii", "replace")
