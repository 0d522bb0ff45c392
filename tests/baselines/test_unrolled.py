"""The unrolled regressor starts from the mean of the CTs that it was shown."""

import jax
import numpy as np
import pytest

from dvg_jax.errors import UserError
from tests.baselines import common

TINY = {"network": {"widths": (8, 8), "num_groups": 4}, "rounds": 2}


@pytest.mark.parametrize(("views", "expected"), [(1, 2_988_880), (2, 3_009_616)])
def test_parameters_at_paper_scale(views, expected):
    refinement = common.build("unrolled", common.PAPER_SIZE, views)[0].task.dvg.refinement
    features = jax.ShapeDtypeStruct((1, *[common.PAPER_SIZE] * 3, 2 + 2 * views), np.float32)
    assert refinement.rounds * common.count(common.variables_like(refinement.refiner, features)) == expected


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match=r"config\.size is 20; allowed for unrolled: multiples of 8"):
        common.build("unrolled", 20, network={"widths": (8, 8, 8), "num_groups": 4})


@pytest.fixture(scope="module")
def trial():
    return common.Trial("unrolled", 16, views=2, **TINY)


def test_the_start_is_the_mean_of_all_cts_so_far(trial):
    first, _ = trial.step(trial.start)
    np.testing.assert_allclose(first.model_state["start"]["mean"], trial.ct[0], atol=1e-6)
    task, example = trial.baseline.task, {**trial.example, "ct": 0 * trial.ct}
    state = {"start": {"mean": trial.ct[0], "count": np.float32(3)}}
    _, (after, _) = jax.jit(task.loss)(trial.start.params, state, {}, example, jax.random.key(0), 0)
    np.testing.assert_allclose(after["start"]["mean"], 0.75 * trial.ct[0], atol=1e-6)
    assert float(after["start"]["count"]) == 4


def test_learns_and_predicts_a_ct(trial):
    state, errors = trial.train(60, metric="after")
    assert errors[-5:].mean() < 0.8 * errors[:5].mean()
    assert set(state.model) == {"round_0", "round_1"}
    assert trial.predict(state).shape == (1, 16, 16, 16, 1)
