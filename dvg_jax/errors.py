"""What a user did that cannot work, told in one line."""

import re

_UNDECODED = re.compile("[\udc80-\udcff]")


class UserError(ValueError):
    r"""Bad input: the message names the thing, its value and what is allowed.

    Entry points print the message without a traceback and exit with code 2. Bytes of a file's name that are no UTF-8
    are shown as ``\xfc``, so that the message can be printed and written anywhere.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Replace what Python stands in for bytes that are no UTF-8, as names of files may hold, by ``\xfc`` and such."""
    return _UNDECODED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
