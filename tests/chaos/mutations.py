"""Change a file as damage and strangers do; the same seed makes the same change."""

import random
import re

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = (b"-1", b"0", b"1e308", b"-1e308", b"nan", b"inf", b"99999999999999999999", b"%s%n", b"9" * 300, b"x" * 70_000)
"""Each of these can take the place of a number in a text."""
_BINARY = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_HEAD = 1024
"""Half of all changes are in the first bytes, which most formats describe the rest with."""


def mutated(data: bytes, seed: int, text: bool = False) -> bytes:
    """Return ``data`` with one to three changes; they never leave it as it was.

    Args:
      data: of a valid file, one byte or more.
      seed: decides the changes.
      text: the file begins with a text, whose numbers are replaced too.
    """
    draw = random.Random(seed)
    kinds = [_flip, _set, _delete, _insert, _repeat, _cut, _extreme, *([_number] * 4 if text else [])]
    changed = data
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        changed = draw.choice(kinds)(changed, draw) if changed else changed
    return changed if changed != data else data[:-1]


def _place(data: bytes, draw: random.Random) -> int:
    return draw.randrange(min(len(data), _HEAD) if draw.random() < 0.5 else len(data))


def _flip(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    raw = draw.choice((b"\0", b"\xff", b"\x80", b"\n", b"%", draw.randbytes(1), draw.randbytes(8)))
    return data[:at] + raw + data[at + len(raw) :]


def _delete(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + data[at + draw.choice((1, 2, 4, 16, 200)) :]


def _insert(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + draw.randbytes(draw.choice((1, 2, 4, 16, 200))) + data[at:]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    at, length = _place(data, draw), draw.choice((4, 16, 64, 512))
    return data[: at + length] + data[at : at + length] * draw.choice((1, 1, 50)) + data[at + length :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: _place(data, draw)]


def _extreme(data: bytes, draw: random.Random) -> bytes:
    """Write an extreme whole number over 1, 2, 4 or 8 bytes, aligned as in most formats or not."""
    size = draw.choice((1, 2, 4, 8))
    at = _place(data, draw) // size * size + draw.choice((0, 0, 0, 1))
    raw = (draw.choice(_BINARY) % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
    return data[:at] + raw + data[at + size :]


def _number(data: bytes, draw: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data[:_HEAD]))
    if not found:
        return _flip(data, draw)
    one = draw.choice(found)
    return data[: one.start()] + draw.choice(_WORDS) + data[one.end() :]
