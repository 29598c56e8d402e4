"""The losses of a training's steps, read back from the device."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.errors import DivergedError
from alexnet.storage.checkpoint_format import Position


@dataclass(frozen=True)
class StepLoss:
    """The loss and gradient norm of one step."""

    epoch: int
    step: int
    indices: NDArray[np.int64]
    """The images of its batch, over all processes."""
    loss: float = math.nan
    gradient_norm: float = math.nan


class LossReader:
    """Reads each step's loss and gradient norm: at once on a CPU, one step later on a GPU.

    A GPU computes behind the program, and would be idle if every step waited for its loss. The sums
    of the losses are kept in `position`. `explain` says what to do about a loss that is not finite.
    """

    def __init__(
        self, device: torch.device, position: Position, explain: Callable[[StepLoss], str]
    ) -> None:
        self._delay = 1 if device.type == "cuda" else 0
        self._pending: deque[tuple[StepLoss, Tensor, torch.cuda.Event | None]] = deque()
        self._position, self._explain = position, explain

    def add(self, step: StepLoss, loss: Tensor, gradient_norm: Tensor) -> None:
        """Begin to read two scalars; count those of earlier steps that have arrived.

        Raises `DivergedError` for a loss or gradient norm that is not finite.
        """
        numbers = torch.stack([loss, gradient_norm.to(loss.dtype)])
        self._pending.append((step, *self._copy_to_host(numbers)))
        while len(self._pending) > self._delay:
            self._read_next()

    def finish(self) -> None:
        """Wait for all losses and count them. Raises `DivergedError` as `add` does."""
        while self._pending:
            self._read_next()

    @property
    def epoch_mean(self) -> float:
        """The mean loss of the epoch's images whose loss has arrived; 0 before the first."""
        pending = sum(len(step.indices) for step, _, _ in self._pending)
        return self._position.loss_sum / max(self._position.images - pending, 1)

    def take_recent_mean(self) -> float:
        """Return the mean loss of the images since the last call."""
        position = self._position
        mean = position.recent_loss / max(position.recent_images, 1)
        position.recent_loss, position.recent_images = 0.0, 0
        return mean

    def _copy_to_host(self, numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Begin to copy numbers to memory that the program can read without waiting."""
        if not self._delay:
            return numbers, None
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return host, event

    def _read_next(self) -> None:
        step, numbers, event = self._pending.popleft()
        if event:
            event.synchronize()
        loss, gradient_norm = numbers.tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise DivergedError(
                self._explain(replace(step, loss=loss, gradient_norm=gradient_norm))
            )
        images = len(step.indices)
        self._position.loss_sum += loss * images
        self._position.recent_loss += loss * images
        self._position.recent_images += images
