"""DPM-Solver++ (2M) against its published algorithm, against the exact flow of a Gaussian, and against DDIM."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.diffusion import Sampler, Schedule, sample
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from tests.diffusion.made import Function

SCHEDULE = Schedule(100)
MEAN, STD = 0.7, 0.4
SECOND = Sampler().called("dpmpp_2m")


@dataclass(frozen=True)
class EvenInLambda(Schedule):
    """lambda falls from 3 to -3 in equal parts: there an order of convergence shows undisturbed."""

    @property
    def alphas_cumprod(self):
        return 1 / (1 + np.exp(-2 * np.linspace(3, -3, self.timesteps)))


def with_steps(name, steps):
    return Sampler(steps).called(name)


def of_gaussian(abar, z):
    """E[z_0 | z_t] where z_0 ~ N(MEAN, STD^2)."""
    gain = STD**2 * np.sqrt(abar) / (STD**2 * abar + 1 - abar)
    return MEAN + gain * (z - np.sqrt(abar) * MEAN)


def of_network(t, z):
    """Anything that is not affine in z, and depends on the time."""
    return np.tanh(1.5 * z + 0.01 * t) - 0.3


def by_table(sampler, schedule, predict, z):
    """All z after a step, in float64: the table's rows one after the other."""
    table, previous, path = sampler.coefficients(schedule), 0.0, [z]
    for t, of_z0, of_z, sigma, of_previous in zip(*(np.asarray(a, np.float64) for a in table), strict=True):
        assert sigma == 0
        z0 = predict(int(t), z)
        z = of_z0 * z0 + of_z * z + of_previous * previous
        previous = z0
        path.append(z)
    return path


def algorithm_2(times, schedule, predict, z):
    """Lu et al. 2022, Algorithm 2, line by line with its names, between the given times; then z_0 at the last."""
    alpha, sigma = np.sqrt(schedule.alphas_cumprod), np.sqrt(1 - schedule.alphas_cumprod)
    lam = np.log(alpha / sigma)
    buffer, path, h_before = [], [z], None
    for s, t in pairwise(times):
        buffer.append(predict(int(s), z))
        h = lam[t] - lam[s]
        if h_before is None:
            d = buffer[-1]
        else:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        z = sigma[t] / sigma[s] * z - alpha[t] * (np.exp(-h) - 1) * d
        h_before = h
        path.append(z)
    return [*path, predict(int(times[-1]), z)]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37, 100])
def test_the_table_is_the_published_algorithm(steps):
    sampler = with_steps("dpmpp_2m", steps)
    z = np.linspace(-2, 2, 9)
    expected = algorithm_2(sampler.coefficients(SCHEDULE).t, SCHEDULE, of_network, z)
    # The table is float32.
    np.testing.assert_allclose(by_table(sampler, SCHEDULE, of_network, z), expected, atol=2e-6)


def network(arguments, z, t):
    return jnp.tanh(1.5 * z + 0.01 * t[:, None]) - 0.3


@pytest.mark.parametrize("scan", [True, False])
def test_samples_are_those_of_the_published_algorithm_whatever_drives_the_steps(scan):
    keys, sampler = jax.random.split(jax.random.key(4), 3), with_steps("dpmpp_2m", 10)
    together = sample(Function(network), None, keys, (3, 5), SCHEDULE, sampler, scan=scan)
    alone = [sample(Function(network), None, key, (1, 5), SCHEDULE, sampler, scan=scan)[0] for key in keys]
    first = np.stack([jax.random.normal(jax.random.fold_in(key, 100), (5,)) for key in keys]).astype(np.float64)
    expected = algorithm_2(sampler.coefficients(SCHEDULE).t, SCHEDULE, of_network, first)[-1]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(together, expected, atol=5e-6)


def error(name, schedule, steps):
    """Distance from the exact probability flow of a Gaussian, z = alpha MEAN + sqrt(alpha^2 STD^2 + sigma^2) xi, at the
    last time that the network is asked for."""
    abar, start = schedule.alphas_cumprod, 1.3

    def place(t):
        return np.sqrt(abar[t]) * MEAN, np.sqrt(abar[t] * STD**2 + 1 - abar[t])

    centre, spread = place(-1)
    xi = (start - centre) / spread
    path = by_table(with_steps(name, steps), schedule, lambda t, z: of_gaussian(abar[t], z), start)
    centre, spread = place(0)
    return abs(path[-2] - (centre + spread * xi))


def test_ddim_is_of_first_order_and_the_other_of_second():
    schedule = EvenInLambda(3001)
    for name, order in (("ddim", 1), ("dpmpp_2m", 2)):
        errors = [error(name, schedule, steps) for steps in (26, 51, 101, 201)]
        # Twice the steps: half the error or a quarter, up to higher orders, 5 % here.
        np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.15)


@pytest.mark.parametrize("timesteps", [100, 1000])
def test_ten_steps_of_second_order_are_closer_than_fifty_of_first(timesteps):
    schedule = Schedule(timesteps)
    assert error("dpmpp_2m", schedule, 10) < error("ddim", schedule, 50)
    assert error("dpmpp_2m", schedule, 20) < error("dpmpp_2m", schedule, 10)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps_are_of_first_order(steps):
    first, second = (with_steps(name, steps).coefficients(SCHEDULE) for name in ("ddim", "dpmpp_2m"))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("timesteps", [1, 2, 10, 100, 1000])
def test_times_are_different_whole_and_hold_both_ends(timesteps):
    for steps in {1, 2, 3, 5, 8, 10, 20, 50, 99, timesteps}:
        if steps <= timesteps:
            t = with_steps("dpmpp_2m", steps).coefficients(Schedule(timesteps)).t
            assert len(t) == steps
            assert t[0] == timesteps - 1
            assert steps == 1 or t[-1] == 0
            assert (np.diff(t) < 0).all()


def test_a_linear_extrapolation_is_exact_for_a_prediction_linear_in_lambda():
    """Where z_0 moves along a line in lambda, only the first step, which knows no line yet, is off."""
    schedule, table = SCHEDULE, SECOND.coefficients(SCHEDULE)
    lam = 0.5 * np.log(schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))
    z0 = lam[table.t]
    seen = table.of_z0[1:] * z0[1:] + table.of_previous[1:] * z0[:-1]
    half_way = z0[1:-1] + np.diff(lam[table.t])[1:] / 2
    first = with_steps("ddim", 100).coefficients(schedule).of_z0[1:-1]
    np.testing.assert_allclose(seen[:-1], first * half_way, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen[-1], z0[-1], rtol=1e-5)


def test_names():
    assert [Sampler(7, clip=1.0).called(name).name for name in SAMPLERS] == list(SAMPLERS)
    assert (Sampler().name, Sampler(eta=0.0).name, Sampler(eta=0.5).name) == ("ancestral", "ddim", "ddim, eta 0.5")
    assert Sampler(7, clip=1.0).called("dpmpp_2m") == Sampler(7, 0.0, 1.0, order=2)
    with pytest.raises(UserError, match="sampler is 'euler'; allowed: ancestral, ddim, dpmpp_2m"):
        Sampler().called("euler")


@pytest.mark.parametrize("fields", [{"eta": 1.5}, {"eta": -0.1}, {"order": 3}, {"order": 2, "eta": 1.0}])
def test_samplers_that_cannot_be(fields):
    with pytest.raises(UserError, match="allowed"):
        Sampler(**fields)
