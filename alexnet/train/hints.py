"""Telling a person early that a training goes wrong, and what usually causes it."""

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.storage.checkpoint import read_manifest


@dataclass(frozen=True)
class StepLoss:
    """What a step's loss and the length of its gradient were."""

    epoch: int
    step: int
    indices: NDArray[np.int64]
    """The images of its batch, over all ranks."""
    loss: float = math.nan
    norm: float = math.nan

    @property
    def is_finite(self) -> bool:
        """Whether the step could be made."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class LossReader:
    """Reads the figures of each step back: before the update on a CPU, a step late on a GPU.

    A GPU computes behind the program, and would stand still if each step waited for its loss.
    """

    def __init__(self, device: torch.device) -> None:
        self._behind = 1 if device.type == "cuda" else 0
        self._waiting: deque[tuple[StepLoss, Tensor, torch.cuda.Event | None]] = deque()
        self.recent_loss, self.recent_images = 0.0, 0

    def add(self, step: StepLoss, loss: Tensor, norm: Tensor) -> None:
        """Begin to read `loss` and `norm`, two scalars, of a step."""
        numbers = torch.stack([loss, norm.to(loss.dtype)])
        self._waiting.append((step, *self._on_its_way(numbers)))

    def _on_its_way(self, numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Begin to copy numbers to where the program can look at them without waiting."""
        if not self._behind:
            return numbers, None
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return host, event

    def take(self, *, wait: bool = False) -> list[StepLoss]:
        """Return what has been read since the last call; with `wait` all that was begun."""
        taken = []
        while len(self._waiting) > (0 if wait else self._behind):
            step, numbers, event = self._waiting.popleft()
            if event:
                event.synchronize()
            loss, norm = numbers.tolist()
            taken.append(StepLoss(step.epoch, step.step, step.indices, loss, norm))
            self.recent_loss += loss * len(step.indices)
            self.recent_images += len(step.indices)
        return taken

    @property
    def images_waiting(self) -> int:
        """Images of the steps whose loss is not known yet."""
        return sum(len(step.indices) for step, _, _ in self._waiting)

    def mean_loss(self) -> float:
        """Return the mean loss of the images since the last call."""
        mean = self.recent_loss / max(self.recent_images, 1)
        self.recent_loss, self.recent_images = 0.0, 0
        return mean


def learning_hint(loss: float, step: int, classes: int, settings: Settings) -> str | None:
    """Say in one line that the network does not learn, and the usual causes; None while it does.

    Guessing costs ln(classes): a loss that stays there means that nothing is learnt, one far above
    it that the input or the rate is wrong. Asked at each logged step; a stay at guessing is told
    at 500 steps, 1,000, 2,000 and so on, for the paper's start weights may need some thousand.
    """
    guessing = math.log(classes)
    if loss > 2 * guessing + 1:
        return (
            f"step {step}: loss {loss:.2f} is far above that of guessing, ln {classes} = "
            f"{guessing:.2f}: try a lower rate (--set lr={settings.lr / 10:g}), and check that the "
            f"mean image belongs to these images"
        )
    if classes > 1 and loss > 0.99 * guessing and _is_due(step, settings.log_steps):
        return (
            f"step {step}: not learning yet: loss {loss:.3f} is that of guessing, ln {classes} = "
            f"{guessing:.3f}. The paper's start weights can wait here for some thousand steps; "
            f"else the rate is too high or too low (lr={settings.lr:g}), or the labels do not "
            f"belong to the images. --set init=he starts sooner"
        )
    return None


def _is_due(step: int, log_steps: int) -> bool:
    """Tell whether one of 500, 1000, 2000, ... lies in the last `log_steps` steps."""
    due = 500
    while due <= step - log_steps:
        due *= 2
    return due <= step


def divergence(reading: StepLoss, settings: Settings, split: Split, run: Path) -> str:
    """Say where numbers stopped being finite, what is left, and what to do."""
    what = "gradient" if math.isfinite(reading.loss) else "loss"
    value = reading.norm if math.isfinite(reading.loss) else reading.loss
    first = ", ".join(f"{split.name(int(i))} (image {i})" for i in reading.indices[:2])
    saved = read_manifest(run)["last"]
    left = f"the last good checkpoint is {saved}" if saved else "there is no checkpoint yet"
    return (
        f"the {what} became {value} in step {reading.step} (epoch {reading.epoch}), whose batch "
        f"begins with {first}; nothing of it is saved, {left}. Train again with a lower rate "
        f"(--set lr={settings.lr / 10:g}) or a limit on the gradient (--set clip_norm=1)"
    )
