"""Tables: means, intervals and files."""

import csv
import json

import numpy as np
import pytest

from dvg_jax.metrics.report import summarise, write_table

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
