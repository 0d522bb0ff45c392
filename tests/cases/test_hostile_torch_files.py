"""PyTorch files of strangers: tricks of pickle and zip are refused in a line; what torch.save writes is still read.

``tests/chaos/torch_files.py`` reads all of them, the largest too, in processes that may end.
"""

from pathlib import Path
from pickle import MARK, TUPLE

import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.torch_import import load_checkpoint
from dvg_jax.torch_import.pickled import MOST_OPCODES
from dvg_jax.torch_import.vqgan import vqgan3d
from tests.chaos.children import REFUSED, outcome
from tests.chaos.torch_files import FILES, PICKLES, ZIPS, entry, good, number, of_pickle, open_weights, tensor
from tests.released import golden_state

LIGHT = [title for title, opcodes in PICKLES.items() if len(opcodes) <= 300_000]


@pytest.mark.parametrize("title", [*(title for title in ZIPS if title != "a million members"), *LIGHT])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refused_in_one_line(title: str, tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(FILES[title]())
    assert outcome(open_weights, tmp_path / "a.pt").startswith(REFUSED)


def test_the_good_one_is_read(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(good())
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "a.pt")["a"], np.arange(6, dtype=np.float32))


def test_limits_leave_room_for_larger_files(tmp_path: Path):
    """A published ``DVG_Diffusion.pt`` has 1,714 tensors and takes 42 opcodes for each."""
    count = 5_000
    parts = MARK + tensor() * count + TUPLE
    (tmp_path / "a.pt").write_bytes(of_pickle(parts))
    assert len(load_checkpoint(tmp_path / "a.pt")) == count
    assert MOST_OPCODES > 42 * 10 * 1_714


def test_shared_containers_stay_shared(tmp_path: Path):
    """References to one list are no copies, so that their number costs no memory."""
    inner, pair = entry("a", number(1)) + b"q\x01", b"h\x01" * 2
    (tmp_path / "a.pt").write_bytes(of_pickle(MARK + inner + pair + TUPLE))
    first, second, third = load_checkpoint(tmp_path / "a.pt")
    assert first is second is third
    assert first == {"a": 1}


@pytest.mark.parametrize("groups", [0, -4])
def test_groups_that_no_norm_has(groups: int):
    with pytest.raises(UserError, match=rf"num_groups is {groups}; allowed: divisors"):
        vqgan3d(golden_state("vqgan"), groups)


def test_endless_networks_are_refused_before_they_are_built():
    state = golden_state("vqgan")
    state |= {f"decoder.conv_blocks.{n}.up.convt.weight": np.ones((1, 1, 4, 4, 4), np.float32) for n in range(1000)}
    with pytest.raises(UserError, match=r"1000 parts like .*, allowed: up to 8"):
        vqgan3d(state, 4)
