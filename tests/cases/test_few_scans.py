"""A suspiciously small training set gives a warning."""

import numpy as np
import pytest

from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data import opening
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.data.opening import open_training
from dvg_jax.data.pipeline import training_iterator
from dvg_jax.errors import UserError


def _folder(root, scans):
    for n in range(scans):
        save_nifti(root / f"{n}.nii.gz", np.full((8, 8, 8), -1000.0), np.eye(4))
    write_manifest(
        root, [Row(f"p{n}", "", f"{n}.nii.gz", f"{n}", "", "", "train", "", "ok", "", "", "") for n in range(scans)]
    )
    return str(root)


@pytest.mark.parametrize(("scans", "said"), [(1, "1 scan in"), (4, "4 scans in"), (5, ""), (6, "")])
def test_fewer_than_five_scans_are_said_once(tmp_path, capsys, scans, said):
    folder = _folder(tmp_path, scans)
    opening._say_few.cache_clear()
    for _ in range(2):
        open_training(folder, 8, 0, 0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert all(f"warning: {folder}: {said} split 'train'" in line for line in lines)


def test_fewer_scans_than_a_batch_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train\.batch_size is 4; allowed: 1 to 3, the number of training examples"):
        training_iterator(open_training(_folder(tmp_path, 3), 8, 0, 0), 4, 0)
