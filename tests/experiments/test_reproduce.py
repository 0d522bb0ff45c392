"""Training, measuring and reporting rows: what is stopped goes on, what is finished is not done again."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dvg_jax import config as configs
from dvg_jax.config.build import build_dvg
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.phantom import chest
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.sources import ArraySource
from dvg_jax.errors import UserError
from dvg_jax.experiments import command
from dvg_jax.experiments.catalogue import Figures, Row
from dvg_jax.experiments.claims import HOLDS, OPEN, OPPOSITE, Claim, judge
from dvg_jax.experiments.measure import CaseSet, Subject, measure_subject
from dvg_jax.experiments.pictures import draw
from dvg_jax.experiments.reproduce import reproduce
from dvg_jax.experiments.tables import write_report
from dvg_jax.methods.base import CODEC, Method, Prediction
from dvg_jax.methods.yardsticks import YARDSTICKS
from tests.tiny import get_config

ROWS = [
    Row("III", "two views", "no new view", "vpge_diffusion", (0.0, 90.0), paper=Figures(26.47, 0.667, 28.11)),
    Row("VI", "0 and 90 to 45", "DVG-Net", "dvg_net", (0.0, 90.0), target=45.0, paper=Figures(27.43, 0.922, 0.099)),
]
FACTS = {"command": "a command", "device": "a device", "versions": "versions", "date": "a day"}


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two rows reproduced at one go, and stopped before the third of four trainings and then continued."""
    folder = tmp_path_factory.mktemp("experiments")
    said: dict[str, list[str]] = {"whole": [], "before": [], "after": []}

    def experiment(name):
        return command.prepare(get_config(), folder / name, ROWS, [])

    def stop(line):
        if line.startswith("[3 of 4]"):
            raise StoppedError
        said["before"].append(line)

    whole = experiment("whole")
    results = {"whole": reproduce(whole, said["whole"].append)}
    with pytest.raises(StoppedError):
        reproduce(experiment("stopped"), stop)
    stopped = experiment("stopped")
    results["stopped"] = reproduce(stopped, said["after"].append)
    return whole, stopped, results, said


def test_a_stopped_experiment_repeats_nothing_and_ends_the_same(work):
    _, stopped, results, said = work
    trained = [line.split("] ")[1].split(":")[0] for line in said["whole"] if line.startswith("[")]
    assert trained == ["ct_vqgan", "view_vqgan@0+90", "diffusion@0+90", "new_view@0+90"]
    again = [line.split("] ")[1].split(":")[0] for line in said["after"] if line.startswith("[")]
    assert again == ["diffusion@0+90", "new_view@0+90"]
    assert [line for line in said["after"] if line in said["before"]] == []
    once_more: list[str] = []
    assert reproduce(stopped, once_more.append) == results["stopped"]
    assert once_more == []
    for key, result in results["whole"].items():
        assert {n: v for n, v in results["stopped"][key].items() if n != "seconds_per_case"} == {
            n: v for n, v in result.items() if n != "seconds_per_case"
        }


def test_what_is_measured(work):
    whole, _, results, _ = work
    found = results["whole"]
    made = (*(f"{title}@0+90" for title in YARDSTICKS), "vpge_diffusion@0+90", "dvg_net@0+90")
    assert {name for name, _ in found} == {CODEC, *made, *(f"{name} + consistency" for name in made)}
    net = found["dvg_net@0+90", "unseen phantoms"]
    assert [row["case"] for row in net["cases"]] == [0, 1]
    assert list(net["views"]) == ["45"]
    assert net["trained"] == {"ct_vqgan": 12, "view_vqgan@0+90": 12, "new_view@0+90": 12}
    assert net["parameters"] > found["mean training volume@0+90", "unseen phantoms"]["parameters"] == 0
    fitted = found["dvg_net@0+90 + consistency", "unseen phantoms"]
    assert [fitted[fact] for fact in ("trained", "parameters")] == [net[fact] for fact in ("trained", "parameters")]
    assert fitted["seconds_per_case"] > net["seconds_per_case"]
    assert fitted["cases"][0]["psnr"] != net["cases"][0]["psnr"]
    assert whole.runs[ROWS[0]].volumes == {"ct_vqgan": 12, "view_vqgan@0+90": 12, "diffusion@0+90": 12}


def test_other_settings_are_measured_anew_or_refused(work):
    whole = work[0]
    config = get_config()
    config.evaluate.cases = 1
    said: list[str] = []
    fewer = reproduce(command.prepare(config, whole.workdir.with_name("stopped"), ROWS, []), said.append)
    assert len(fewer["dvg_net@0+90", "unseen phantoms"]["cases"]) == 1
    assert all(line.startswith("measuring") for line in said)
    config.new_view.train.learning_rate = 0.5
    with pytest.raises(UserError, match=r"new_view\.train\.learning_rate is 0\.5"):
        reproduce(command.prepare(config, whole.workdir, ROWS, []), said.append)


def test_report(work):
    whole, _, results, _ = work
    path = write_report("III", ROWS[:1], whole, results["whole"], FACTS)
    assert max(len(line) for line in path.read_text().splitlines() if not line.startswith("|")) <= 120
    text = " ".join(path.read_text().split())
    assert "Table III" in text
    assert "| two views | no new view |" in text
    assert "| 26.47 | 0.667 |" in text
    with path.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [
        "no new view", "no new view + consistency",
        "mean training volume", "mean training volume + consistency, 0+90 degrees",
        "CT of another patient", "CT of another patient + consistency, 0+90 degrees",
        "linear estimate, 0+90 degrees", "linear estimate + consistency, 0+90 degrees",
        "CT VQGAN of the truth",
    ]  # fmt: skip
    assert [line["paper_psnr"] for line in lines] == ["26.47", *[""] * 8]
    saved = json.loads(path.with_suffix(".json").read_text())
    cases = saved["lines"][0]["cases"]
    assert float(lines[0]["psnr"]) == pytest.approx(np.mean([case["psnr"] for case in cases]))
    assert saved["command"] == "a command"


def test_pictures(work):
    whole, _, results, _ = work
    panel = Row("II", "two views", "VPGE", "vpge_diffusion", (0.0, 90.0))
    curve = Row("fig5", "2 views", "VPGE-Diffusion, 90 degrees", "vpge_diffusion", (0.0, 90.0))
    runs = {**whole.runs, panel: whole.runs[ROWS[0]], curve: whole.runs[ROWS[0]]}
    drawn = type(whole)(whole.base, whole.workdir, runs, whole.tests, whole.procedure)
    for table, row in (("II", panel), ("VI", ROWS[1]), ("fig5", curve)):
        (path,) = draw(table, [row], drawn, results["whole"])
        assert np.asarray(Image.open(path)).std() > 10


def test_verdicts():
    a, b, c = (Row("I", "", name, name, (0.0,)) for name in "abc")
    random = np.random.default_rng(0)
    noise, small, other = random.normal(size=(3, 40))
    values = {a: (20 + noise, 0.2), b: (19.9 + noise + 0.05 * small, 0.3), c: (20 + other, 0.2)}
    cases = {
        row: [{"case": i, "psnr": x, "lpips": lpips} for i, x in enumerate(psnr)]
        for row, (psnr, lpips) in values.items()
    }
    # Paired by case, 0.1 dB is found under a spread of 1 dB over cases.
    assert [(v.figure, v.word) for v in judge(Claim("", a, b), cases)] == [("psnr", HOLDS), ("lpips", HOLDS)]
    assert [v.word for v in judge(Claim("", b, a), cases)] == [OPPOSITE, OPPOSITE]
    assert [v.word for v in judge(Claim("", a, c, ("psnr",)), cases)] == [OPEN]


def test_all_scans_of_a_folder_are_tested_on(tmp_path):
    for i in range(3):
        hu = intensity_to_hu(np.asarray(jax.jit(chest, static_argnums=1)(jax.random.key(i), 32)))
        save_nifti(tmp_path / "scans" / f"p{i}.nii.gz", hu, np.diag([10.0, 10, 10, 1]))
    prepare_folder(tmp_path / "scans", Job(tmp_path / "real", Settings(16)))
    experiment = command.prepare(get_config(), tmp_path / "work", ROWS, [tmp_path / "real"])
    assert [(test.name, len(test.source)) for test in experiment.tests] == [("unseen phantoms", 4), ("real", 3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "foo.bar=1"], "config has no field 'foo'"),
        (["--set", "size=33"], "33"),
        (["--budget", "0"], "--budget is '0'; allowed: a number from more than 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--test", "nowhere"], "nowhere"),
        (["--views", "0"], "--views is '0'; allowed: a whole number from 1 to 20"),
    ],
)
def test_bad_input(arguments, said, fails, tmp_path):
    work = tmp_path / "work"
    line = fails(command.main, "--table", "fig5", "--workdir", work, "--plan", *arguments)
    assert said in line
    assert not Path(work).exists()


def test_plan_trains_nothing(tmp_path, capsys):
    command.main(["--table", "II", "--workdir", str(tmp_path / "work"), "--plan"])
    out = capsys.readouterr().out
    assert "10 rows, 10 runs, 17 stages" in out
    assert "diffusion@0+90-new45" in out
    assert not (tmp_path / "work").exists()


def test_configure_keeps_published_lengths_at_paper_scale():
    paper = command.configure("paper", "phantom", 3, 1.0, [])
    assert paper.baselines.x2ct_gan.train.steps == configs.default_config().baselines.x2ct_gan.train.steps
    assert paper.seed == 3
    tiny = command.configure("tiny", "phantom", 0, 0.5, ["dtype=bfloat16", "sampler.steps=5"])
    assert (tiny.dtype, tiny.sampler.steps, tiny.ct_vqgan.train.steps) == ("bfloat16", 5, 500)


def test_curves_without_matplotlib_are_refused_before_training(monkeypatch, fails, tmp_path):
    monkeypatch.setattr("dvg_jax.experiments.pictures.find_spec", lambda name: None)
    assert "matplotlib" in fails(command.main, "--table", "fig5", "--workdir", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_tissue_that_no_case_has_is_null(tmp_path, work):
    whole = work[0]
    same = Method("the truth", (), lambda variables, truth, key: Prediction(truth), sees_truth=True)
    nothing = Subject("air", same, build_dvg(whole.base), {}, (), {})
    air = ArraySource({"ct": np.zeros((2, 16, 16, 16, 1), np.float32)})
    measure_subject(nothing, CaseSet("air", air), whole.procedure, tmp_path)
    case = json.loads((tmp_path / "air" / "air.json").read_text(), parse_constant=pytest.fail)["cases"][0]
    assert case["mae_hu_bone"] is None
    assert case["mae_hu_air"] == 0
