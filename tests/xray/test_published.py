"""The published convention by its laws: a plain reference, where voxels are, its scales, its faces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.xray import ConeBeamGeometry, published, ray_coverage, view_pose
from tests.xray.exact import Gaussian, plain_rays
from tests.xray.published_plainly import back_plainly, forward_plainly

UNEVEN = ConeBeamGeometry((8, 9, 10), (3.0, 2.5, 2.0), (7, 6), (4.0, 3.0), 300.0, 420.0)
SMALL = ConeBeamGeometry((16,) * 3, (1.0,) * 3, (16,) * 2, (1.0,) * 2)
POSES = {
    "frontal": (-0.5, 0, 0, 0, 0, 0),
    "tilted": (-0.31, 0.04, -0.03, 1, -2, 3),
    "turned": (0.13, 0, 0, 0, 0, 0),
    "shifted": (-0.2, 0, 0, 0, 3, 0),
}


@functools.cache
def compiled(geometry, numbers):
    """Forward and back projection at the six published numbers."""
    pose = published.pose_from_published(numbers)
    forward = jax.jit(lambda volume: published.forward_project(volume, pose, geometry))
    back = jax.jit(lambda image: published.back_project(image, pose, geometry))
    return forward, back


@functools.cache
def noise(geometry):
    rng = np.random.default_rng(0)
    shapes = geometry.volume_shape, geometry.detector_shape
    return tuple(rng.random(shape).astype(np.float32) for shape in shapes)


def worst(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("numbers", POSES.values(), ids=POSES.keys())
def test_equals_a_plain_loop(numbers):
    """Rays in float32 against float64: places are good to 3e-5 voxel, weights of single nodes as well."""
    (forward, back), (volume, image) = compiled(UNEVEN, numbers), noise(UNEVEN)
    assert worst(forward(volume), forward_plainly(volume, numbers, UNEVEN, float32_steps=True)) < 1e-5
    assert worst(back(image), back_plainly(image, numbers, UNEVEN, float32_steps=True)) < 3e-5


def test_poses_are_those_of_the_default():
    for number, angle in ((-0.5, 0.0), (-0.25, 45.0), (0.0, 90.0)):
        np.testing.assert_allclose(published.pose_from_published([number, 0, 0, 0, 0, 0]), view_pose(angle), atol=1e-12)
    moved = published.pose_from_published([-0.5, 0.1, -0.2, 1, 2, 3])
    np.testing.assert_allclose(moved, view_pose(0.0, np.pi * np.array([1, 2, 3]), (18.0, -36.0)), rtol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 45.0, 90.0])
def test_forward_is_a_tenth_of_a_volume_moved_by_half_a_voxel(angle):
    """Voxel i is at i in a box where everything else has it at i + 1/2. Gaussians of 4 voxels: 1 % rms for the blur of
    voxels, as in the default, and as much again for the dark upper faces.
    """
    geometry = ConeBeamGeometry.covering(32)
    centre, sigmas, half = np.array((8.0, -5.0, 11.0)), (16.0, 13.0, 18.0), 0.5 * np.array(geometry.voxel_mm)
    volume = Gaussian(centre, sigmas).volume(geometry)
    image = 10 * np.asarray(compiled(geometry, ((angle - 90) / 180, 0, 0, 0, 0, 0))[0](volume))

    def rms(middle):
        exact = Gaussian(middle, sigmas).integral(*plain_rays(angle, geometry))
        return np.sqrt(np.mean((image - exact) ** 2) / np.mean(exact**2))

    assert rms(centre - half) < 0.02
    assert rms(centre) > 0.08


def test_running_sum_makes_everything_larger_by_244_millionths():
    volume = Gaussian((0.0, 0.0, 0.0), (2.0, 2.0, 2.0)).volume(SMALL)
    forward, back = compiled(SMALL, POSES["frontal"])
    image = np.ones(SMALL.detector_shape, np.float32)
    ideal = forward_plainly(volume, POSES["frontal"], SMALL)
    assert np.asarray(forward(volume), np.float64).sum() / ideal.sum() == pytest.approx(1.000244, abs=2e-5)
    ideal = back_plainly(image, POSES["frontal"], SMALL)
    assert np.asarray(back(image), np.float64).sum() / ideal.sum() == pytest.approx(1.000244, abs=2e-5)


def test_back_projection_counts_rays():
    """10 * (1200 / depth)^2: 14.4 at the isocentre.

    Rays 0.83 voxel apart leave a moire of 5 %, of which 1 % stays in the mean of 20^2 voxels.
    """
    geometry = ConeBeamGeometry((32,) * 3, (1.0,) * 3, (32,) * 2, (1.0,) * 2)
    volume = np.asarray(compiled(geometry, POSES["frontal"])[1](jnp.ones(geometry.detector_shape)))
    seen = np.asarray(jax.jit(lambda: ray_coverage([view_pose(0.0)], geometry))())
    within = volume[6:26, :, 6:26]
    for h in (8, 16, 24):
        depth = 1000 + 16 - (h + 0.5)
        assert within[:, h].mean() == pytest.approx(10 * (1200 / depth) ** 2, rel=0.02)
    assert within[:, 3:29].std() < 0.1 * within.mean()
    assert (volume == 0).mean() == pytest.approx(0.29, abs=0.06)
    assert (volume[seen] > 0).mean() > 0.999


def test_faces():
    """Cells are whole: points above the last voxel count for nothing, points below the first are extrapolated."""
    forward, back = compiled(SMALL, POSES["frontal"])
    planes = np.eye(16, dtype=np.float32)[:, None, :, None] * np.ones((16, 16, 1, 16), np.float32)
    # The middle ray runs along -H, with nodes at 16.0, 15.9 ... 0.
    through = np.array([forward(plane)[7, 7] for plane in planes[[0, 8, 15]]])
    np.testing.assert_allclose(through, [0.05, 0.1, 0.045], rtol=0.01)
    spread = np.asarray(back(np.ones(SMALL.detector_shape)))[4:-4, :, 4:-4].mean((0, 2))
    # Nodes p at 15.5, 15.4 ... -0.5. First plane: the integral of 1 - p from -1/2 to 1; second: of the hat, and of p
    # from -1/2 to 0; last: 0.1 times 0.9 + 0.8 + ... 0.1.
    expected = 10 * (1200 / (1000 + 8 - np.arange(16) - 0.5)) ** 2 * np.array([1.125, 0.875, *[1] * 13, 0.45])
    # The moire is the same in all planes.
    np.testing.assert_allclose(spread / spread[8], expected / expected[8], rtol=0.01)
    assert np.asarray(compiled(UNEVEN, POSES["tilted"])[1](np.ones(UNEVEN.detector_shape))).min() < 0


def test_views_stack_and_add_up():
    numbers = POSES["frontal"], (0, 0, 0, 0, 0, 0)
    poses = [view_pose(0.0), view_pose(90.0)]
    volume, image = noise(SMALL)
    forward = jax.jit(lambda v: published.forward_project_views(v, poses, SMALL))
    back = jax.jit(lambda i: published.back_project_views(i, poses, SMALL))
    (front, side), both = forward(volume), back(jnp.stack([image, image[::-1]]))
    single = [compiled(SMALL, n) for n in numbers]
    np.testing.assert_allclose(front, single[0][0](volume), rtol=1e-5)
    np.testing.assert_allclose(side, single[1][0](volume), rtol=1e-5)
    np.testing.assert_allclose(both, single[0][1](image) + single[1][1](image[::-1]), rtol=1e-5, atol=1e-4)


def test_rays_that_miss_the_volume_are_zero():
    pose = view_pose(0.0, (500.0, 0.0, 0.0))
    image = jax.jit(lambda volume: published.forward_project(volume, pose, SMALL))(noise(SMALL)[0])
    assert (np.asarray(image) == 0).all()


def test_a_pose_on_the_device_gives_the_same_but_for_roundings():
    volume, image = noise(UNEVEN)
    forward = jax.jit(jax.vmap(lambda pose: published.forward_project(volume, pose, UNEVEN)))
    back = jax.jit(jax.vmap(lambda pose: published.back_project(image, pose, UNEVEN)))
    poses = jnp.stack([jnp.asarray(published.pose_from_published(n), jnp.float32) for n in POSES.values()])
    for numbers, *device in zip(POSES.values(), forward(poses), back(poses), strict=True):
        host = compiled(UNEVEN, numbers)
        assert worst(device[0], host[0](volume)) < 1e-4
        assert worst(device[1], host[1](image)) < 1e-4


def test_linear_under_vmap_with_gradients_that_are_transposes():
    volume, image = noise(UNEVEN)
    for project, value, other in zip(compiled(UNEVEN, POSES["tilted"]), (volume, image), (image, volume), strict=True):

        @jax.jit
        def both(values, other, project=project):
            results, pull = jax.vjp(jax.vmap(project), values)
            return results, pull(jnp.stack([other, other]))[0]

        results, gradients = both(jnp.stack([value, 2 * value**2]), other)
        np.testing.assert_allclose(results[0], project(value), rtol=1e-5, atol=1e-5)
        for v, result, gradient in zip((value, 2 * value**2), results, gradients, strict=True):
            # <P v, i> = <v, P^T i>, sums of hundreds of float32 products.
            assert float(jnp.vdot(result, other)) == pytest.approx(float(jnp.vdot(v, gradient)), rel=1e-4)
