"""A team of one does nothing of its own; and the guard over each step's figures."""

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
from alexnet.storage import checkpoint
from alexnet.train import train_model
from alexnet.train.hints import LossReader, StepLoss
from alexnet.train.processes import ALONE


def test_a_process_alone_has_all_of_everything() -> None:
    model = create_model("cifar10_11", 3)
    tensors = {"model.conv1.weight": torch.ones(2)}
    assert ALONE.is_main
    assert ALONE.localize(model, TINY) is model
    assert ALONE.network(model, None) is model
    assert ALONE.network(model, nn.Sequential) is not model
    assert ALONE.share(7) == ALONE.answered(7) == slice(0, 7)
    assert ALONE.whole(tensors) is tensors
    assert ALONE.from_main(lambda: 5) == 5
    assert ALONE.agree(15) == 15
    assert ALONE.total(tensors["model.conv1.weight"]) is tensors["model.conv1.weight"]


def test_the_length_of_the_gradient_is_that_of_all_of_it() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    model(torch.tensor([[3.0, 4.0]])).sum().backward()  # gradients 3, 4 and 1
    assert float(ALONE.gradient_norm(model)) == pytest.approx(26**0.5)


def reading(step: int) -> StepLoss:
    return StepLoss(1, step, np.arange(step, step + 2))


def test_figures_are_read_at_once_on_a_cpu() -> None:
    readings = LossReader(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0]):
        readings.add(reading(step), torch.tensor(loss), torch.tensor(0.5))
        assert [(each.loss, each.norm) for each in readings.take()] == [(loss, 0.5)]
        assert readings.images_waiting == 0
    assert readings.mean_loss() == 1.5
    assert readings.mean_loss() == 0.0


def test_figures_of_a_gpu_are_read_a_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    on_its_way: deque[Tensor] = deque()

    def copy_later(self: LossReader, numbers: Tensor) -> tuple[Tensor, None]:
        on_its_way.append(numbers)
        return numbers, None

    monkeypatch.setattr(LossReader, "_on_its_way", copy_later)
    readings = LossReader(torch.device("cuda"))
    readings.add(reading(0), torch.tensor(1.0), torch.tensor(0.5))
    assert readings.take() == []
    assert readings.images_waiting == 2
    readings.add(reading(1), torch.tensor(torch.nan), torch.tensor(0.5))
    assert [each.step for each in readings.take()] == [0]
    (last,) = readings.take(wait=True)
    assert last.step == 1
    assert not last.is_finite


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
def test_a_gradient_that_is_not_finite_is_not_applied(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DivergedError) as caught:
        train_model(tiny_data, run, TINY, device="cpu", accelerate=Poisoned)
    told = str(caught.value)
    assert "the gradient became" in told
    assert "in step 7 (epoch 2), whose batch begins with train/" in told
    assert "the last good checkpoint is step-00000005.safetensors" in told
    saved = checkpoint.load(run, "last")
    assert saved.position.step == 5
    train_model(tiny_data, run, TINY, device="cpu", resume=True)
    assert checkpoint.load(run, "last").position.step == 10
