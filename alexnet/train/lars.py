"""The optimiser LARS, for large batches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.config import OptimizerSettings
from alexnet.optim import parameter_groups

SumSquares = Callable[[Tensor], Tensor]
"""Turns squared norms of the parts of layers in this process into those of whole layers."""


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling for large batches (You, Gitman, Ginsburg 2017).

    g <- gradient + weight_decay * w;   v <- momentum * v - lr * ratio * g;   w <- w + v
    ratio = trust_coefficient * |w| / (|gradient| + weight_decay * |w|), for each layer's weight

    So a step moves no layer by more than about lr * trust_coefficient of its own norm. The ratio is
    1 for biases and for what batch normalisation learns, and where one of the two norms is 0 (as in
    the authors' Caffe). Where layers are sharded over several processes, `sum_squares` sums their
    squared norms: it takes and returns a (scaled weights, 2) tensor, weight and gradient, with a
    row for each scaled weight in the order of the groups.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        *,
        sum_squares: SumSquares | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "part": "weight"}
        super().__init__(params, defaults)
        self.trust_coefficient = trust_coefficient
        self.sum_squares = sum_squares

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient, where the rate is not 0."""
        ratios = self._ratios()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or group["lr"] == 0:
                    continue
                change = p.grad.add(p, alpha=group["weight_decay"])
                if p in ratios:
                    change.mul_(ratios[p])
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"]
                velocity.mul_(group["momentum"]).sub_(change, alpha=group["lr"])
                p.add_(velocity)

    def _ratios(self) -> dict[Tensor, Tensor]:
        """Return the ratio of each weight that is scaled, as a tensor on its device."""
        scaled = {
            p: group["weight_decay"]
            for group in self.param_groups
            for p in group["params"]
            if group["part"] == "weight" and p.ndim > 1
        }
        if not scaled:
            return {}
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in scaled]
        norms = [[torch.linalg.vector_norm(t) for t in each] for each in (scaled, gradients)]
        squares = torch.stack([torch.stack(each) for each in norms], dim=1).square()
        weight_norms, gradient_norms = (
            (self.sum_squares(squares) if self.sum_squares else squares).sqrt().unbind(1)
        )
        decays = weight_norms.new_tensor(list(scaled.values()))
        ratios = self.trust_coefficient * weight_norms / (gradient_norms + decays * weight_norms)
        usual = (weight_norms > 0) & (gradient_norms > 0)
        return dict(zip(scaled, torch.where(usual, ratios, 1.0).unbind(), strict=True))


def make_lars(
    model: nn.Sequential, settings: OptimizerSettings, sum_squares: SumSquares | None = None
) -> LARS:
    """Build the optimiser for `model`, which may hold parts of layers: see `LARS`."""
    return LARS(
        parameter_groups(model, settings),
        settings.lr,
        settings.momentum,
        trust_coefficient=settings.trust_coefficient,
        sum_squares=sum_squares,
    )
