"""The sampler against a closed form and against itself; its steps are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.diffusion import Sampler, Schedule, sample, samplers
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from tests.diffusion.made import Function

SCHEDULE = Schedule(100)
MEAN, STD = 0.7, 0.4


def gaussian_denoiser(arguments, z, t):
    """E[z_0 | z_t] where z_0 ~ N(MEAN, STD^2): the best any network could predict."""
    abar = jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32)[t][:, None]
    gain = STD**2 * jnp.sqrt(abar) / (STD**2 * abar + 1 - abar)
    return MEAN + gain * (z - jnp.sqrt(abar) * MEAN)


def exact_moments(sampler, schedule=SCHEDULE):
    """Mean and variance of what the sampler draws from a Gaussian: each of its steps is affine in z."""
    table = sampler.coefficients(schedule)
    mean, variance = 0.0, 1.0
    for t, of_z0, of_z, sigma, _ in zip(*(np.asarray(a, np.float64) for a in table), strict=True):
        abar = schedule.alphas_cumprod[int(t)]
        gain = STD**2 * np.sqrt(abar) / (STD**2 * abar + 1 - abar)
        slope = of_z0 * gain + of_z
        mean = slope * mean + of_z0 * (MEAN - gain * np.sqrt(abar) * MEAN)
        variance = slope**2 * variance + sigma**2
    return mean, variance


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize(("steps", "eta"), [(None, 1.0), (100, 0.0), (20, 0.0)])
def test_gaussian_moments(steps, eta, scan):
    n = 4096
    sampler = Sampler(steps, eta)
    drawn = np.asarray(
        sample(Function(gaussian_denoiser), None, jax.random.key(3), (n, 1), SCHEDULE, sampler, scan=scan)
    )
    mean, variance = exact_moments(sampler)
    # Four standard errors: a right sampler fails one run in 16000, and the key is fixed.
    assert abs(drawn.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(drawn.var() - variance) < 4 * variance * np.sqrt(2 / n)


@pytest.mark.parametrize(("timesteps", "bias"), [(100, 0.10), (1000, 0.01)])
def test_ancestral_steps_tend_to_the_data_distribution(timesteps, bias):
    """The posterior's variance is that of a known z_0: finite steps draw too narrow, 8 % at T = 100, 0.8 % at 1000."""
    mean, variance = exact_moments(Sampler(), Schedule(timesteps))
    assert abs(mean - MEAN) < 0.01 * MEAN
    assert -bias * STD**2 < variance - STD**2 < 0


def test_scan_and_python_loop_agree():
    results = [
        sample(Function(gaussian_denoiser), None, jax.random.key(0), (8, 4), SCHEDULE, Sampler(), scan=scan)
        for scan in (True, False)
    ]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scan", [True, False])
def test_a_compiled_program_may_sample(scan):
    """The refiner's examples are made by one where views are drawn, and on several devices."""

    def denoise(gain, z, t):
        return gain * z

    def draw(gain):
        return sample(Function(denoise), gain, jax.random.key(0), (2, 3), SCHEDULE, Sampler(2, eta=0.0), scan=scan)

    gain = jnp.array(0.5)
    np.testing.assert_allclose(jax.jit(draw)(gain), draw(gain), rtol=1e-5)


def test_every_step_with_eta_one_is_the_published_posterior():
    """q(z_{t-1} | z_t, z_0), Eq. (7) of Ho et al. 2020."""
    abar, before = SCHEDULE.alphas_cumprod, SCHEDULE.alphas_cumprod_prev
    of_z0 = SCHEDULE.betas * np.sqrt(before) / (1 - abar)
    of_zt = (1 - before) * np.sqrt(1 - SCHEDULE.betas) / (1 - abar)
    variance = SCHEDULE.betas * (1 - before) / (1 - abar)
    table = Sampler().coefficients(SCHEDULE)
    np.testing.assert_allclose(table.of_z0, of_z0[::-1], rtol=2e-6)
    # At t = 0 the weight of z_t is 0 in exact arithmetic and rounding noise in ours.
    np.testing.assert_allclose(table.of_z, of_zt[::-1], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(table.sigma**2, variance[::-1], rtol=2e-6, atol=1e-7)


def test_clip_bounds_what_the_network_says():
    drawn = sample(Function(gaussian_denoiser), None, jax.random.key(0), (64, 1), SCHEDULE, Sampler(clip=0.5))
    # At t = 0 the result is the clipped prediction itself; float32 rounding of its weight is below 1e-6.
    assert np.abs(drawn).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("steps", "scan", "every"), [(5, False, 1), (5, True, 1), (20, True, 2), (23, True, 1), (100, True, 10)]
)
def test_progress_counts_every_step_or_equal_blocks_of_a_scan(steps, scan, every):
    seen = []
    denoiser = Function(gaussian_denoiser)
    sample(denoiser, None, jax.random.key(0), (1, 1), SCHEDULE, Sampler(steps), lambda *a: seen.append(a), scan=scan)
    assert seen == [(done, steps) for done in range(every, steps + 1, every)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_scan_that_shows_its_progress_draws_the_same_bits(name):
    """The second order's steps need the prediction of the block before."""
    sampler, key = Sampler(20).called(name), jax.random.key(1)
    drawn = [
        sample(Function(gaussian_denoiser), None, key, (8, 4), SCHEDULE, sampler, progress, scan=True)
        for progress in (None, lambda done, steps: None)
    ]
    np.testing.assert_array_equal(*drawn)


def test_a_compiled_program_that_samples_calls_no_progress():
    """It would be called while the program is traced, before any step is taken."""
    seen = []

    def draw(key):
        sampler = Sampler(5)
        return sample(Function(gaussian_denoiser), None, key, (1, 1), SCHEDULE, sampler, lambda *a: seen.append(a))

    jax.jit(draw)(jax.random.key(0))
    assert not seen


def test_the_arguments_devices_choose_between_scan_and_steps(monkeypatch):
    """On a machine with a GPU a program may run on the CPU, where a scan is many times slower."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scanned, stepped = jnp.ones((1, 1)), jnp.zeros((1, 1))
    monkeypatch.setattr(samplers, "_scan", lambda *_: scanned)
    monkeypatch.setattr(samplers, "_compiled_step", lambda *_: (stepped, stepped))

    def drawn():
        return sample(Function(gaussian_denoiser), jnp.zeros(1), jax.random.key(0), (1, 1), SCHEDULE, Sampler(5))

    assert drawn() is stepped
    monkeypatch.setattr(samplers, "_platform", lambda leaves: "gpu")
    assert drawn() is scanned


def test_without_arrays_the_default_device_chooses(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert samplers._platform([]) == "gpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert samplers._platform([]) == "cpu"
    assert samplers._platform([jnp.zeros(1)]) == "cpu"


@pytest.mark.parametrize("steps", [0, 101, -1])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(UserError, match=f"steps is {steps}; allowed: 1 to 100"):
        Sampler(steps=steps).coefficients(SCHEDULE)


@pytest.mark.parametrize("scan", [True, False])
def test_rows_with_keys_of_their_own_are_those_of_a_batch_of_one(scan):
    keys = jax.random.split(jax.random.key(4), 3)
    sampler = Sampler(20, 1.0)
    together = sample(Function(gaussian_denoiser), None, keys, (3, 5), SCHEDULE, sampler, scan=scan)
    alone = [sample(Function(gaussian_denoiser), None, key, (1, 5), SCHEDULE, sampler, scan=scan)[0] for key in keys]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-6, atol=1e-6)
