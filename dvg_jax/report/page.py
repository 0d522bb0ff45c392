"""Write a page's content as one self-contained HTML file.

The three planes are drawn on plain canvases by ``viewer.js``, as slices of a volume in memory. That is less code than
the settings of a viewer library; NiiVue (WebGL2) would add 1.5 MB and more to every page.

A page makes no request: its content security policy allows nothing but pictures in the page, this style and this
script, each by its hash. So text from file names or DICOM tags, which is escaped anyway, could run nothing.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from dvg_jax.ct.frame import spacing
from dvg_jax.ct.intensity import HU_OFFSET, HU_RANGE, WINDOWS
from dvg_jax.ct.nifti import to_int16
from dvg_jax.files.atomic import replacing
from dvg_jax.report import images
from dvg_jax.report.content import Case, Difference, Film, Layer, Page, Table
from dvg_jax.viz import ERROR_COLOURS, ERROR_RANGE_HU

_WHOLE = ("whole range", (HU_RANGE / 2 - HU_OFFSET, HU_RANGE))


def write_page(path: Path, page: Page) -> None:
    """Write ``page`` to ``path``, whole or not at all.

    A volume of 128^3 voxels takes about 3 MB (2.8 MB for a real CT), one of 32^3 about 0.1 MB.
    """
    part = files(__package__)
    script, style = (part.joinpath(name).read_text("utf-8") for name in ("viewer.js", "style.css"))
    html = Template(part.joinpath("template.html").read_text("utf-8")).substitute(
        title=escape(page.title),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
        warnings=_warnings((*page.warnings, *_notes(page))),
        cases="\n".join(_case(number, case) for number, case in enumerate(page.cases)),
        tables="\n".join(_table(table) for table in page.tables),
        settings=f"<section><h2>Settings</h2>{_facts(page.settings)}</section>",
        data=_script_json(_viewer_data(page)),
    )
    with replacing(path) as temporary:
        # A file name that is not UTF-8 cannot be written, so its bytes become question marks.
        temporary.write_bytes(html.encode("utf-8", "replace"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: Any) -> str:
    """Return JSON that cannot end its script element, whatever its strings contain."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _viewer_data(page: Page) -> dict[str, Any]:
    windows = [*WINDOWS.items(), _WHOLE]
    return {
        "windows": [{"name": name, "level": level, "width": width} for name, (level, width) in windows],
        "colours": ERROR_COLOURS.tolist(),
        "amountTop": ERROR_RANGE_HU,
        "cases": [_volumes(case) for case in page.cases],
    }


def _volumes(case: Case) -> dict[str, Any]:
    places = {layer.name: number for number, layer in enumerate(case.layers)}
    first = next(layer.hu for layer in case.layers if isinstance(layer, Layer))
    data: dict[str, Any] = {
        "title": case.title,
        "shape": first.shape,
        "spacing": spacing(case.affine),
        "affine": case.affine[:3].tolist(),
        "layers": [_layer(layer, places) for layer in case.layers],
    }
    if case.unseen is not None and case.unseen.any():
        data["unseen"] = _packed(case.unseen.astype(np.uint8))
        data["unseenPercent"] = round(100 * float(case.unseen.mean()), 1)
    return data


def _layer(layer: Layer | Difference, places: Mapping[str, int]) -> dict[str, Any]:
    if isinstance(layer, Difference):
        return {"name": layer.name, "kind": "amount", "of": places[layer.of], "against": places[layer.against]}
    return {"name": layer.name, "kind": layer.kind, "data": _packed(to_int16(layer.hu).astype("<i2"))}


def _packed(voxels: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(np.ascontiguousarray(voxels).tobytes(), 6, mtime=0)).decode()


def _case(number: int, case: Case) -> str:
    body = ""
    if case.films:
        body += "<h2>Films and reprojections of the result</h2>" + "".join(map(_film, case.films))
    if case.views:
        pictures = "".join(_figure(images.grey(p.image), p.title) for p in case.views)
        body += f'<h2>Synthesised view</h2><div class="row">{pictures}</div>'
    if case.metrics:
        body += _table(case.metrics)
    hidden = " hidden" if number else ""
    return f'<section data-case="{number}" aria-label="{escape(case.title)}"{hidden}>{body}</section>'


def _film(film: Film) -> str:
    rms = float(np.sqrt(np.mean((np.asarray(film.input_view) - np.asarray(film.reprojection)) ** 2)))
    row = _original(film) + _figure(images.grey(film.input_view), "film, as the model sees it")
    row += _figure(images.grey(film.reprojection), "the same view of the result")
    note = (
        f"difference, rms {rms:.3f} of the range: orange where the film is brighter, blue where the result is, "
        f"full colour at {images.DIFFERENCE_RANGE:g}"
    )
    row += _figure(images.difference(film.input_view, film.reprojection), note)
    record = f"<details><summary>Record of this film</summary>{_facts(film.record)}</details>" if film.record else ""
    return f'<h3>{escape(film.title)}</h3><div class="row">{row}</div>{record}'


def _original(film: Film) -> str:
    if film.original is None:
        return ""
    box = ""
    if film.box is not None:
        (height, width), (top, left, bottom, right) = film.original.shape, film.box
        box = (
            f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">'
            f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"/></svg>'
        )
    return _figure(images.grey(film.original), "film, as it was read" + (", with what was kept" if box else ""), box)


def _figure(uri: str, caption: str, over: str = "") -> str:
    text = escape(caption)
    return (
        f'<figure><div class="frame"><img src="{uri}" alt="{text}">{over}</div><figcaption>{text}</figcaption></figure>'
    )


def _notes(page: Page) -> list[str]:
    """Return the notes of its layers, each once."""
    layers = (layer for case in page.cases for layer in case.layers)
    return list(dict.fromkeys(layer.note for layer in layers if isinstance(layer, Layer) and layer.note))


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in rest) + "</tr>"
        for first, *rest in table.rows
    )
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h2>{escape(table.title)}</h2><div class="scroll" tabindex="0">{body}</div>'


def _facts(facts: Mapping[str, Any]) -> str:
    """Format names and values of any depth as a table."""
    rows = "".join(f'<tr><th scope="row">{escape(str(k))}</th><td>{_value(v)}</td></tr>' for k, v in facts.items())
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _facts(value)
    if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        return "".join(_value(one) for one in value)
    if isinstance(value, list | tuple):
        return ", ".join(_value(one) for one in value)
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))
