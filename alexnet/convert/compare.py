"""Comparing the answers of an exported network with those of its run, on the same images."""

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
from alexnet.evaluate import ranks
from alexnet.progress import Progress
from alexnet.transforms import Preprocessing, center_view

Engine = Callable[[NDArray[np.uint8]], Tensor]
"""Maps stored images, (N, size, size, 3) uint8 RGB, to a network's answers, (N, classes)."""
Batch = tuple[NDArray[np.uint8], NDArray[np.int64] | None]
"""Images, and their labels where they are known."""

COMPARISON_BATCH = 16
SYNTHETIC_IMAGES = 8


@dataclass(frozen=True)
class ErrorRates:
    """The error rates of both networks on the same images, as fractions."""

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
    """The largest absolute answer of the run, to which the difference is compared."""
    errors: ErrorRates | None
    """None where the images have no labels."""


def centre(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Cut the network's inputs out of stored images: (N, 3, crop, crop) float32."""
    return center_view(torch.from_numpy(images), preprocessing).contiguous()


def engine_of(
    model: nn.Module, preprocessing: Preprocessing, *, probabilities: bool = False
) -> Engine:
    """Make an engine of a PyTorch network that returns logits, or `probabilities`."""

    @torch.inference_mode()
    def answer(images: NDArray[np.uint8]) -> Tensor:
        logits: Tensor = model(centre(images, preprocessing))
        return F.softmax(logits, dim=1) if probabilities else logits

    return answer


def compare(
    run: Engine, file: Engine, batches: Iterator[Batch], total: int, progress: Progress
) -> Comparison:
    """Compare the answers of both engines to all images."""
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
    return Comparison(images, difference, largest, _error_rates(wrong))


def _error_rates(wrong: list[Tensor]) -> ErrorRates | None:
    if not wrong:
        return None
    (run1, file1), (run5, file5) = torch.cat(wrong, dim=2).double().mean(2).tolist()
    return ErrorRates(run1, run5, file1, file5)


class ComparisonImages:
    """The images to compare on: of a data set, or synthetic."""

    def __init__(self, preprocessing: Preprocessing, classes: list[str], data: Path | None) -> None:
        """Open the validation split of `data`, else another one.

        Raises `DataError` where the images have another size than the run's.
        """
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
        """Return the number of images, and the images: `count` of the split, 0 for all.

        The first batch has one image, to detect a file that takes a single batch size only.
        """
        if self.split is None:
            return SYNTHETIC_IMAGES, self._synthetic()
        total = min(count or len(self.split), len(self.split))
        return total, self._stored(self.split, total)

    def _stored(self, split: Split, total: int) -> Iterator[Batch]:
        indices = np.linspace(0, len(split), total, endpoint=False).astype(np.int64)
        for part in np.split(indices, range(1, total, COMPARISON_BATCH)):
            yield split.read(part), split.labels[part] if self.labelled else None

    def _synthetic(self) -> Iterator[Batch]:
        """Yield smooth images, always the same, that fill the range from 0 to 255."""
        generator = torch.Generator().manual_seed(2012)
        coarse = torch.rand((SYNTHETIC_IMAGES, 3, 9, 9), generator=generator) * 255
        fine = F.interpolate(coarse, (self.size, self.size), mode="bicubic").clamp(0, 255).round()
        images = fine.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        yield images[:1], None
        yield images[1:], None
