"""Kill trainings and damage files for minutes, and count what is lost: make soak

    python scripts/soak.py results/reliability/result.json --minutes 20

Half of the time trainings are killed at random moments and resumed until they are done. A fifth of
the time they are killed before each call that touches the disk and at random bytes of checkpoints.
A quarter of the time the fuzz tests read damaged files (tests/faults/test_files_fuzz.py).
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
from fuzzing import FUZZ_SHARE  # noqa: E402

from alexnet import cli  # noqa: E402
from alexnet.errors import AlexnetError  # noqa: E402
from alexnet.prepare import prepare_dataset  # noqa: E402
from alexnet.storage import checkpoint_store  # noqa: E402
from alexnet.storage.environment import cpu_name, versions  # noqa: E402
from alexnet.storage.metrics_log import read_metrics  # noqa: E402

MIN_KILLS = 100
TRAIN_OPTIONS = (
    *("--model=cifar10_11", "--epochs=6", "--set=batch_size=13", "--set=optimizer=adamw"),
    *("--set=lr=0.003", "--set=init=he", "--set=log_steps=1", "--set=checkpoint_steps=2"),
    "--device=cpu",
)
"""Of a training of 18 steps that saves 12 checkpoints of 11 MB."""


@dataclass
class Counts:
    """What the script did, and what was lost."""

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
        """The number of losses of any kind."""
        return self.checkpoints_lost + self.results_that_differ + self.files_left_over

    def check(self, undisturbed: Path, run: Path) -> None:
        """Compare a run that was killed and resumed with an undisturbed one."""
        different = kill_points.differences(undisturbed, run)
        left = kill_points.leftovers(run)
        self.results_that_differ += bool(different)
        self.files_left_over += len(left)
        if different or left:
            print(f"run {self.runs}: differs in {different}, leftover files {left}", flush=True)


def train(data: Path, run: Path) -> None:
    """Run the command `alexnet train` in a child."""
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.main(["train", str(data), str(run), *TRAIN_OPTIONS, "--resume"])
    os._exit(code)


def newest_step(run: Path) -> int:
    """Return the step of the last checkpoint of a run; 0 if there is no intact one."""
    try:
        return checkpoint_store.load(run, "last").position.step
    except AlexnetError:
        return 0


def steps_logged(run: Path) -> int:
    """Return the last step in the metrics of a run."""
    return max((row["step"] for row in read_metrics(run / "metrics.jsonl")), default=0)


def kill_at_random(data: Path, folder: Path, seconds: float, counts: Counts) -> None:
    """Train again and again, killed at random moments until each training is done."""
    undisturbed = folder / "undisturbed"
    assert kill_points.child(folder, train, data, undisturbed)[0] == 0
    began = time.monotonic()
    assert kill_points.child(folder, train, data, folder / "timed")[0] == 0
    duration, rng = time.monotonic() - began, random.Random(2012)
    began = time.monotonic()
    while time.monotonic() - began < seconds or counts.kills < MIN_KILLS:
        run = folder / f"run{counts.runs}"
        duration = kill_until_done(data, run, duration, rng, counts)
        counts.runs += 1
        counts.check(undisturbed, run)
        shutil.rmtree(run)


def kill_until_done(
    data: Path, run: Path, duration: float, rng: random.Random, counts: Counts
) -> float:
    """Train and kill until a training ends by itself; return how long an undisturbed one takes."""
    code, saved, started = None, 0, time.monotonic()
    while code != 0:
        process = kill_points.Child(run.parent, train, data, run)
        code = process.end(rng.uniform(0.2, 0.8) * duration)
        if code == 0 and not saved:  # it was not killed: the machine is faster than before
            duration = min(duration, time.monotonic() - started)
        now = newest_step(run)
        if now < saved:
            print(f"{run.name}: at step {saved} before, at {now} now", flush=True)
            counts.checkpoints_lost += 1
        saved = now
        if code is None:
            counts.kills += 1
            counts.steps_made_again += max(steps_logged(run) - now, 0)
        elif code:
            raise SystemExit(f"the training ended with {code}: {process.stderr()}")
    return duration


def kill_everywhere(data: Path, folder: Path, seconds: float, counts: Counts) -> None:
    """Kill before each call that touches the disk, then at random bytes of checkpoints."""
    undisturbed = kill_points.finish(data, folder / "whole")
    names = folder / "names"
    kill_points.child(folder, kill_points.list_touches, data, folder / "listed", names)
    touches = names.read_text(encoding="utf-8").split()
    began, rng = time.monotonic(), random.Random(2012)

    def kill_at(work: Callable[..., None], index: int) -> None:
        run = folder / "killed"
        code, _ = kill_points.child(folder, work, data, run, index)
        assert code == -9
        kill_points.finish(data, run)
        counts.kills += 1
        counts.runs += 1
        counts.check(undisturbed, run)
        shutil.rmtree(run)

    for index in range(len(touches)):
        kill_at(kill_points.train_till_touch, index)
        counts.steps_of_a_save += 1
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints").iterdir()) // 2
    while counts.byte_offsets < 20 or time.monotonic() - began < seconds:
        kill_at(kill_points.train_till_byte, rng.randrange(5 * size))
        counts.byte_offsets += 1


def read_damaged_files(seconds: float, results: Path) -> dict[str, Any]:
    """Run the fuzz tests for about `seconds`; return the result that they write to `results`."""
    file = results / "fuzz.json"
    file.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "ALEXNET_SOAK_SECONDS": str(seconds / FUZZ_SHARE),
        "ALEXNET_SOAK_RESULTS": str(results.resolve()),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/faults"]
    done = subprocess.run([*command, "-k", "for_minutes"], cwd=ROOT, env=environment, check=False)
    if not file.exists():
        raise SystemExit(f"the fuzz tests ended with {done.returncode} and wrote no result")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def count_cases() -> int:
    """Count the test cases that are marked with a fault."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "fault", "tests"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return sum("::" in line for line in output.splitlines())


def main() -> int:
    """Run all parts and write the result; return 1 if anything was lost or a fuzz test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds, counts, began = 60 * options.minutes, Counts(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_dataset(Stripes(), folder / "data", size=32, workers=1)
        kill_at_random(folder / "data", folder, seconds * 0.5, counts)
        print(f"{counts.kills} kills at random moments, {counts.lost} things lost", flush=True)
        kill_everywhere(folder / "data", folder, seconds * 0.2, counts)
        print(f"{counts.kills} kills in all, {counts.lost} things lost", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    fuzz = read_damaged_files(seconds * FUZZ_SHARE, options.out.parent)
    result = {
        "command": f"python scripts/soak.py OUT.json --minutes {options.minutes:g}",
        "hardware": cpu_name(),
        "versions": versions(),
        "seconds": round(time.monotonic() - began),
        **vars(counts),
        "lost": counts.lost,
        "cases": count_cases(),
        "fuzz": fuzz,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in (*vars(counts), "lost")}, indent=2))
    return int(counts.lost > 0 or fuzz["failures"] > 0)


if __name__ == "__main__":
    sys.exit(main())
