"""Write text into CSV cells so that no spreadsheet takes it for a formula, and read it back.

Names of files and patients come from strangers, and a spreadsheet runs a cell that begins with = + - or @.
"""

from collections.abc import Mapping
from typing import Any

_MARK = "'"
"""Spreadsheets take what follows it for text."""
_STARTS = ("=", "+", "-", "@", "\t", "\r", _MARK)


def to_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row to be written; numbers stay as they are."""
    return {
        name: _MARK + value if isinstance(value, str) and value.startswith(_STARTS) else value
        for name, value in row.items()
    }


def from_cell(cell: str) -> str:
    """Return the text that :func:`to_cells` made a cell of; other text is unchanged."""
    return cell[1:] if cell.startswith(_MARK) and cell[1:].startswith(_STARTS) else cell
