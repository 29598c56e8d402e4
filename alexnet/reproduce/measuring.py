"""One training of an experiment, in a process of its own, and what it is judged by."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from alexnet.config import Settings
from alexnet.device import autocast
from alexnet.errors import DivergedError
from alexnet.evaluate import EVALUATION_BATCH, Evaluation, answer_batches, evaluate_run, ranks
from alexnet.kernels import accelerate
from alexnet.loader import read_ahead
from alexnet.networks.initialization import weight_layers
from alexnet.progress import Progress
from alexnet.reproduce.classical import measure_classifier
from alexnet.reproduce.filters import measure_filters
from alexnet.reproduce.transfer import measure_tap
from alexnet.storage.atomic import write_text
from alexnet.storage.run import Run
from alexnet.storage.untrusted import parse_json
from alexnet.train import train_model
from alexnet.train.state import TrainState
from alexnet.transforms import center_view

Figures = dict[str, Any]
"""Plain JSON values."""

TARGET = 0.25
"""The training error whose epoch is asked for (P figure 1)."""
GRADIENT_IMAGES = 500
FILE = "figures.json"
"""In the run: what was measured when it had ended."""


@dataclass(frozen=True)
class Training:
    """All that one training depends on; plain values, since another process does it."""

    data: Path
    run: Path
    settings: Settings
    training_error: bool
    device: str
    threads: int
    plain: bool
    classifier: str = ""
    """What learns instead of a network, see `Arm`; "" for a network."""
    features: Path | None = None
    """The folder of features for a classifier on a tap."""


def train_and_measure(training: Training) -> Figures:
    """Train, or continue, and measure; a finished training is only read."""
    file = training.run / FILE
    if file.is_file():
        found: Figures = parse_json(file.read_text(encoding="utf-8"))
        return found
    torch.set_num_threads(training.threads)
    if training.features:
        figures = measure_tap(training.data, training.features, training.classifier)
    elif training.classifier:
        figures = measure_classifier(training.data, training.classifier, training.settings.seed)
    else:
        figures = train_network(training)
    training.run.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(figures) + "\n")
    return figures


def train_network(training: Training) -> Figures:
    """Train a network, or continue, and measure it.

    A training that diverges is a finding too: its errors are 1, its epochs None.
    """
    fast = None if training.plain else accelerate
    try:
        train_model(
            training.data,
            training.run,
            training.settings,
            device=training.device,
            resume=True,
            accelerate=fast,
            measure=measure_epoch if training.training_error else None,
        )
    except DivergedError as error:
        return diverged(str(error))
    return measure_run(training, fast)


def measure_run(training: Training, fast: Callable[..., Any] | None) -> Figures:
    """Measure the errors of the weights after the last epoch."""
    evaluate = partial(
        evaluate_run, training.run, training.data, checkpoint="last", device=training.device
    )
    test = {count: evaluate(split="test", views=count, accelerate=fast) for count in (1, 10)}
    train = evaluate(split="train", accelerate=fast)
    rows = [row for row in Run.open(training.run).metrics() if row.get("kind") == "epoch"]
    return {
        "val_error": rows[-1]["top1_error"],
        "test_error": test[1].top1_error,
        "class_error": class_error(test[1]),
        "test_error_10_views": test[10].top1_error,
        "test_loss": test[1].loss,
        "train_error": train.top1_error,
        "overfitting": test[1].top1_error - train.top1_error,
        "epochs_to_25": epochs_until([row.get("train_error") for row in rows]),
        **measure_filters(training.run),
        "seconds": rows[-1]["seconds"],
        "epochs": [{name: row.get(name) for name in EPOCH} for row in rows],
    }


def measure_together(trainings: Sequence[Training], progress: Progress) -> float:
    """Measure the error of several networks, whose probabilities are averaged, with ten views.

    What has been measured is only read.
    """
    first = trainings[0]
    file = first.run / f"together_{len(trainings)}.json"
    if not file.is_file():
        found = evaluate_run(
            [each.run for each in trainings],
            first.data,
            split="test",
            views=10,
            checkpoint="last",
            device=first.device,
            accelerate=None if first.plain else accelerate,
            progress=progress,
        )
        write_text(file, json.dumps(found.top1_error) + "\n")
    return float(parse_json(file.read_text(encoding="utf-8")))


def class_error(found: Evaluation) -> float:
    """Return the mean of the errors of the classes that have images."""
    errors = [each["top1_error"] for each in found.per_class if each["images"]]
    return float(np.mean(errors))


EPOCH = ("epoch", "train_loss", "top1_error", "train_error", "gradient_norms")
"""What is kept of each epoch."""


def diverged(reason: str) -> Figures:
    """Return the figures of a training whose loss became infinite."""
    names = ("val_error", "test_error", "test_error_10_views", "class_error", "train_error")
    none: Figures = {"overfitting": 0.0, "epochs_to_25": None, "likeness": 1.0, "epochs": []}
    return {**dict.fromkeys(names, 1.0), **none, "diverged": reason}


def epochs_until(errors: list[float | None], target: float = TARGET) -> float | None:
    """Return after how many epochs the error fell to `target`, between two by interpolation."""
    before = 1.0
    for done, error in enumerate(errors):
        if error is None:
            return None
        if error <= target:
            return done + (before - target) / (before - error) if before > error else done + 1.0
        before = error
    return None


# What is measured after each epoch.


def measure_epoch(state: TrainState) -> Figures:
    """Measure the error on the training images, and the size of each layer's gradient."""
    network = state.network
    was_training = network.training
    network.eval()
    found = {"train_error": training_error(state), "gradient_norms": gradient_norms(state)}
    network.train(was_training)
    return found


def training_error(state: TrainState) -> float:
    """Return the share of training images that are classified wrongly, by their centre."""
    count = len(state.train)
    batches = np.split(np.arange(count), range(EVALUATION_BATCH, count, EVALUATION_BATCH))
    answers = answer_batches(
        state.network,
        read_ahead(state.train.read, batches),
        state.preprocessing,
        precision=state.settings.precision,
    )
    labels = torch.from_numpy(np.array(state.train.labels))
    return int((ranks(torch.cat(list(answers)), labels) >= 1).sum()) / count


def gradient_norms(state: TrainState) -> dict[str, float]:
    """Return the norm of the loss's gradient by each layer's weights, on some training images."""
    indices = np.arange(0, len(state.train), max(1, len(state.train) // GRADIENT_IMAGES))
    labels = torch.from_numpy(state.train.labels[indices]).to(state.device)
    pixels = torch.from_numpy(state.train.read(indices)).to(state.device)
    layers = weight_layers(state.model)
    with torch.enable_grad(), autocast(state.device, state.settings.precision):
        logits = state.network(center_view(pixels, state.preprocessing)).float()
        loss = F.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, [layer.get_parameter("weight") for _, layer in layers])
    return {
        name: float(gradient.norm()) for (name, _), gradient in zip(layers, gradients, strict=True)
    }
