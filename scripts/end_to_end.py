"""What reading images costs a training: its loop, fed, against its steps alone.

    python scripts/end_to_end.py DATA results/end_to_end/result.json

DATA is a packed data set. For each place where images can be kept (`--cache`), the loop of
`alexnet train` runs through BATCHES batches, and in turn the same number of steps is made on one
batch that is there already. The first round, in which images are first read, does not count. The
target is 90 % of the speed of the steps alone.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet import train
from alexnet.bench.conditions import conditions
from alexnet.dataset import Dataset
from alexnet.device import keep_memory, pick_device
from alexnet.kernels import accelerate
from alexnet.progress import SILENT
from alexnet.recipes import recipe
from alexnet.train.image_cache import Cache
from alexnet.train.processes import ALONE
from alexnet.train.state import Job, open_job, open_run
from alexnet.train.step import open_steps


def make_job(data: Path, run: Path, given: argparse.Namespace, cache: Cache) -> Job:
    """Put a training together as `alexnet train` does."""
    changes = {"model": given.model, "batch_size": given.batch}
    settings = replace(recipe(given.recipe), **changes)
    opened, settings = open_run(run, Dataset(data), settings, resume=False, init=None)
    job = open_job(
        opened, Dataset(data), settings, pick_device(given.device), SILENT,
        team=ALONE, accelerate=accelerate, cache=cache,
    )  # fmt: skip
    job.steps = open_steps(job)
    return job


def fed(job: Job, batches: int) -> float:
    """Run the loop through so many batches, and return its images per second."""
    job.position.batch = job.batches - batches  # those at the end of the epoch
    job.position.images = job.position.batch * job.settings.batch_size
    before = job.position.images
    began = time.perf_counter()
    train._train_epoch(job, lambda: None)
    train._look(job, wait=True)
    return (job.position.images - before) / (time.perf_counter() - began)


def steps_alone(job: Job, batches: int) -> float:
    """Make as many steps on one batch that is there, and return their images per second."""
    indices = np.arange(job.settings.batch_size)
    arrived = next(job.images.arrivals([indices]))
    began = time.perf_counter()
    for _ in range(batches):
        train._step(job, indices, arrived)
    train._look(job, wait=True)
    return batches * len(indices) / (time.perf_counter() - began)


def measure(job: Job, batches: int, rounds: int) -> dict[str, Any]:
    """Measure both in turn."""
    pairs = [(steps_alone(job, batches), fed(job, batches)) for _ in range(rounds + 1)][1:]
    shares = [loop / steps for steps, loop in pairs]
    return {
        "images": job.images.plan.describe(),
        "steps_alone": [round(steps, 2) for steps, _ in pairs],
        "loop": [round(loop, 2) for _, loop in pairs],
        "share": round(statistics.median(shares), 4),
        "shares": [round(share, 4) for share in shares],
    }


def main() -> None:
    """Measure every place and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    keep_memory()
    device = pick_device(given.device)
    places: tuple[Cache, ...] = ("host", "none")
    places = ("device", *places) if device.type == "cuda" else places
    found: dict[str, Any] = {}
    for place in places:
        with tempfile.TemporaryDirectory() as name:
            job = make_job(given.data, Path(name, "run"), given, place)
            found[place] = measure(job, given.batches, given.rounds)
        print(place, found[place], flush=True)
    result = {
        "command": f"python scripts/end_to_end.py DATA OUT.json --model {given.model} --recipe "
        f"{given.recipe} --batch {given.batch} --batches {given.batches} --rounds {given.rounds}",
        "data": Dataset(given.data).info["provenance"]["options"],
        **conditions(device),
        **found,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
