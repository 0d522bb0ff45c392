"""Names of files and patients come from strangers: no spreadsheet runs them, no terminal obeys them."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dvg_jax.cli.entry import run_command
from dvg_jax.data.films.read import read_film
from dvg_jax.data.manifest import NAME, Row, read_manifest, write_manifest
from dvg_jax.data.prepare import main
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.errors import UserError
from dvg_jax.metrics.paired import read_rows
from dvg_jax.metrics.tables import write_table
from dvg_jax.reconstruct.dicom import save_series
from dvg_jax.reconstruct.study import read_tags
from tests.cases import made_dicom
from tests.data import made

HU, AFFINE = made.chest_on_couch()[:12, ::4, ::4], made.affine() @ np.diag([1, 4, 4, 1])
CLEAR, REORDER = "\x1b[2J", "\u202e"
RAW = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

ROW = Row("p", "", "", "s", "", "", "", "", "refused", "why", "1", "2", "in")


def _cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return [cell for line in csv.reader(file) for cell in line]


@pytest.mark.parametrize(
    "text", ["=1+1", "@SUM(A1)", "+1", "-1", "'", "'=1", "''+", "'a", "a=1", "", " =1", '"=1"', "=\n1", "a,b", "\\x1b"]
)
def test_cells_are_no_formulas_and_are_read_as_written(tmp_path, text):
    row = replace(ROW, source=text, reason=text)
    write_manifest(tmp_path, [row])
    assert read_manifest(tmp_path) == [row]
    assert not [cell for cell in _cells(tmp_path / NAME) if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "a\0b", f"a{CLEAR}", f"{REORDER}gpj", "a\x9b31m", "a\nb", "\x7f"])
def test_controls_are_escaped_in_every_row(tmp_path, text):
    row = replace(ROW, patient=text, source=text, reason=text)
    write_manifest(tmp_path, [row])
    assert read_manifest(tmp_path) == [row]
    assert not [cell for cell in _cells(tmp_path / NAME) if RAW.search(cell) or "\n" in cell or "\t" in cell]


def test_a_manifest_of_before_is_read(tmp_path):
    write_manifest(tmp_path, [ROW])
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(text.replace("why", "=1"))
    assert read_manifest(tmp_path) == [replace(ROW, reason="=1")]


def test_prepare_shows_and_writes_no_control(tmp_path, capfd):
    def change(item, d):
        item.Modality = f"CT{CLEAR}\t"

    source = tmp_path / "in"
    made.write_series(source / f"=cmd{CLEAR}\n{REORDER}", HU, AFFINE, patient="=1+1")
    made.write_series(source / "other", HU, AFFINE, change=change)
    (source / f"bad{CLEAR}\r.nii.gz").write_bytes(b"")
    arguments = ["--input", str(source), "--output", str(tmp_path / "out"), "--size", "16", "--min_extent_mm", "1"]
    main([*arguments, "--jobs", "1"])
    said = capfd.readouterr().out
    assert not RAW.search(said)
    assert r"refused: bad\x1b[2J\x0d.nii.gz: " in said
    assert not RAW.search((tmp_path / "out" / NAME).read_text(encoding="utf-8").replace("\r\n", "\n"))
    rows = read_manifest(tmp_path / "out")
    assert rows[0].source == r"=cmd\x1b[2J\x0a\u202e"
    assert [row.status for row in rows] == ["ok", "refused", "passed over"]
    again, _ = prepare_folder(source, Job(tmp_path / "out", Settings(16, min_extent_mm=1)))
    assert again == rows


def test_an_error_shows_no_control(capsys):
    def fails(_):
        raise UserError(f"film{CLEAR}{REORDER}.png: no such film")

    with pytest.raises(SystemExit):
        run_command(fails)
    assert capsys.readouterr().err == "error: film\\x1b[2J\\u202e.png: no such film\n"


def test_a_table_of_results_has_no_formula_and_is_read_as_written(tmp_path):
    write_table({"=method": [{"case": 0, "patient": "@me", "psnr": -1.5}]}, tmp_path / "volumes", "title")
    assert "'=method,0,'@me,-1.5" in (tmp_path / "volumes.csv").read_text()
    (rows,) = read_rows(tmp_path / "volumes.csv").items()
    assert rows[0] == "=method"
    assert (rows[1][0]["patient"], rows[1][0]["psnr"]) == ("@me", -1.5)


def test_names_and_patients_of_300_characters(tmp_path):
    deep = tmp_path / "in" / ("d" * 200) / ("e" * 200)
    made.write_series(deep / "series", HU, AFFINE, patient="P" * 300)
    made.write(deep / f"{'é' * 120}7.nii.gz", HU, AFFINE)
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16, min_extent_mm=1), pictures=True))
    assert [row.status for row in rows] == ["ok", "ok"]
    assert {len(row.patient) for row in rows} == {300, 121}
    assert read_manifest(tmp_path / "out") == rows


def test_films_of_names_and_patients_of_300_characters(tmp_path):
    grey = (made_dicom.brightness() * 4095).astype(np.uint16)
    film = made_dicom.dataset(grey, PatientID="P" * 300, PatientName="N" * 300, StudyInstanceUID="1.2.3")
    path = made_dicom.save(film, tmp_path / f"{'f' * 251}.dcm")
    picture = tmp_path / f"{'p' * 251}.png"
    Image.fromarray(grey).save(picture)
    assert read_film(path).facts.file == path.name
    assert read_film(picture).facts.file == picture.name
    save_series(tmp_path / "series", np.zeros((8, 8, 8), np.float32), AFFINE, [path, picture], {})
    assert read_tags(tmp_path / "series" / "0001.dcm").PatientID == "P" * 300
    for name in ("x" * 300, "x" * 300 + ".dcm"):
        with pytest.raises((UserError, OSError)) as error:
            read_film(tmp_path / name)
        assert "\n" not in str(error.value)
