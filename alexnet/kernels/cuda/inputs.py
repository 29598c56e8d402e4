"""What a training step takes from the host: drawn steps ahead in a thread, sent as one buffer.

Everything that differs between steps, apart from the images, is in one row of bytes: crops,
colours, labels, the seed of dropout, learning rates. So a step needs one copy to the device, and
kernels read the row's parts where they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet import randomness
from alexnet.kernels.cuda.batch import crop_table
from alexnet.kernels.cuda.update import FACTORS
from alexnet.loader import read_ahead
from alexnet.train.state import Indices, TrainState
from alexnet.transforms import AugmentParams, crop_matrices, sample_augment

ALIGNMENT = 16
"""Bytes: where each part of a row begins, so that kernels can read so many at a time."""
DRAWN_IMAGES = 2048
"""Images whose augmentation is drawn at once: NumPy's calls then cost little per step."""


class DrawnStep(NamedTuple):
    """What one step of N images takes, apart from the images and the rates, in host memory."""

    crops: NDArray[np.int32]
    """(N, 4), see `alexnet.kernels.cuda.batch.crop_table`."""
    matrices: NDArray[np.float32]
    """(N, 2, 3), see `alexnet.transforms.crop_matrices`."""
    shift: NDArray[np.float32]
    """(N, 3): what to add to red, green and blue."""
    labels: NDArray[np.int64]
    """(N,)."""
    seed: int
    """Of dropout."""

    def part(self, images: slice, seed: int) -> "DrawnStep":
        """Return the step on some of these images."""
        crops, matrices, shift, labels, _ = self
        return DrawnStep(crops[images], matrices[images], shift[images], labels[images], seed)


class StepInputs(NamedTuple):
    """The parts of a row for N images and P parameters: views of its bytes."""

    crops: Tensor
    matrices: Tensor
    shift: Tensor
    labels: Tensor
    seed: Tensor
    """(1,) int64."""
    rates: Tensor
    """(P, FACTORS) float32, see `alexnet.kernels.cuda.update`."""
    active: Tensor
    """(1,) float32: 0 for a step that changes no weight."""

    def write(self, step: DrawnStep, rates: NDArray[np.float32]) -> None:
        """Fill the row, which is in host memory, from a step of N images or fewer."""
        count = len(step.labels)
        for part, values in zip(self[:4], step[:4], strict=True):
            part.numpy()[:count] = values
        self.seed.numpy()[:] = step.seed
        self.rates.numpy()[:] = rates
        self.active.numpy()[:] = 1


@dataclass(frozen=True)
class RowLayout:
    """Where the parts of a row are, for batches of `images` and so many `parameters`."""

    images: int
    parameters: int

    @property
    def parts(self) -> StepInputs:
        """The parts as tensors on the device "meta", which have a shape and a type only."""
        n, shapes = self.images, list[tuple[torch.dtype, tuple[int, ...]]]()
        shapes += [(torch.int32, (n, 4)), (torch.float32, (n, 2, 3)), (torch.float32, (n, 3))]
        shapes += [(torch.int64, (n,)), (torch.int64, (1,))]
        shapes += [(torch.float32, (self.parameters, FACTORS)), (torch.float32, (1,))]
        return StepInputs(*(torch.empty(s, dtype=t, device="meta") for t, s in shapes))

    @property
    def bytes(self) -> int:
        """The length of a row."""
        return sum(map(_padded, self.parts))

    def views(self, row: Tensor) -> StepInputs:
        """Return the parts of a row (bytes,) uint8."""
        views, start = [], 0
        for part in self.parts:
            content = row[start : start + part.nbytes]
            views.append(content.view(part.dtype).view(part.shape))
            start += _padded(part)
        return StepInputs(*views)


def _padded(part: Tensor) -> int:
    return math.ceil(part.nbytes / ALIGNMENT) * ALIGNMENT


def drawn_step(
    params: AugmentParams, rows: Indices, labels: NDArray[np.int64], seed: int, size: int, crop: int
) -> DrawnStep:
    """Put together a step on these rows of the stored images, of side `size`; crops have `crop`."""
    crops = crop_table(params, rows, size, crop).numpy()
    return DrawnStep(crops, crop_matrices(params), params.shift, labels, seed)


def draw_ahead(state: TrainState, *, all_stored: bool) -> Iterator[DrawnStep]:
    """Yield each remaining step of the current epoch, drawn in a thread some steps ahead.

    `all_stored`: whether all images of the split are on the device, or those of one batch.
    """
    together = max(1, DRAWN_IMAGES // state.settings.batch_size)
    starts = range(0, len(state.epoch_batches), together)
    draw = partial(
        _draw,
        state,
        epoch=state.position.epoch,
        images_done=state.position.images,
        steps_done=state.position.step,
        batches=[state.epoch_batches[start : start + together] for start in starts],
        all_stored=all_stored,
    )
    return chain.from_iterable(read_ahead(draw, range(len(starts)), threads=1))


def _draw(
    state: TrainState,
    number: int,
    *,
    epoch: int,
    images_done: int,
    steps_done: int,
    batches: Sequence[Sequence[Indices]],
    all_stored: bool,
) -> list[DrawnStep]:
    """Draw successive batches at once: an image's numbers do not depend on its batch."""
    settings, preprocessing = state.epoch_settings, state.preprocessing
    done = number * len(batches[0])
    images_done += done * settings.batch_size
    indices = np.concatenate(batches[number])
    params = sample_augment(settings, preprocessing, epoch, indices, images_done)
    sizes = [len(batch) for batch in batches[number]]
    rows = indices if all_stored else np.concatenate([np.arange(size) for size in sizes])
    size, crop = preprocessing.size, preprocessing.crop
    drawn = drawn_step(params, rows, state.train.labels[indices], 0, size, crop)
    steps, end = [], 0
    for step, count in enumerate(sizes, steps_done + done + 1):
        start, end = end, end + count
        steps.append(drawn.part(slice(start, end), randomness.step_seed(settings.seed, step)))
    return steps
