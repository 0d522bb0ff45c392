"""Map stored values to greys, bright where dense: one rule for DICOM films of every transfer syntax.

    stored --modality table or rescaling--> --VOI table or window--> --polarity--> bright where dense

The order is the standard's (PS3.4 N.2). A window always rises, so an impossible one is left out, with a note. A table
may fall, so it decides which end is bright: a film whose table cannot be used is refused.
"""

from typing import Any, NamedTuple

import numpy as np
import SimpleITK
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue

from dvg_jax.data.films.colour import grey_of
from dvg_jax.data.films.dicom_pixels import COLOUR, Stored
from dvg_jax.data.films.dicom_tables import palette, table
from dvg_jax.errors import UserError
from dvg_jax.files.dicom_tags import brief, meant, number, stated, text, unchecked

LEAST_SHOWN = 0.02
"""Least share of pixels that a window must leave neither black nor white: some files state a dummy width of 1."""
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class Greys(NamedTuple):
    """Hold greys (rows, columns), bright where dense, the window or table that was applied, repairs and warnings."""

    values: np.ndarray
    window: str | None
    repairs: list[str]
    warnings: list[str]


def film_greys(film: FileDataset, stored: Stored) -> Greys:
    """Map stored values to greys that are bright where dense.

    Raises UserError for a colour photo, and for a table or a rescaling that cannot be used.
    """
    repairs: list[str] = []
    warnings: list[str] = []
    window, rises = None, False
    if "PresentationLUTSequence" in film:
        raise UserError("it holds a PresentationLUTSequence; allowed: PresentationLUTShape IDENTITY or INVERSE")
    if stored.photometric in COLOUR:
        values = grey_of(stored.values, 2.0**stored.bits - 1, repairs)
    elif stored.photometric == "PALETTE COLOR":
        values = grey_of(*palette(film, stored.values), repairs)
    else:
        values, rises = _modality_values(film, stored)
        values, window = _windowed(values, film, repairs)
        if window is None and rises and _raw(film) and text(film, "PixelIntensityRelationship") == "LIN":
            values = np.log(np.maximum(values, 1))
            repairs.append("logarithm taken: PixelIntensityRelationship LIN")
    values = values.astype(np.float32)
    if reason := _inverted(film, stored, rises, warnings):
        values = -values
        repairs.append(f"inverted: {reason}")
    return Greys(_without_padding(values, film, stored, repairs), window, repairs, warnings)


def _modality_values(film: FileDataset, stored: Stored) -> tuple[np.ndarray, bool]:
    """Apply the modality table or rescaling; return True with it if it is known to rise with the stored values."""
    mapped = table(film, "ModalityLUTSequence")
    if mapped is not None:
        return mapped(stored.values), False
    slope, intercept = (_rescale(film, name, default) for name, default in (("Slope", 1.0), ("Intercept", 0.0)))
    if slope == 0:
        raise UserError("its RescaleSlope is 0; allowed: any other number")
    return stored.values.astype(np.float32) * slope + intercept, slope > 0


def _rescale(film: FileDataset, name: str, default: float) -> float:
    value = stated(film, f"Rescale{name}", "allowed: a number")
    found = default if value is None else meant(f"Rescale{name}", value)
    if found is None:
        raise UserError(f"its Rescale{name} is {brief(value)}; allowed: a number")
    return found


def _windowed(values: np.ndarray, film: FileDataset, repairs: list[str]) -> tuple[np.ndarray, str | None]:
    """Apply the first VOI table or window and return the values with its name, None where none is applied."""
    mapped = table(film, "VOILUTSequence")
    if mapped is not None:
        seen = mapped(values)
        if np.ptp(seen) == 0:
            raise UserError("its VOILUTSequence leaves one grey; allowed: a table for the values of the film")
        return seen, "VOI table"
    window = [_first(unchecked(film, name)) for name in ("WindowCenter", "WindowWidth")]
    if all(value in (None, "") for value in window):
        return values, None
    function = text(film, "VOILUTFunction") or "LINEAR"
    centre, width = (meant(f"Window{end}", value) for end, value in zip(("Center", "Width"), window, strict=True))
    name = f"centre {_written(window[0])} width {_written(window[1])}"
    name += "" if function == "LINEAR" else f" {function}"
    if centre is None or width is None or width <= 0 or function not in FUNCTIONS:
        repairs.append(f"window not applied, it cannot be meant: {name}")
        return values, None
    seen = _window(values, centre, width, function)
    left = float(((seen > 0.002) & (seen < 0.998)).mean())
    if left < LEAST_SHOWN:
        repairs.append(f"window not applied, it leaves {left:.1%} of the pixels neither black nor white: {name}")
        return values, None
    return seen, name


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Apply a window as in PS3.3 C.11.2.1.2 and C.11.2.1.3, to [0, 1].

    pydicom's function needs attributes that some films lack, for an output range that is stretched away afterwards.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80)))
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _inverted(film: FileDataset, stored: Stored, rises: bool, warnings: list[str]) -> str | None:
    """Return why greys must be inverted; None where they are bright where dense already.

    Films for display are bright where dense. MONOCHROME1 and the shape INVERSE, alone or together, say that low values
    are displayed bright. Raw films are not for display: there the sign of the intensity relationship decides.
    """
    inverse = text(film, "PresentationLUTShape") == "INVERSE"
    low_is_bright = inverse or stored.photometric == "MONOCHROME1"
    reason = ("PresentationLUTShape INVERSE" if inverse else "MONOCHROME1") if low_is_bright else None
    sign = number(unchecked(film, "PixelIntensityRelationshipSign")) if rises else None
    if sign not in (1, -1) or (sign == 1) == low_is_bright:
        return reason
    if _raw(film):
        return "PixelIntensityRelationshipSign 1" if sign == 1 else None
    warnings.append(
        f"PixelIntensityRelationshipSign is {sign:g}, which contradicts {reason or stored.photometric}: the second is "
        "believed. Look whether bone is bright"
    )
    return reason


def _raw(film: FileDataset) -> bool:
    """Return True for a raw film, which is as the detector gave it and not processed for display."""
    return text(film, "PresentationIntentType") == "FOR PROCESSING"


def _without_padding(values: np.ndarray, film: FileDataset, stored: Stored, repairs: list[str]) -> np.ndarray:
    """Set padding that reaches the picture's edge to the value of the darkest pixel of the picture."""
    padding = meant("PixelPaddingValue", unchecked(film, "PixelPaddingValue"))
    if padding is None or stored.values.ndim != 2:
        return values
    limit = meant("PixelPaddingRangeLimit", unchecked(film, "PixelPaddingRangeLimit"))
    # pydicom may have read a negative value as an unsigned one.
    ends = [end - 65536 if stored.signed and end > 32767 else end for end in (padding, limit) if end is not None]
    padded = ((stored.values >= min(ends)) & (stored.values <= max(ends))).astype(np.uint8)
    # Metal or air inside the picture may have the same value.
    outside = SimpleITK.GetArrayFromImage(SimpleITK.BinaryGrindPeak(SimpleITK.GetImageFromArray(padded))) > 0
    if outside.all() or not outside.any() or not (values[outside] > (darkest := values[~outside].min())).any():
        return values
    repairs.append(f"padding of {outside.mean():.0%} made dark")
    return np.where(outside, darkest, values)


def _first(value: Any) -> Any:
    return (value[0] if len(value) else None) if isinstance(value, MultiValue | list) else value


def _written(value: Any) -> str:
    found = number(value)
    return ("missing" if value in (None, "") else brief(value)) if found is None else f"{found:g}"
