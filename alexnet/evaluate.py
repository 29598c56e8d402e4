"""Errors on a split of a data set, from one view of each image or from ten (P 4.1)."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.dataset import Dataset, Split
from alexnet.device import DeviceName, autocast, keep_memory, pick_device
from alexnet.loader import read_ahead
from alexnet.progress import SILENT, Progress
from alexnet.storage import fit
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, take_view, views

EVALUATION_BATCH = 128
"""Images evaluated at a time."""

Accelerate = Callable[[nn.Sequential], nn.Module]
"""Makes a faster module that computes what a network does, with the same parameters."""
Batches = Iterable[NDArray[np.uint8]]
"""Each (N, size, size, 3)."""


@runtime_checkable
class Capturable(Protocol):
    """An accelerated network that can capture how it answers a batch, and replay that."""

    def capture_answers(
        self, compute: Callable[..., Tensor], note: Callable[[str], None], **options: Any
    ) -> Callable[[Batches], Iterator[Tensor]] | None:
        """Return what yields `compute(network, pixels, **options)` of batches, on the CPU.

        The weights are those of this moment. None if the network cannot capture.
        """


@dataclass(frozen=True)
class Evaluation:
    """The errors of a network; every image of the split counts exactly once."""

    split: str
    images: int
    views: int
    loss: float
    """Mean of -ln(probability of the right class), after averaging over the views."""
    top1_error: float
    top5_error: float
    per_class: list[dict[str, Any]] = field(repr=False)
    """For each class: class, images, top1_error, top5_error (None without images)."""
    confusion: list[list[int]] = field(repr=False)
    """Images by true class (rows) and predicted class (columns)."""
    subset: "Evaluation | None" = None
    """The same figures among the data's classes alone, if they are a part of the network's."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "subset": self.subset.as_json() if self.subset else None}


def log_probabilities(
    model: nn.Module,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    view_count: int = 1,
    precision: str = "auto",
) -> Tensor:
    """Return the logarithm of each class's probability, the mean over views: (N, classes) float64.

    `images` are (N, size, size, 3) uint8; `model` and `preprocessing` are on the same device.
    Probabilities are averaged, not logits (2012 code, layer.cu:1809-1822).
    """
    pixels = torch.from_numpy(images).to(preprocessing.mean_image.device)
    return mean_over_views(view_logits(model, pixels, preprocessing, view_count, precision).cpu())


@torch.inference_mode()
def view_logits(
    model: nn.Module, pixels: Tensor, preprocessing: Preprocessing, view_count: int, precision: str
) -> Tensor:
    """Return the logits of each view, (views, N, classes), of images that are on the device."""
    logits = []
    for view in views(preprocessing.size, preprocessing.crop, view_count):
        with autocast(pixels.device, precision):
            logits.append(model(take_view(pixels, view, preprocessing)))
    return torch.stack(logits)


def mean_over_views(logits: Tensor) -> Tensor:
    """Turn (views, N, classes) into the logarithm of mean probabilities, (N, classes) float64."""
    return mean_of(list(logits.double().log_softmax(2)))


def answer_batches(
    model: nn.Module,
    batches: Batches,
    preprocessing: Preprocessing,
    *,
    view_count: int = 1,
    precision: str = "auto",
    note: Callable[[str], None] = SILENT.note,
) -> Iterator[Tensor]:
    """Yield the `log_probabilities` of each batch, in order, with `model` in evaluation mode.

    A network that captures its work takes some batches more than it has answered. `note` receives a
    line if that fails.
    """
    options: dict[str, Any] = {"view_count": view_count, "precision": precision}
    if isinstance(model, Capturable):
        captured = model.capture_answers(view_logits, note, preprocessing=preprocessing, **options)
        if captured:
            return map(mean_over_views, captured(batches))
    return (log_probabilities(model, images, preprocessing, **options) for images in batches)


def mean_of(each: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of probabilities that are given as logarithms."""
    return torch.logsumexp(torch.stack(list(each)), dim=0) - math.log(len(each))


def evaluate_split(
    members: Sequence[tuple[nn.Module, Preprocessing]],
    split: Split,
    classes: list[str],
    *,
    among: Sequence[int] = (),
    view_count: int = 1,
    precision: str = "auto",
    progress: Progress = SILENT,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate the mean of `members` on every image of `split`; one network is a mean of one.

    Each member is a network and its preprocessing, on the same device. Probabilities are averaged,
    as for the paper's "5 CNNs" (P 6.1). `on_batch` is called after each batch. `among` are numbers
    of classes, in order, for `Evaluation.subset`.
    """
    was_training = [model.training for model, _ in members]
    for model, _ in members:
        model.eval()
    scores = []
    batches = np.split(np.arange(len(split)), range(EVALUATION_BATCH, len(split), EVALUATION_BATCH))
    options: dict[str, Any] = {"view_count": view_count, "precision": precision}
    answers = [
        answer_batches(model, images, own, **options, note=progress.note)
        for (model, own), images in zip(
            members, tee(read_ahead(split.read, batches), len(members)), strict=True
        )
    ]
    with progress.task(f"evaluate {split.split_name}", len(split), "images") as advance:
        for each in zip(*answers, strict=True):
            scores.append(mean_of(each))
            on_batch()
            advance(len(scores[-1]))
    for (model, _), mode in zip(members, was_training, strict=True):
        model.train(mode)
    return count_errors(split, torch.cat(scores), classes, view_count, among)


def evaluate_run(
    run: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    views: int = 1,
    split: str = "val",
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> Evaluation:
    """Evaluate a trained run, or the mean of several, on a split of a packed data set.

    Classes are matched by name; the data may have a part of the network's. `accelerate` makes the
    faster form of each network that computes; None uses them as they are.
    Raises `DataError` if the data set has images of other classes, or of another size, than a run
    was trained on, and for runs of different classes.
    """
    keep_memory()
    runs = [Run.open(path) for path in ([run] if isinstance(run, str | Path) else run)]
    dataset, target = Dataset(data), pick_device(device)
    own, first = dataset.split(split), runs[0]
    counts = np.bincount(own.labels, minlength=len(dataset.classes)).tolist()
    images = (dataset.path, dataset.size, dataset.resize, dataset.orientation)
    known, given = (first.path, first.classes), (dataset.path, dataset.classes)
    numbers = fit.class_numbers(known, given, counts, progress)
    members = []
    for opened in runs:
        ours = opened.preprocessing
        trained = (opened.path, ours.size, ours.resize, ours.orientation)
        fit.check_images(trained, images, progress)
        order = fit.same_classes(known, (opened.path, opened.classes))
        model = opened.load_model(target, checkpoint)
        computes = accelerate(model) if accelerate else model
        if order != sorted(order):
            computes.register_forward_hook(lambda _, __, logits, order=order: logits[:, order])
        members.append((computes, ours.to(target)))
    return evaluate_split(
        members,
        renumbered(own, numbers),
        first.classes,
        among=fit.subset_of(len(first.classes), numbers),
        view_count=views,
        precision=first.settings.precision,
        progress=progress,
    )


def renumbered(split: Split, numbers: Sequence[int]) -> Split:
    """Return `split` with `numbers[i]` for each label i."""
    other = copy(split)
    other.labels = np.array(numbers)[split.labels]
    return other


def count_errors(
    split: Split, scores: Tensor, classes: list[str], view_count: int, among: Sequence[int] = ()
) -> Evaluation:
    """Count the errors of `scores` (N, classes), the log probabilities of a split's images.

    `among` are numbers of classes, in order: the errors are counted among these alone as well.
    """
    subset = None
    if among:
        part = renumbered(split, np.searchsorted(among, np.arange(len(classes))).tolist())
        names = [classes[number] for number in among]
        subset = count_errors(part, scores[:, among].log_softmax(1), names, view_count)
    labels = torch.from_numpy(np.array(split.labels))
    rank = ranks(scores, labels)
    wrong1, wrong5 = rank >= 1, rank >= 5
    per_class = []
    for index, name in enumerate(classes):
        mine = labels == index
        images = int(mine.sum())
        top1, top5 = (
            int(wrong[mine].sum()) / images if images else None for wrong in (wrong1, wrong5)
        )
        per_class.append({"class": name, "images": images, "top1_error": top1, "top5_error": top5})
    return Evaluation(
        split=split.split_name,
        images=len(labels),
        views=view_count,
        loss=float(F.nll_loss(scores, labels)),
        top1_error=int(wrong1.sum()) / len(labels),
        top5_error=int(wrong5.sum()) / len(labels),
        per_class=per_class,
        confusion=confusion_matrix(scores.argmax(1), labels, len(classes)).tolist(),
        subset=subset,
    )


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many other classes score at least as high as the right one: (N,), 0 is best.

    A tie or a NaN counts as an error: a network that gives all classes the same score is always
    wrong.
    """
    right = scores.gather(1, labels[:, None])
    return (~(scores < right)).sum(1) - 1


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count images by true class (rows) and predicted class (columns): (classes, classes)."""
    cells = torch.bincount(labels * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)
