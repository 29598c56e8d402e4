"""A single process does nothing in common with others; and the reading of each step's losses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from alexnet.errors import DivergedError
from alexnet.networks.registry import create_model
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import Position
from alexnet.train import train_model
from alexnet.train.losses import MOST_PENDING, LossReader, StepLoss
from alexnet.train.processes import Processes


def test_a_single_process_has_all_of_everything() -> None:
    alone, model = Processes(), create_model("cifar10_11", 3)
    tensors = {"model.conv1.weight": torch.ones(2)}
    assert alone.is_main
    assert alone.step is None
    assert alone.shard(model, TINY) is model
    assert alone.network(model, None) is model
    assert alone.network(model, nn.Sequential) is not model
    assert alone.input_rows(7) == slice(0, 7)
    assert alone.gather_state(tensors) is tensors
    assert alone.broadcast(lambda: 5) == 5
    assert alone.all_reduce_max(15) == 15
    assert alone.sum_squares(tensors["model.conv1.weight"], ["conv1.weight"]).sum() == 2


def reader() -> tuple[LossReader, Position]:
    position = Position()
    return LossReader(position, lambda step: f"step {step.step}"), position


def step_loss(step: int) -> StepLoss:
    return StepLoss(1, step, np.arange(step, step + 2))


@dataclass
class Later:
    """A result that comes when it is read, or when it is set."""

    loss: float
    ready: bool = False

    def is_ready(self) -> bool:
        return self.ready

    def read(self) -> tuple[float, float]:
        self.ready = True
        return self.loss, 0.5


def test_losses_are_read_at_once_on_a_cpu() -> None:
    losses, position = reader()
    for step, loss in enumerate([1.0, 2.0]):
        losses.add(step_loss(step), (torch.tensor(loss), torch.tensor(0.5)))
        position.images += 2
        assert position.loss_sum == [2.0, 6.0][step]
    assert losses.epoch_mean == 1.5
    assert losses.take_recent_mean() == 1.5
    assert losses.take_recent_mean() == 0.0


def test_losses_that_come_later_are_read_in_order_and_never_waited_for() -> None:
    losses, position = reader()
    first, second, third = (Later(loss) for loss in (1.0, 4.0, torch.nan))
    for step, result in enumerate((first, second, third)):
        losses.add(step_loss(step), result)
        position.images += 2
        second.ready = True
    assert position.loss_sum == 0, "the second waits for the first"
    first.ready = True
    losses.add(step_loss(3), Later(1.0))
    position.images += 2
    assert position.loss_sum == 10
    assert losses.epoch_mean == 2.5, "of the four images whose loss has arrived"
    assert not third.ready
    with pytest.raises(DivergedError, match="step 2"):
        losses.finish()
    assert position.loss_sum == 10


def test_a_line_of_metrics_waits_for_its_losses_and_for_no_later_one() -> None:
    losses, _ = reader()
    means: list[float] = []
    results = [Later(loss) for loss in (1.0, 3.0, 8.0)]
    for step, result in enumerate(results):
        losses.add(step_loss(step), result)
        if step == 1:
            losses.when_counted(lambda: means.append(losses.take_recent_mean()))
    assert means == []
    losses.finish()
    assert means == [2.0]
    assert losses.take_recent_mean() == 8.0
    losses.when_counted(lambda: means.append(0.0))
    assert means == [2.0, 0.0], "at once where nothing is pending"


def test_the_program_is_never_far_ahead() -> None:
    losses, _ = reader()
    results = [Later(1.0) for _ in range(MOST_PENDING + 3)]
    for step, result in enumerate(results):
        losses.add(step_loss(step), result)
    assert sum(result.ready for result in results) == 3


class PoisonedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, broken: bool) -> Tensor:
        ctx.broken = broken
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (torch.inf if ctx.broken else 1.0), None


class Poisoned(nn.Module):
    """A network whose gradient, not its loss, is infinite from its seventh step on."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model, self.steps = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        logits = self.model(x)
        poisoned: Tensor = PoisonedGradient.apply(logits, self.steps > 6)  # type: ignore[no-untyped-call]
        return poisoned


@pytest.mark.fault(29)
def test_a_gradient_that_is_not_finite_is_never_saved(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DivergedError) as caught:
        train_model(tiny_data, run, TINY, device="cpu", accelerate=Poisoned)
    message = str(caught.value)
    assert "the gradient became" in message
    assert "in step 7 (epoch 2), whose batch begins with train/" in message
    assert "the last good checkpoint is step-00000005.safetensors" in message
    saved = checkpoint_store.load(run, "last")
    assert saved.position.step == 5
    train_model(tiny_data, run, TINY, device="cpu", resume=True)
    assert checkpoint_store.load(run, "last").position.step == 10
