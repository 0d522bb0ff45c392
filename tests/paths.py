"""Where the tests find their data: what the project carries, and what a developer may have beside it."""

from pathlib import Path

import pytest

GOLDEN_SMALL = Path(__file__).parent / "golden"
"""Small golden tensors of the published networks; carried by the project."""

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real scans and the full golden set; beside a developer's checkout, absent on a user's machine."""

GOLDEN = SHARED / "golden"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder 'shared' beside the checkout")
