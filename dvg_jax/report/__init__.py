"""Write a result as one HTML file that needs nothing else: no network, no server, no second file."""

from dvg_jax.report.content import SPREAD_NOTE, Case, Difference, Film, Layer, Page, Picture, Table, error_note
from dvg_jax.report.page import write_page

__all__ = [
    "SPREAD_NOTE", "Case", "Difference", "Film", "Layer", "Page", "Picture", "Table", "error_note", "write_page",
]  # fmt: skip
