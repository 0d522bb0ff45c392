"""The page in a real browser; skipped where Playwright (``pip install .[browser]``) or a Chromium is missing."""

import re
import shutil

import pytest

from dvg_jax.report import write_page
from tests.report.made import HOSTILE, SHAPE, a_page, hu

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install .[browser]")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as runner:
        own = runner.chromium.executable_path
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", own))), None)
        if path is None:  # one that is there and does not start fails the tests
            pytest.skip(f"needs a Chromium: none in PATH, none at {own} (playwright install chromium)")
        # As root, which build machines are, Chromium starts only without its sandbox.
        browser = runner.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page; at the end nothing may have been said on the console or asked of a network."""
    said, asked = [], []

    def open_page(page=None, width=1280, **settings):
        write_page(tmp_path / "page.html", page or a_page())
        tab = browser.new_context(viewport={"width": width, "height": 900}, **settings).new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((tmp_path / "page.html").as_uri())
        playwright.expect(tab.locator("#readout")).to_contain_text("HU")
        return tab

    yield open_page
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def pixels(tab, name="axial"):
    # What was asked for is drawn before the next frame.
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return tab.locator(f".{name} canvas").evaluate("(canvas) => canvas.toDataURL()")


def readout(tab):
    pixels(tab)
    return tab.locator("#readout").inner_text()


def click(tab, name, across, down):
    """Click at shares of a plane's width and height."""
    canvas = tab.locator(f".{name} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": across * box["width"], "y": down * box["height"]})


def test_the_slider_changes_the_slice(opened):
    tab = opened()
    before = pixels(tab)
    slider = tab.get_by_label("Axial", exact=True)
    slider.focus()
    slider.press("ArrowRight")
    assert pixels(tab) != before
    assert tab.locator(".axial output").inner_text() == f"{SHAPE[0] // 2 + 2}/{SHAPE[0]}"


def test_arrow_keys_and_wheel_change_the_slice(opened):
    tab = opened()
    canvas, place = tab.locator(".coronal canvas"), tab.locator(".coronal output")
    canvas.focus()
    canvas.press("ArrowUp")
    pixels(tab)
    assert place.inner_text() == "7/10"
    canvas.press("Home")
    pixels(tab)
    assert place.inner_text() == "1/10"
    canvas.hover()
    tab.mouse.wheel(0, -100)
    playwright.expect(place).to_have_text("2/10")


def test_a_click_finds_the_voxel_that_lies_there(opened):
    """Head at the top, anterior at the top or on the left, the patient's right on the left."""
    tab, (d, h, w) = opened(), SHAPE
    ct = hu()
    click(tab, "axial", 0.5 / w, (2 + 0.5) / h)
    click(tab, "coronal", (3 + 0.5) / w, (1 + 0.5) / d)
    assert f"result: {ct[d - 2, 2, 3]:.0f} HU" in readout(tab)
    click(tab, "sagittal", (h - 0.5) / h, (d - 0.5) / d)
    # First slice of D: the foot end, 5.5 voxels of 3 mm below the middle; last of H: 4.5 of 2 mm behind it.
    assert f"result: {ct[0, h - 1, 3]:.0f} HU at 2 mm R, 9 mm P, 17 mm F" in readout(tab)
    assert "crossed by no ray" in readout(tab)


def test_window_by_key_and_by_drag(opened):
    tab = opened()
    seen = {pixels(tab)}
    for key, name in (("2", "soft tissue"), ("3", "bone"), ("4", "whole range"), ("1", "lung")):
        tab.keyboard.press(key)
        seen.add(pixels(tab))
        assert tab.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"
    assert len(seen) == 4
    tab.get_by_label("window", exact=True).check()
    tab.locator(".axial canvas").hover()
    tab.mouse.down()
    tab.mouse.move(700, 300)
    tab.mouse.up()
    assert pixels(tab) not in seen
    assert tab.locator("#windows [aria-pressed=true]").count() == 0


def test_layers_and_errors(opened):
    tab, ct, middle = opened(), hu(), tuple(n // 2 for n in SHAPE)
    told = tab.locator("#readout")
    expected = {"result": ct, "spread": 0 * ct + 12, "truth": ct[::-1], "error of result": abs(ct - ct[::-1])}
    for name, values in expected.items():
        tab.get_by_label("Show", exact=True).select_option(name)
        playwright.expect(told).to_contain_text(re.compile(f"^{name}: {values[middle]:.0f} HU"))
    tab.locator(".axial canvas").focus()
    tab.keyboard.press("l")
    playwright.expect(told).to_contain_text(re.compile("^result:"))


def test_voxels_that_no_ray_crosses_are_marked(opened):
    tab = opened()
    assert "8.3 %" in tab.locator("#unseen-choice").inner_text()
    before = pixels(tab, "coronal")
    tab.keyboard.press("n")
    assert pixels(tab, "coronal") != before


def test_cases(opened):
    tab = opened()
    assert tab.locator("[data-case='0']").is_visible()
    tab.get_by_label("Case", exact=True).select_option("1")
    middle = tuple(n // 2 for n in SHAPE)
    playwright.expect(tab.locator("#readout")).to_contain_text(f"result: {hu(1)[middle]:.0f} HU")
    assert tab.locator("[data-case='1']").is_visible()
    assert not tab.locator("[data-case='0']").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(opened, scheme):
    tab = opened(width=360, color_scheme=scheme, is_mobile=True, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    place = tab.locator(".axial output").inner_text()
    box = tab.locator(".coronal canvas").bounding_box()
    tab.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    pixels(tab)
    assert tab.locator(".axial output").inner_text() != place


def test_text_from_files_runs_nothing(opened):
    tab = opened(a_page(HOSTILE))
    assert tab.evaluate("window.ran") is None
    assert tab.locator("h1").inner_text().split() == HOSTILE.split()
