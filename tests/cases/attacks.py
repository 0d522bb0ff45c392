"""Do to a worker process what damaged files do. Imports little: every worker that starts imports this."""

import os
import signal
import threading


def attacked(what):
    """Return ten times a number; any other value is an attack on the process."""
    if what == "exits":
        os._exit(3)
    if what == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stalls":
        threading.Event().wait()
    return 10 * what


def nothing():
    """Set nothing up."""


def signalled(signals):
    """Send this process signals; return its id and the signals that it holds back."""
    for number in signals:
        os.kill(os.getpid(), number)
    return os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
