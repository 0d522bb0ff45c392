"""Every numeric flag of every command has bounds, and gives one line for whatever lies outside of them."""

import argparse
from contextlib import suppress

import pytest

from dvg_jax.cli.flags import Parser
from dvg_jax.data import drr, prepare
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.experiments import command as experiments
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.torch_import import command as torch_import
from dvg_jax.training import command as train
from dvg_jax.training.distributed import check_flags

NEVER = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e308",
        "-1e308",
        "9" * 400,
        "-" + "9" * 400,
        "9" * 5000,
        "",
        " ",
        "x",
        "x" * 5000,
    ),
    *("0x10", "1,5", "(1, 2)", "None", "1e9", "-1000000", "99999999999"),
)
LONG = "x" * 300


class FoundError(Exception):
    """Carry a command's parser out of it."""


@pytest.fixture
def parser_of(monkeypatch):
    def find(command) -> Parser:
        def stop(self, *_):
            raise FoundError(self)

        with monkeypatch.context() as patch:
            patch.setattr(Parser, "parse_args", stop)
            with pytest.raises(FoundError) as found:
                command.main([])
        return found.value.args[0]

    return find


def numeric(parser: Parser) -> list[argparse.Action]:
    """Return the flags whose values become numbers."""
    found = []
    for action in parser._actions:
        make = parser._registry_get("type", action.type, action.type)
        for text in ("0", "1"):
            with suppress(TypeError, argparse.ArgumentTypeError):
                if isinstance(make(text), (int, float)) and action not in found:
                    found.append(action)
    return found


@pytest.mark.parametrize(
    ("command", "count"), [(prepare, 7), (drr, 2), (torch_import, 3), (experiments, 3), (reconstruct, 5)]
)
def test_numbers_of_a_command(parser_of, command, count):
    parser = parser_of(command)
    flags = numeric(parser)
    assert len(flags) == count
    for action in flags:
        name = action.option_strings[0]
        for value in NEVER:
            with pytest.raises(UserError) as refused:
                parser.parse_args([f"{name}={value}"])
            assert str(refused.value).startswith(f"{name} is ")
            assert "; allowed: a " in str(refused.value)
            assert len(str(refused.value)) < 300


@pytest.mark.parametrize("value", NEVER)
@pytest.mark.parametrize("flag", ["processes", "process"])
def test_numbers_of_processes(fails, tmp_path, flag, value):
    flags = {"coordinator": "localhost:99999", "processes": "2", "process": "0"} | {flag: value}
    words = [f"--{name}={text}" for name, text in flags.items()]
    said = fails(train.main, "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}", *words)
    assert said.startswith((f"error: --{flag} is ", "error: --coordinator is localhost:99999"))
    assert len(said) < 300


def test_processes_have_bounds():
    for processes in (0, -1, 10**9, 10**400):
        with pytest.raises(UserError, match=r"--processes is .*; allowed: a whole number from 1 to 4096"):
            check_flags("localhost:9999", processes, 0)


@pytest.mark.parametrize(
    "override",
    [
        *(f"size={value}" for value in ("1000000", "9" * 400, "9" * 5000, "nan", "1e9", "")),
        *(f"floor={value}" for value in ("nan", "inf", "1e400", "9" * 400, "")),
        *(
            f"angles={value}"
            for value in ("(" * 5000, "(0," * 90 + ")" * 90, "0," * 10**5, "nan", "(1e400,)", "9" * 5000)
        ),
        *("ct_vqgan.network.n_codes=1000000000000", "new_view.network.dim=1000000000", "timesteps=1000000000"),
        *("ct_vqgan.train.batch_size=1000000000", "data.train_count=1000000000000000", "log.checkpoint_every=0"),
        *("ct_vqgan.train.learning_rate=inf", "seed=4294967296", "calibration.cases=1000000000", f"data.source={LONG}"),
        *(
            f"init.ct_vqgan={LONG}",
            f"data.source={'x' * 5000}",
        ),
    ],
)
@pytest.mark.parametrize("command", [train, evaluate])
def test_values_of_fields_on_the_command_line(fails, tmp_path, command, override):
    (tmp_path / "run").mkdir()
    said = fails(command.main, "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}", f"--config.{override}")
    assert len(said) < 1500
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (train, ["--config=tests/tiny.py", f"--workdir={LONG}"]),
        (train, [f"--config={LONG}.py", "--workdir=run"]),
        (evaluate, ["--config=tests/tiny.py", f"--workdir={LONG}"]),
        (evaluate, ["--config=tests/tiny.py", "--workdir=tests", f"--report={LONG}.html"]),
        (prepare, [f"--input={LONG}", "--output=run"]),
        (prepare, ["--input=tests/golden", f"--output={LONG}"]),
        (drr, [f"--ct={LONG}", "--angle=0", "--output=run"]),
        (drr, ["--ct=tests/tiny.py", "--angle=0", f"--output={LONG}"]),
        (torch_import, [f"--checkpoint={LONG}", "--workdir=run"]),
        (torch_import, ["--checkpoint=tests/tiny.py", f"--workdir={LONG}"]),
        (experiments, ["--table=I", f"--workdir={LONG}"]),
        (experiments, ["--table=I", f"--data={LONG}", "--workdir=run"]),
        (experiments, ["--table=I", "--workdir=run", "--set=angles=" + "(" * 5000]),
        (experiments, ["--table=I", "--workdir=run", "--set=size=" + "9" * 5000]),
        (experiments, ["--table=I", "--workdir=run", "--set=floor=1e999"]),
        (reconstruct, [f"--workdir={LONG}", "--xray=a.png@0", "--output=a.nii"]),
        (reconstruct, ["--workdir=tests", "--xray=a.png@0", f"--output={LONG}.nii"]),
        (reconstruct, ["--workdir=tests", f"--xray={LONG}@0", "--output=a.nii"]),
    ],
)
def test_names_of_300_letters_and_deep_values(fails, tmp_path, monkeypatch, command, flags):
    here = tmp_path / "here"
    here.mkdir()
    root = str(__file__).removesuffix("/tests/cases/test_flag_values.py")
    monkeypatch.chdir(here)
    words = [word.replace("=tests", f"={root}/tests") for word in flags]
    assert len(fails(command.main, *words)) < 1500
    assert not list(here.iterdir())
