"""A service that makes one Reconstructor after another compiles once, and its memory stays as it is."""

from dvg_jax import load_reconstructor
from dvg_jax.diffusion.samplers import SAMPLERS
from tests.chaos.leak import in_a_row
from tests.untrained import reconstructor_of, untrained_variables


def test_models_that_are_built_anew_share_their_programs():
    variables = untrained_variables()
    row = in_a_row(lambda: reconstructor_of(variables))
    assert (row.made, row.failures) == (200, ())


def test_models_that_are_loaded_anew_share_their_programs(trained):
    assert in_a_row(lambda: load_reconstructor(trained), len(SAMPLERS) + 3).failures == ()
