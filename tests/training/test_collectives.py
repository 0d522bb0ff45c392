"""What a training step over four devices exchanges: the sum of gradients, and what a batch has to know of itself."""

import jax
import pytest

from benchmarks.scaling import collectives, compiled_step, narrow_config, ring_seconds
from tests.tiny import get_config

pytestmark = pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices; conftest makes fake ones on a CPU")

PROGRAM = """
  %all-reduce.1 = (f32[8]{0}, f32[2,3]{1,0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), to_apply=%add
  %all-gather = bf16[4,16]{1,0} all-gather(%d), dimensions={0}
  %all-reduce-start = f32[10]{0} all-reduce-start(%e), to_apply=%add
  %all-reduce-done = f32[10]{0} all-reduce-done(%all-reduce-start)
  %fusion = f32[10]{0} fusion(%all-reduce-done), calls=%all-reduce.1
"""


def test_collectives_are_counted_with_their_bytes():
    found = collectives(PROGRAM)
    assert found == {"all-reduce": {"count": 2, "bytes": 60 + 40}, "all-gather": {"count": 1, "bytes": 128}}
    assert collectives("%add = f32[4]{0} add(%a, %b)") == {}


@pytest.mark.parametrize("stage", ["new_view", "diffusion"])
def test_a_latent_stage_sums_its_gradients_once(stage):
    program, gradient_bytes = compiled_step(get_config(), 4, stage)
    (kind, found), *others = collectives(program).items()
    assert (kind, found["count"], others) == ("all-reduce", 1, [])
    # Gradients and the loss, and nothing of the batch's own size.
    assert gradient_bytes <= found["bytes"] < 1.1 * gradient_bytes


@pytest.mark.slow
def test_encoders_in_the_step_exchange_nothing():
    program, _ = compiled_step(narrow_config(), 4, "diffusion", cache=False)
    assert {kind: found["count"] for kind, found in collectives(program).items()} == {"all-reduce": 1}


@pytest.mark.slow
def test_a_vqgan_exchanges_sums_alone():
    program, _ = compiled_step(narrow_config(), 4, "ct_vqgan")
    assert {kind: found["count"] for kind, found in collectives(program).items()} == {"all-reduce": 42}


def test_a_ring_sends_everything_about_twice():
    assert ring_seconds(100.0, 2, 100.0) == 1.0
    assert ring_seconds(100.0, 1000, 100.0) == pytest.approx(2, rel=2e-3)
