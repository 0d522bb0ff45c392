"""The scans that the repository ships can be read, are small, and are for tests alone."""

from pathlib import Path

import numpy as np

from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.sources import PreparedSource

FOLDER = Path(__file__).parents[2] / "examples" / "scans32"


def test_they_are_two_chests_of_the_test_split():
    source = PreparedSource(FOLDER, "test", 32)
    assert source.patients == ["lidc-idri-0002", "tcga-de-a4ma"]
    assert {row.split for row in read_manifest(FOLDER)} == {"test"}
    for number in range(2):
        ct = source[number]["ct"][..., 0]
        # Air around the body, lungs on both sides of the middle, and soft tissue between them.
        assert ct[:, 0].max() < 0.2
        lungs = (ct[12:20, 8:24] < 0.25).mean(axis=(0, 1))
        assert min(lungs[4:14].max(), lungs[18:28].max()) > 0.5
        assert lungs[15:17].max() < 0.3
        assert np.median(ct[12:20, 10:22, 15:17]) > 0.38


def test_they_are_small_credited_and_name_no_machine():
    credit = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in (FOLDER / row.file for row in read_manifest(FOLDER)):
        assert file.stat().st_size < 100_000
        assert file.name in credit
    assert not any(row.input for row in read_manifest(FOLDER))
