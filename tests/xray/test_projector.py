"""Projector laws: exact integrals, linearity, symmetry, gradients, Eq. (1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import xray
from dvg_jax.xray import ConeBeamGeometry, ray_coverage, rays, view_pose
from tests.xray.exact import Ellipsoid, Gaussian, centres, plain_rays, project_plainly

forward_project_rays = jax.jit(rays.forward_project_rays, static_argnums=2)
back_project = jax.jit(xray.back_project, static_argnums=2)


def forward_project(volume, pose, geometry):
    """Compiled with the pose as a constant, as the library itself does."""
    return _planes(volume, tuple(pose), geometry)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _planes(volume, pose, geometry):
    return xray.forward_project(volume, np.array(pose), geometry)


UNEVEN = ConeBeamGeometry((8, 9, 10), (3.0, 2.5, 2.0), (7, 6), (4.0, 3.0), 300.0, 420.0, samples_per_ray=24)
SMALL = ConeBeamGeometry.covering(16)
BLOB = Gaussian((8.0, -5.0, 11.0), (16.0, 13.0, 18.0))
PROJECTORS = pytest.mark.parametrize("project", [forward_project, forward_project_rays])


def rms(image, exact):
    return float(np.sqrt(np.mean((np.asarray(image) - exact) ** 2) / np.mean(exact**2)))


@pytest.fixture(scope="module")
def noise():
    return jax.random.uniform(jax.random.key(0), SMALL.volume_shape)


@pytest.mark.parametrize("angle", [0.0, 35.0, 90.0])
def test_rays_equal_a_plain_loop(angle):
    volume = np.random.default_rng(0).random(UNEVEN.volume_shape).astype(np.float32)
    plain = project_plainly(volume, angle, UNEVEN)
    image = forward_project_rays(jnp.asarray(volume), view_pose(angle), UNEVEN)
    # Places along a ray are about 300 mm in float32, so weights are good to 1e-5.
    np.testing.assert_allclose(image, plain, atol=1e-5 * plain.max())


@PROJECTORS
@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0])
def test_gaussian_integral(project, angle):
    errors = []
    for size in (16, 32):
        geometry = ConeBeamGeometry.covering(size)
        exact = BLOB.integral(*plain_rays(angle, geometry))
        errors.append(rms(project(jnp.asarray(BLOB.volume(geometry)), view_pose(angle), geometry), exact))
    assert errors[1] < 0.01
    assert errors[1] < 0.6 * errors[0]


@PROJECTORS
def test_ellipsoid_integral_improves_with_size(project):
    """A sharp edge is blurred by one voxel: 4 % rms at 32^3, 2 % at 64^3 and 1 % at 128^3, whatever the projector."""
    body = Ellipsoid((4.0, -6.0, 5.0), (44.0, 40.0, 48.0))
    errors = []
    for size in (32, 64):
        geometry = ConeBeamGeometry.covering(size)
        exact = body.integral(*plain_rays(0.0, geometry))
        errors.append(rms(project(jnp.asarray(body.volume(geometry)), view_pose(0.0), geometry), exact))
    assert errors[0] < 0.042
    assert errors[1] < 0.022


@PROJECTORS
def test_unit_impulse_lands_where_its_ray_does(project):
    # Pixels so fine that the voxel's shadow covers dozens: only then is a sum over pixels an integral.
    coarse = ConeBeamGeometry.covering(16)
    fine = tuple(p / 8 for p in coarse.pixel_mm)
    geometry = dataclasses.replace(coarse, detector_shape=(128, 128), pixel_mm=fine, samples_per_ray=96)
    voxel = (11, 4, 6)
    volume = jnp.zeros(geometry.volume_shape).at[voxel].set(1.0)
    for angle in (0.0, 60.0):
        image = np.asarray(project(volume, view_pose(angle), geometry), np.float64)
        source, directions = plain_rays(angle, geometry)
        to_voxel = centres(geometry)[voxel] - source
        shadow = (image[..., None] * directions).sum((0, 1))
        towards = shadow / np.linalg.norm(shadow)
        # A tenth of a voxel, seen from the source.
        assert np.linalg.norm(towards - to_voxel / np.linalg.norm(to_voxel)) < 0.1 * 8 / np.linalg.norm(to_voxel)
        # The sum over rays of one voxel's tent is its volume over the area a pixel covers at its depth.
        beam = -source / np.linalg.norm(source)
        pixel_mm2 = np.prod(geometry.pixel_mm) * (to_voxel @ beam / geometry.source_detector_mm) ** 2
        slant = np.linalg.norm(to_voxel) / (to_voxel @ beam)
        assert image.sum() == pytest.approx(np.prod(geometry.voxel_mm) / pixel_mm2 * slant, rel=0.02)


@PROJECTORS
def test_linearity(project, noise):
    other = noise[::-1] ** 2
    a, b = (project(v, view_pose(20.0), SMALL) for v in (noise, other))
    both = project(2.0 * noise - 3.0 * other, view_pose(20.0), SMALL)
    np.testing.assert_allclose(both, 2 * a - 3 * b, atol=1e-4 * float(jnp.abs(both).max()))


@PROJECTORS
def test_quarter_turn_is_a_permutation_of_axes(project, noise):
    lateral = project(noise, view_pose(90.0), SMALL)
    # At 90 degrees the source is on the patient's right and columns run along +H: W takes H's place, reversed.
    turned = project(jnp.swapaxes(noise, 1, 2)[:, ::-1], view_pose(0.0), SMALL)
    np.testing.assert_allclose(lateral, turned, rtol=1e-5, atol=1e-4)


def test_row_0_is_the_foot_and_column_0_the_patients_right():
    volume = jnp.zeros(SMALL.volume_shape).at[:4, :, :4].set(1.0)
    image = np.asarray(forward_project(volume, view_pose(0.0), SMALL))
    assert image[:8, :8].sum() > 0.99 * image.sum()


@pytest.mark.parametrize("angle", [0.0, 45.0, 200.0])
def test_lines_and_rays_agree(noise, angle):
    """0.2 % on a smooth volume, 1 % on noise: lines are shared by depths between which a row moves by 0.4 voxels."""
    pose = view_pose(angle, (2.0, -3.0, 4.0))
    for volume, bound in ((jnp.asarray(BLOB.volume(SMALL)), 0.002), (noise, 0.01)):
        # The face of the volume, which rays cut off and lines let fall to zero, is left out.
        inner = volume.at[0].set(0).at[-1].set(0)
        lines, general = (p(inner, pose, SMALL) for p in (forward_project, forward_project_rays))
        assert rms(lines, np.asarray(general)) < bound


@pytest.mark.parametrize("angle", [0.0, 45.0, 200.0])
def test_back_projection_known_beforehand_is_the_same(angle):
    pose = view_pose(angle, (2.0, -3.0, 4.0))
    image = jax.random.uniform(jax.random.key(2), UNEVEN.detector_shape)
    known = jax.jit(lambda i: xray.back_project(i, pose, UNEVEN))(image)
    general = rays.back_project_rays(image, jnp.asarray(pose), UNEVEN)
    # A voxel whose ray meets the detector's very edge may fall on either side of it in float32.
    off = np.abs(known - general) > 1e-4 * float(general.max())
    assert off.mean() < 0.002


def test_a_view_beside_the_volume_is_empty():
    geometry = dataclasses.replace(SMALL, pixel_mm=(8.0, 1.0))
    pose = view_pose(0.0, (0.0, 400.0, 0.0))
    assert not forward_project(jnp.ones(SMALL.volume_shape), pose, geometry).any()


@PROJECTORS
def test_gradient_to_the_volume_is_the_transpose(project, noise):
    def forward(volume):
        return project(volume, view_pose(30.0), SMALL)

    image = jax.random.normal(jax.random.key(1), SMALL.detector_shape)

    @jax.jit
    def both(volume, image):
        projected, pull = jax.vjp(forward, volume)
        # Lines have gradients alone; what transposes rays is the gradient of a linear function.
        transpose = pull if project is forward_project else jax.linear_transpose(forward, volume)
        return projected, *pull(image), *transpose(image)

    projected, gradient, transposed = both(noise, image)
    np.testing.assert_allclose(gradient, transposed, atol=1e-5 * float(jnp.abs(transposed).max()))
    # <P v, i> = <v, P^T i>, sums of thousands of float32 products.
    assert float(jnp.vdot(projected, image)) == pytest.approx(float(jnp.vdot(noise, transposed)), rel=1e-3)


def test_gradient_to_the_pose_against_finite_differences():
    volume = jnp.asarray(BLOB.volume(SMALL))
    target = forward_project(volume, view_pose(10.0), SMALL)

    @jax.jit
    @jax.value_and_grad
    def loss(pose):
        return jnp.sum((forward_project_rays(volume, pose, SMALL) - target) ** 2) / 1e3

    pose = jnp.asarray(view_pose(14.0, (3.0, -2.0, 5.0), (2.0, -3.0)), jnp.float32)
    _, gradient = loss(pose)
    for i, step in enumerate((0.2, 0.2, 0.2, 0.5, 0.5, 0.5)):
        ahead, behind = (float(loss(pose.at[i].add(s))[0]) for s in (step, -step))
        # A trilinear volume has kinks at every voxel: central differences over a step agree to some per cent.
        assert float(gradient[i]) == pytest.approx((ahead - behind) / (2 * step), rel=0.05, abs=0.02)


def test_back_projection_of_a_constant_is_one_over_the_path():
    geometry = ConeBeamGeometry.covering(16)
    volume = np.asarray(back_project(jnp.ones(geometry.detector_shape), view_pose(0.0), geometry))
    source, _ = plain_rays(0.0, geometry)
    offset = centres(geometry) - source
    half = np.array(geometry.extent_mm) / 2
    low, high = (-half - source) / offset, (half - source) / offset
    entry, leave = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
    length = (leave - entry) * np.linalg.norm(offset, axis=-1)
    np.testing.assert_allclose(volume, 1 / length, rtol=1e-4)


def test_back_projection_is_zero_outside_the_cone():
    geometry = ConeBeamGeometry.paper(16)
    volume = np.asarray(back_project(jnp.ones(geometry.detector_shape), view_pose(0.0), geometry))
    assert volume[0, 0, 0] == 0
    assert volume[8, 8, 8] > 0
    seen = np.asarray(ray_coverage([view_pose(0.0)], geometry))
    assert (seen == (volume > 0)).all()
    assert 0.6 < seen.mean() < 0.8  # 29 % of the volume is crossed by no ray of the published detector


def test_a_voxel_seen_twice_is_back_projected_to_where_it_is():
    geometry = ConeBeamGeometry.covering(32)
    voxel = (23, 8, 20)
    volume = jnp.zeros(geometry.volume_shape).at[voxel].set(1.0)
    spread = sum(
        back_project(forward_project(volume, view_pose(a), geometry), view_pose(a), geometry) for a in (0.0, 90.0)
    )
    assert np.unravel_index(np.argmax(spread), spread.shape) == voxel


def test_views_batch_under_vmap_and_take_gradients_of_images(noise):
    batch = jnp.stack([noise, noise[::-1]])
    images = jax.vmap(lambda v: xray.forward_project(v, view_pose(0.0), SMALL))(batch)
    np.testing.assert_allclose(images[1], forward_project(batch[1], view_pose(0.0), SMALL), rtol=1e-5)
    poses = jnp.stack([jnp.asarray(view_pose(a), jnp.float32) for a in (0.0, 25.0)])
    views = jax.vmap(lambda p: xray.forward_project(noise, p, SMALL))(poses)
    # Planes sample noise at other places than rays.
    assert rms(views[1], np.asarray(forward_project_rays(noise, view_pose(25.0), SMALL))) < 0.02
    spread = jax.vmap(lambda p, i: xray.back_project(i, p, SMALL))(poses, views)
    np.testing.assert_allclose(spread[1], back_project(views[1], poses[1], SMALL), rtol=1e-4, atol=1e-3)
    gradient = jax.grad(lambda i: back_project(i, view_pose(25.0), SMALL).sum())(images[0])
    assert bool((gradient >= 0).all())
    assert float(gradient.max()) > 0


def test_half_precision_volumes_are_summed_in_float32(noise):
    half = noise.astype(jnp.bfloat16)
    image = forward_project(half, view_pose(0.0), SMALL)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, forward_project(half.astype(jnp.float32), view_pose(0.0), SMALL), rtol=1e-6)


@pytest.mark.parametrize("samples", [64, 1024])
def test_memory_does_not_grow_with_the_samples(samples):
    geometry = ConeBeamGeometry((32,) * 3, (4.0,) * 3, (32,) * 2, (5.0,) * 2, samples_per_ray=samples)
    program = jax.jit(lambda v: forward_project_rays(v, view_pose(0.0), geometry))
    used = program.lower(jnp.zeros(geometry.volume_shape)).compile().memory_analysis()
    assert used.temp_size_in_bytes < 4e6
