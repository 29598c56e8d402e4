"""The page in a real browser: a picture in, an answer, a look inside; keyboard and screen reader.

A Chromium that is installed is used; none is downloaded.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'alexnet[serve]'")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright
from serve_makers import Serving, serving, wait_until

from alexnet.predict import predict_images

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own pipes
]
MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def server(tiny_run: Path, tiny_data: Path) -> Iterator[Serving]:
    with serving(tiny_run, data=tiny_data) as running:
        wait_until(lambda: running.service.gallery and running.service.gallery.index, 60)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Serving) -> Iterator[Page]:
    """The page with the first sample answered; errors in its console fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(MILLISECONDS)
    complaints = list[str]()
    asked = list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else 0)
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.url)
    expect(opened.locator("#answer .bars li")).to_have_count(3, timeout=MILLISECONDS)
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    unexpected = [text for text in complaints if "status of 400" not in text]
    assert unexpected == []


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)


def test_a_file_is_answered_as_by_predict(page: Page, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "<b>picture.png"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(path)
    upload(page, path)
    expect(page.locator("#preview")).to_have_attribute("alt", f"The picture: {path.name}")
    (expected,) = predict_images(path, tiny_run)
    rows = page.locator("#answer .bars li")
    for row, (name, probability) in enumerate(expected.predictions):
        expect(rows.nth(row).locator("span")).to_have_text(name)
        points = 100 * probability
        shown = f"{points:.1f} %" if points < 9.95 else f"{points:.0f} %"
        expect(rows.nth(row).locator("b")).to_have_text("< 0.1 %" if points < 0.1 else shown)
    assert page.locator("#answer b b, #preview b").count() == 0


def test_a_text_file_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    upload(page, path)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("notes.txt: not a JPEG, PNG, WEBP, GIF or BMP image.")
    page.locator("#samples button").nth(1).click()  # the next picture takes the message away
    expect(alert).to_be_hidden()


def test_layers_maps_units_and_filters_can_be_looked_at(page: Page) -> None:
    page.get_by_role("button", name="conv2", exact=True).click()
    expect(page.locator("#layer .maps button")).to_have_count(48)
    page.locator("#layer .maps button").nth(2).click()
    number = page.locator("#layer .maps button").nth(2).get_attribute("data-unit")
    expect(page.locator("#layer h4")).to_have_text(f"Map {number}")
    expect(page.locator("#layer .trio img")).to_have_count(3)
    expect(page.locator("#layer .patches img")).to_have_count(9)
    page.get_by_role("button", name="Make its preferred image").click()
    expect(page.get_by_alt_text("an image made to excite it most")).to_be_visible()
    page.get_by_role("button", name="conv1", exact=True).click()
    expect(page.locator("#layer .filters img")).to_have_count(64)
    page.get_by_role("button", name="fc10", exact=True).click()
    expect(page.locator("#layer .chips button")).to_have_count(3)


@pytest.mark.slow
def test_evidence_views_and_neighbours(page: Page) -> None:
    expect(page.locator("img[alt^='grad-cam']")).to_be_visible()
    page.get_by_role("button", name="Cover it piece by piece").click()
    expect(page.locator("img[alt^='occlusion']")).to_be_visible()
    expect(page.locator(".ten li")).to_have_count(10)
    expect(page.locator("#near li")).to_have_count(8)
    expect(page.locator("#training svg[role=img]")).to_have_count(2)
    page.get_by_label("The evidence for").select_option(index=2)
    expect(page.locator("img[alt^='grad-cam']")).to_be_visible()


@pytest.mark.slow
def test_figures_and_answers_can_be_taken_along(page: Page) -> None:
    with page.expect_download() as download:
        page.locator("#answer").get_by_role("button", name="SVG").click()
    assert download.value.path().read_text().startswith("<svg")
    expect(page.locator("#layer .maps img")).to_have_count(48)
    with page.expect_download() as download:
        page.locator("#layer").get_by_role("button", name="PNG").first.click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#answer").get_by_role("button", name="JSON").click()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied[0]["image"] == "automobile.png"
    page.locator("#answer").get_by_role("button", name="Command").click()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("alexnet predict automobile.png --run ")


@pytest.mark.slow
def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the answer")).to_be_focused()
    page.locator("#samples button").nth(3).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#preview")).to_have_attribute("alt", "The picture: cat.png")
    page.get_by_role("button", name="pool1", exact=True).focus()
    page.keyboard.press("Space")
    expect(page.locator("#layer h3")).to_have_text("pool1")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_rules_of_accessibility_are_kept(page: Page, scheme: Any, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is missing")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.locator(".ten li")).to_have_count(10)
    expect(page.locator("#near li")).to_have_count(8)
    expect(page.locator("#layer .trio img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.slow
def test_the_description_of_the_api_is_a_page(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("heading", name="POST /predict")).to_be_visible()


@pytest.mark.slow
def test_a_token_is_asked_for(browser: Any, tiny_run: Path) -> None:
    token = "only for this test"
    with serving(tiny_run, token=token) as running:
        context = browser.new_context()
        opened = context.new_page()
        opened.set_default_timeout(MILLISECONDS)
        opened.goto(running.url)
        opened.get_by_label("This server asks for its token").fill(token)
        opened.get_by_role("button", name="Use it").click()
        expect(opened.locator("#answer .bars li")).to_have_count(3, timeout=MILLISECONDS)
        context.close()
