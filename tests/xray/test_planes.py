"""The projector by planes is accurate in every pose, has an exact transpose and gradients, and scatters nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import xray
from dvg_jax.xray import ConeBeamGeometry, planes, projector, rays, view_pose
from dvg_jax.xray.crossings import all_rays_cross
from dvg_jax.xray.geometry import rotation
from tests.xray.exact import Gaussian, plain_rays

project = jax.jit(planes.forward_project_planes, static_argnums=2)
transpose = jax.jit(planes.transpose_planes, static_argnums=2)
by_rays = jax.jit(rays.forward_project_rays, static_argnums=2)
pull_pose = jax.jit(lambda v, p, i, g: jax.vjp(lambda p: planes.sum_planes(v, p, g), p)[1](i)[0], static_argnums=3)

SMALL = ConeBeamGeometry.covering(16)
FINE = dataclasses.replace(SMALL, samples_per_ray=2048)
NEAR = ConeBeamGeometry((5, 5, 5), (20.0, 20.0, 20.0), (41, 41), (1.0, 1.0), 75.0, 90.0)
"""The source is as near as three voxels behind the last."""
UNEVEN = ConeBeamGeometry((10, 7, 9), (1.5, 2.5, 2.0), (9, 14), (3.0, 1.5), 150.0, 210.0)
BLOB = Gaussian((8.0, -5.0, 11.0), (16.0, 13.0, 18.0))

POSES = {
    "0": view_pose(0.0),
    "45": view_pose(45.0),
    "90": view_pose(90.0),
    "180": view_pose(180.0),
    "tilted, along H": view_pose(-37.0, (3.0, -2.0, 1.0), (4.0, -3.0)),
    "tilted, along W": view_pose(100.0, (3.0, -2.0, 1.0), (-6.0, 8.0)),
    "tilted, along D": view_pose(20.0, (3.0, -2.0, 1.0), (-80.0, 10.0)),
    "from a corner": view_pose(-130.0, (0.0, 5.0, 0.0), (40.0, 40.0)),
}
EVERY_POSE = pytest.mark.parametrize("pose", POSES.values(), ids=POSES)
ONE_POSE_AN_AXIS = pytest.mark.parametrize("pose", [p for n, p in POSES.items() if "along" in n])


SHOWN = jnp.zeros(UNEVEN.detector_shape).at[3:6, 5:9].set(1)
"""The rays of these pixels pass no corner of the box, where a ray's length in it has kinks."""


@jax.jit
def energy(volume, pose):
    return 0.5 * jnp.sum(SHOWN * planes.forward_project_planes(volume, pose, UNEVEN) ** 2)


gradients = jax.jit(jax.grad(energy, argnums=(0, 1)))


def noise(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def apart(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def test_poses_have_every_main_axis():
    assert {int(np.argmax(np.abs(rotation(pose)[2]))) for pose in POSES.values()} == {0, 1, 2}


@EVERY_POSE
def test_equals_2048_samples_a_ray(pose):
    """They agree to 1 % rms on a volume of 16^3 at 45 degrees, to 0.003 % along an axis."""
    volume = jnp.asarray(BLOB.volume(SMALL))
    assert apart(project(volume, pose, SMALL), by_rays(volume, pose, FINE)) < 0.01


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_faces_cut_rays_off(angle):
    """A volume of ones is cut by its faces as by the ray form."""
    ones = jnp.ones(SMALL.volume_shape)
    assert apart(project(ones, view_pose(angle), SMALL), by_rays(ones, view_pose(angle), FINE)) < 0.008


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0])
def test_gaussian_integral(angle):
    exact = BLOB.integral(*plain_rays(angle, SMALL))
    assert apart(project(jnp.asarray(BLOB.volume(SMALL)), view_pose(angle), SMALL), exact) < 0.03


@EVERY_POSE
@pytest.mark.parametrize("geometry", [SMALL, UNEVEN], ids=["cube", "uneven"])
def test_transpose_is_exact(geometry, pose):
    volume, image = noise(0, geometry.volume_shape), noise(1, geometry.detector_shape)
    transposed = transpose(image, pose, geometry)
    assert apart(transposed, transposed_by_jax(image, pose, geometry)) < 1e-5
    projected = project(volume, pose, geometry)
    allowed = 1e-5 * float(jnp.linalg.norm(projected) * jnp.linalg.norm(image))
    assert float(jnp.vdot(projected, image)) == pytest.approx(float(jnp.vdot(volume, transposed)), abs=allowed)


def test_transpose_is_exact_where_the_source_is_near():
    image = noise(1, NEAR.detector_shape)
    assert apart(transpose(image, POSES["0"], NEAR), transposed_by_jax(image, POSES["0"], NEAR)) < 1e-5


def transpose_plainly(image, pose, geometry):
    """Return JAX's transpose of the same sum, which scatters."""
    return jax.linear_transpose(
        lambda v: planes.sum_planes(v, pose, geometry), jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float32)
    )(image)[0]


transposed_by_jax = jax.jit(transpose_plainly, static_argnums=2)


@pytest.mark.parametrize("along", [0, 1], ids=["rows", "columns"])
def test_a_window_smaller_by_a_pixel_misses_some(monkeypatch, along):
    full = planes.window

    def smaller(*args):
        windows = full(*args)
        reach, count = windows[along]
        windows[along] = (reach - 0.5, count - 1)
        return windows

    monkeypatch.setattr(planes, "window", smaller)
    image, pose = noise(1, UNEVEN.detector_shape), POSES["tilted, along H"]
    assert apart(jax.jit(planes._collect, static_argnums=2)(image, pose, UNEVEN), transpose(image, pose, UNEVEN)) > 1e-3


@ONE_POSE_AN_AXIS
def test_gradients_equal_differences(pose):
    """Planes are interpolated exactly; other volumes have kinks at each voxel."""
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in UNEVEN.volume_shape), indexing="ij")
    volume = jnp.asarray(2 + d * h - 0.5 * w + 0.3 * d * w, jnp.float32)
    by_volume, by_pose = gradients(volume, pose)
    expected = transpose(SHOWN * project(volume, pose, UNEVEN), pose, UNEVEN)
    np.testing.assert_allclose(by_volume, expected, atol=1e-5 * float(expected.max()))
    for i, step in enumerate(np.eye(6, dtype=np.float32) * 0.1):
        difference = (float(energy(volume, pose + step)) - float(energy(volume, pose - step))) / 0.2
        assert float(by_pose[i]) == pytest.approx(difference, rel=0.01, abs=1e-3 * float(jnp.abs(by_pose).max()))


def test_a_rays_length_changes_with_the_pose():
    """The length of a ray inside a volume of ones is known to its derivatives, by two side faces of the box."""
    ones, pose, pixel = jnp.ones(UNEVEN.volume_shape), POSES["from a corner"], (4, 7)
    image = jnp.zeros(UNEVEN.detector_shape).at[pixel].set(1.0)
    by_pose = pull_pose(ones, pose, image, UNEVEN)
    for i, step in enumerate(np.eye(6, dtype=np.float32) * 0.02):
        ahead, behind = (float(project(ones, pose + s, UNEVEN)[pixel]) for s in (step, -step))
        assert float(by_pose[i]) == pytest.approx((ahead - behind) / 0.04, rel=0.01, abs=0.005)


def test_derivatives_repeat_in_reverse():
    """It is tried twice in the volume, and in the pose of the transpose."""
    volume, other, pose = noise(0, UNEVEN.volume_shape), noise(2, UNEVEN.volume_shape), POSES["tilted, along W"]
    image = noise(1, UNEVEN.detector_shape)
    twice = jax.jit(jax.grad(lambda v: jnp.vdot(jax.grad(energy)(v, pose), other)))(volume)
    expected = transpose(SHOWN * project(other, pose, UNEVEN), pose, UNEVEN)
    np.testing.assert_allclose(twice, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    by_image, by_pose = jax.jit(
        jax.grad(lambda i, p: jnp.vdot(planes.transpose_planes(i, p, UNEVEN), other), argnums=(0, 1))
    )(image, jnp.asarray(pose))
    np.testing.assert_allclose(by_image, project(other, pose, UNEVEN), rtol=1e-5, atol=1e-4)
    expected = pull_pose(other, pose, image, UNEVEN)
    np.testing.assert_allclose(by_pose, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_volumes_and_views_are_mapped():
    volumes = noise(0, (2, *UNEVEN.volume_shape))
    poses = jnp.stack([POSES["tilted, along H"], POSES["tilted, along D"]])

    @jax.jit
    def both(volumes, poses):
        images = jax.vmap(lambda v: jax.vmap(lambda p: planes.forward_project_planes(v, p, UNEVEN))(poses))(volumes)
        return images, jax.vmap(lambda i, p: planes.transpose_planes(i, p, UNEVEN))(images[0], poses)

    images, back = both(volumes, poses)
    for v, p in np.ndindex(2, 2):
        np.testing.assert_allclose(images[v, p], project(volumes[v], poses[p], UNEVEN), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(back[p], transpose(images[0, p], poses[p], UNEVEN), rtol=1e-4, atol=1e-3)


def test_nothing_is_scattered_and_bits_repeat():
    volume, pose = noise(0, UNEVEN.volume_shape), jnp.asarray(POSES["from a corner"])
    program = gradients.lower(volume, pose).as_text()
    assert "gather" in program
    assert "scatter" not in program
    for first, second in zip(gradients(volume, pose), gradients(volume, pose), strict=True):
        np.testing.assert_array_equal(first, second)


def test_cones_that_are_too_wide_go_ray_by_ray(monkeypatch):
    monkeypatch.setattr(projector, "forward_project_rays", lambda *_: jnp.full(SMALL.detector_shape, 7.0))
    wide = dataclasses.replace(SMALL, pixel_mm=(80.0, 80.0))
    assert all_rays_cross(SMALL)
    assert not all_rays_cross(wide)
    volume, pose = noise(0, SMALL.volume_shape), view_pose(30.0, tilt_deg=(20.0, 0.0))
    assert (xray.forward_project(volume, pose, wide) == 7).all()
    np.testing.assert_allclose(xray.forward_project(volume, pose, SMALL), project(volume, pose, SMALL), atol=1e-4)
