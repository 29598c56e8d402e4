"""The update rule, the learning rate over time, and the start weights of the small recipe."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from alexnet.config import Settings
from alexnet.networks.registry import weight_layers

Total = Callable[[Tensor], Tensor]
"""Makes squared norms of whole layers from those of the parts that this process holds."""


class PaperSGD(Optimizer):
    """Stochastic gradient descent with momentum as the paper writes it (section 5).

    v <- momentum * v - weight_decay * lr * w - lr * gradient;   w <- w + v

    The learning rate is part of the velocity, so a drop acts on new gradients only;
    torch.optim.SGD multiplies the whole velocity by the new rate. At a constant rate both agree.
    A group whose rate is 0 stands still: no decay, no momentum (2012 code, weights.cu:148).
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
            params = [p for p in group["params"] if p.grad is not None]
            if not params or group["lr"] == 0:
                continue
            for p in params:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in params]
            gradients = [p.grad for p in params]
            lr, decay = group["lr"], group["weight_decay"]
            torch._foreach_mul_(velocities, group["momentum"])
            if decay:
                torch._foreach_add_(velocities, params, alpha=-decay * lr)
            torch._foreach_add_(velocities, gradients, alpha=-lr)
            torch._foreach_add_(params, velocities)


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling for large batches (You, Gitman, Ginsburg 2017).

    g <- gradient + weight_decay * w;   v <- momentum * v - lr * ratio * g;   w <- w + v
    ratio = trust_coefficient * |w| / (|gradient| + weight_decay * |w|), for each layer's weight

    So a step moves no layer by more than about lr * trust_coefficient of its own length. The ratio
    is 1 for biases and for what batch normalisation learns, and where one of the two norms is 0
    (as in the authors' Caffe). Where layers are cut over several processes, `total` sums their
    squared norms: it takes and returns a (scaled weights, 2) tensor, weight and gradient, with a
    row for each scaled weight in the order of the groups, in every step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        *,
        total: Total | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "part": "weight"}
        super().__init__(params, defaults)
        self.trust_coefficient = trust_coefficient
        self.total = total

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
        norms = [torch._foreach_norm(list(scaled)), torch._foreach_norm(gradients)]
        squares = torch.stack([torch.stack(each) for each in norms], dim=1).square()
        lengths, slopes = (self.total(squares) if self.total else squares).sqrt().unbind(1)
        decays = lengths.new_tensor(list(scaled.values()))
        ratios = self.trust_coefficient * lengths / (slopes + decays * lengths)
        usual = (lengths > 0) & (slopes > 0)
        return dict(zip(scaled, torch.where(usual, ratios, 1.0).unbind(), strict=True))


def make_optimizer(
    model: nn.Sequential, settings: Settings, total: Total | None = None
) -> Optimizer:
    """Build the optimiser that `settings` ask for, with a group for each rate and decay.

    `total` is for a `model` that holds parts of layers: see `LARS`, the only one that needs it.
    """
    groups = _groups(model, settings)
    if settings.optimizer == "lars":
        trust = settings.trust_coefficient
        return LARS(groups, settings.lr, settings.momentum, trust_coefficient=trust, total=total)
    if settings.optimizer == "paper":
        return PaperSGD(groups, settings.lr, settings.momentum)
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return SGD(groups, settings.lr, settings.momentum, nesterov=nesterov, fused=True)
    return AdamW(groups, settings.lr, betas=(settings.momentum, 0.999), fused=True)


def _groups(model: nn.Sequential, settings: Settings) -> list[dict[str, object]]:
    """Make one group for each layer's weight and bias, since each may have its rate and decay."""
    groups: list[dict[str, object]] = []
    for name, layer in weight_layers(model):
        decay = settings.layer_decay.get(name, settings.weight_decay)
        for part, part_decay in (("weight", decay), ("bias", decay * settings.bias_decay)):
            parameter = layer.get_parameter(part)
            groups.append(
                {"params": [parameter], "layer": name, "part": part, "weight_decay": part_decay}
            )
    return groups


def set_learning_rates(optimizer: Optimizer, lr: float, settings: Settings) -> None:
    """Give each group `lr` times the factors of its layer and, for biases, of biases."""
    for group in optimizer.param_groups:
        factor = settings.layer_lr.get(group["layer"], 1.0)
        group["lr"] = lr * factor * (settings.bias_lr if group["part"] == "bias" else 1.0)


def learning_rate(settings: Settings, epochs_done: float, val_errors: list[float]) -> float:
    """Return the rate for the step that begins after `epochs_done` epochs (fractions count).

    `val_errors` are the top-1 errors of all epochs so far: the plateau rule looks at nothing else,
    so there is no state to save.
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


def plateau_drops(val_errors: list[float], settings: Settings) -> int:
    """Count how often the validation error has stopped falling (paper, section 5).

    The authors dropped the rate by hand. Here it stops after `patience_epochs` epochs without a new
    lowest error; the count of epochs then begins anew.
    """
    lowest, stale, drops = math.inf, 0, 0
    for error in val_errors:
        stale = 0 if error < lowest else stale + 1
        lowest = min(lowest, error)
        if stale == settings.patience_epochs:
            drops, stale = drops + 1, 0
    return min(drops, settings.max_drops)


def he_initialize(model: nn.Sequential, pixel_std: float) -> None:
    """Draw start weights that keep the signal's size from layer to layer (He et al. 2015).

    `pixel_std` is the standard deviation of the input (0-255 units), which conv1's weights divide
    by. Biases start at 0; the last layer starts small, so that the first loss is ln(classes).
    """
    layers = weight_layers(model)
    for name, layer in layers:
        weight = layer.get_parameter("weight")
        fan_in = weight[0].numel() if weight.ndim != 3 else weight.shape[-1]
        std = math.sqrt(2 / fan_in)
        if name == layers[0][0]:
            std /= pixel_std
        if name == layers[-1][0]:
            std = 0.01
        nn.init.normal_(weight, std=std)
        nn.init.zeros_(layer.get_parameter("bias"))
