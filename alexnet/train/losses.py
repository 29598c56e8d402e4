"""The losses of a training's steps, read back from the device."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.errors import DivergedError
from alexnet.storage.checkpoint_format import Position

MOST_PENDING = 64
"""Steps that may be computed behind the program; the next one waits."""


@dataclass(frozen=True)
class StepLoss:
    """The loss and gradient norm of one step."""

    epoch: int
    step: int
    indices: NDArray[np.int64]
    """The images of its batch, over all processes."""
    loss: float = math.nan
    gradient_norm: float = math.nan


class StepResult(Protocol):
    """Loss and gradient norm of a step that may still be computing, or waiting to be computed."""

    def is_ready(self) -> bool:
        """Tell whether `read` would return at once."""

    def read(self) -> tuple[float, float]:
        """Wait for both and return them."""


class _Scalars:
    """Two scalars on a device, on their way to memory that the program can read."""

    def __init__(self, loss: Tensor, gradient_norm: Tensor) -> None:
        numbers = torch.stack([loss, gradient_norm.to(loss.dtype)])
        self._event: torch.cuda.Event | None = None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        self._numbers = numbers

    def is_ready(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def read(self) -> tuple[float, float]:
        if self._event:
            self._event.synchronize()
        loss, gradient_norm = self._numbers.tolist()
        return loss, gradient_norm


class LossReader:
    """Reads each step's loss and gradient norm: at once on a CPU, when they have come on a GPU.

    A GPU computes behind the program, and would be idle if every step waited for its loss. The sums
    of the losses are kept in `position`. `explain` says what to do about a loss that is not finite.
    """

    def __init__(self, position: Position, explain: Callable[[StepLoss], str]) -> None:
        self._position, self._explain = position, explain
        self._pending: deque[tuple[StepLoss, StepResult] | Callable[[], None]] = deque()
        self._pending_images = 0

    def add(self, step: StepLoss, result: tuple[Tensor, Tensor] | StepResult) -> None:
        """Begin to read two scalars, or take their result; count all that have arrived.

        Raises `DivergedError` for a loss or gradient norm that is not finite.
        """
        if isinstance(result, tuple):
            result = _Scalars(*result)
        self._pending.append((step, result))
        self._pending_images += len(step.indices)
        while self._pending and (len(self._pending) > MOST_PENDING or self._next_is_ready()):
            self._take_next()

    def when_counted(self, act: Callable[[], None]) -> None:
        """Call `act` when the losses of all steps so far are counted, and no later one is."""
        self._pending.append(act)
        if len(self._pending) == 1:
            self._take_next()

    def finish(self) -> None:
        """Wait for all losses and count them. Raises `DivergedError` as `add` does."""
        while self._pending:
            self._take_next()

    @property
    def epoch_mean(self) -> float:
        """The mean loss of the epoch's images whose loss has arrived; 0 before the first."""
        return self._position.loss_sum / max(self._position.images - self._pending_images, 1)

    def take_recent_mean(self) -> float:
        """Return the mean loss of the images since the last call."""
        position = self._position
        mean = position.recent_loss / max(position.recent_images, 1)
        position.recent_loss, position.recent_images = 0.0, 0
        return mean

    def _next_is_ready(self) -> bool:
        entry = self._pending[0]
        return entry[1].is_ready() if isinstance(entry, tuple) else True

    def _take_next(self) -> None:
        entry = self._pending.popleft()
        if isinstance(entry, tuple):
            self._count(*entry)
        else:
            entry()

    def _count(self, step: StepLoss, result: StepResult) -> None:
        images = len(step.indices)
        self._pending_images -= images
        loss, gradient_norm = result.read()
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise DivergedError(
                self._explain(replace(step, loss=loss, gradient_norm=gradient_norm))
            )
        self._position.loss_sum += loss * images
        self._position.recent_loss += loss * images
        self._position.recent_images += images
