"""The schedule's tables, one noising and full reverse steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.diffusion import Sampler, Schedule, add_noise
from dvg_jax.diffusion.samplers import Coefficients, reverse_step
from tests.parity.errors import elementwise, relative
from tests.parity.golden import TABLES, load
from tests.paths import GOLDEN, needs_shared

FILE = "diffusion_schedule.npz"
SCHEDULE = Schedule(100)

pytestmark = needs_shared


@pytest.fixture(scope="module")
def golden():
    return load(GOLDEN, FILE)[1]


@pytest.fixture(scope="module")
def compare(golden, report):
    def compare(name, ours, error=elementwise):
        report(file=FILE, name=name, error=error(ours, golden[name]), tolerance=TABLES)

    return compare


def test_betas_in_double_precision(compare):
    compare("betas_float64", SCHEDULE.betas)
    compare("betas_float64_T1000", Schedule(1000).betas)


def test_the_buffers_of_training(compare):
    abar = SCHEDULE.alphas_cumprod
    compare("buf/betas", SCHEDULE.betas)
    compare("buf/alphas_cumprod", abar)
    compare("buf/alphas_cumprod_prev", SCHEDULE.alphas_cumprod_prev)
    compare("buf/log_one_minus_alphas_cumprod", np.log(1 - abar))
    compare("buf/sqrt_recip_alphas_cumprod", np.sqrt(1 / abar))
    compare("buf/sqrt_recipm1_alphas_cumprod", np.sqrt(1 / abar - 1))
    # As the training loss sees them: the weights of z_0 and of the noise at every time.
    times, one, nothing = jnp.arange(100), jnp.ones((100, 1)), jnp.zeros((100, 1))
    compare("buf/sqrt_alphas_cumprod", add_noise(SCHEDULE, one, times, nothing)[:, 0])
    compare("buf/sqrt_one_minus_alphas_cumprod", add_noise(SCHEDULE, nothing, times, one)[:, 0])


def test_the_samplers_table(compare):
    table = Sampler().coefficients(SCHEDULE)
    assert table.t.tolist() == list(range(99, -1, -1))
    compare("buf/posterior_mean_coef1", table.of_z0[::-1])
    compare("buf/posterior_mean_coef2", table.of_z[::-1])
    compare("buf/posterior_variance", table.sigma[::-1].astype(np.float64) ** 2)


def test_noising(golden, compare):
    z_t = add_noise(SCHEDULE, jnp.asarray(golden["q_x0"]), jnp.asarray(golden["q_t"]), jnp.asarray(golden["q_noise"]))
    compare("q_xt", z_t, relative)


@pytest.mark.parametrize("t", [0, 1, 50, 99])
def test_reverse_step(t, golden, compare):
    row = Coefficients(*(a[99 - t] for a in Sampler().coefficients(SCHEDULE)))
    z0 = jnp.clip(golden["post_net_output"], -1, 1)
    z_t, noise = jnp.asarray(golden[f"post{t}/x_t"]), jnp.asarray(golden[f"post{t}/noise"])
    unused = jnp.zeros_like(z0)  # the z_0 before, which the published sampler does not keep
    compare(f"post{t}/mean", reverse_step(row, z_t, z0, unused, jnp.zeros_like(noise)), relative)
    compare(f"post{t}/x_prev", reverse_step(row, z_t, z0, unused, noise), relative)
