"""Take a picture of every state of the page of `alexnet serve`, narrow and wide, light and dark.

python scripts/page_pictures.py OUT --drawings RUN --other RUN --data DATA

RUN and OTHER are two runs of the demo's drawings, DATA the data set of RUN, as `alexnet demo`
makes them. Needs playwright and an installed Chromium.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
WIDTHS = {360: 780, 1280: 900}
SCHEMES = ("light", "dark")
PATIENCE = 180_000
PROGRAM = (sys.executable, "-m", "alexnet")
TOKEN = "a token for the picture"

State = Callable[[Page, Path], None]


@contextmanager
def running(
    *arguments: str, program: Sequence[str] = PROGRAM, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the package until the context ends."""
    command = [*program, *arguments]
    with subprocess.Popen(command, stderr=subprocess.STDOUT, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def served(*arguments: str, program: Sequence[str] = PROGRAM, **environment: str) -> Iterator[str]:
    """Run `alexnet serve` on a free port, and give its address."""
    options = {"env": {**os.environ, **environment}, "stdout": subprocess.PIPE}
    with running("serve", "--port", "0", *arguments, program=program, **options) as process:
        assert process.stdout
        addresses = (re.search(r"http://[\d.]+:\d+", line.decode()) for line in process.stdout)
        yield next(filter(None, addresses))[0]


@contextmanager
def training(data: Path, run: Path) -> Iterator[None]:
    """Train until the pictures are taken, which begins once it has saved weights."""
    given = ("train", str(data), str(run), "--epochs", "40")
    with running(*given, stdout=subprocess.DEVNULL) as process:
        while not any((run / "checkpoints").glob("*.safetensors")):
            assert process.poll() is None, "the training has ended"
            time.sleep(1)
        yield


def shot(page: Page, path: Path, part: str = "") -> None:
    """Take a picture of the whole page, or of the part that a selector names."""
    page.wait_for_timeout(400)
    if part:
        page.locator(part).screenshot(path=path)
    else:
        page.screenshot(path=path, full_page=True)


def whole(page: Page) -> None:
    """Wait until all parts are there."""
    expect(page.locator(".ten li").last).to_be_visible()
    expect(page.locator("#rows table").first).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def sample(page: Page, name: str) -> None:
    """Take a sample, and wait for what the page makes of it."""
    page.locator(f"#samples button[title={name}]").click()
    expect(page.locator("#preview")).to_have_attribute("alt", f"The picture: {name}.png")
    whole(page)


def of_shipped(page: Page, out: Path) -> None:
    """Look inside the net that comes with the package."""
    whole(page)
    shot(page, out / "answer.png")
    page.get_by_role("button", name="Cover it piece by piece").click()
    expect(page.locator("img[alt^=occlusion]")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    shot(page, out / "evidence.png", "#evidence")
    row = page.locator("[data-layer] button", has_text="conv").last
    row.click()
    whole(page)
    page.locator("#layer .maps button").nth(3).click()
    page.get_by_role("button", name="Make its preferred image").click()
    expect(page.get_by_alt_text("an image made to excite it most")).to_be_visible()
    page.locator("#layer details summary").click()
    shot(page, out / "unit.png", "#inside")
    page.locator("[data-layer] button").last.click()
    whole(page)
    shot(page, out / "classes.png", "#inside")
    sample(page, "frog")
    shot(page, out / "wrong.png", "#ask")
    notes = out.parent / "notes.txt"
    notes.write_text("hello")
    page.set_input_files("#file", notes)
    expect(page.get_by_role("alert")).to_be_visible()
    page.screenshot(path=out / "error.png")


def of_start(page: Page, out: Path) -> None:
    """Show the page before its first answer."""
    expect(page.locator("#samples button").last).to_be_visible()
    page.screenshot(path=out / "start.png")


def of_drawings(page: Page, out: Path) -> None:
    """Draw, and look at the data set of a run."""
    whole(page)
    expect(page.locator("#near .tiles li").first).to_be_visible()
    for part in ("views", "near", "training"):
        shot(page, out / f"{part}.png", f"#{part}")
    page.locator("[data-layer] button", has_text="conv").nth(1).click()
    expect(page.locator("#layer .patches img")).to_have_count(9)
    shot(page, out / "patches.png", "#inside")
    page.get_by_role("button", name="Draw one").click()
    box = page.locator("#board canvas").bounding_box()
    assert box
    left, top, side = box["x"], box["y"], box["width"]
    page.mouse.move(left + 0.15 * side, top + 0.6 * side)
    page.mouse.down()
    for x, y in ((0.85, 0.6), (0.7, 0.85), (0.3, 0.85), (0.15, 0.6)):
        page.mouse.move(left + x * side, top + y * side, steps=5)
    page.mouse.up()
    page.get_by_label("red pen").click()
    page.mouse.move(left + 0.5 * side, top + 0.55 * side)
    page.mouse.down()
    for x, y in ((0.5, 0.1), (0.8, 0.5), (0.5, 0.55)):
        page.mouse.move(left + x * side, top + y * side, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1500)
    whole(page)
    shot(page, out / "board.png", "#ask")


def of_two(page: Page, out: Path) -> None:
    """Compare two runs."""
    whole(page)
    shot(page, out / "two.png")


def of_training(page: Page, out: Path) -> None:
    """Follow a training."""
    expect(page.locator("#training svg[role=img]").first).to_be_visible()
    shot(page, out / "live.png", "#training")


def of_token(page: Page, out: Path) -> None:
    """Show what asks for a token."""
    expect(page.locator("#secret")).to_be_visible()
    page.screenshot(path=out / "token.png")


def of_docs(page: Page, out: Path) -> None:
    """Show the page of the API."""
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="POST /predict")).to_be_visible()
    shot(page, out / "api.png")


def take(browser: Any, out: Path, address: str, *states: State) -> None:
    """Take the pictures of states at each width, light and dark, each from a fresh page."""
    for width, height in WIDTHS.items():
        for scheme in SCHEMES:
            folder = out / f"{width}-{scheme}"
            folder.mkdir(parents=True, exist_ok=True)
            for state in states:
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    reduced_motion="reduce",
                )
                page = context.new_page()
                page.set_default_timeout(PATIENCE)
                if state is of_start:
                    page.route("**/predict?*", lambda _: None)
                page.goto(address)
                state(page, folder)
                wide = page.evaluate("document.documentElement.scrollWidth")
                print(folder.name, state.__name__, "" if wide <= width else f"{wide} PIXELS WIDE")
                context.close()


def main() -> None:
    """Take all pictures, or those of the servers that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    names = ("shipped", "drawings", "two", "token", "training")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    given = parser.parse_args()
    expect.set_options(timeout=PATIENCE)
    run, data = ("--run", str(given.drawings)), ("--data", str(given.data))
    with sync_playwright() as engine, TemporaryDirectory() as folder:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shots = partial(take, browser, given.out)
        if "shipped" in given.only:
            with served() as address:
                shots(address, of_start, of_shipped, of_docs)
        if "drawings" in given.only:
            with served(*run, *data) as address:
                shots(address, of_drawings)
        if "two" in given.only:
            with served(*run, "--run", str(given.other)) as address:
                shots(address, of_two)
        if "token" in given.only:
            with served("--host", "0.0.0.0", ALEXNET_TOKEN=TOKEN) as address:
                shots(address.replace("0.0.0.0", "127.0.0.1"), of_token)
        if "training" in given.only:
            new = Path(folder) / "run"
            with training(given.data, new), served("--run", str(new)) as address:
                shots(address, of_training)
        browser.close()


if __name__ == "__main__":
    main()
