"""What figures are made from: a trained network, and images that fit it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.features import FEATURE_BATCH
from alexnet.dataset import Dataset, Split
from alexnet.device import DeviceName, pick_device
from alexnet.errors import DataError
from alexnet.evaluate import renumbered
from alexnet.images import Pixels
from alexnet.loader import read_ahead
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout
from alexnet.progress import SILENT, Progress
from alexnet.storage import fit
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, center_view, views

MOST_IMAGES = 5000
"""Figures that search in images take at most this many, evenly from the whole split."""

Indices = NDArray[np.int64]

_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)
_PASSED = (nn.Flatten, nn.Dropout, PaperDropout)
"""Rows that change no value in evaluation but by a constant factor."""


@dataclass(frozen=True)
class Subject:
    """A run, its network in evaluation mode, and a data set with the run's classes."""

    run: Run
    model: nn.Sequential
    preprocessing: Preprocessing
    epochs: int
    """Epochs after which the weights were saved."""
    data: Dataset
    split: Split
    """Images that were not used in training, if there are any; its labels are the run's."""
    train: Split
    """The training images, with the run's labels."""

    @property
    def titles(self) -> list[str]:
        """The display names of the run's classes."""
        return self.run.titles

    def seen(self, images: Pixels) -> Pixels:
        """Cut out of stored images what the network sees: (N, crop, crop, 3)."""
        top, left, _ = views(self.preprocessing.size, self.preprocessing.crop, 1)[0]
        crop = self.preprocessing.crop
        return images[:, top : top + crop, left : left + crop]

    def inputs(self, images: Pixels) -> Tensor:
        """Return the network's inputs for stored images: (N, 3, crop, crop), on its device."""
        pixels = torch.from_numpy(images).to(self.preprocessing.mean_image.device)
        return center_view(pixels, self.preprocessing)

    def batches(self, split: Split, indices: Indices) -> Iterator[tuple[Indices, Tensor]]:
        """Yield images' indices and the network's inputs for them, batch by batch."""
        starts = range(0, len(indices), FEATURE_BATCH)
        parts = [indices[start : start + FEATURE_BATCH] for start in starts]
        for part, images in zip(parts, read_ahead(split.read, parts), strict=True):
            yield part, self.inputs(images)

    def title(self, index: int) -> str:
        """Return the class of an image of the split."""
        return self.titles[int(self.split.labels[index])]


def open_subject(
    run: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    progress: Progress = SILENT,
) -> Subject:
    """Open a run and a data set. `split` is test by default, or else val, or else train.

    Raises `DataError` for images of other classes, or of another size, than the run was trained on.
    """
    opened, dataset, target = Run.open(run), Dataset(data), pick_device(device)
    filled = [name for name in dataset.split_names if len(dataset.split(name))]
    if not filled:
        raise DataError(f"{dataset.path} has no images")
    chosen = split or next(name for name in ("test", "val", "train") if name in filled)
    own, train = (
        dataset.split(each) for each in (chosen, "train" if "train" in filled else chosen)
    )
    labels = np.concatenate([own.labels, train.labels])
    counts = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    known, given = (opened.path, opened.classes), (dataset.path, dataset.classes)
    numbers = fit.class_numbers(known, given, counts, progress)
    ours = opened.preprocessing
    trained = (opened.path, ours.size, ours.resize, ours.orientation)
    images = (dataset.path, dataset.size, dataset.resize, dataset.orientation)
    fit.check_images(trained, images, progress)
    model, saved = opened.load(checkpoint)
    return Subject(
        run=opened,
        model=model.to(target),
        preprocessing=ours.to(target),
        epochs=len(saved.position.val_errors) or saved.position.epoch - 1,
        data=dataset,
        split=renumbered(own, numbers),
        train=renumbered(train, numbers),
    )


def evenly(total: int, count: int) -> Indices:
    """Return `count` numbers below `total`, evenly spaced; all of them if there are fewer."""
    numbers: Indices = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    return numbers


def learning_rows(model: nn.Sequential) -> list[str]:
    """List the rows whose units the figures show: those of kernels or units, and blocks of them."""
    return [
        name
        for name, row in model.named_children()
        if not isinstance(row, nn.BatchNorm2d) and any(True for _ in row.parameters())
    ]


def activation_after(model: nn.Sequential, layer: str) -> str:
    """Name the activation row that follows `layer` before the next weights, or else `layer`."""
    names = [name for name, _ in model.named_children()]
    learning = learning_rows(model)
    for name in names[names.index(layer) + 1 :]:
        if name in learning:
            break
        if isinstance(model.get_submodule(name), _ACTIVATIONS):
            return name
    return layer


def last_hidden(model: nn.Sequential) -> str:
    """Name the row whose outputs the classifier reads: relu7, the paper's last hidden layer."""
    names = [name for name, _ in model.named_children()]
    before = names[: names.index(learning_rows(model)[-1])]
    return next(n for n in reversed(before) if not isinstance(model.get_submodule(n), _PASSED))


def map_layers(model: nn.Sequential) -> list[str]:
    """List the rows with weights whose outputs are maps, not single units."""
    flat = (nn.Linear, GroupedLinear)
    return [
        name for name in learning_rows(model) if not isinstance(model.get_submodule(name), flat)
    ]


def tower_count(model: nn.Sequential) -> int:
    """Return in how many towers the network's first maps are divided: 2 in the paper, or 1."""
    groups = [layer.groups for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return max(groups, default=1)
