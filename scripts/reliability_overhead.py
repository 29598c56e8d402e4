"""Measure the time that checkpoints and the checks of each step take in a training.

    python scripts/reliability_overhead.py results/reliability_overhead/result.json --model alexnet

Times whole steps and, in the same process, the checks of a step: the gradient norm, reading the
loss back, the watchdog and the test for signals. Then times saves: writing, hashing, flushing and
renaming. The share of an epoch follows from its number of images.
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
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from data_makers import Drawn  # noqa: E402

from alexnet.dataset import Dataset  # noqa: E402
from alexnet.device import keep_memory  # noqa: E402
from alexnet.prepare import prepare_dataset  # noqa: E402
from alexnet.progress import SILENT  # noqa: E402
from alexnet.recipes import recipe  # noqa: E402
from alexnet.storage.environment import cpu_name, versions  # noqa: E402
from alexnet.storage.metrics_log import MetricsLog  # noqa: E402
from alexnet.train import _watched  # noqa: E402
from alexnet.train.loop import train_step  # noqa: E402
from alexnet.train.losses import StepLoss  # noqa: E402
from alexnet.train.opening import open_run, open_state  # noqa: E402
from alexnet.train.processes import Processes  # noqa: E402
from alexnet.train.state import Indices, TrainState  # noqa: E402

EPOCHS = {"imagenet": 1_281_167, "small": 3_068}
"""Images of an epoch of ImageNet, and of the data of results/small_recipe."""
WARMUP, SAVES = 2, 5


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Append the duration of the context to `seconds`."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


def make_state(folder: Path, model: str, name: str, batch: int) -> TrainState:
    """Make a training of images of the paper's size in `folder`/run."""
    prepare_dataset(Drawn({"a": batch, "b": batch}), folder / "data", size=256, workers=1)
    dataset = Dataset(folder / "data")
    settings = replace(recipe(name), model=model, batch_size=batch)
    path, cpu = folder / "run", torch.device("cpu")
    run, settings = open_run(path, dataset, settings, resume=False, init=None, device=cpu)
    return open_state(
        run,
        dataset,
        settings,
        cpu,
        SILENT,
        log=MetricsLog(run.path, tensorboard=False, warn=SILENT.note),
        processes=Processes(),
        accelerate=None,
        cache="none",
    )


def check_step(state: TrainState, check_in: Callable[[], None], indices: Indices) -> None:
    """Repeat the checks of a step."""
    norm = nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    step = StepLoss(state.position.epoch, state.position.step, indices)
    state.losses.add(step, (torch.tensor(1.0), norm))
    state.losses.finish()
    check_in()


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of a step, its checks and a save, and the checkpoint's size."""
    steps, checks, saves = list[float](), list[float](), list[float]()
    state = make_state(folder, options.model, options.recipe, options.batch)
    with _watched(state, folder / "run", Processes(), []) as check_in:
        for number in range(options.steps + WARMUP):
            indices = np.arange(options.batch) + number % 2
            images = next(state.batches([indices]))
            with timed(steps):
                train_step(state, indices, images)
            with timed(checks):
                check_step(state, check_in, indices)
        for _ in range(SAVES):
            state.position.step += 1
            with timed(saves):
                state.save()
    return {
        "step_seconds": statistics.median(steps[WARMUP:]),
        "check_seconds": statistics.median(checks[WARMUP:]),
        "save_seconds": statistics.median(saves),
        "checkpoint_bytes": max(
            path.stat().st_size for path in (folder / "run/checkpoints").iterdir()
        ),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as name:
        measured = measure(Path(name), options)
    step, check, save = (measured[f"{key}_seconds"] for key in ("step", "check", "save"))
    rate = options.batch / step
    save_share = {name: save / (images / rate) for name, images in EPOCHS.items()}
    result = {
        "command": f"python scripts/reliability_overhead.py OUT.json --model {options.model} "
        f"--recipe {options.recipe} --batch {options.batch} --threads {options.threads}",
        "hardware": cpu_name(),
        "versions": versions(),
        "images_per_second": rate,
        **measured,
        "checks_share": check / step,
        "save_share": save_share,
        "share": {name: check / step + share for name, share in save_share.items()},
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["share"]))


if __name__ == "__main__":
    main()
