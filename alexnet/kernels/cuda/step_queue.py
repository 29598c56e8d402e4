"""Steps on their way to a GPU and back: collected, launched together, their results read later.

Steps wait in host memory until a launch is full. A ring of such buffers lets the host prepare steps
while the GPU computes earlier ones. A buffer is written again only when its last launch has ended,
so the GPU never reads another step's inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.kernels.cuda.inputs import DrawnStep, RowLayout, StepInputs

LANES = 3
"""Buffers: one that the GPU reads, one that waits for it, one that the host fills."""


class Event(Protocol):
    """A moment in the GPU's work, as torch.cuda.Event."""

    def query(self) -> bool:
        """Tell whether it has come."""

    def synchronize(self) -> None:
        """Wait for it."""


class Past:
    """The event of work that is done when its call returns, as on a CPU."""

    def query(self) -> bool:
        """Return True."""
        return True

    def synchronize(self) -> None:
        """Return at once."""


@dataclass
class Launch:
    """Steps that are launched together."""

    inputs: Tensor
    """(steps, bytes) uint8, pinned: a row for each."""
    results: Tensor
    """(steps, 2) float32, pinned: loss and gradient norm of each."""
    images: list[int] = field(default_factory=list)
    """How many each step has; as long as there are steps."""
    done: Event | None = None
    """None until the launch."""
    values: list[list[float]] | None = None
    """The results, once they were read."""

    def read(self) -> list[list[float]]:
        """Wait for the results and return them."""
        if self.values is None:
            assert self.done is not None  # noqa: S101 - callers launch first
            self.done.synchronize()
            self.values = self.results.tolist()
        return self.values


@dataclass(frozen=True)
class QueuedStep:
    """The results of a step of a `StepQueue`: an `alexnet.train.losses.StepResult`."""

    queue: "StepQueue"
    launch: Launch
    row: int

    def is_ready(self) -> bool:
        """Tell whether `read` would return at once."""
        done = self.launch.done
        return done is not None and (self.launch.values is not None or done.query())

    def read(self) -> tuple[float, float]:
        """Return loss and gradient norm; launch the step if it still waits for others."""
        if self.launch.done is None:
            self.queue.flush()
        loss, norm = self.launch.read()[self.row]
        return loss, norm


class StepQueue:
    """Collects steps and launches so many `together`.

    `launch` starts the work of a `Launch`, from inputs to results, and returns the event of its
    end.
    """

    def __init__(
        self,
        launch: Callable[[Launch], Event],
        layout: RowLayout,
        together: int,
        *,
        pinned: bool,
    ) -> None:
        self.together, self._launch = together, launch
        shape = (LANES, together, layout.bytes)
        self._inputs = torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)
        self._results = torch.zeros(LANES, together, 2, pin_memory=pinned)
        self._rows: list[list[StepInputs]] = [[*map(layout.views, lane)] for lane in self._inputs]
        self._launches: list[Launch | None] = [None] * LANES
        self._lane = 0

    def add(self, step: DrawnStep, rates: NDArray[np.float32]) -> QueuedStep:
        """Append a step; launch all that wait if these are enough."""
        launch = self._launches[self._lane]
        if launch is None or launch.done is not None:
            if launch is not None:
                launch.read()  # waits until the GPU has used the buffer
            launch = Launch(self._inputs[self._lane], self._results[self._lane])
            self._launches[self._lane] = launch
        row = len(launch.images)
        self._rows[self._lane][row].write(step, rates)
        launch.images.append(len(step.labels))
        if len(launch.images) == self.together:
            self.flush()
        return QueuedStep(self, launch, row)

    def flush(self) -> None:
        """Launch the steps that wait, if there are any."""
        launch = self._launches[self._lane]
        if launch is None or launch.done is not None:
            return
        launch.done = self._launch(launch)
        self._lane = (self._lane + 1) % LANES
