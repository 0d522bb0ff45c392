"""Geometry and poses: what is refused, and what the constants mean."""

import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.xray import ConeBeamGeometry, view_pose
from dvg_jax.xray.geometry import rotation, source_position


def test_paper_constants():
    geometry = ConeBeamGeometry.paper()
    assert geometry.volume_shape == (128,) * 3
    assert geometry.voxel_mm == (1.0,) * 3
    assert geometry.pixel_mm == (1.0,) * 2
    assert (geometry.source_isocentre_mm, geometry.source_detector_mm) == (1000.0, 1200.0)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_the_field_of_view_does_not_depend_on_the_size(size):
    geometry = ConeBeamGeometry.paper(size)
    assert geometry.extent_mm == pytest.approx((128.0,) * 3)
    assert geometry.pixel_mm[0] * size == pytest.approx(128.0)


@pytest.mark.parametrize("angle", [0.0, 33.0, 90.0, -120.0])
def test_rotation_is_a_rotation(angle):
    turn = np.asarray(rotation(jnp.asarray(view_pose(angle, (1.0, 2.0, 3.0), (4.0, -5.0)))))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1.0, abs=1e-6)


def test_source_is_behind_at_0_and_on_the_right_at_90():
    geometry = ConeBeamGeometry.paper()
    np.testing.assert_allclose(source_position(view_pose(0.0), geometry), (0, 1000, 0), atol=1e-3)
    np.testing.assert_allclose(source_position(view_pose(90.0), geometry), (0, 0, -1000), atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volume_shape", (0, 8, 8)),
        ("detector_shape", (8, -1)),
        ("voxel_mm", (1.0, 0.0, 1.0)),
        ("pixel_mm", (float("nan"), 1.0)),
        ("samples_per_ray", 0),
        ("source_isocentre_mm", 5.0),
        ("source_detector_mm", 900.0),
    ],
)
def test_impossible_geometries_are_refused_by_name(field, value):
    sizes = {"volume_shape": (8,) * 3, "voxel_mm": (16.0,) * 3, "detector_shape": (8,) * 2, "pixel_mm": (16.0,) * 2}
    with pytest.raises(UserError, match="allowed"):
        ConeBeamGeometry(**(sizes | {field: value}))
