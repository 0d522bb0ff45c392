"""One training step: traced once for a whole run, its numbers finite."""

import chex
import jax
import jax.numpy as jnp

from dvg_jax.config.build import build_dvg
from dvg_jax.stages import build_stage
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update
from tests.tiny import get_config


def test_a_step_is_traced_once():
    """A state that left a step with another type than it came with would compile the step again."""
    config = get_config()
    config.ct_vqgan.train.ema_decay = 0.9
    stage, training = build_stage("ct_vqgan", config, build_dvg(config)), Training(**config.ct_vqgan.train)
    ct = jax.random.uniform(jax.random.key(0), (1, 16, 16, 16, 1))
    example = stage.prepare({}, ct, jax.random.key(1))
    program = Step(stage.task, training.recipe)
    state = create(program, jax.random.key(2), example)
    fixed = Fixed({}, stage.task.constants({}), jax.random.key(3))
    chex.clear_trace_counter()
    once = chex.assert_max_traces(update.__wrapped__, n=1)
    step = jax.jit(once, static_argnums=0)
    for rate in (1e-3, 1e-4):
        state, metrics = step(program, state, fixed, example, jnp.asarray(rate))
    chex.assert_tree_all_finite((state.params, metrics))
    chex.assert_scalar_positive(float(metrics["loss"]))
