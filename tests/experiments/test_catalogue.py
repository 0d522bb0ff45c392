"""The list of the paper's experiments, and which of them share a trained run."""

from pathlib import Path

import pytest

from dvg_jax.config import default_config
from dvg_jax.config.scales import SCALES, tiny
from dvg_jax.experiments.catalogue import FIG5_COUNTS, TABLES, Figures, rows_of, with_unrolled
from dvg_jax.experiments.claims import claims_of
from dvg_jax.experiments.plan import equal_budget, plan_run, shorten
from dvg_jax.xray.views import spread

PRINTED = TABLES[:-1]


def runs_of(table, **options):
    return [plan_run(tiny(), Path("jobs"), row) for row in rows_of(table, **options)]


def test_every_row_of_the_paper_and_what_rows_share():
    rows = {table: rows_of(table) for table in PRINTED}
    assert {table: len(found) for table, found in rows.items()} == {
        "I": 14, "II": 8, "III": 7, "V": 9, "VI": 12, "VII": 10,
    }  # fmt: skip
    assert len({run.name for table in PRINTED for run in runs_of(table)}) == 35


def test_the_method_that_is_not_the_papers_ends_every_setting():
    rows = with_unrolled(rows_of("I"))
    assert [(row.setting, row.angles) for row in rows if row.paper is None] == [
        ("single view", (0,)), ("two views", (0, 90)),
    ]  # fmt: skip
    assert [row.method for row in rows[-2:]] == ["dvg_diffusion", "unrolled"]
    assert with_unrolled(rows_of("VI")) == rows_of("VI")


def test_rows_of_one_run_print_the_same_figures():
    printed: dict[tuple, set[Figures]] = {}
    for table in ("I", "II", "III", "V", "VII"):
        for row in rows_of(table):
            printed.setdefault((row.method, row.angles, row.new_angles), set()).add(row.paper)
    assert all(len(figures) == 1 for figures in printed.values())
    assert printed["dvg_diffusion", (0, 90), (45,)] == {Figures(26.84, 0.679, 27.35)}


def test_points_of_figure_5():
    rows = rows_of("fig5")
    assert len(rows) == 3 * len(FIG5_COUNTS)
    assert {row.any_views for row in rows if row.method == "vpge_diffusion"} == {20}
    assert {row.any_views for row in rows if row.method == "reconnet"} == {0}
    printed = {(row.label, len(row.angles)): row.paper for row in rows if row.paper}
    assert printed["VPGE-Diffusion, 90 degrees", 3] == Figures(27.49, 0.697, 26.63)
    assert printed["ReconNet, 90 degrees", 2] == Figures(24.01, 0.625, 40.70)
    assert len(printed) == 6


def test_literal_points_share_the_tables_runs():
    literal = {run.name for run in runs_of("fig5", counts=range(1, 21), shared=False)}
    tables = {run.name for table in PRINTED for run in runs_of(table)}
    # 39 views of VPGE-Diffusion (one view is the same over both ranges) and 20 of ReconNet.
    assert len(literal) == 59
    assert literal & tables == {
        "vpge_diffusion@0", "vpge_diffusion@0+90", "vpge_diffusion@0+45+90", "reconnet@0", "reconnet@0+90",
    }  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_runs_that_share_a_job_agree_on_its_config(scale):
    base = SCALES[scale]()
    seen: dict[str, dict] = {}
    for table in TABLES:
        for row in rows_of(table):
            for job in plan_run(base, Path("jobs"), row).jobs:
                config = job.config.to_dict()
                del config["init"]
                assert seen.setdefault(job.name, config) == config


def test_a_runs_stages_are_its_jobs():
    run = plan_run(tiny(), Path("jobs"), next(r for r in rows_of("I") if r.new_angles == (45,)))
    assert [job.name for job in run.jobs] == [
        "ct_vqgan", "view_vqgan@0+90", "view_vqgan@45", "new_view@0+90", "diffusion@0+90-new45",
    ]  # fmt: skip
    assert run.config.init.new_view_vqgan == "jobs/view_vqgan@45/view_vqgan"
    assert run.jobs[-1].config.init.new_view == "jobs/new_view@0+90/new_view"
    assert run.jobs[-1].config.init.diffusion == ""


def test_equal_budget():
    config = default_config()
    shorten(config, 0.1)
    assert config.diffusion.train.steps == 50_000
    assert config.diffusion.train.ema_start == 200
    equal_budget(config)
    whole = sum(config[s].train.steps * config[s].train.batch_size for s in ("ct_vqgan", "view_vqgan")) + 2 * (
        config.new_view_vqgan.train.steps + config.new_view.train.steps + config.diffusion.train.steps
    )
    gan = config.baselines.x2ct_gan.train
    assert 0 <= whole - gan.steps * gan.batch_size < gan.batch_size
    # But for keeping latents, which has nothing to do with the budget.
    assert config.baselines.cddpm.train.to_dict() | {"cache": True} == config.diffusion.train.to_dict()


def test_claims_are_what_the_paper_prints():
    """Every claim holds for the paper's own figures, which say nothing of Fig. 5."""
    for table in PRINTED:
        claims = list(claims_of(table, rows_of(table)))
        assert claims or table == "III"
        for claim in claims:
            for figure in claim.figures:
                better, worse = (getattr(row.paper, figure) for row in (claim.better, claim.worse))
                assert better < worse if figure == "lpips" else better > worse, (claim.text, figure)


def test_claims_of_figure_5_change_sides_at_ten_views():
    texts = [claim.text for claim in claims_of("fig5", rows_of("fig5"))]
    assert "8 views: 90 degrees beat 360" in texts
    assert "12 views: 360 degrees beat 90" in texts
    assert len(texts) == len(FIG5_COUNTS) - 1


def test_spread_is_what_the_points_have():
    assert {row.angles for row in rows_of("fig5") if "360" in row.label} == {spread(n, 360) for n in FIG5_COUNTS}
