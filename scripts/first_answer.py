"""Time from the clone to the page's first answer, as on a machine where nothing is installed yet.

    python scripts/first_answer.py REPOSITORY OUT.json [--folder FOLDER]

Clones, installs into a new environment without pip's cache, starts `alexnet serve`, opens the page
in a Chromium and waits for the bars of the first sample. The server starts a second time as well,
when what it measured at its first start is known.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from page_pictures import CHROMIUM, served
from playwright.sync_api import Browser, expect, sync_playwright

from alexnet.bench.report import save_json
from alexnet.storage.environment import commit, cpu_name, versions

CLASSES_SHOWN = 5
MILLISECONDS = 120_000


class Clock:
    """Seconds of each step, in turn."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def lap(self, step: str) -> None:
        """Note how long a step took, and start the next."""
        now = time.monotonic()
        self.seconds[step] = round(now - self._start, 1)
        print(f"{step}: {self.seconds[step]} s", flush=True)
        self._start = now


def see_answer(browser: Browser, url: str) -> str:
    """Open the page; return its first answer when the bars are there."""
    page = browser.new_page()
    page.goto(url)
    bars = page.locator("#answer .bars li")
    expect(bars).to_have_count(CLASSES_SHOWN, timeout=MILLISECONDS)
    text = " ".join(bars.first.inner_text().split())
    page.close()
    return text


def size_of(folder: Path) -> int:
    """Add up the sizes of a folder's files, in bytes."""
    return sum(each.lstat().st_size for each in folder.rglob("*") if not each.is_dir())


def measure(repository: str, folder: Path) -> dict[str, Any]:
    """Clone, install, serve and look, in `folder`, which is empty."""
    project = folder / "alexnet"
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ.pop("PYTHONPATH", None)
    pip = [str(project / ".venv/bin/python"), "-m", "pip", "--disable-pip-version-check"]
    clock = Clock()
    subprocess.run(["git", "clone", "--quiet", repository, str(project)], check=True)
    clock.lap("clone")
    subprocess.run([sys.executable, "-m", "venv", str(project / ".venv")], check=True)
    packages = ["install", "--no-cache-dir", "--quiet", "-e", f"{project}[serve]"]
    subprocess.run([*pip, *packages], check=True)
    clock.lap("install")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        clock.lap("browser")
        for start in ("first", "second"):
            with served(program=[str(project / ".venv/bin/alexnet")]) as url:
                clock.lap(f"{start}_start")
                answer = see_answer(browser, url)
                clock.lap(f"{start}_answer")
        browser.close()
    steps = ("clone", "install", "first_start", "first_answer")
    return {
        "seconds": clock.seconds,
        "seconds_to_first_answer": round(sum(clock.seconds[step] for step in steps), 1),
        "answer": answer,
        "bytes_on_disk": size_of(folder),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, help="where to clone; a temporary folder if absent")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        found = measure(chosen.repository, Path(folder))
    conditions = {
        "command": "python scripts/first_answer.py REPOSITORY " + str(chosen.out),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": versions(),
    }
    save_json(chosen.out, {**conditions, **found})
    print(found)


if __name__ == "__main__":
    main()
