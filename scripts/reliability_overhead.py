"""What checkpoints and the checks of each step cost a training, in time.

    python scripts/reliability_overhead.py results/reliability_overhead/result.json --model alexnet

Times whole steps and, in the same process, what a step does only to be safe: the length of the
gradient, reading the figures back, the watchdog and the look for signals. Then times saves:
writing, hashing, flushing and renaming. An epoch's share follows from its number of images.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from alexnet.train.step import open_steps  # noqa: E402
from data_makers import Drawn  # noqa: E402

from alexnet import train  # noqa: E402
from alexnet.dataset import Dataset  # noqa: E402
from alexnet.device import keep_memory
from alexnet.prepare import prepare_dataset  # noqa: E402
from alexnet.progress import SILENT  # noqa: E402
from alexnet.recipes import recipe  # noqa: E402
from alexnet.storage.environment import cpu_name  # noqa: E402
from alexnet.storage.run import versions  # noqa: E402
from alexnet.train.hints import StepLoss  # noqa: E402
from alexnet.train.processes import ALONE  # noqa: E402
from alexnet.train.state import Job, open_job, open_run  # noqa: E402

EPOCHS = {"imagenet": 1_281_167, "small": 3_068}
"""Images of an epoch of ImageNet, and of the data of results/small_recipe."""


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Add how long something took."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


def make_job(folder: Path, model: str, name: str, batch: int) -> Job:
    """Make a training of the paper's size on drawn images."""
    prepare_dataset(Drawn({"a": batch, "b": batch}), folder / "data", size=256, workers=1)
    dataset = Dataset(folder / "data")
    settings = replace(recipe(name), model=model, batch_size=batch)
    run, settings = open_run(folder / "run", dataset, settings, resume=False, init=None)
    device = torch.device("cpu")
    job = open_job(
        run, dataset, settings, device, SILENT, team=ALONE, accelerate=None, cache="none"
    )
    job.steps = open_steps(job)
    return job


def check_step(job: Job, look: Callable[[], None], indices: NDArray[np.int64]) -> None:
    """Do again all that a step does only to be safe."""
    norm = job.team.gradient_norm(job.model)
    reading = StepLoss(job.position.epoch, job.position.step, indices)
    job.readings.add(reading, torch.tensor(1.0), norm)
    job.readings.take(wait=True)
    look()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    steps, checks, saves = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory(dir=given.out.parent) as name:
        job = make_job(Path(name), given.model, given.recipe, given.batch)
        with train._watched(job, []) as look:
            for number in range(given.steps + 2):
                indices = np.arange(given.batch) + number % 2
                arrived = next(job.images.arrivals([indices]))
                with timed(steps):
                    train._step(job, indices, arrived)
                with timed(checks):
                    check_step(job, look, indices)
            for _ in range(5):
                with timed(saves):
                    train._write(job)
        size = max(path.stat().st_size for path in (job.run.path / "checkpoints").iterdir())
    step, check, save = (statistics.median(each[-given.steps :]) for each in (steps, checks, saves))
    rate = given.batch / step
    result = {
        "command": f"python scripts/reliability_overhead.py OUT.json --model {given.model} "
        f"--recipe {given.recipe} --batch {given.batch} --threads {given.threads}",
        "hardware": cpu_name(),
        "versions": versions(),
        "images_per_second": rate,
        "step_seconds": step,
        "check_seconds": check,
        "save_seconds": save,
        "checkpoint_bytes": size,
        "checks_share": check / step,
        "save_share": {name: save / (images / rate) for name, images in EPOCHS.items()},
        "share": {name: check / step + save / (images / rate) for name, images in EPOCHS.items()},
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["share"]))


if __name__ == "__main__":
    main()
