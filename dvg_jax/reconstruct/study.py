"""Read the study that a DICOM series joins: patient, study and references as its films state them.

Films come from many sources. A field that a film does not state, or states in a form that DICOM forbids, is left out;
if it matters, a note says so.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config, datadict, valuerep
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dvg_jax.errors import UserError
from dvg_jax.files.dicom import open_dicom

_FIELDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Attributes of patient and study that a CT must state, even if they are empty."""

_STRICT = ("DA", "TM", "CS")
"""Value representations that must be valid. Text, such as a patient's name, is passed on in any form."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
"""Form of a UID. Strict readers also forbid leading zeros, but a film's study is found by the UID it states."""
_UID_LENGTH = 64


@dataclass(frozen=True)
class Study:
    """Describe the study of a series that was reconstructed from films, as the films state it.

    Attributes:
      fields: values by DICOM keyword, ``""`` where nothing is stated.
      references: items of Source Image Sequence, one for each film that has UIDs.
      lossy: True if a film went through lossy compression.
      notes: what was left out and matters, one line each.
    """

    fields: dict[str, Any]
    references: tuple[Dataset, ...] = ()
    lossy: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def quietly() -> Iterator[None]:
    """Silence pydicom's warnings about values that are passed on unchanged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def read_study(films: Sequence[Path], digests: Sequence[str]) -> Study:
    """Read the study of the films that are DICOM; if none is, make a new one of patient ``SYNTHETIC``.

    Args:
      films: files of any format.
      digests: digests of their contents, from which the UID of a new study is derived.

    Raises:
      UserError: films state different patients.
    """
    found = [(film, tags) for film, tags in ((film, read_tags(film)) for film in films) if tags is not None]
    patients = sorted({_text(tags, "PatientID") for _, tags in found})
    if len(patients) > 1:
        raise UserError(f"films are of the patients {', '.join(map(repr, patients))}; allowed for DICOM: one patient")
    if not found:
        fields = dict.fromkeys(_FIELDS, "") | {"PatientName": "SYNTHETIC", "PatientID": "SYNTHETIC"}
        return Study(fields | {"StudyInstanceUID": generate_uid(entropy_srcs=["study", *digests])})
    (first, tags), notes = found[0], []
    fields = {name: _value(tags, name) for name in _FIELDS}
    fields["StudyInstanceUID"] = uid = _uid(tags, "StudyInstanceUID")
    if not uid:
        stated = _text(tags, "StudyInstanceUID")
        notes.append(f"{first.name}: its StudyInstanceUID is {stated or 'absent'}; the DICOM series is a new study")
        # Films that state the same study name share the new study.
        fields["StudyInstanceUID"] = generate_uid(entropy_srcs=["study", stated] if stated else ["study", *digests])
    references = []
    for film, tags in found:
        reference = _reference(tags)
        if reference is None:
            notes.append(f"{film.name}: has no UIDs by which the DICOM series could refer to it")
        else:
            references.append(reference)
    lossy = any(_text(tags, "LossyImageCompression") == "01" for _, tags in found)
    return Study(fields, tuple(references), lossy, tuple(notes))


def read_tags(film: Path) -> Dataset | None:
    """Read a DICOM film's tags without pixels, with or without preamble; None for other pictures."""
    if pydicom.misc.is_dicom(film):
        return open_dicom(film, stop_before_pixels=True)
    try:
        tags = open_dicom(film, stop_before_pixels=True)
        return tags if {"Rows", "Columns"} <= set(tags.dir()) else None
    except Exception:  # a picture's bytes were read as tags
        return None


def _value(tags: Dataset, name: str) -> Any:
    """Return a stated field; ``""`` where it is absent or unreadable, or not a valid date, time or code."""
    value, kind = _stated(tags, name), datadict.dictionary_VR(name)
    if kind in _STRICT:
        try:
            valuerep.validate_value(kind, str(value), config.RAISE)
        except ValueError:
            return ""
    return value


def _uid(tags: Dataset, name: str) -> str:
    stated = _text(tags, name)
    return stated if _UID.fullmatch(stated) and len(stated) <= _UID_LENGTH else ""


def _text(tags: Dataset, name: str) -> str:
    return str(_stated(tags, name)).strip(" \0")


def _stated(tags: Dataset, name: str) -> Any:
    try:
        value = tags.get(name)
    except Exception:  # pydicom converts a value on first access and raises dozens of types
        return ""
    return "" if value is None else value


def _reference(film: Dataset) -> Dataset | None:
    kind, instance = _uid(film, "SOPClassUID"), _uid(film, "SOPInstanceUID")
    if not kind or not instance:
        return None
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
