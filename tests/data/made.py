"""A small synthetic chest with a couch, for tests of readers and preparation."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff

from dvg_jax.data.frame import frame_affine

SPACING = (5.0, 4.0, 4.0)
SHAPE = (36, 60, 66)
CENTRE = (12.0, -30.0, 200.0)


def affine() -> np.ndarray:
    return frame_affine(SHAPE, SPACING, CENTRE)


def chest_on_couch(with_couch: bool = True) -> np.ndarray:
    """HU in the frame: an elliptic trunk, two lungs (the left one smaller), a spine, and a plate 16 mm behind it."""
    d, h, w = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -1000.0, np.float32)
    hu[(h / 18) ** 2 + (w / 26) ** 2 < 1] = 40
    hu[(d / 14) ** 2 + (h / 11) ** 2 + ((w + 13) / 10) ** 2 < 1] = -850
    hu[(d / 12) ** 2 + (h / 10) ** 2 + ((w - 13) / 8) ** 2 < 1] = -850
    hu[(h - 13) ** 2 + w**2 < 9] = 600
    if with_couch:
        hu[:, 52:54, 8:58] = -200
    return hu


def reordered(array: np.ndarray, matrix: np.ndarray):
    """The same scan stored in each of the 48 orders and directions of axes, with the affine that says so."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            how = np.array(list(zip(order, flips, strict=True)), float)
            yield apply_orientation(array, how), matrix @ inv_ornt_aff(how, array.shape)


def write(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.int16), matrix), path)
    return path
