"""Each attack of ``tests/chaos`` runs for some seconds and breaks no promise."""

import importlib
import time

import pytest

from tests.chaos import Result
from tests.chaos import __main__ as chaos

SECONDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", chaos.SHARES)
def test_every_attack_is_survived(name, tmp_path):
    result = importlib.import_module(f"tests.chaos.{name}").attack(tmp_path, time.monotonic() + SECONDS)
    print(chaos.table([result]))
    assert result.tried == result.survived > 0
    assert not result.failed


def test_the_table_counts_what_failed():
    table = chaos.table([Result("kills", 3, 2, ("kill 1: a model is gone",))])
    assert table.splitlines()[-1] == "| kills | 3 | 2 | 1 |"
