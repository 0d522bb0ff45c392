"""Start, end and stop every command of the project in the same way. Does not import JAX.

    main --UserError--> "error: ...", exit code 2      --OSError--> "error: FILE: reason", 2
         --Ctrl-C, SIGTERM--> "stopped", 130, 143      --nobody reads its output--> nothing, 141

``cli/flags.py`` words the errors of flags, ``config/file.py`` those of configs.
"""

import atexit
import codecs
import errno
import importlib
import os
import re
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from dvg_jax import runtime
from dvg_jax.cli.interrupt import Stopped, stopped_by_signals
from dvg_jax.errors import UserError, visible

BAD_INPUT = 2

NOBODY_READS = 128 + 13
"""A shell gives this code to a command that SIGPIPE has ended."""


def run_command(main: Callable[[list[str] | None], None]) -> None:
    """Run ``main`` on the command line's arguments; an early end gives one line on stderr and an exit code.

    Raises:
      SystemExit: ``main`` did not come to its end.
    """
    _escape_what_cannot_be_encoded()
    try:
        with stopped_by_signals():
            _call(main)
            _flush()
    except SystemExit as left:
        _leave(left.code)
    except UserError as error:
        _leave(BAD_INPUT, f"error: {error}")
    except KeyboardInterrupt as stopped:
        code = stopped.exit_code if isinstance(stopped, Stopped) else 128 + signal.SIGINT
        _leave(code, "; ".join(["stopped", *getattr(stopped, "__notes__", ())]))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _leave(NOBODY_READS)
        _leave(BAD_INPUT, f"error: {reason(error)}")
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":
            raise
        message = f"error: {error.object!r} cannot be a name in this locale, {error.encoding}; allowed: a UTF-8 one"
        _leave(BAD_INPUT, message)


def run_module(name: str) -> None:
    """Run the ``main`` of a module that imports JAX, with the process set up for it first; to be called by a program.

    A process that is stopped while XLA compiles crashes when its libraries are unloaded, and after a failure what is
    unloaded reports it again: a command that does not come to its end ends before that.
    """
    runtime.set_up()
    try:
        run_command(lambda argv: importlib.import_module(name).main(argv))
    except SystemExit as left:
        if not isinstance(left.code, int) or left.code == 0:
            raise
        atexit._run_exitfuncs()
        os._exit(left.code)


def reason(error: OSError) -> str:
    """Return the files that a system error is about, and its reason."""
    names = (name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike)))
    files = " to ".join(os.fsdecode(name) for name in names)
    if not files and error.errno is not None and not _can_flush():
        files = "standard output"
    why = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        why += "; allowed: a higher limit, see ulimit -n"
    return f"{files}: {why}" if files else why


def _leave(code: str | int | None, message: str = "") -> NoReturn:
    """Exit after printing ``message`` as one line on stderr. Output that cannot be written is dropped silently."""
    try:
        if message:
            print(visible(" ".join(message.split())), file=sys.stderr, flush=True)
        _flush()
    except OSError as error:
        code = code or (NOBODY_READS if error.errno == errno.EPIPE else BAD_INPUT)
        # Otherwise Python would try once more at its end, and report the failure.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    raise SystemExit(code)


def _call(main: Callable[[list[str] | None], None]) -> None:
    """Call ``main``; a system error that Orbax or XLA reports in a text of its own becomes an OSError.

    Flax's error about variables that do not fit a network becomes a UserError. To look for it before any work would
    trace every network once more, half a minute at the paper's size.
    """
    try:
        main(None)
    except Exception as error:
        if any(kind.__module__ == "flax.errors" for kind in type(error).__mro__):
            allowed = "a model that this program has written for its config"
            raise UserError(f"variables do not fit their network: {_first_line(error)}; allowed: {allowed}") from error
        failed = _of_system(error)
        if failed is None:
            raise
        # Threads of Orbax do not know of the failure yet, and would report it many more times.
        sys.unraisablehook = lambda _: None
        threading.excepthook = lambda _: None
        warnings.simplefilter("ignore")
        raise failed from (None if failed is error else error)


def _of_system(error: Exception) -> OSError | None:
    """Return a system error, or find one in the text of another error; None where there is none."""
    if isinstance(error, OSError):
        return error
    code = re.search(r"os_error_code='(\d+)'", str(error))  # some of these begin with RESOURCE_EXHAUSTED too
    if code is None and (isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED")):
        return OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)}: {_first_line(error)}; allowed: smaller settings")
    if code is None:
        return None
    file = re.search(r'local file "((?:[^"\\]|\\.)+)"', str(error))
    # The name is written as in C: every byte of a letter that is not Latin is an escape.
    name = file and os.fsencode(file[1]).decode("unicode_escape").encode("latin-1")
    return OSError(int(code[1]), os.strerror(int(code[1])), name)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else "no more of it"


def _flush() -> None:
    if sys.stdout is not None:  # None where the caller has closed it
        sys.stdout.flush()


def _can_flush() -> bool:
    try:
        _flush()
    except OSError:
        return False
    return True


def _nobody_reads() -> bool:
    """Tell whether the other end of stdout or stderr is closed: pipes to other processes may break too."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _escape_what_cannot_be_encoded() -> None:
    """Make stdout and stderr accept file names and characters that the locale cannot encode.

    In UTF-8 they are printed with backslashes, so that the output remains valid UTF-8. Elsewhere, as in the C locale,
    the bytes of a name are written unchanged.
    """
    codecs.register_error("dvg_jax.bytes", _bytes_or_backslashes)
    errors = "backslashreplace" if sys.getfilesystemencoding() == "utf-8" else "dvg_jax.bytes"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _bytes_or_backslashes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = (
        letter.encode("ascii", "surrogateescape" if "\udc80" <= letter <= "\udcff" else "backslashreplace")
        for letter in error.object[error.start : error.end]
    )
    return b"".join(parts), error.end
