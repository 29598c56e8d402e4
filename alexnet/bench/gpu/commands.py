"""What a user of a GPU waits for: `alexnet train`, its first use of a GPU, `alexnet evaluate`.

`train_command` ran on an H200 in an earlier form, without the profile; the others have run on a CPU
only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from alexnet.bench.gpu import trace
from alexnet.bench.gpu.scale import Scale
from alexnet.bench.made_up import fill_dataset, write_dataset, write_run
from alexnet.dataset import Dataset
from alexnet.evaluate import evaluate_run
from alexnet.kernels import accelerate
from alexnet.networks.registry import input_shape
from alexnet.progress import Advance, Silent
from alexnet.recipes import recipe
from alexnet.storage.run import Run
from alexnet.train import train_model

Result = dict[str, Any]

SKIPPED_STEPS = 10
"""Steps of an epoch before its profile begins."""
SLOW_EPOCHS = (20, 10)
"""Of the CIFAR-10 networks: how long before the end the rate is divided by ten, each time."""
NAMED_KERNELS = 40
"""Kernels that a profile lists, the slowest first."""


class Notes(Silent):
    """A progress that stores its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        """Store `message`."""
        self.lines.append(message)


class ProfiledSteps(Notes):
    """A progress that also profiles some steps of one epoch of a training."""

    def __init__(self, epoch: int, steps: int, device: torch.device) -> None:
        super().__init__()
        self.epoch, self.steps, self.device = epoch, steps, device
        self.profiled = 0
        self.work: list[trace.Interval] = []
        """What the device did in these steps; on a CPU, PyTorch's operations."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Profile the epoch's steps after the first ones; every `advance` is a step."""
        if not label.startswith(f"epoch {self.epoch}/"):
            with super().task(label, total, unit) as ignore:
                yield ignore
            return
        on_gpu = self.device.type == "cuda"
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        profiler = torch_profile(activities=[activity])
        calls = 0

        def advance(count: int, text: str = "") -> None:  # noqa: ARG001 - an `Advance`
            nonlocal calls
            if calls == SKIPPED_STEPS:  # the first call of an epoch reports no step
                self._wait()
                profiler.start()
            elif calls == SKIPPED_STEPS + self.steps:
                self._stop(profiler)
            calls += 1

        yield advance

    def _stop(self, profiler: Any) -> None:
        self._wait()
        profiler.stop()
        self.profiled = self.steps
        categories = trace.DEVICE_WORK if self.device.type == "cuda" else ("cpu_op",)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(path))
            self.work = trace.read_trace(path, categories)

    def _wait(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def as_json(self) -> Result:
        """Return what the profile shows, times in milliseconds of a step."""
        per_step = 1 / 1000 / self.profiled
        names = trace.time_by_name(self.work)
        kinds = trace.time_by_kind(names)
        return {
            "steps": self.profiled,
            "idle_share": trace.idle_share(self.work),
            "busy": trace.busy_time(self.work) * per_step,
            "kinds": {name: time * per_step for name, time in kinds.items()},
            "kernels": {
                name[:160]: time * per_step for name, time in list(names.items())[:NAMED_KERNELS]
            },
        }


def train_command(scale: Scale, name: str, model: str, batch: int, images: int) -> Result:
    """Train as `alexnet train --recipe NAME`: from files, from the device's memory, and profiled.

    The rate is that of the second epoch, the first one with all images on the device. In the third
    epoch some steps are profiled, which slows their host part; so the share of the time in which
    the device is idle is also given as the profile's busy time implies at the rate measured without
    it.
    """
    batch, images = scale.batch(batch), scale.images(images)
    settings = replace(recipe(name), model=model, batch_size=batch, epochs=3)
    steps = min(scale.profiled_steps, images // batch - SKIPPED_STEPS - 1)
    notes = ProfiledSteps(3, steps, scale.device)
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "data"), Path(folder, "run")
        write_dataset(data, images, "raw", scale.side(model))
        fill_dataset(data)
        train_model(data, run, settings, device=scale.device, accelerate=accelerate, progress=notes)
        epochs = [row for row in Run.open(run).metrics() if row.get("kind") == "epoch"]
    rate, profile = epochs[1]["images_per_second"], notes.as_json()
    return {
        "rate": rate,
        "epochs": [row["images_per_second"] for row in epochs],
        "waited_for_images": epochs[1]["waited_for_images"],
        "idle_share_at_rate": 1 - profile["busy"] / 1000 * rate / batch,
        "profile": profile,
        "notes": notes.lines,
    }


def first_use(scale: Scale, caches: Path) -> Result:
    """Time `alexnet train` for two steps with an empty folder of compiled code, and again.

    `caches` is emptied first and stays filled, for the measurements that follow.
    """
    shutil.rmtree(caches, ignore_errors=True)
    batch = scale.batch(128)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "data")
        write_dataset(data, 2 * batch, "raw", scale.size)
        words = ("--recipe", "paper", "--model", scale.setup.model, "--epochs", "1")
        first, again = (
            _timed(train_words(scale, data, Path(name, run), *words, batch=batch), caches)
            for run in ("first", "again")
        )
    extra = first["seconds"] - again["seconds"]
    return {"extra_seconds": extra, "first": first, "again": again}


def train_words(scale: Scale, data: Path, run: Path, *words: str, batch: int) -> list[str]:
    """Return the command line of a training in a process of its own."""
    own = ["--device", str(scale.device), "--set", f"batch_size={batch}"]
    return [sys.executable, "-m", "alexnet", "train", str(data), str(run), *words, *own]


def _timed(command: list[str], caches: Path) -> Result:
    """Run a command with these folders of compiled code; return its seconds and its notes."""
    environment = {**os.environ, **cache_variables(caches)}
    began = time.perf_counter()
    notes = run_command(command, environment)
    return {"seconds": time.perf_counter() - began, "notes": notes}


def run_command(command: list[str], environment: dict[str, str] | None = None) -> list[str]:
    """Run a command; return the lines that it reports. Raises `RuntimeError` with the last one."""
    done = subprocess.run(  # noqa: S603 - this package itself
        command, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {' '.join(lines[-1:])}")
    return lines


def cache_variables(folder: Path) -> dict[str, str]:
    """Return the environment in which compiled code is stored below `folder`."""
    return {
        "XDG_CACHE_HOME": str(folder),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }


class TaskSeconds(Silent):
    """A progress that times its last task."""

    seconds = 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Time a task."""
        began = time.perf_counter()
        with super().task(label, total, unit) as advance:
            yield advance
        self.seconds = time.perf_counter() - began


def evaluate_command(scale: Scale, model: str, images: int) -> Result:
    """Evaluate a run as `alexnet evaluate` does, twice; the rate is the second one's."""
    progress, rates = TaskSeconds(), []
    images, size = scale.images(images), scale.side(model)
    with tempfile.TemporaryDirectory() as name:
        data, run = Path(name, "data"), Path(name, "run")
        write_dataset(data, images, "raw", size)
        fill_dataset(data)
        write_run(run, model, size)
        for _ in range(2):
            evaluate_run(
                run, data, split="train", checkpoint="last",
                device=scale.device, progress=progress, accelerate=accelerate,
            )  # fmt: skip
            rates.append(images / progress.seconds)
    return {"rate": rates[1], "first_rate": rates[0], "input": list(input_shape(model))}


def cifar10(scale: Scale, model: str, data: Path | None, run: Path) -> Result:
    """Train a CIFAR-10 network of the paper for 520 epochs; the same command continues `run`."""
    if data is None:
        return {"skipped": "give --cifar10 DATA, CIFAR-10 prepared with --size 32"}
    epochs = scale.cifar10_epochs
    drops = tuple(epochs - left for left in SLOW_EPOCHS)
    settings = replace(recipe("cifar10"), model=model, epochs=epochs, drop_epochs=drops)
    report = train_model(
        data, run, settings, device=scale.device, resume=True, accelerate=accelerate
    )
    split = "test" if "test" in Dataset(data).split_names else "val"
    errors = {
        f"top1_error_{views}_views": evaluate_run(
            run, data, split=split, views=views, checkpoint="last",
            device=scale.device, accelerate=accelerate,
        ).top1_error
        for views in (1, 10)
    }  # fmt: skip
    return {
        "rate": report.images_per_second,
        "training_seconds": report.seconds,
        "epochs": report.epochs,
        "split": split,
        **errors,
    }
