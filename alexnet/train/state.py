"""What a training works with, complete when it is made (`alexnet.train.opening`)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.evaluate import Evaluation
from alexnet.images.yuv420 import from_yuv420
from alexnet.progress import Progress
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.metrics_log import Row
from alexnet.train.losses import LossReader, StepResult
from alexnet.transforms import Preprocessing

Indices = NDArray[np.int64]
PixelFormat = Literal["rgb", "yuv420"]


@dataclass(frozen=True)
class DeviceBatch:
    """The images of a batch on the device, as bytes."""

    rows: Tensor
    """(M, bytes of an image) uint8: those of the batch, or all that the device stores."""
    at: Indices | None
    """(B,) which rows are the batch's; None: all of them."""
    side: int
    """Of the images, in pixels."""
    pixel_format: PixelFormat = "rgb"

    def pixels(self) -> Tensor:
        """Return the images (B, side, side, 3) uint8 RGB."""
        rows = self.rows
        if self.at is not None:
            rows = rows[torch.from_numpy(self.at).to(rows.device)]
        if self.pixel_format == "yuv420":
            return from_yuv420(rows, self.side)
        return rows.view(-1, self.side, self.side, 3)


Step = Callable[[Indices, DeviceBatch], tuple[Tensor, Tensor] | StepResult]
"""Updates the weights by a batch; returns its mean loss and the gradient's norm, two scalars.

The first argument are the indices (B,) of the batch's images in the training split. A step that
returns a `StepResult` may be computed later: when others have joined it, or the result is read.
"""


@dataclass
class TrainState:
    """A training between two steps."""

    settings: Settings
    epoch_settings: Settings
    """Those of the current epoch: with the overrides made."""
    device: torch.device
    train: Split
    batches: Callable[[Sequence[Indices]], Iterator[DeviceBatch]]
    """Reads batches of the training split ahead of their use: the rows of this process."""
    preprocessing: Preprocessing
    model: nn.Sequential
    """This process's part of the network, or all of it: what learns and is saved."""
    network: nn.Module
    """What computes it; it shares the parameters."""
    optimizer: Optimizer
    position: Position
    losses: LossReader
    evaluate: Callable[..., Evaluation] | None
    """Evaluates the validation split, if there is one; `on_batch` is called after each batch."""
    save: Callable[[], None]
    """Writes a checkpoint, after the metrics that belong to it. Raises `StorageError`."""
    log: Callable[[Row], None]
    """Adds a line to metrics.jsonl, and warns of a network that does not learn."""
    progress: Progress
    precision: str = "auto"
    """In which a step computes: that of the settings, or what was measured to be faster."""
    epoch_batches: Sequence[Indices] = ()
    """The images of each batch of the current epoch, from where this process began with it."""
    measure: Callable[["TrainState"], Row] = lambda _: {}
    """Returns what an epoch's line of metrics.jsonl is to have besides."""
    failed_saves: int = 0
    """In a row."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch; the last one takes the remaining images."""
        return math.ceil(len(self.train) / self.settings.batch_size)
