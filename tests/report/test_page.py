"""The page's file: self-contained, escaped, and with the volumes in it to the voxel."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dvg_jax.report import write_page
from tests.report.made import HOSTILE, SHAPE, a_page, hu


class Tags(HTMLParser):
    """All elements with their attributes, and the text of script elements."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.cdata_elem == "script":
            self.scripts[-1] += text


@pytest.fixture
def written(tmp_path):
    def write(page):
        write_page(tmp_path / "page.html", page)
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
        return (tmp_path / "page.html").read_text("utf-8")

    return write


def data_of(text: str) -> dict:
    return json.loads(Tags(text).scripts[0])


def test_nothing_is_fetched(written):
    text = written(a_page())
    for tag, attributes in Tags(text).found:
        assert tag not in {"iframe", "object", "embed", "base"}
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_volumes_are_in_the_page_to_the_voxel(written):
    data = data_of(written(a_page()))
    for number, case in enumerate(data["cases"]):
        voxels = np.frombuffer(gzip.decompress(base64.b64decode(case["layers"][0]["data"])), "<i2")
        np.testing.assert_array_equal(voxels.reshape(SHAPE), hu(number))
        assert case["layers"][3] == {"name": "error of result", "kind": "amount", "of": 0, "against": 2}
        assert case["unseenPercent"] == pytest.approx(100 / SHAPE[0], abs=0.05)


def test_names_and_tags_are_harmless(written):
    plain, hostile = (Tags(written(a_page(text))) for text in ("film.png", HOSTILE))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert not any(name.startswith("on") for _, attributes in hostile.found for name in attributes)
    assert len(hostile.scripts) == 2
    assert hostile.scripts[1] == plain.scripts[1]
    assert data_of(written(a_page(HOSTILE)))["cases"][0]["title"] == f"{HOSTILE} 0"


def test_the_policy_allows_this_script_and_style_only(written):
    text = written(a_page())
    allowed = re.search(r"style-src '(\S+)'; script-src '(\S+)'\"", text)
    assert allowed
    assert all(entry.startswith("sha256-") for entry in allowed.groups())
    assert not any("style" in attributes for _, attributes in Tags(text).found)


def test_equal_content_gives_equal_bytes(written):
    assert written(a_page()) == written(a_page())


def test_pictures_are_named_and_tables_have_heads(written):
    found = Tags(written(a_page())).found
    assert all(attributes.get("alt") for tag, attributes in found if tag == "img")
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in found if tag == "th")
