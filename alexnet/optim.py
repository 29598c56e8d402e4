"""The update rule and the learning rate over time."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from alexnet.config import OptimizerSettings, ScheduleSettings, Settings
from alexnet.networks.initialization import weight_layers


class PaperSGD(Optimizer):
    """Stochastic gradient descent with momentum as the paper writes it (P 5).

    v <- momentum * v - weight_decay * lr * w - lr * gradient;   w <- w + v

    The learning rate is part of the velocity, so a drop acts on new gradients only;
    torch.optim.SGD multiplies the whole velocity by the new rate. At a constant rate both agree.
    A group whose rate is 0 does not change: no decay, no momentum (2012 code, weights.cu:148).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None or lr == 0:
                    continue
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"].mul_(group["momentum"])
                if decay:
                    velocity.add_(p, alpha=-decay * lr)
                velocity.add_(p.grad, alpha=-lr)
                p.add_(velocity)


def make_optimizer(model: nn.Sequential, settings: OptimizerSettings) -> Optimizer:
    """Build the optimiser that `settings` name, with a group for each weight and each bias.

    Raises `ValueError` for "lars", which `alexnet.train.lars` builds.
    """
    groups = parameter_groups(model, settings)
    if settings.optimizer == "lars":
        raise ValueError("lars is built by alexnet.train.lars.make_lars")
    if settings.optimizer == "paper":
        return PaperSGD(groups, settings.lr, settings.momentum)
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return SGD(groups, settings.lr, settings.momentum, nesterov=nesterov, fused=True)
    return AdamW(groups, settings.lr, betas=(settings.momentum, 0.999), fused=True)


def parameter_groups(model: nn.Sequential, settings: OptimizerSettings) -> list[dict[str, object]]:
    """Make a group for each weight and bias that learns: each may have its rate and decay."""
    groups: list[dict[str, object]] = []
    for name, layer in weight_layers(model):
        decay = settings.layer_decay.get(name, settings.weight_decay)
        for part, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = {"params": [parameter], "layer": name, "part": part}
                part_decay = decay * settings.bias_decay if part == "bias" else decay
                groups.append({**group, "weight_decay": part_decay})
    return groups


def set_learning_rates(optimizer: Optimizer, lr: float, settings: OptimizerSettings) -> None:
    """Give each group `lr` times its layer's factor and, for a bias, the factor of biases."""
    for group in optimizer.param_groups:
        factor = settings.layer_lr.get(group["layer"], 1.0)
        group["lr"] = lr * factor * (settings.bias_lr if group["part"] == "bias" else 1.0)


def learning_rate(settings: Settings, epochs_done: float, val_errors: list[float]) -> float:
    """Return the rate for the step that begins after `epochs_done` epochs (fractions count).

    `val_errors` are the top-1 errors of all epochs so far, all that the plateau rule depends on. So
    there is no state to save.
    """
    if epochs_done < settings.warmup_epochs:
        return settings.lr * epochs_done / settings.warmup_epochs
    if settings.schedule == "plateau":
        return settings.lr * 0.1 ** plateau_drops(val_errors, settings)
    if settings.schedule == "steps":
        return settings.lr * 0.1 ** sum(epochs_done >= drop for drop in settings.drop_epochs)
    done = (epochs_done - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    if settings.schedule == "poly":
        return settings.lr * (1 - done) ** 2
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def plateau_drops(val_errors: list[float], settings: ScheduleSettings) -> int:
    """Count how often the validation error has stopped falling (P 5).

    The authors lowered the rate by hand. Here the error has stopped falling after `patience_epochs`
    epochs without a new lowest value; the count of epochs then restarts.
    """
    lowest, stale, drops = math.inf, 0, 0
    for error in val_errors:
        stale = 0 if error < lowest else stale + 1
        lowest = min(lowest, error)
        if stale == settings.patience_epochs:
            drops, stale = drops + 1, 0
    return min(drops, settings.max_drops)
