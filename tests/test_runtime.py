"""Flags are set before JAX starts, and the devices that it finds are named."""

import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from dvg_jax import config as configs
from dvg_jax import devices, plugins, runtime, xla_flags
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.training import command as train
from tests.processes import one_device
from tests.tiny import get_config as tiny_config

EIGEN = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"
NHWC = "--xla_gpu_force_conv_nhwc=true"
QUICKSTART = str(Path(__file__).parents[1] / "configs" / "quickstart.py")
UNKNOWN = "xla_cpu_no_such_flag"
NVIDIA = "/dev/nvidiactl"


def installed(monkeypatch, *names):
    """Install plugins of these names for JAX, and no others."""
    found = [EntryPoint(name, f"jax_plugins.{name}", "jax_plugins") for name in names]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)


@pytest.fixture
def gpu(monkeypatch):
    """Let a machine have a GPU as far as files and plugins tell; XLA's library stays the CPU's."""
    installed(monkeypatch, "xla_cuda12")
    monkeypatch.setattr(plugins.os.path, "exists", lambda path: path == NVIDIA)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        (["eigen_convolutions"], "", EIGEN),
        (["eigen_convolutions"], "--xla_dump_to=a", f"--xla_dump_to=a {EIGEN}"),
        (["eigen_convolutions"], f"{EIGEN[:-24]}=", f"{EIGEN[:-24]}="),
        (["deterministic"], EIGEN, f"{EIGEN} {DETERMINISTIC}"),
        (["deterministic"], "--xla_gpu_exclude_nondeterministic_ops=false", DETERMINISTIC.replace("true", "false")),
        (["channels_last", "deterministic"], "", f"{NHWC} {DETERMINISTIC}"),
        (["deterministic"], "flags.txt", "flags.txt"),
    ],
)
def test_settings_add_their_flags_and_a_users_own_win(monkeypatch, gpu, settings, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.choose(*settings)
    assert os.environ["XLA_FLAGS"] == after


def test_a_flag_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setitem(xla_flags.FLAGS, "unknown", xla_flags.Flag(UNKNOWN, "true", "cpu", "It is not there."))
    xla_flags.choose("unknown", "eigen_convolutions")
    assert os.environ["XLA_FLAGS"] == EIGEN


def test_flags_of_gpus_are_left_out_on_a_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    xla_flags.choose(*xla_flags.FLAGS)
    assert os.environ["XLA_FLAGS"] == EIGEN


def test_every_library_that_reads_the_flags_must_know_one(monkeypatch, tmp_path):
    """A plugin for CUDA brings XLA along, perhaps of another version than jaxlib's."""
    names = ["xla_of_both", "xla_of_jaxlib"]
    (jaxlib := tmp_path / "libjax_common.so").write_bytes(b"\0xla_of_both\0xla_of_jaxlib\0")
    (plugin := tmp_path / "xla_cuda_plugin.so").write_bytes(b"..\0xla_of_both\0")
    for libraries, known in (([jaxlib], [True, True]), ([jaxlib, plugin], [True, False]), ([], [False, False])):
        monkeypatch.setattr(xla_flags, "xla_libraries", lambda libraries=libraries: libraries)
        xla_flags.is_known.cache_clear()
        assert [xla_flags.is_known(name) for name in names] == known
    xla_flags.is_known.cache_clear()


@pytest.mark.parametrize(("asked", "found"), [(True, DETERMINISTIC), (False, "")])
@pytest.mark.parametrize(("command", "work"), [(train, "train"), (evaluate, "evaluate"), (reconstruct, "reconstruct")])
def test_equal_bits_are_asked_for_before_jax_starts(monkeypatch, gpu, tmp_path, command, work, asked, found):
    """Training and evaluation go by their config, reconstruction by that of its folder."""
    seen, config = [], tiny_config()
    config.deterministic = asked
    configs.save(config, tmp_path / "config.json")
    words = ["--config", QUICKSTART, f"--config.deterministic={asked}", "--workdir", str(tmp_path)]
    if command is reconstruct:
        words = [*words[3:], "--xray", "a.png@0", "--output", str(tmp_path / "ct.nii")]
    monkeypatch.setattr(runtime, "check_platform", lambda: seen.append(os.environ["XLA_FLAGS"]))
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(command, work, lambda *_, **__: "")
    monkeypatch.setenv("XLA_FLAGS", "")
    command.main(words)
    assert seen == [found]


def test_a_training_says_once_on_what_it_computes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(train, "train", lambda *_: None)
    train.main(["--config", QUICKSTART, "--workdir", str(tmp_path)])
    assert capsys.readouterr().err == f"{devices.described('float32')}\n"


@pytest.mark.parametrize(
    "flags", [{flag.name: flag.value for flag in xla_flags.FLAGS.values()}, {UNKNOWN: "true"}], ids=["known", "unknown"]
)
def test_flags_are_known_where_xla_takes_them(flags):
    """XLA reads the flags when JAX starts its backend, after a command is imported, and ends on an unknown one."""
    code = (
        "import os, dvg_jax.training.command\n"
        f"os.environ['XLA_FLAGS'] = '{' '.join(f'--{name}={value}' for name, value in flags.items())}'\n"
        "import jax\n"
        "print(len(jax.devices()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=one_device())
    known = [xla_flags.is_known(name) for name in flags]
    assert known == [name != UNKNOWN for name in flags]
    assert ("Unknown flag" not in ended.stderr) == all(known)
    assert (ended.returncode == 0) == all(known)


@pytest.mark.parametrize(
    ("platforms", "device", "found", "said"),
    [
        ("", None, "cpu", "warning: computing on the CPU: the CUDA extra is installed, and this machine shows no"),
        ("cuda,cpu", None, "cpu", "warning: computing on the CPU: the CUDA extra is installed, and this machine shows"),
        ("", NVIDIA, "cpu", "error: JAX_PLATFORMS is '': cuInit(0) failed; allowed: cpu, or a GPU whose driver works"),
        ("", NVIDIA, None, "error: JAX_PLATFORMS is '': cuInit(0) failed; allowed: cpu, or a GPU whose driver works"),
        ("cuda", NVIDIA, None, "error: JAX_PLATFORMS is 'cuda': cuInit(0) failed; allowed: cpu, or a device"),
        ("cuda", None, None, "error: JAX_PLATFORMS is 'cuda': this machine shows no NVIDIA GPU; allowed: cpu, or"),
        ("cpu", NVIDIA, "cpu", ""),
        ("", NVIDIA, "gpu", ""),
    ],
)
def test_a_gpu_that_cannot_be_used_is_told_in_one_line(monkeypatch, capsys, gpu, platforms, device, found, said):
    """JAX logs the failure of its plugin with a traceback, and then takes the CPU or ends in an assertion."""

    def devices():
        if not said:
            return [SimpleNamespace(platform=found)]
        try:
            raise RuntimeError("cuInit(0)\nfailed.")
        except RuntimeError:
            logging.getLogger("jax._src.xla_bridge").exception("Jax plugin configuration error")
        if found is None:
            raise AssertionError
        return [SimpleNamespace(platform=found)]

    monkeypatch.setattr("jax.devices", devices)
    monkeypatch.setattr(plugins.os.path, "exists", lambda path: path == device)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    try:
        runtime.check_platform()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert "".join(lines).startswith(said)


def test_without_the_extra_jaxs_own_hint_is_passed_on(monkeypatch, capsys):
    def devices():
        logging.getLogger("jax._src.xla_bridge").warning("An NVIDIA GPU may be present.")
        return [SimpleNamespace(platform="cpu")]

    installed(monkeypatch)
    monkeypatch.setattr("jax.devices", devices)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    runtime.check_platform()
    assert capsys.readouterr().err == "warning: An NVIDIA GPU may be present\n"


class Gpu:
    """Stand for a device of a machine with a GPU."""

    platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    def memory_stats(self):
        return {"bytes_limit": 60 * 2**30}


@pytest.mark.parametrize(
    ("dtype", "precision", "end"),
    [
        ("bfloat16", None, "networks compute in bfloat16"),
        (
            "float32",
            None,
            "networks compute in float32, products of matrices at precision default (TF32 from Ampere on)",
        ),
        ("float32", "highest", "networks compute in float32, products of matrices at precision highest"),
    ],
)
def test_the_line_about_devices_says_what_trains_and_how(monkeypatch, dtype, precision, end):
    monkeypatch.setattr("jax.devices", lambda: [Gpu()] * 2)
    monkeypatch.setattr("jax.local_devices", lambda: [Gpu()])
    with jax.default_matmul_precision(precision):
        assert devices.described(dtype) == f"devices: 2 gpu (NVIDIA H100 80GB HBM3), 60.0 GiB each; {end}"


def test_a_cpu_is_described_without_memory_and_at_full_precision():
    count = len(jax.devices())
    end = "networks compute in float32, products of matrices at precision float32"
    assert devices.described("float32") == f"devices: {count} cpu; {end}"


@pytest.mark.parametrize(("own", "on_gpu"), [(None, "highest"), ("tensorfloat32", "tensorfloat32")])
def test_full_precision_is_asked_of_a_gpu_alone_and_a_users_own_wins(monkeypatch, own, on_gpu):
    """On a CPU the setting would change no number, and compile every program again."""
    with jax.default_matmul_precision(own):
        with devices.full_precision():
            assert jax.config.jax_default_matmul_precision == own
        monkeypatch.setattr("jax.devices", lambda: [Gpu()])
        with devices.full_precision():
            assert jax.config.jax_default_matmul_precision == on_gpu
        assert jax.config.jax_default_matmul_precision == own


@pytest.mark.parametrize(
    ("platforms", "plugin", "device", "tuned"),
    [
        ("", None, "/dev/nvidiactl", True),
        ("", "xla_cuda13", "/dev/nvidiactl", False),
        ("", "xla_cuda13", "/dev/dxg", False),
        ("", "xla_cuda13", None, True),
        ("", "rocm60", None, False),
        ("cpu", "xla_cuda13", "/dev/nvidia0", True),
        ("cuda,cpu", "xla_cuda13", None, False),
    ],
)
def test_the_allocator_is_tuned_only_where_the_cpu_computes(monkeypatch, platforms, plugin, device, tuned):
    """With a GPU the compiler's threads would wait for the one arena that they share (docs/performance.md)."""
    calls = []

    class Library:
        mallopt = staticmethod(lambda *setting: calls.append(setting))

    installed(monkeypatch, *([plugin] if plugin else []))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(plugins.os.path, "exists", lambda path: path == device)
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    runtime.tune_allocator()
    assert bool(calls) == tuned


def test_importing_the_commands_starts_no_backend():
    """Several processes must be able to find each other before JAX looks for its devices."""
    code = (
        "import dvg_jax.training.command, dvg_jax.evaluate.command, dvg_jax.reconstruct.command\n"
        "from jax._src import xla_bridge\n"
        "print('started' if xla_bridge._backends else 'none')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "none"


@pytest.mark.parametrize(("platform", "workers"), [("cpu", 2), ("cuda", 0)])
def test_tests_on_a_gpu_run_in_one_process(monkeypatch, pytestconfig, platform, workers):
    conftest = next(plugin for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "LONGEST_FIRST"))
    monkeypatch.setattr(conftest, "PLATFORM", platform)
    option = SimpleNamespace(numprocesses=2)
    conftest.pytest_cmdline_main(SimpleNamespace(option=option))
    assert option.numprocesses == workers
