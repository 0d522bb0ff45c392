"""Messages keep their reason: they name the thing, its value, what is allowed and the nearest valid name."""

import pytest

from dvg_jax.data import drr, prepare
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.evaluate import run
from dvg_jax.experiments import command as experiments
from dvg_jax.metrics import compare, paired
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.torch_import import command as torch_import
from dvg_jax.training import command as train
from tests.tiny import get_config

CONFIG = "tests/tiny.py"

LOCKED = (
    ', line 3: AttributeError: Key "sise" does not exist and cannot be added since the config is locked. Did you mean '
    '"size" instead of "sise"?'
)


@pytest.fixture
def refused(fails, tmp_path):
    """Return the error of ``train.py`` with these flags; nothing may be written."""

    def run(*flags, config=CONFIG):
        said = fails(train.main, f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags)
        assert not (tmp_path / "run").exists()
        return said.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--wrkdir=a", "unknown flag --wrkdir; did you mean --workdir?; allowed: --config, --workdir, --coordinator"),
        ("--processes=two", "--processes is 'two'; allowed: a whole number"),
        ("here", "unexpected argument 'here'"),
        ("--config.sise=32", "config has no field 'sise'; did you mean size?; allowed: angles, baselines, "),
        (
            "--config.data.size=64",
            "config.data has no field 'size'; did you mean config.size?; allowed: augment, source, test_c",
        ),
        ("--config.ct_vqgan.train.step=1", "config.ct_vqgan.train has no field 'step'; did you mean steps?; allowed: "),
        (
            "--config.learning_rate=1",
            "config has no field 'learning_rate'; did you mean config.ct_vqgan.train.learning",
        ),
        ("--config.baselines.bxs2.base=8", "config.baselines has no field 'bxs2'; did you mean bx2s?; allowed: bx2s,"),
        ("--config.size.x=64", "config.size has no field 'x'; allowed: config.size itself"),
        ("--noconfig.use_vgpe", "config has no field 'use_vgpe'; did you mean use_vpge?"),
        (
            "--config.data=5",
            "config.data is a section; allowed: one of its fields, augment, source, test_count, train_count",
        ),
        ("--config.seed=abc", "config.seed is 'abc'; allowed: a whole number from 0 to 4294967295"),
        ("--config.seed=-1", "config.seed is -1; allowed: a whole number from 0 to 4294967295"),
        ("--config.size=64.5", "config.size is '64.5'; allowed: a whole number from 2 to 1024"),
        ("--config.floor=low", "config.floor is 'low'; allowed: a number from 0 to less than 1"),
        ("--config.use_vpge=maybe", "config.use_vpge is 'maybe'; allowed: True, False"),
        ("--config.angles=(0,", "config.angles is '(0,'; allowed: a tuple such as (0.0, 90.0)"),
        (
            "--config.angles=('a',)",
            "config.angles is ('a',); allowed: a tuple such as (0.0, 90.0) of 1 to 360, each a n",
        ),
        ("--config.angles=((0,90),)", "config.angles is ((0, 90),); allowed: a tuple such as (0.0, 90.0)"),
        ("--config.angles=None", "config.angles is (None,); allowed: a tuple such as (0.0, 90.0)"),
        ("--config.stage=diffuson", "config.stage is 'diffuson'; did you mean diffusion?; allowed: all, ct_vqgan"),
        ("--config.ct_vqgan.train.clip_norm=-1", "config.ct_vqgan.train.clip_norm is -1.0; allowed: a number"),
        ("--config.ct_vqgan.train.beta1=1.5", "config.ct_vqgan.train.beta1 is 1.5; allowed: a number from 0 to less"),
        (
            "--config.data.source=phantoms",
            "config.data.source is 'phantoms', which does not exist; did you mean phantom",
        ),
        ("--config.data.source=README.md", "config.data.source is 'README.md', a file; allowed: phantom, or a folder"),
        ("--config.data.source=dvg_jx", "config.data.source is 'dvg_jx', which does not exist; did you mean dvg_jax?"),
        ("--config.data.source=dvg_jax", "dvg_jax/manifest.csv: absent"),
        ("--config.init.ct_vqgan=configz", "config.init.ct_vqgan is configz; did you mean configs?; allowed: a folder"),
        ("--config.init.ct_vqgan=nowhere", "config.init.ct_vqgan is nowhere; allowed: a folder that holds a trained"),
    ],
)
def test_flags_and_fields(refused, flag, said):
    assert refused(flag).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(: pass", ", line 1: invalid syntax"),
        ("import os\nraise RuntimeError('first line\\nand second')", ", line 2: RuntimeError: first line and second"),
        ("import no_such_module", ", line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    raise KeyError('it')", ", line 2: KeyError: it"),
        (
            "def get_config():\n    raise OSError(2, 'No such file', 'a.txt')",
            ", line 2: FileNotFoundError: [Errno 2] No such file",
        ),
        ("x = 1", ", which has no function get_config; allowed: a file that defines one"),
        ("get_config = 5", ", which has no function get_config"),
        ("def get_config(): return None", ", whose get_config gives NoneType; allowed: a ConfigDict"),
        ("def get_config(kind): return None", "; allowed: "),
        (
            "from dvg_jax.config import default_config\ndef get_config():\n    default_config().sise = 1",
            LOCKED,
        ),
        ("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'size': 1})", None),
    ],
)
def test_config_files_that_give_none(refused, tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_text(text)
    found = refused(config=file)
    assert found.startswith(f"--config is {file}{said}" if said else "config.stage is missing; allowed: a config made")
    assert len(found) < 400


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "configs/quickstart.py:singel",
            "--config is quickstart.py:singel; did you mean single?; allowed: single, bip",
        ),
        ("configs/paper.py:views=21", "--config is paper.py:views=21; allowed: single, biplanar, any, views=1 to vi"),
        ("configs/paper.py:views=²", "--config is paper.py:views=²; allowed"),
        ("configs/baselines.py:cnn3d", "--config is baselines.py:cnn3d; did you mean cnn2d?; allowed: one of cnn2d, "),
        ("configs/published.py:foo", "--config is configs/published.py:foo; allowed: configs/published.py without an"),
        (
            "configs/quikstart.py",
            "--config is configs/quikstart.py, which does not exist; did you mean configs/quickst",
        ),
        ("configs/quickstart", "--config is configs/quickstart, no Python file; did you mean configs/quickstart.py?"),
        ("configs/quickstart.json", "--config is configs/quickstart.json, no Python file; did you mean configs/quick"),
        ("configs", "--config is configs, no Python file; allowed: FILE.py or FILE.py:ARGUMENT"),
        ("", "--config is missing"),
    ],
)
def test_names_of_config_files(refused, config, said):
    assert refused(config=config).startswith(said)


def test_overrides_without_a_config(fails, tmp_path):
    said = fails(train.main, f"--workdir={tmp_path}", "--config.seed=5")
    assert "--config is missing; allowed: --config FILE.py before --config.seed" in said


def test_overrides_are_read_from_the_arguments_given(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["someone else's program", "--config.sise=1"])
    with pytest.raises(Exception, match="config has no field 'sixe'"):
        train.main([f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.sixe=1"])


def test_other_test_cases_that_are_not_there(trained):
    config = get_config()
    config.evaluate.also = "nowhere"
    with pytest.raises(UserError, match=r"config\.evaluate\.also is 'nowhere', which does not exist; allowed: phantom"):
        run.evaluate(config, trained, show_progress=False)


def test_an_empty_split(refused, tmp_path):
    row = Row("p", "", "p.nii.gz", "p.nii.gz", "", "", "test", "", "ok", "", "", "")
    write_manifest(tmp_path, [row])
    said = refused(f"--config.data.source={tmp_path}")
    assert "no prepared scan in split 'train' (1 in 'test'); allowed: a split with one" in said


@pytest.mark.parametrize("command", [evaluate, reconstruct])
def test_a_folder_without_a_model(fails, tmp_path, command):
    (tmp_path / "run").mkdir()
    flags = [f"--config={CONFIG}"] if command is evaluate else ["--xray=a.png@0", f"--output={tmp_path / 'a.nii'}"]
    said = fails(command.main, f"--workdir={tmp_path / 'rum'}", *flags)
    assert f"--workdir is {tmp_path / 'rum'}, which does not exist; did you mean {tmp_path / 'run'}?" in said


@pytest.mark.parametrize("flag", ["--seed=-1", "--seed=4294967296", "--field_mm=nan", "--samples=0", "--steps=many"])
def test_numbers_of_a_reconstruction(fails, tmp_path, flag):
    name, _, value = flag.partition("=")
    flags = [f"--workdir={tmp_path}", "--xray=a.png@0", f"--output={tmp_path / 'a.nii'}", flag]
    assert f"{name} is {value}" in fails(reconstruct.main, *flags).replace("'", "")


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        (prepare, ["--inptu=a", "--output=b"], "unknown flag --inptu; did you mean --input?; allowed: --help, --input"),
        (prepare, ["--input=a"], "--output is missing; see --help"),
        (prepare, ["--input=a", "--output=b", "--preset=lungs"], "--preset is 'lungs'; did you mean lung?; allowed: "),
        (prepare, ["--input=", "--output=b"], "--input is ''; allowed: a path"),
        (prepare, ["-size=4", "--input=a"], "unknown flag -size; did you mean --size?; allowed: --help, --input"),
        (prepare, ["--input=a", "--output=b", "--jobs=0"], "--jobs is '0'; allowed: a whole number from 1 to 4096"),
        (prepare, ["--input=a", "--output=b", "--pictures=3"], "--pictures is wrong: ignored explicit argument '3'"),
        (prepare, ["--input=a", "--output=b", "c"], "unexpected argument 'c'; allowed: flags, see --help"),
        (prepare, ["--input=a", "--output=b", "--size=big"], "--size is 'big'; allowed: a whole number"),
        (prepare, ["--input=a", "--output=b", "--min_extent_mm=nan"], "--min_extent_mm is 'nan'; allowed: a number"),
        (reconstruct, ["--workdir", "w"], "--xray, --output are missing; see --help"),
        (reconstruct, ["--sample=3"], "unknown flag --sample; did you mean --samples?; allowed: --help, --workdir"),
        (reconstruct, ["--nostrict"], "unknown flag --nostrict; did you mean --strict?"),
        (reconstruct, ["--seed", "-1"], "--seed is '-1'; allowed: a whole number from 0 to 4294967231"),
        (reconstruct, ["--consistency", "film"], "--consistency is 'film'; did you mean films?; allowed: none, films"),
        (reconstruct, ["--sampler", "dim"], "--sampler is 'dim'; did you mean ddim?; allowed: ancestral, ddim"),
        (drr, ["--ct=a", "--angle=front", "--output=b"], "--angle is 'front'; allowed: a number"),
        (drr, ["--ct=a", "--angle=0", "--output=b", "--size=0"], "--size is '0'; allowed: a whole number"),
        (compare, ["--truth=a", "--result=b", "--protocol=hu2"], "--protocol is 'hu2'; did you mean hu?; allowed: hu,"),
        (paired, ["--a"], "--a is wrong: expected one argument"),
        (torch_import, ["--workdir=w", "--heads=0"], "--heads is '0'; allowed: a whole number from 1 to 8192"),
        (experiments, ["--workdir=w", "--table=VIII"], "--table is 'VIII'; did you mean "),
        (
            experiments,
            ["--workdir=w", "--table=I", "--budget=nan"],
            "--budget is 'nan'; allowed: a number from more than 0",
        ),
        (experiments, ["--workdir=w", "--table=I", "--set=sise=3"], "config has no field 'sise'; did you mean size?"),
        (experiments, ["--workdir=w", "--table=I", "--seed=-1"], "--seed is '-1'; allowed: a whole number from 0"),
    ],
)
def test_other_commands(fails, command, flags, said):
    assert fails(command.main, *flags).removeprefix("error: ").startswith(said)


@pytest.mark.parametrize(
    "command", [train, evaluate, reconstruct, prepare, drr, compare, paired, torch_import, experiments]
)
def test_help_is_printed_before_anything_is_required(capsys, command):
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code in (0, None)
    assert "--" in capsys.readouterr().out
