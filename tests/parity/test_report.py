"""The yardstick itself: errors and the table."""

import numpy as np
import pytest

from tests.parity import conftest
from tests.parity.conftest import Comparison, markdown, table
from tests.parity.errors import elementwise, relative


def test_relative_to_the_largest_and_to_each():
    assert relative([1.0, 99.0], [2.0, 100.0]) == pytest.approx(0.01)
    assert elementwise([1.0, 99.0], [2.0, 100.0]) == pytest.approx(0.5)
    assert relative([0, 3], [0, 3]) == elementwise([0, 3], [0, 3]) == 0
    assert relative([0.0, 1e-9], [0.0, 0.0]) == elementwise([1e-9, 1.0], [0.0, 1.0]) == np.inf


@pytest.mark.parametrize("error", [relative, elementwise])
def test_broadcasting_and_nan_are_no_agreement(error):
    with pytest.raises(AssertionError, match=r"shape \(1, 2\) against \(2,\)"):
        error([[1.0, 2.0]], [1.0, 2.0])
    assert not error([np.nan, 1.0], [1.0, 1.0]) <= 1


def test_a_report_over_its_bound_names_file_array_error_and_bound():
    with pytest.raises(AssertionError, match=r"a\.npz: b has relative error 2\.0e-03; allowed: 1\.0e-03"):
        conftest.check(Comparison("a.npz", "b", 2e-3, 1e-3))


def test_rows_and_what_a_partial_run_leaves_in_the_document(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "DOCUMENT", tmp_path / "parity.md")
    monkeypatch.setattr(conftest, "FILES", ("a.npz", "b.npz"))
    conftest.DOCUMENT.write_text(f"words\n\n{conftest.HEADING}\n")

    def run(*comparisons):
        rows = table(list(comparisons))
        conftest.write(rows, {c.file for c in comparisons})
        return rows

    both = [Comparison("a.npz", "x", 1e-7, 1e-5), Comparison("a.npz", "y", 3e-7, 1e-4), Comparison("b.npz", "i", 0, 0)]
    rows = run(*both)
    assert rows["a.npz"] == ("a.npz", "2", "3.0e-07", "y", "1.0e-04")
    assert rows["b.npz"][2:] == ("0.0e+00", "i", "exact")
    assert run(Comparison("a.npz", "x", 2e-7, 1e-5))["b.npz"][2].startswith("not run")
    expected = markdown({"a": ("a.npz", "1", "2.0e-07", "x", "1.0e-05"), "b": rows["b.npz"]})
    assert conftest.DOCUMENT.read_text() == f"words\n\n{conftest.HEADING}\n{expected}\n"
