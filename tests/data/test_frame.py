import nibabel as nib
import numpy as np
import pytest

from dvg_jax.ct.frame import frame_affine, orientation, spacing, to_frame
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.data import made


def test_frame_affine_points_to_head_back_and_left():
    affine = frame_affine((4, 6, 8), (3.0, 2.0, 1.0), centre=(10, 20, 30))
    middle = affine @ [1.5, 2.5, 3.5, 1]
    np.testing.assert_allclose(middle[:3], (10, 20, 30), atol=1e-12)
    steps = affine[:3, :3].T
    # RAS: head is +z, back is -y, the patient's left is -x.
    np.testing.assert_allclose(steps, [(0, 0, 3), (0, -2, 0), (-1, 0, 0)], atol=1e-12)
    assert orientation(affine) == "SPL"
    assert spacing(affine) == (3.0, 2.0, 1.0)


def test_all_48_orders_of_axes_give_one_array():
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = frame_affine(array.shape, (3.0, 2.0, 1.5), (5, 6, 7))
    seen = 0
    for stored, matrix in made.reordered(array, affine):
        ours, follows = to_frame(stored, matrix, "scan")
        np.testing.assert_array_equal(ours, array)
        np.testing.assert_allclose(follows, affine, atol=1e-12)
        seen += 1
    assert seen == 48


def test_slight_tilt_stays_in_the_affine():
    turn = np.eye(4)
    angle = np.radians(10)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = turn @ frame_affine((4, 5, 6), 2.0)
    array = np.arange(120).reshape(4, 5, 6)
    ours, follows = to_frame(array, tilted, "scan")
    np.testing.assert_array_equal(ours, array)
    np.testing.assert_allclose(follows, tilted)
    assert spacing(follows) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (np.diag([2.0, 0.0, 2.0]), "allowed: three steps above 0"),
        (np.diag([2.0, np.nan, 2.0]), "allowed: three steps above 0"),
        (np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 0]]), "parallel"),
        (np.array([[1.0, -1, 0], [1, 1, 0], [0, 0, 1]]), "tilted by 45 degrees"),
    ],
)
def test_unusable_affine_is_refused(columns, says):
    affine = np.eye(4)
    affine[:3, :3] = columns
    with pytest.raises(UserError, match=says) as error:
        to_frame(np.zeros((3, 3, 3)), affine, "scan.nii")
    assert "scan.nii" in str(error.value)


def test_nifti_keeps_voxels_and_places(tmp_path):
    hu = made.chest_on_couch()
    path = tmp_path / "deep" / "out.nii.gz"
    save_nifti(path, hu + 0.3, made.affine())
    image = nib.load(path)
    assert image.get_data_dtype() == np.int16
    assert image.shape == made.SHAPE[::-1]
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)  # float32 quaternion
    back = load_scan(path)
    np.testing.assert_array_equal(back.hu, hu)
    np.testing.assert_allclose(back.affine, made.affine(), atol=1e-5)  # NIfTI stores float32
    assert [p.name for p in path.parent.iterdir()] == ["out.nii.gz"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.nii.gz"
    save_nifti(path, np.zeros((2, 2, 2)), np.eye(4))
    before = path.read_bytes()

    def half(image, name):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_nifti(path, np.ones((2, 2, 2)), np.eye(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
