"""Any early end of a command is one line and an exit code: signals, pipes, disks, locales, devices, no home.

Most cases run a few lines in a process of their own, in which JAX is not imported.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dvg_jax import runtime
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import workdir_path
from dvg_jax.errors import UserError
from dvg_jax.training import compilation

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")


def start(body: str, before: str = "", through: tuple[str, ...] = (), **options) -> subprocess.Popen:
    """Start a process whose command is ``body``; ``through`` is a command that starts it, if one does."""
    lines = "import os, sys, time\nfrom pathlib import Path\nfrom dvg_jax.cli.entry import run_command\n"
    code = f"{lines}{before}\ndef main(argv):\n{textwrap.indent(textwrap.dedent(body), '    ')}\nrun_command(main)"
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "cwd": ROOT} | options
    return subprocess.Popen([*through, sys.executable, "-c", code], **options)


def ended(body: str, **options) -> tuple[int, str]:
    """Run ``body`` as the command of a process; return its exit code and stderr."""
    process = start(body, **options)
    _, told = process.communicate(timeout=60)
    return process.returncode, told.decode()


def stopped(body: str, number: int, times: int = 1, **options) -> tuple[int, str]:
    """Do the same, and send the process a signal once it prints "ready"."""
    process = start(body, **options)
    assert process.stdout.readline() == b"ready\n"
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.02)
    _, told = process.communicate(timeout=60)
    return process.returncode, told.decode()


WAITS = "print('ready', flush=True)\ntime.sleep(60)"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line(number):
    assert stopped(WAITS, number) == (128 + number, "stopped\n")


@posix
def test_a_signal_leaves_nothing_half_written(tmp_path):
    writes = f"""
    from dvg_jax.files.atomic import replacing
    with replacing(Path({str(tmp_path / "a.txt")!r})) as part:
        part.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
    """
    # ``timeout`` sends it twice: to the process and to its group.
    assert stopped(writes, signal.SIGTERM, times=2) == (143, "stopped\n")
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_note_is_told():
    waits = f"""
    try:
        {WAITS.replace(chr(10), chr(10) + " " * 8)}
    except KeyboardInterrupt as stop:
        stop.add_note("what is done is kept")
        raise
    """
    assert stopped(waits, signal.SIGINT) == (130, "stopped; what is done is kept\n")


@posix
def test_a_request_dropped_by_the_garbage_collector_is_made_again():
    """Python prints and drops an exception that is raised in a callback of the garbage collector."""
    waits = """
    import gc
    def slow(phase, info):
        if phase == "start":
            print("ready", flush=True)
            time.sleep(0.3)
    gc.callbacks.append(slow)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(60)
    """
    assert stopped(waits, signal.SIGINT) == (130, "stopped\n")


@posix
def test_a_handler_that_is_there_stays():
    """Training notes signals and saves; its handler covers the whole command."""
    waits = """
    print("ready", flush=True)
    while not noted:
        time.sleep(0.01)
    sys.exit(128 + noted[0])
    """
    before = "import signal\nnoted = []\nsignal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))"
    assert stopped(waits, signal.SIGTERM, before=before) == (143, "")


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook
    run_command(lambda argv: None)
    assert ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook) == before


@posix
@pytest.mark.parametrize("body", ["print('x' * 100000)", "print('x')", "sys.exit(0) if print('x') else sys.exit(0)"])
def test_a_closed_pipe_is_quiet(body):
    end, given = os.pipe()
    os.close(end)
    assert ended(body, stdout=given) == (141, "")
    os.close(given)


@posix
def test_a_closed_pipe_of_messages_is_quiet():
    end, given = os.pipe()
    os.close(end)
    process = start("raise OSError(2, 'No such file')", stderr=given)
    os.close(given)
    assert process.wait(timeout=60) == 2


def test_another_broken_pipe_is_told():
    assert ended("raise BrokenPipeError(32, 'Broken pipe')") == (2, "error: Broken pipe\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        code, told = ended("print('x')", stdout=full, env=environment)
    assert (code, told) == (2, "error: standard output: No space left on device\n")


@posix
def test_output_that_the_caller_has_closed():
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    assert ended("print('x')", through=closed, stdout=None) == (0, "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("OSError(28, 'No space left on device', 'a.nii')", "a.nii: No space left on device"),
        ("OSError(122, 'Disk quota exceeded')", "Disk quota exceeded"),
        ("PermissionError(13, 'Permission denied', b'/b')", "/b: Permission denied"),
        ("OSError(18, 'Invalid cross-device link', 'a', None, 'b')", "a to b: Invalid cross-device link"),
        ("OSError('cannot open it\\nat all')", "cannot open it at all"),
        (
            "ValueError('OUT_OF_RANGE: Error writing local file \"/a/b\": Failed [os_error_code=\\'28\\'] [source]')",
            "/a/b: No space left on device",
        ),
        (
            "ValueError('RESOURCE_EXHAUSTED: Error writing local file \"/a/b\": Failed [os_error_code=\\'28\\']')",
            "/a/b: No space left on device",
        ),
        (
            r"""ValueError(r'at local file "/\xd0\xb4/\xe7\x9b\x98 \"a\\b\"/": Failed [os_error_code=' + "'28']")""",
            '/д/盘 "a\\b"/: No space left on device',
        ),
    ],
)
def test_errors_of_the_system_are_one_line(capsys, error, told):
    def main(argv):
        raise eval(error)

    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ValueError, match="a bug"):
        run_command(lambda argv: (_ for _ in ()).throw(ValueError("a bug")))


@posix
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    writes = f"""
    import resource
    from dvg_jax.files.atomic import replacing
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with replacing(Path({str(tmp_path / "a.txt")!r})) as part:
        part.write_text("x" * 5000)
    """
    code, told = ended(writes)
    assert code == 2
    assert told.startswith("error: ")
    assert told.endswith("File too large\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("locale", "shown"),
    [({"LC_ALL": "C", "PYTHONUTF8": "0"}, b"n\xc3\xb6 \xe9 \\xb1\n"), ({}, "nö \\udce9 ±\n".encode())],
)
@posix
def test_every_name_and_character_can_be_printed(locale, shown):
    """A file name is not UTF-8, and a sign is missing in the C locale, which prints the bytes of a name unchanged."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONIOENCODING": ""} | locale
    body = "print(os.fsdecode(b'n\\xc3\\xb6'), os.fsdecode(b'\\xe9'), chr(177)); raise OSError(2, chr(177), b'\\xe9')"
    process = start(body, env=environment)
    out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, shown)
    assert told == (b"error: \xe9: \\xb1\n" if locale else "error: \\udce9: ±\n".encode())


@posix
def test_a_name_that_the_locale_has_not():
    code, told = ended("open(chr(246))", env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert code == 2
    assert told.count("\n") == 1
    assert "cannot be a name in this locale, ascii; allowed: a UTF-8 one" in told


def test_text_is_read_and_written_as_utf8_whatever_the_locale():
    """Without an encoding ``open`` and the like take the locale's, which is ASCII in the C locale."""
    calls = re.compile(r"""\.(?:(?:read|write)_text\(|open\((?:newline|"[wa]"))(?:[^()]|\([^()]*\))*\)""")
    texts = {file.name: file.read_text("utf-8") for file in (ROOT / "dvg_jax").rglob("*.py")}
    found = [(name, call) for name, text in texts.items() for call in calls.findall(text)]
    assert len(found) > 10
    assert [(name, call) for name, call in found if "utf-8" not in call] == []


def test_a_working_folder_that_is_no_utf8():
    with pytest.raises(UserError, match="no name in UTF-8"):
        workdir_path(os.fsdecode(b"run\xe9"))


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend (set JAX_PLATFORMS)")])
def test_a_device_that_is_not_there(monkeypatch, error):
    """JAX's CUDA plugin fails with an AssertionError, JAX's own lookup with a RuntimeError."""

    def devices():
        raise error

    monkeypatch.setattr("jax.devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"JAX_PLATFORMS is 'cuda': .*; allowed: cpu"):
        runtime.check_platform()


def test_no_home_and_no_such_user(monkeypatch, capsys):
    def home():
        raise RuntimeError("Could not determine home directory.")

    changed = {}
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr("jax.config.update", changed.__setitem__)
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    compilation.enable_compilation_cache()
    assert changed["jax_enable_compilation_cache"] is False
    assert capsys.readouterr().err == "compiled programs are not kept: Could not determine home directory.\n"


def test_a_cache_folder_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    changed = {}
    monkeypatch.setattr("jax.config.update", changed.__setitem__)
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "xla"))
    compilation.enable_compilation_cache()
    assert changed["jax_enable_compilation_cache"] is False
    assert "Not a directory" in capsys.readouterr().err
