"""Paired comparison: figures, and what is refused."""

import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.metrics.paired import compare_paired, main, read_rows
from dvg_jax.metrics.tables import write_table


def rows(values, **labels):
    return [{"case": i, "patient": f"p{i}", "truth_hu": 10.0 * i, "psnr": v, **labels} for i, v in enumerate(values)]


@pytest.fixture
def runs(tmp_path):
    """Two runs whose cases differ by far more than the methods do, and the files of both."""
    difficulty = np.random.default_rng(0).normal(20, 5, 10)
    gain = np.linspace(0.1, 0.3, 10)
    made = {"one": {"DVG-Net": rows(difficulty)}, "two": {"DVG-Net": rows(difficulty + gain), "DVG": rows(difficulty)}}
    for name, methods in made.items():
        write_table(methods, tmp_path / name / "volumes", "A title")
    return tmp_path / "one" / "volumes.csv", tmp_path / "two" / "volumes.csv"


def test_a_small_gain_shows_beside_large_differences_of_cases(runs):
    a, b = (read_rows(path)["DVG-Net"] for path in runs)
    (found,) = compare_paired(a, b)
    assert (found.figure, found.n) == ("psnr", 10)
    assert found.mean == pytest.approx(0.2)
    assert found.b - found.a == pytest.approx(0.2)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.p == 2 / 2**10


def test_a_case_without_the_figure_in_one_run_is_left_out():
    (found,) = compare_paired(rows([1.0, 2.0, np.nan]), rows([2.0, 4.0, 9.0]))
    assert (found.n, found.a, found.b, found.mean) == (2, 1.5, 3, 1.5)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (rows([1.0, 2.0]), "cases 2 are in one run alone"),
        (rows([1.0, 2.0, 3.0], truth_hu=55.0), "case 0 has truth_hu 0.0 in A and 55.0 in B"),
        (rows([1.0, 2.0, 3.0], patient="p9"), "has patient p0 in A and p9 in B"),
        (rows([1.0, 2.0, 3.0], lpips_by="AlexNet on [0, 1]"), "has lpips_by VGG16"),
        (rows([1.0, 2.0, 3.0]) * 2, "B has 6 rows for 3 cases"),
    ],
)
def test_other_cases_are_refused(other, said):
    with pytest.raises(UserError, match=said):
        compare_paired(rows([1.0, 2.0, 3.0], lpips_by="VGG16 on [0, 1]"), other)


def test_rounding_of_a_truth_is_no_other_case():
    a, b = rows([1.0, 2.0]), rows([2.0, 3.0])
    b[1]["truth_hu"] += 0.01
    assert compare_paired(a, b)[0].n == 2


def test_command_compares_runs_and_methods_of_one_run(runs, capsys):
    one, two = map(str, runs)
    main(["--a", one, "--b", two])
    told = capsys.readouterr().out
    assert f"B: DVG-Net, {two}" in told
    assert "0.200 [" in told
    main(["--a", two, "--method-a", "DVG-Net", "--method-b", "DVG"])
    assert "-0.200 [" in capsys.readouterr().out


def test_bad_input_is_refused_in_a_line(fails, runs, tmp_path):
    one, two = runs
    assert "missing; allowed" in fails(main, "--a", tmp_path / "none.csv")
    assert "same rows; allowed" in fails(main, "--a", one)
    assert "the method of A is 'DVG'; allowed: DVG-Net" in fails(main, "--a", one, "--b", two, "--method", "DVG")
    (tmp_path / "odd.csv").write_text("x,y\n1,2\n")
    assert "allowed: method, case and figures" in fails(main, "--a", tmp_path / "odd.csv")
    (tmp_path / "odd.csv").write_text("method,case,psnr\nDVG,0,good\n")
    assert "psnr is 'good'; allowed: numbers" in fails(main, "--a", tmp_path / "odd.csv")
