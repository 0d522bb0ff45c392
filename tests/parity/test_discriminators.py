"""Both patch critics, with running statistics and with the batch's: logits, every stage, what the pass leaves."""

import functools

import jax
import pytest

from dvg_jax import torch_import
from tests.parity.errors import relative
from tests.parity.golden import NETWORKS, channels_first, channels_last, load, under
from tests.paths import GOLDEN, needs_shared

FILE = "discriminators.npz"
STATISTICS = {"running_mean": "mean", "running_var": "var"}


@needs_shared
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("dims", [2, 3])
def test_logits_stages_and_running_statistics(dims, mode, report):
    _, golden = load(GOLDEN, FILE)
    tag = f"{dims}d"
    golden = under(golden, tag)
    critic, variables = torch_import.patch_discriminator(under(golden, "sd"), dims)
    apply = functools.partial(critic.apply, train=mode == "train", mutable=["batch_stats"])
    (logits, stages), changed = jax.jit(apply)(variables, channels_last(golden["x"]))

    ours = {f"{mode}_logits": channels_first(logits)}
    ours |= {f"{mode}_feat{i}": channels_first(stage) for i, stage in enumerate(stages)}
    if mode == "train":
        for name in under(golden, "after_train"):
            stage, _, statistic = name.split(".")
            if statistic in STATISTICS:
                norm = changed["batch_stats"][stage.replace("model", "norm")]
                ours[f"after_train/{name}"] = norm[STATISTICS[statistic]]
    for name, array in ours.items():
        report(file=FILE, name=f"{tag}/{name}", error=relative(array, golden[name]), tolerance=NETWORKS)
