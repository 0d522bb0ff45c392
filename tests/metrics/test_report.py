"""Tables: means, intervals and files."""

import csv
import json

import numpy as np
import pytest

from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.data.sources import PreparedSource
from dvg_jax.evaluate.cases import row_labels
from dvg_jax.metrics.tables import patients_of, summarise, write_table

ROWS = {
    "A": [{"case": i, "psnr": float(i), "ssim": 0.5} for i in range(10)],
    "B": [{"case": i, "psnr": 2.0, "ssim": 0.25} for i in range(10)],
}


def test_means_and_intervals():
    summary = summarise(ROWS["A"])["psnr"]
    assert summary["mean"] == 4.5
    assert summary["n"] == 10
    standard_error = np.std(np.arange(10)) / np.sqrt(10)
    assert summary["low"] == pytest.approx(4.5 - 1.96 * standard_error, abs=0.2)
    assert summary["high"] == pytest.approx(4.5 + 1.96 * standard_error, abs=0.2)


def test_files_and_printed_table(tmp_path):
    text = write_table(ROWS, tmp_path / "out" / "volumes", "A title")
    assert "A title" in text
    assert "4.50" in text
    assert "0.250" in text
    with (tmp_path / "out" / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert rows[11] == {"method": "B", "case": "1", "psnr": "2.0", "ssim": "0.25"}
    assert "psnr" in json.dumps(json.loads((tmp_path / "out" / "volumes.json").read_text()))


def test_a_figure_that_no_case_has_is_null_and_a_dash(tmp_path):
    rows = {"A": [{"case": i, "psnr": 1.0, "mae_hu_bone": np.nan} for i in range(3)]}
    text = write_table(rows, tmp_path / "volumes", "A title", {"All": ["psnr"], "By tissue": ["mae_hu_bone"]})
    assert text.index("All") < text.index("1.00") < text.index("By tissue") < text.index("| -")
    stored = json.loads((tmp_path / "volumes.json").read_text())["methods"]["A"]["mae_hu_bone"]
    assert stored == {"mean": None, "low": None, "high": None, "n": 0}


def test_rows_are_about_the_manifests_patients(tmp_path):
    rows = []
    for i, patient in enumerate(("p0", "p0", "p1")):
        save_nifti(tmp_path / f"{i}.nii.gz", np.full((8, 8, 8), 100.0 * i), np.eye(4))
        facts = {
            "series": "",
            "spacing": "1",
            "orientation": "LPS",
            "checks": "",
            "reason": "",
            "stamp": "",
            "settings": "",
        }
        rows.append(Row(patient, file=f"{i}.nii.gz", source=f"{i}.nii.gz", split="test", status="ok", **facts))
    write_manifest(tmp_path, rows)
    source = PreparedSource(tmp_path, "test", 8)
    labels = [row_labels(source, i, source[i]["ct"][..., 0]) for i in range(3)]
    assert patients_of(labels) == ["p0", "p0", "p1"]
    assert [label["truth_hu"] for label in labels] == pytest.approx([0, 100, 200], abs=0.01)
