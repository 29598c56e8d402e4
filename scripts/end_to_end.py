"""What reading images costs a training: its loop, with reading, against its steps alone.

    python scripts/end_to_end.py DATA results/end_to_end/result.json

DATA is a packed data set. For each place where images can be cached (`--cache`), the loop of
`alexnet train` runs through BATCHES batches, and in turn the same number of steps is made on one
batch that is on the device. The first round, which reads the images first, does not count. The
target is 90 % of the speed of the steps alone.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.bench.gpu.commands import Notes
from alexnet.bench.report import conditions, ratio, save_json
from alexnet.bench.timing import Candidate, LocalTimer, Rounds, measure
from alexnet.dataset import Dataset
from alexnet.device import keep_memory, pick_device
from alexnet.kernels import accelerate
from alexnet.progress import SILENT
from alexnet.recipes import recipe
from alexnet.storage.metrics_log import MetricsLog
from alexnet.train import make_step
from alexnet.train.image_cache import Cache
from alexnet.train.loop import train_epoch
from alexnet.train.losses import StepLoss
from alexnet.train.opening import open_run, open_state
from alexnet.train.processes import Processes
from alexnet.train.state import Step, TrainState


def open_training(run: Path, given: argparse.Namespace, cache: Cache, notes: Notes) -> TrainState:
    """Open a training as `alexnet train` does."""
    changes = {"model": given.model, "batch_size": given.batch}
    settings = replace(recipe(given.recipe), **changes)
    dataset = Dataset(given.data)
    device = pick_device(given.device)
    opened, settings = open_run(run, dataset, settings, resume=False, init=None, device=device)
    return open_state(
        opened, dataset, settings, device, notes,
        log=MetricsLog(opened.path), processes=Processes(),
        accelerate=accelerate, cache=cache,
    )  # fmt: skip


def run_loop(state: TrainState, step: Step, batches: int) -> None:
    """Run the loop through so many batches, those at the end of the epoch."""
    state.position.batch = state.steps_per_epoch - batches
    state.position.images = state.position.batch * state.settings.batch_size
    train_epoch(state, step, lambda: None)


def run_steps(state: TrainState, step: Step, batches: int) -> None:
    """Make as many steps on one batch that is on the device."""
    indices = np.arange(state.settings.batch_size)
    images = next(state.batches([indices]))
    state.epoch_batches = [indices] * batches
    for number in range(batches):
        state.losses.add(StepLoss(1, number, indices), step(indices, images))
    state.losses.finish()


def compare(given: argparse.Namespace, cache: Cache) -> dict[str, Any]:
    """Measure both in turn."""
    notes = Notes()
    with tempfile.TemporaryDirectory() as name:
        state = open_training(Path(name, "run"), given, cache, notes)
        step, batches = make_step(state, Processes()), given.batches
        full = state.settings.batch_size
        in_loop = len(state.train) - (state.steps_per_epoch - batches) * full

        def candidate(key: str, work: Any, images: int) -> Candidate:
            def start() -> LocalTimer:
                return LocalTimer(lambda: work(state, step, batches), state.device)

            return Candidate(key, key, start, images)

        candidates = [
            candidate("steps alone", run_steps, batches * full),
            candidate("loop", run_loop, in_loop),
        ]
        alone, loop = measure(cache, candidates, Rounds(given.rounds, 0.0, 1), SILENT)
    share = ratio(loop, alone)
    if share is None:
        raise SystemExit(f"--cache {cache}: {alone.note or loop.note}")
    return {
        "training": notes.lines[-1],
        "steps_alone": [round(rate, 2) for rate in alone.rates],
        "loop": [round(rate, 2) for rate in loop.rates],
        "share": round(share, 4),
        "shares": [round(a / b, 4) for a, b in zip(loop.rates, alone.rates, strict=True)],
    }


def main() -> None:
    """Measure every kind of cache and write."""
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
    caches: tuple[Cache, ...] = ("host", "none")
    caches = ("device", *caches) if device.type == "cuda" else caches
    found: dict[str, Any] = {}
    for cache in caches:
        found[cache] = compare(given, cache)
        print(cache, found[cache], flush=True)
    result = {
        "command": f"python scripts/end_to_end.py DATA OUT.json --model {given.model} --recipe "
        f"{given.recipe} --batch {given.batch} --batches {given.batches} --rounds {given.rounds}",
        "data": Dataset(given.data).info["provenance"]["options"],
        **conditions(device),
        **found,
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
