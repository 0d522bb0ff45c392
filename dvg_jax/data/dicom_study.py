"""The study that a DICOM series joins: patient, study and references as its films state them.

Films come from everywhere: what a film does not state, or states as DICOM has it nowhere, is left out, and what matters
is said.
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
"""What a CT must state about patient and study, even if it is empty."""

_STRICT = ("DA", "TM", "CS")
"""Kinds of values that mean nothing in another form; text, such as who it is about, is passed on in any."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
"""Stricter readers want no leading zeros; the study of a film is found by the UID that it has."""
_UID_LENGTH = 64


@dataclass(frozen=True)
class Study:
    """What films say of the study that a series made from them belongs to.

    Attributes:
      fields: by DICOM keyword, ``""`` where nothing is stated.
      references: items of Source Image Sequence, of the films that have UIDs to refer to.
      lossy: a film went through lossy compression.
      notes: what was left out and matters, one line each.
    """

    fields: dict[str, Any]
    references: tuple[Dataset, ...] = ()
    lossy: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings about values that are passed on as they are from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def read_study(films: Sequence[Path], digests: Sequence[str]) -> Study:
    """The study of those films that are DICOM; a new one of patient ``SYNTHETIC`` where none is.

    Args:
      films: DICOM or not.
      digests: of their contents, from which the UID of a new study is derived.

    Raises:
      UserError: films that state different patients.
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
        # Films that share a name for their study share the new one.
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
    """A DICOM film's tags without pixels, whether or not it begins with the preamble; None of another picture."""
    if pydicom.misc.is_dicom(film):
        return pydicom.dcmread(film, stop_before_pixels=True)
    try:
        tags = pydicom.dcmread(film, stop_before_pixels=True, force=True)
        return tags if {"Rows", "Columns"} <= set(tags.dir()) else None
    except Exception:  # a picture's bytes, taken for tags
        return None


def _value(tags: Dataset, name: str) -> Any:
    """A field as it is stated; ``""`` where it is absent or cannot be read, or is no date, time or code."""
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
    except Exception:  # pydicom converts a value when it is asked for, and raises dozens of types
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
