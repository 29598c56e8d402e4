"""Errors on a split of a data set, from one view of each image or from ten (paper, section 4.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.dataset import Dataset, Split
from alexnet.device import autocast, keep_memory, pick_device
from alexnet.errors import DataError
from alexnet.loader import read_ahead
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint import CheckpointName
from alexnet.storage.metrics_log import confusion_matrix, ranks
from alexnet.storage.run import Run
from alexnet.train.processes import ALONE, Accelerate, Team
from alexnet.transforms import Preprocessing, take_view, views

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """What a network gets wrong; every image of the split counts exactly once."""

    split: str
    images: int
    views: int
    loss: float
    """Mean of -ln(probability of the right class), after averaging over the views."""
    top1_error: float
    top5_error: float
    per_class: list[dict[str, Any]]
    """For each class: class, images, top1_error, top5_error (None without images)."""
    confusion: list[list[int]]
    """Images by true class (rows) and predicted class (columns)."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


@torch.inference_mode()
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
    device = preprocessing.mean_image.device
    pixels = torch.from_numpy(images).to(device)
    by_view = []
    for view in views(preprocessing.size, preprocessing.crop, view_count):
        with autocast(device, precision):
            logits = model(take_view(pixels, view, preprocessing))
        by_view.append(F.log_softmax(logits.cpu().double(), dim=1))
    return torch.logsumexp(torch.stack(by_view), dim=0) - math.log(view_count)


def evaluate_split(
    members: Sequence[tuple[nn.Module, Preprocessing]],
    split: Split,
    classes: list[str],
    *,
    view_count: int = 1,
    precision: str = "auto",
    progress: Progress = SILENT,
    team: Team = ALONE,
) -> Evaluation:
    """Evaluate the mean of `members` on every image of `split`; one network is a mean of one.

    Each is a network and its preprocessing, on the same device. Probabilities are averaged, as for
    the paper's "5 CNNs" (section 6.1). The ranks of a `team` share the images of each batch.
    """
    sizes = [
        min(EVALUATION_BATCH, len(split) - at) for at in range(0, len(split), EVALUATION_BATCH)
    ]
    shares = [
        np.arange(EVALUATION_BATCH * number, EVALUATION_BATCH * number + size)[team.share(size)]
        for number, size in enumerate(sizes)
    ]
    modes = [model.training for model, _ in members]
    for model, _ in members:
        model.eval()
    all_scores = []
    with progress.task(f"evaluate {split.split_name}", len(split), "images") as advance:
        for size, images in zip(sizes, read_ahead(split.read, shares), strict=True):
            team.begin(size)
            each = [
                log_probabilities(model, images, own, view_count=view_count, precision=precision)
                for model, own in members
            ]
            scores = torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))
            all_scores.append(team.collect(scores, size))
            advance(size)
    for (model, _), mode in zip(members, modes, strict=True):
        model.train(mode)
    labels = torch.from_numpy(np.array(split.labels))
    scores = torch.cat(all_scores)
    return team.from_main(lambda: _count(split.split_name, scores, labels, classes, view_count))


def evaluate_run(
    run: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    views: int = 1,
    split: str = "val",
    which: CheckpointName = "best",
    device: str = "auto",
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> Evaluation:
    """Evaluate a trained run, or the mean of several, on a split of a packed data set.

    `accelerate` makes the faster form of each network that computes; None takes them as they are.
    Raises `DataError` if the data set has other classes, or images of another size, than a run was
    trained on.
    """
    keep_memory()
    runs = [Run.open(path) for path in ([run] if isinstance(run, str | Path) else run)]
    dataset, place = Dataset(data), pick_device(device)
    for opened in runs:
        _check_fit(opened, dataset, progress)
    members = [
        (
            ALONE.network(opened.load_model(place, which), accelerate),
            opened.preprocessing.to(place),
        )
        for opened in runs
    ]
    return evaluate_split(
        members,
        dataset.split(split),
        runs[0].classes,
        view_count=views,
        precision=runs[0].settings.precision,
        progress=progress,
    )


def _check_fit(run: Run, dataset: Dataset, progress: Progress) -> None:
    if list(dataset.classes) != run.classes:
        raise DataError(f"{dataset.path} has other classes than {run.path} was trained on")
    if dataset.size != run.preprocessing.size:
        raise DataError(
            f"{dataset.path} holds images of side {dataset.size}, {run.path} was trained on "
            f"{run.preprocessing.size}: prepare it with --size {run.preprocessing.size}"
        )
    if dataset.resize != run.preprocessing.resize:
        progress.note(
            f"{run.path} takes images made square by {run.preprocessing.resize}, {dataset.path} "
            f"was made by {dataset.resize}: to measure the network as it was trained, prepare "
            f"the data with --resize {run.preprocessing.resize}"
        )


def _count(
    split: str, scores: Tensor, labels: Tensor, classes: list[str], view_count: int
) -> Evaluation:
    rank = ranks(scores, labels)
    wrong1, wrong5 = rank >= 1, rank >= 5
    per_class = []
    for index, name in enumerate(classes):
        members = labels == index
        images = int(members.sum())
        errors = [
            int(wrong[members].sum()) / images if images else None for wrong in (wrong1, wrong5)
        ]
        per_class.append(
            {"class": name, "images": images, "top1_error": errors[0], "top5_error": errors[1]}
        )
    return Evaluation(
        split=split,
        images=len(labels),
        views=view_count,
        loss=float(F.nll_loss(scores, labels)),
        top1_error=int(wrong1.sum()) / len(labels),
        top5_error=int(wrong5.sum()) / len(labels),
        per_class=per_class,
        confusion=confusion_matrix(scores.argmax(1), labels, len(classes)).tolist(),
    )
