"""Is the exported network the same? Both answer the same images, and the answers are compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.dataset import Dataset, Split
from alexnet.errors import DataError
from alexnet.progress import Progress
from alexnet.storage.metrics_log import ranks
from alexnet.transforms import Preprocessing, take_view, views

Engine = Callable[[NDArray[np.uint8]], Tensor]
"""From stored images, (N, size, size, 3) uint8 RGB, to a network's answers, (N, classes)."""
Batch = tuple[NDArray[np.uint8], NDArray[np.int64] | None]
"""Images, and their labels where they are known."""

COMPARISON_BATCH = 16
RANDOM_IMAGES = 8


@dataclass(frozen=True)
class Errors:
    """What two networks get wrong on the same images, as fractions."""

    run_top1_error: float
    run_top5_error: float
    file_top1_error: float
    file_top5_error: float


@dataclass(frozen=True)
class Comparison:
    """How far the answers of a file are from those of its run."""

    images: int
    largest_difference: float
    largest_answer: float
    """The run's answer that is farthest from 0: what the difference is to be measured by."""
    errors: Errors | None
    """None where the images have no labels."""


def centre(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Cut out what a network takes: (N, 3, crop, crop) float32."""
    view = views(preprocessing.size, preprocessing.crop, 1)[0]
    return take_view(torch.from_numpy(images), view, preprocessing).contiguous()


def engine_of(
    model: nn.Module, preprocessing: Preprocessing, *, probabilities: bool = False
) -> Engine:
    """Make an engine of a network in PyTorch that gives logits, or probabilities of them."""

    @torch.inference_mode()
    def answer(images: NDArray[np.uint8]) -> Tensor:
        logits: Tensor = model(centre(images, preprocessing))
        return F.softmax(logits, dim=1) if probabilities else logits

    return answer


def compare(
    run: Engine, file: Engine, batches: Iterator[Batch], total: int, progress: Progress
) -> Comparison:
    """Let both engines answer all images."""
    difference, largest, images = 0.0, 0.0, 0
    wrong: list[Tensor] = []
    with progress.task("compare", total, "images") as advance:
        for pixels, labels in batches:
            expected, found = run(pixels).double(), file(pixels).double()
            # A NaN anywhere makes the difference NaN, which no limit allows.
            apart = (expected - found).abs().max().item()
            difference = apart if np.isnan(apart) else max(difference, apart)
            largest = max(largest, expected.abs().max().item())
            images += len(pixels)
            if labels is not None:
                right = torch.from_numpy(labels)
                rank = torch.stack([ranks(expected, right), ranks(found, right)])
                wrong.append(torch.stack([rank >= 1, rank >= 5]))
            advance(len(pixels))
    return Comparison(images, difference, largest, _errors(wrong))


def _errors(wrong: list[Tensor]) -> Errors | None:
    if not wrong:
        return None
    (run1, file1), (run5, file5) = torch.cat(wrong, dim=2).double().mean(2).tolist()
    return Errors(run1, run5, file1, file5)


class Images:
    """The images to compare on: of a data set, or made up."""

    def __init__(self, preprocessing: Preprocessing, classes: list[str], data: Path | None) -> None:
        """Open `data`, validation split first. Raises `DataError` where it does not fit the run."""
        self.size = preprocessing.size
        self.split: Split | None = None
        self.labelled = False
        if data is None:
            return
        dataset = Dataset(data)
        if dataset.size != self.size:
            raise DataError(
                f"{data} holds images of side {dataset.size}, the run takes {self.size}"
            )
        self.labelled = list(dataset.classes) == classes
        names = [name for name in ("val", "test") if name in dataset.split_names]
        self.split = dataset.split([*names, *dataset.split_names][0])

    def batches(self, count: int) -> tuple[int, Iterator[Batch]]:
        """Give the number of images and the images: `count`, spread over the split, 0 for all.

        The first batch has one image, so that a file that takes one size of batch only is noticed.
        """
        if self.split is None:
            return RANDOM_IMAGES, self._made_up()
        total = min(count or len(self.split), len(self.split))
        return total, self._stored(self.split, total)

    def _stored(self, split: Split, total: int) -> Iterator[Batch]:
        places = np.linspace(0, len(split), total, endpoint=False).astype(np.int64)
        for part in np.split(places, range(1, total, COMPARISON_BATCH)):
            yield split.read(part), split.labels[part] if self.labelled else None

    def _made_up(self) -> Iterator[Batch]:
        """Make smooth images, the same each time, that fill the range from 0 to 255."""
        generator = torch.Generator().manual_seed(2012)
        coarse = torch.rand((RANDOM_IMAGES, 3, 9, 9), generator=generator) * 255
        fine = F.interpolate(coarse, (self.size, self.size), mode="bicubic").clamp(0, 255).round()
        images = fine.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        yield images[:1], None
        yield images[1:], None
