"""The page in a real browser: a picture in, an answer, a look inside; keyboard and screen reader.

A Chromium that is installed is used; none is downloaded.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'alexnet[serve]'")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright
from serve_makers import Serving, serving, wait_until

from alexnet.demo.drawings import Drawings
from alexnet.predict import predict_images
from alexnet.prepare import prepare_dataset
from alexnet.serve import inside
from alexnet.storage.locks import run_lock
from alexnet.train import train_model

expect.set_options(timeout=30_000)
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
def drawings_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few of the demo's drawings."""
    folder = tmp_path_factory.mktemp("drawings")
    source = Drawings(counts={"train": 20, "val": 10})
    prepare_dataset(source, folder / "data", size=32, workers=1)
    train_model(folder / "data", folder / "run", TINY, device="cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Serving) -> Iterator[Page]:
    """The page with the first sample answered."""
    with opened(browser, server.url) as found:
        expect(found.locator("#answer .bars li")).to_have_count(3)
        yield found


@contextmanager
def opened(browser: Any, url: str, scheme: Any = "light", width: int = 1280) -> Iterator[Page]:
    """Open a page; errors in its console, and requests to elsewhere, fail the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    found = context.new_page()
    found.set_default_timeout(MILLISECONDS)
    complaints = list[str]()
    asked = list[str]()
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if said.type == "error" else 0)
    found.on("request", lambda request: asked.append(request.url))
    found.goto(url)
    yield found
    context.close()
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
    expected = re.compile("status of (400|401)")
    assert [text for text in complaints if not expected.search(text)] == []


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
    expect(page.locator("#answer .bars li")).to_have_count(3)  # the answer before stays
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
def test_the_answer_follows_the_pen(browser: Any, drawings_run: Path) -> None:
    with serving(drawings_run) as running, opened(browser, running.url) as page:
        expect(page.locator("#answer .verdict")).to_contain_text("It shows: car.")
        page.get_by_role("button", name="Draw one").click()
        box = page.locator("#board canvas").bounding_box()
        assert box
        page.mouse.move(box["x"] + 40, box["y"] + 100)
        page.mouse.down()
        with page.expect_response(lambda reply: "/predict" in reply.url):
            page.mouse.move(box["x"] + 160, box["y"] + 100, steps=4)
        expect(page.locator("#answer .verdict")).to_have_count(0)  # it is no sample now
        page.mouse.move(box["x"] + 100, box["y"] + 160, steps=4)
        page.mouse.up()
        expect(page.locator("#preview")).to_have_attribute("alt", "The picture: drawing.png")
        page.locator("#samples button").first.click()
        expect(page.locator("#board")).to_be_hidden()


@pytest.mark.slow
def test_a_training_is_followed(browser: Any, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    first = next(number for number, row in enumerate(rows) if '"kind": "epoch"' in row)
    (run / "metrics.jsonl").write_text("".join(rows[: first + 1]))
    with ExitStack() as lock:
        lock.enter_context(run_lock(run))
        with serving(run) as running, opened(browser, running.url) as page:
            note = page.locator("#training .note").first
            expect(note).to_contain_text("Epoch 2 of 2 is under way.")
            expect(page.locator("#layer .filters img")).to_have_count(64)
            (run / "metrics.jsonl").write_text("".join(rows))
            expect(page.locator("#training .legend").first).to_contain_text("validation")
            lock.close()
            expect(note).to_contain_text("2 of 2 epochs.", timeout=20_000)


@pytest.mark.slow
def test_another_picture_ends_the_occlusion(
    page: Page, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    *_, whole = inside.occlusion(server.service.predictors[0], picture, 0)
    parts = list[int]()

    def endless(*_: object) -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.05)
            parts.append(0)
            yield {**whole, "done": 1}

    monkeypatch.setattr(inside, "occlusion", endless)
    page.get_by_role("button", name="Cover it piece by piece").click()
    expect(page.get_by_text("has covered 1 of 729 places")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped after 1 of 729 places.")).to_be_visible()
    page.get_by_role("button", name="Cover it again").click()
    expect(page.get_by_role("progressbar", name="Places covered")).to_be_visible()
    page.locator("#samples button").nth(2).click()
    expect(page.get_by_role("progressbar", name="Places covered")).to_have_count(0)
    page.wait_for_timeout(500)
    count = len(parts)
    page.wait_for_timeout(300)
    assert len(parts) == count


def check_rules(page: Page) -> None:
    """Check the page as it is: the rules of accessibility, and no scrolling to the side."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is missing")
    width = page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_state_keeps_the_rules_of_accessibility(
    browser: Any, server: Serving, tmp_path: Path, scheme: Any, width: int
) -> None:
    with opened(browser, server.url, scheme, width) as page:
        expect(page.locator(".ten li")).to_have_count(10)
        expect(page.locator("#near li")).to_have_count(8)
        expect(page.locator("#layer .trio img")).to_have_count(3)
        page.get_by_role("button", name="Cover it piece by piece").click()
        expect(page.locator("img[alt^='occlusion']")).to_be_visible()
        page.get_by_role("button", name="Make its preferred image").click()
        expect(page.get_by_alt_text("an image made to excite it most")).to_be_visible()
        check_rules(page)
        page.get_by_role("button", name="fc10", exact=True).click()
        expect(page.locator("#layer .chips button")).to_have_count(3)
        notes = tmp_path / "notes.txt"
        notes.write_text("hello")
        upload(page, notes)
        expect(page.get_by_role("alert")).to_be_visible()
        check_rules(page)
        page.goto(f"{server.url}/docs")
        expect(page.get_by_role("heading", name="POST /predict")).to_be_visible()
        check_rules(page)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_two_runs_and_the_board_keep_the_rules(
    browser: Any, drawings_run: Path, scheme: Any, width: int
) -> None:
    with (
        serving(drawings_run, drawings_run) as running,
        opened(browser, running.url, scheme, width) as page,
    ):
        expect(page.locator("#layer h3")).to_have_text(["conv1 of run0", "conv1 of run1"])
        expect(page.locator(".ten li")).to_have_count(20)
        page.get_by_role("button", name="Draw one").click()
        check_rules(page)
        page.get_by_role("button", name="run1", exact=True).click()
        expect(page.locator("#layer h3")).to_have_text("conv1")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_a_token_is_asked_for(browser: Any, tiny_run: Path, width: int) -> None:
    token = "only for this test"
    with (
        serving(tiny_run, token=token) as running,
        opened(browser, running.url, width=width) as page,
    ):
        expect(page.get_by_label("This server asks for its token")).to_be_focused()
        check_rules(page)
        page.get_by_label("This server asks for its token").fill(token)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#answer .bars li")).to_have_count(3, timeout=MILLISECONDS)
