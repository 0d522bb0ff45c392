"""Draw pictures in radiological orientation: the head at the top, the patient's right on the left."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.files.atomic import replacing

CELL = 208
GAP = 10
LABEL = 24
BACKGROUND, INK, FAINT = (18, 18, 20), (235, 235, 235), (150, 150, 155)
ERROR_RANGE_HU = 500.0
ERROR_NOTE = f"error: dark 0 to bright {ERROR_RANGE_HU:g} HU and more"
WINDOW = (0.0, 0.72)
"""Intensities drawn black and white in slices: air to bone (-1024 to 776 HU)."""

ERROR_COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], np.float64)
"""RGB of five colour stops from dark to bright, evenly spaced from 0 to ``ERROR_RANGE_HU``."""

Picture = np.ndarray
PLANES = ("axial", "coronal", "sagittal")


def orthogonal_slices(volume: np.ndarray, at: tuple[float, float, float] = (0.5, 0.5, 0.5)) -> dict[str, np.ndarray]:
    """Cut three slices of (D, H, W) at these shares of each axis, in display orientation.

    Axial: anterior at the top, the patient's right on the left. Coronal: head at the top, right on the left. Sagittal:
    head at the top, anterior on the left.
    """
    d, h, w = (min(int(share * n), n - 1) for share, n in zip(at, volume.shape, strict=True))
    return {"axial": volume[d], "coronal": volume[::-1, h], "sagittal": volume[::-1, :, w]}


def to_picture(image: np.ndarray) -> np.ndarray:
    """Flip an X-ray array, whose row 0 is the foot end, so that the head is at the top."""
    return image[::-1]


def comparison_panel(truth: np.ndarray, columns: dict[str, np.ndarray], path: Path) -> None:
    """Draw a reference CT, each result, and each result's absolute error in HU, in three planes.

    Rows are axial, coronal and sagittal slices.

    Args:
      truth: reference CT (D, H, W) in [0, 1].
      columns: results (D, H, W) in [0, 1] by name.
      path: PNG to write.
    """
    cells = {"truth": {plane: _grey(s) for plane, s in orthogonal_slices(truth).items()}}
    for name, result in columns.items():
        cells[name] = {plane: _grey(s) for plane, s in orthogonal_slices(result).items()}
        error = HU_RANGE * np.abs(result - truth)
        cells[f"{name}: error"] = {plane: _coloured(s) for plane, s in orthogonal_slices(error).items()}
    save_png(_grid([[cells[c][plane] for c in cells] for plane in PLANES], list(cells), ERROR_NOTE), path)


def methods_panel(truth: np.ndarray, results: dict[str, np.ndarray], path: Path) -> None:
    """Draw a reference CT and the results of several methods, one column each.

    Rows are an axial and a coronal slice, each above its absolute error in HU.

    Args:
      truth: reference CT (D, H, W) in [0, 1].
      results: results (D, H, W) in [0, 1] by method.
      path: PNG to write.
    """
    rows = []
    for plane in ("axial", "coronal"):
        true = orthogonal_slices(truth)[plane]
        slices = [orthogonal_slices(result)[plane] for result in results.values()]
        rows.append([_grey(true), *map(_grey, slices)])
        rows.append([_rgb(np.zeros_like(true)), *(_coloured(HU_RANGE * np.abs(s - true)) for s in slices)])
    save_png(_grid(rows, ["truth", *results], ERROR_NOTE), path)


def views_panel(rows: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw X-rays (h, w) in [0, 1] by row and column; all rows have the same columns, and their names are below."""
    cells = [[_rgb(to_picture(image)) for image in row.values()] for row in rows.values()]
    columns = list(next(iter(rows.values())))
    save_png(_grid(cells, columns, "rows: " + "; ".join(rows)), path)


def slice_sheet(volumes: dict[str, np.ndarray], path: Path) -> None:
    """Draw three slices of each volume (D, H, W) in [0, 1], without errors; rows are planes, columns volumes."""
    cells = {name: orthogonal_slices(volume) for name, volume in volumes.items()}
    save_png(_grid([[_grey(cells[name][plane]) for name in cells] for plane in PLANES], list(cells), ""), path)


def view_strip(images: dict[str, np.ndarray], path: Path) -> None:
    """Draw X-rays (h, w) in one row, each scaled from its darkest to its brightest value."""
    row = []
    for image in images.values():
        low, high = float(image.min()), float(image.max())
        row.append(_rgb(to_picture((image - low) / (high - low or 1.0))))
    save_png(_grid([row], list(images), ""), path)


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture (rows, columns, 3) uint8, whole or not at all."""
    with replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def _grey(values: np.ndarray) -> Picture:
    low, high = WINDOW
    return _rgb((values - low) / (high - low))


def _rgb(values: np.ndarray) -> Picture:
    return np.repeat(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def _coloured(error_hu: np.ndarray) -> Picture:
    place = np.clip(error_hu / ERROR_RANGE_HU, 0, 1)
    stops = np.linspace(0, 1, len(ERROR_COLOURS))
    return np.stack([np.interp(place, stops, c) for c in ERROR_COLOURS.T], axis=-1).round().astype(np.uint8)


def _grid(rows: list[list[Picture]], names: list[str], note: str) -> Picture:
    """Draw cells of equal size under their column names, with a note below."""
    count = len(names)
    size = (GAP + count * (CELL + GAP), LABEL + len(rows) * (CELL + GAP) + (LABEL if note else 0))
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for j, name in enumerate(names):
        draw.text((GAP + j * (CELL + GAP) + CELL / 2, LABEL / 2), name, INK, font, anchor="mm")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            scale = CELL / max(cell.shape[:2])
            shape = (round(cell.shape[1] * scale), round(cell.shape[0] * scale))
            resized = Image.fromarray(cell).resize(shape, Image.Resampling.BICUBIC)
            left, top = GAP + j * (CELL + GAP), LABEL + i * (CELL + GAP)
            canvas.paste(resized, (left + (CELL - shape[0]) // 2, top + (CELL - shape[1]) // 2))
    if note:
        draw.text((GAP, size[1] - LABEL / 2), note, FAINT, font, anchor="lm")
    return np.asarray(canvas)
