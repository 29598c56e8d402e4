"""The site of `make docs` builds without a warning, its links lead somewhere, nothing is loaded.

The lesson, docs/learn.md: its commands and its Python run as they stand there, on few drawings.
"""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from data_makers import load_script, photo

import alexnet
from alexnet.cli import main
from alexnet.demo import drawings

ROOT = Path(__file__).parents[1]
LESSON = (ROOT / "docs/learn.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", LESSON, re.MULTILINE | re.DOTALL)
LOADING = {"img", "iframe", "link", "script", "source"}


class Page(HTMLParser):
    """Collects a page's anchors, its links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        if target := values.get("href") or values.get("src"):
            self.links.append(target)
            if tag in LOADING and values.get("rel") != "canonical":
                self.loaded.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built strictly: a warning stops it."""
    pytest.importorskip("material", reason="the site needs: pip install 'alexnet[docs]'")
    out = tmp_path_factory.mktemp("site").resolve()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in out.rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":  # its links begin at the server's root
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = site[target].anchors if target in site else {""}
            if not target.is_file() or unquote(parts.fragment) not in {"", *anchors}:
                broken.append(f"{path.name}: {link}")
    assert not broken


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {link for page in site.values() for link in page.loaded}
    assert not [link for link in loaded if urlsplit(link).scheme not in ("", "data")]
    assert len(site) > 50


@pytest.mark.slow
def test_the_site_has_every_document_and_every_public_name(site: dict[Path, Page]) -> None:
    names = {path.relative_to(min(site, key=lambda path: len(path.parts)).parent) for path in site}
    assert {Path("docs") / f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= names
    api = next(page for path, page in site.items() if path.name == "api.html")
    public = {name for name in alexnet.__all__ if not name.startswith("_")}
    assert {f"alexnet{name}".lower() for name in public} <= api.anchors


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lesson_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(drawings, "COUNTS", {"train": 40, "val": 20, "test": 30})
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(photo(0))
    names: dict[str, Any] = {}
    printed = []
    for language, code in BLOCKS:
        if language == "python":
            exec(code, names)
            continue
        for line in code.splitlines():
            program, *words = shlex.split(re.sub(r"--epochs \d+", "", line))
            assert program == "alexnet"
            if words[0] in ("demo", "train"):
                words += ["--epochs", "1"]
            assert main(words) == 0, line
            printed.append((words, capsys.readouterr().out))
    assert len(printed) == len([line for line in LESSON.splitlines() if line.startswith("alexnet")])
    assert names["response"].shape == (62, 62)
    assert names["pooled"].shape == (30, 30)
    assert float(names["probabilities"].sum()) == pytest.approx(1)
    fields = next(out for words, out in printed if "--receptive-fields" in words)
    assert re.search(r"conv5 .* 163x163 ", fields)


def test_a_notebook_is_a_page_with_its_outputs() -> None:
    path = ROOT / "docs/notebooks/look_inside.ipynb"
    page = load_script("notebook_page").write_notebook_page(path)
    assert page.startswith("# Look inside a trained net\n")
    assert page.count("](data:image/png;base64,") == path.read_text().count('"image/png"')
    assert "\n```text\nship        ship 100%" in page
    assert page.count("<div><p>") == 3
    assert "\n\n" not in "".join(re.findall(r"<div>.*?</div>", page, re.DOTALL))


def test_the_lessons_numbers_are_those_of_the_live_network() -> None:
    summary = alexnet.summarize("alexnet")
    rows = {row.name: row for row in summary.layers}
    linear = [row for name, row in rows.items() if name.startswith("fc")]
    convolutions = [row for name, row in rows.items() if name.startswith("conv")]
    first = rows["conv1"]
    inputs, outputs = 3 * 224 * 224, 96 * 55 * 55
    assert first.output == (96, 55, 55)
    for number in (f"{inputs:,}", f"{outputs:,}", f"{first.parameters:,}"):
        assert number in LESSON
    assert f"{inputs * outputs / 1e9:.0f} billion weights" in LESSON
    share = sum(row.parameters for row in linear) / summary.parameters
    assert f"hold {100 * share:.0f} % of the {summary.parameters / 1e6:.0f} million" in flat(LESSON)
    share = sum(row.macs for row in convolutions) / summary.macs
    assert f"do {100 * share:.0f} % of the {summary.macs / 1e6:.0f} million" in flat(LESSON)


def flat(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())
