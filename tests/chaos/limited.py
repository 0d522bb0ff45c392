"""Take something away from this process, then become a command: ``python -m tests.chaos.limited WHAT SIZE WORDS...``.

A function that a parent calls between fork and exec would do the same, but a parent with JAX's threads must not fork.
"""

import ctypes
import os
import resource
import sys

FILE_SIZE, HANDLES, RIGHTS = "file_size", "handles", "rights"
"""These can be taken away: size of files in bytes, number of open files, and root's right to write everywhere."""

_LIMITS = {FILE_SIZE: resource.RLIMIT_FSIZE, HANDLES: resource.RLIMIT_NOFILE}


def main() -> None:
    """Run the command line that the module's docstring describes; ``SIZE`` has no meaning for rights."""
    what, size, *words = sys.argv[1:]
    if what == RIGHTS:
        # Root stays the owner of its files, and loses what lets it write where nobody may.
        drop_from_bounding_set, override = 24, 1
        ctypes.CDLL(None).prctl(drop_from_bounding_set, override, 0, 0, 0)
    else:
        resource.setrlimit(_LIMITS[what], (int(size), resource.getrlimit(_LIMITS[what])[1]))
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main()
