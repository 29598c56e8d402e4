"""A single process does nothing in common with others; and the reading of each step's losses."""

from collections import deque
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
from alexnet.train.losses import LossReader, StepLoss
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


def reader(device: str) -> tuple[LossReader, Position]:
    position = Position()
    return LossReader(torch.device(device), position, lambda step: f"step {step.step}"), position


def step_loss(step: int) -> StepLoss:
    return StepLoss(1, step, np.arange(step, step + 2))


def test_losses_are_read_at_once_on_a_cpu() -> None:
    losses, position = reader("cpu")
    for step, loss in enumerate([1.0, 2.0]):
        losses.add(step_loss(step), torch.tensor(loss), torch.tensor(0.5))
        position.images += 2
        assert position.loss_sum == [2.0, 6.0][step]
    assert losses.epoch_mean == 1.5
    assert losses.take_recent_mean() == 1.5
    assert losses.take_recent_mean() == 0.0


def test_losses_of_a_gpu_are_read_a_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: deque[Tensor] = deque()

    def copy_later(self: LossReader, numbers: Tensor) -> tuple[Tensor, None]:
        copied.append(numbers)
        return numbers, None

    monkeypatch.setattr(LossReader, "_copy_to_host", copy_later)
    losses, position = reader("cuda")
    losses.add(step_loss(0), torch.tensor(1.0), torch.tensor(0.5))
    position.images = 2
    assert position.loss_sum == 0
    losses.add(step_loss(1), torch.tensor(torch.nan), torch.tensor(0.5))
    position.images = 4
    assert position.loss_sum == 2
    assert losses.epoch_mean == 1.0  # of the two images whose loss has arrived
    with pytest.raises(DivergedError, match="step 1"):
        losses.finish()
    assert position.loss_sum == 2


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
