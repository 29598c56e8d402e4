"""Kill, cut and damage for minutes, and record what was lost: make soak

    python scripts/soak.py results/reliability/result.json --minutes 20

Half of the time real trainings are killed at random moments and begun again until they are done; a
fifth goes through every call that touches the disk and through bytes of checkpoints, each a kill; a
quarter reads damaged files (tests/faults/test_files_fuzz.py).
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/faults")]

import kill_points  # noqa: E402
from conftest import Stripes  # noqa: E402

from alexnet import cli  # noqa: E402
from alexnet.errors import AlexnetError  # noqa: E402
from alexnet.prepare import prepare_dataset  # noqa: E402
from alexnet.storage import checkpoint_store  # noqa: E402
from alexnet.storage.environment import cpu_name  # noqa: E402
from alexnet.storage.metrics_log import read_metrics  # noqa: E402
from alexnet.storage.run import versions  # noqa: E402

LEAST_KILLS = 100
WORDS = (
    *("--model=cifar10_11", "--epochs=6", "--set=batch_size=13", "--set=optimizer=adamw"),
    *("--set=lr=0.003", "--set=init=he", "--set=log_steps=1", "--set=checkpoint_steps=2"),
    "--device=cpu",
)
"""Of a training of eighteen steps, which saves twelve times, 11 MB each."""


@dataclass
class Book:
    """What was done, and what was lost by it."""

    kills: int = 0
    runs: int = 0
    steps_made_again: int = 0
    byte_offsets: int = 0
    steps_of_a_save: int = 0
    checkpoints_lost: int = 0
    results_that_differ: int = 0
    files_left_over: int = 0

    @property
    def lost(self) -> int:
        """All that must not happen, together."""
        return self.checkpoints_lost + self.results_that_differ + self.files_left_over

    def check(self, undisturbed: Path, run: Path) -> None:
        """Compare a run that was killed and gone on with to the one left alone."""
        different = kill_points.differences(undisturbed, run)
        left = kill_points.leftovers(run)
        self.results_that_differ += bool(different)
        self.files_left_over += len(left)
        if different or left:
            print(f"run {self.runs}: differs in {different}, left over are {left}", flush=True)


def train(data: Path, run: Path) -> None:
    """Run the command, in a child; it may be repeated until it is done."""
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.main(["train", str(data), str(run), *WORDS, "--resume"])
    os._exit(code)


def newest_step(run: Path) -> int:
    """Return the step of a run's last checkpoint, found whole; 0 if there is none."""
    try:
        return checkpoint_store.load(run, "last").position.step
    except AlexnetError:
        return 0


def steps_logged(run: Path) -> int:
    """Return how many steps a run has made, going by its metrics."""
    return max((row["step"] for row in read_metrics(run / "metrics.jsonl")), default=0)


def kill_at_random(data: Path, folder: Path, seconds: float, book: Book) -> None:
    """Train again and again, killed at random moments, until it is done each time."""
    undisturbed = folder / "undisturbed"
    assert kill_points.child(folder, train, data, undisturbed)[0] == 0
    began = time.monotonic()
    assert kill_points.child(folder, train, data, folder / "timed")[0] == 0
    whole, rng = time.monotonic() - began, random.Random(2012)
    began = time.monotonic()
    while time.monotonic() - began < seconds or book.kills < LEAST_KILLS:
        run = folder / f"run{book.runs}"
        code, saved, started = None, 0, time.monotonic()
        while code != 0:
            process = kill_points.Child(folder, train, data, run)
            code = process.end(rng.uniform(0.2, 0.8) * whole)
            if code == 0 and not saved:  # nothing killed it: the machine has become faster
                whole = min(whole, time.monotonic() - started)
            now = newest_step(run)
            if now < saved:
                print(f"run {book.runs}: at step {saved} before, at {now} now", flush=True)
                book.checkpoints_lost += 1
            saved = now
            if code is None:
                book.kills += 1
                book.steps_made_again += max(steps_logged(run) - now, 0)
            elif code:
                raise SystemExit(f"the training ended with {code}: {process.said()}")
        book.runs += 1
        book.check(undisturbed, run)
        shutil.rmtree(run)


def kill_everywhere(data: Path, folder: Path, seconds: float, book: Book) -> None:
    """Kill before each call that touches the disk, then at bytes of checkpoints at random."""
    undisturbed = kill_points.finish(data, folder / "whole")
    names = folder / "names"
    kill_points.child(folder, kill_points.list_touches, data, folder / "listed", names)
    touches = names.read_text(encoding="utf-8").split()
    began, rng = time.monotonic(), random.Random(2012)

    def die(work: Callable[..., None], at: int) -> None:
        run = folder / "killed"
        code, _ = kill_points.child(folder, work, data, run, at)
        assert code == -9
        kill_points.finish(data, run)
        book.kills += 1
        book.runs += 1
        book.check(undisturbed, run)
        shutil.rmtree(run)

    for place in range(len(touches)):
        die(kill_points.train_till_touch, place)
        book.steps_of_a_save += 1
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints").iterdir()) // 2
    while book.byte_offsets < 20 or time.monotonic() - began < seconds:
        die(kill_points.train_till_byte, rng.randrange(5 * size))
        book.byte_offsets += 1


def read_damaged_files(seconds: float) -> dict[str, Any]:
    """Let the fuzz tests run for about that long; return their own account."""
    account = ROOT / "results/reliability/fuzz.json"
    account.unlink(missing_ok=True)
    environment = {**os.environ, "ALEXNET_SOAK_SECONDS": str(4 * seconds)}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/faults"]
    names = ["-k", "for_minutes"]
    done = subprocess.run([*words, *names], cwd=ROOT, env=environment, check=False)
    if not account.exists():
        raise SystemExit(f"the fuzz tests ended with {done.returncode} and wrote nothing")
    told: dict[str, Any] = json.loads(account.read_text(encoding="utf-8"))
    return told


def count_cases() -> int:
    """Count the test cases that show how a fault is survived."""
    words = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "fault", "tests"]
    output = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return sum("::" in line for line in output.splitlines())


def main() -> int:
    """Do it all and write what came of it; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds, book, began = 60 * given.minutes, Book(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_dataset(Stripes(), folder / "data", size=32, workers=1)
        kill_at_random(folder / "data", folder, seconds * 0.5, book)
        print(f"{book.kills} kills at random moments, {book.lost} things lost", flush=True)
        kill_everywhere(folder / "data", folder, seconds * 0.2, book)
        print(f"{book.kills} kills in all, {book.lost} things lost", flush=True)
    fuzz = read_damaged_files(seconds * 0.25)
    result = {
        "command": f"python scripts/soak.py OUT.json --minutes {given.minutes:g}",
        "hardware": cpu_name(),
        "versions": versions(),
        "seconds": round(time.monotonic() - began),
        **vars(book),
        "lost": book.lost,
        "cases": count_cases(),
        "fuzz": fuzz,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in (*vars(book), "lost")}, indent=2))
    return int(book.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
