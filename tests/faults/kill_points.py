"""Small trainings that are stopped, killed or refused the disk at a chosen moment.

The training runs in a child forked from a process that has already imported torch (the
"forkserver" of multiprocessing), so that a case takes a fraction of a second. The package has no
hooks for these tests: a child counts its own calls of the C functions that touch the disk.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from step_makers import after_step
from torch import Tensor, nn

from alexnet import train
from alexnet.config import Settings
from alexnet.errors import AlexnetError
from alexnet.networks import registry as model
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.run import Run
from alexnet.train.state import Indices, TrainState

STEPS = 3
"""Of an epoch: 39 images in batches of 13."""

SETTINGS = Settings(
    model="tiny",
    epochs=2,
    batch_size=13,
    optimizer="adamw",
    lr=0.01,
    schedule="cosine",
    init="he",
    dropout=0.3,
    log_steps=2,
    checkpoint_steps=2,
)
"""Saves after steps 2, 3 (end of an epoch), 4 and, twice, 6."""


def tiny(classes: int) -> nn.Sequential:
    """Build a network with few weights and one layer of each kind that matters here."""
    return nn.Sequential(
        OrderedDict(
            input=Input(3, 24, 24),
            conv1=nn.Conv2d(3, 4, 5, stride=4),
            relu1=nn.ReLU(),
            norm1=LocalResponseNorm(size=3, alpha=1e-4, beta=0.75, k=1.0),
            flatten=nn.Flatten(),
            drop=nn.Dropout(0.5),
            fc2=nn.Linear(100, classes),
        )
    )


# Comparing two runs.

CLOCK = ("seconds", "epoch_seconds", "epoch_waited", "images_per_second", "waited_for_images")


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in CLOCK}


def state(
    run: Path, checkpoint: checkpoint_store.CheckpointName = "last"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    saved = checkpoint_store.load(run, checkpoint)
    return saved.tensors, timeless(vars(saved.position))


def rows(run: Path) -> list[dict[str, Any]]:
    return [timeless(row) for row in Run.open(run).metrics()]


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs of weights, optimiser, position and metrics, at zero tolerance."""
    found = []
    for name in ("last", "best"):
        (tensors, position), (others, other_position) = state(one, name), state(other, name)
        assert tensors.keys() == others.keys()
        found += [f"{name} {n}" for n in tensors if not torch.equal(tensors[n], others[n])]
        found += [f"{name} {n}" for n in position if position[n] != other_position[n]]
    if rows(one) != rows(other):
        found.append("metrics")
    return found


def leftovers(run: Path) -> list[str]:
    """List the files of a run that are neither known nor in its manifest."""
    named = {entry["file"] for entry in checkpoint_store.read_manifest(run)["checkpoints"]}
    known = {"run.json", "mean_image.npy", "metrics.jsonl", "checkpoints.json", "checkpoints"}
    inside = {path.name for path in (run / "checkpoints").iterdir()}
    return sorted((inside - named) | ({path.name for path in run.iterdir()} - known))


def finish(
    data: Path,
    run: Path,
    settings: Settings = SETTINGS,
    progress: Progress = SILENT,
    **options: Any,
) -> Path:
    """Start or resume a training in this process; return its directory when it is done."""
    options = {"device": "cpu", "resume": True, "progress": progress, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.MODELS, "tiny", tiny)
        train.train_model(data, run, settings, **options)
    return run


# What happened in a training.


@contextmanager
def recorded_steps() -> Iterator[list[tuple[int, int, NDArray[np.int64]]]]:
    """Record the steps made in this process: epoch, step, images."""
    made: list[tuple[int, int, NDArray[np.int64]]] = []

    def note(state: TrainState, number: int, indices: Indices) -> None:
        made.append((state.position.epoch, number, indices))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_step", after_step(note))
        yield made


def signal_in_step(number: int, patch: pytest.MonkeyPatch) -> None:
    """Send SIGINT to this process during step `number`."""

    def kill(state: TrainState, step: int, indices: Indices) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(train, "make_step", after_step(kill))


# Being killed at a chosen moment.

TOUCHES = {
    *("open", "write", "fsync", "truncate", "serialize_file", "flock"),
    *("mkdir", "rmdir", "replace", "rename", "unlink"),
}
"""The C functions that can change files, by name."""


def record_touches(last: int | None = None) -> list[str]:
    """List the calls of this process that touch the disk; kill it before call `last`, from 0."""
    names: list[str] = []

    def trace(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or isinstance(function.__self__, str):
            return  # str.replace touches nothing
        if function.__name__ in TOUCHES:
            if len(names) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            names.append(function.__name__)

    sys.setprofile(trace)
    return names


def die_at_byte(last: int) -> None:
    """Kill this process when it has written `last` bytes of checkpoints in total."""
    left = [last]

    def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        content = save(tensors, metadata)
        with path.open("wb") as file:
            file.write(content[: left[0]])
            left[0] -= len(content)
            if left[0] < 0:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    replace_attribute(checkpoint_format, "save_file", write)


# Children.


def replace_attribute(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute for the rest of this process, which is a child."""
    setattr(owner, name, value)


class Child:
    """A function that runs in a forked process, with stderr in a file."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "alexnet.train", "alexnet.cli"])

    def __init__(self, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
        self.errors = folder / "stderr.txt"
        target = (self.errors, work, *arguments)
        self.process = self.context.Process(target=_run, args=target, daemon=True)
        self.process.start()

    def end(self, seconds: float = 60.0) -> int | None:
        """Wait for the process; return its exit code, or minus the signal that killed it.

        A process that takes longer than `seconds` is killed; the result is then None.
        """
        self.process.join(seconds)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        return code

    def stderr(self) -> str:
        return self.errors.read_text(encoding="utf-8")


def child(folder: Path, work: Callable[..., None], *arguments: Any) -> tuple[int | None, str]:
    """Run a function in a child; return its exit code and stderr."""
    process = Child(folder, work, *arguments)
    return process.end(), process.stderr()


def _run(errors: Path, work: Callable[..., None], *arguments: Any) -> None:
    with errors.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    model.MODELS["tiny"] = tiny
    try:
        work(*arguments)
    except AlexnetError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)
    except Exception:  # noqa: BLE001 - the test shows it
        sys.stderr.write(traceback.format_exc())
        sys.stderr.flush()
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)


def train_in_child(data: Path, run: Path, settings: Settings = SETTINGS) -> None:
    train.train_model(data, run, settings, device="cpu", resume=True)


def train_till_touch(data: Path, run: Path, last: int) -> None:
    record_touches(last)
    train_in_child(data, run)


def list_touches(data: Path, run: Path, out: Path) -> None:
    names = record_touches()
    train_in_child(data, run)
    sys.setprofile(None)
    out.write_text("\n".join(names), encoding="utf-8")


def train_till_byte(data: Path, run: Path, last: int) -> None:
    die_at_byte(last)
    train_in_child(data, run)
