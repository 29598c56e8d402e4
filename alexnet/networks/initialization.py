"""Which rows of a table learn, and what their weights are at the start."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import nn

BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""The layers whose biases do not start at 0 (P 5: it "accelerates the early stages")."""


class Start(NamedTuple):
    """How a layer begins: normal weights of standard deviation `std`, biases all `bias`."""

    std: float
    bias: float


def weight_layers(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """List the rows that learn, in order, with their names."""
    return [
        (name, layer)
        for name, layer in model.named_children()
        if any(True for _ in layer.parameters())
    ]


def initialize(
    model: nn.Sequential,
    *,
    std: float,
    stds: Mapping[str, float] | None = None,
    bias: float = 1.0,
    biased: Collection[str] = (),
) -> nn.Sequential:
    """Draw weights from a normal distribution, set biases to 0, or `bias` in the layers `biased`.

    `stds` overrides the standard deviation `std` for the layers that it names (P 5).
    """
    for name, layer in weight_layers(model):
        start = Start((stds or {}).get(name, std), bias if name in biased else 0.0)
        draw(layer, start)
    return model


@torch.no_grad()
def draw(layer: nn.Module, start: Start) -> None:
    """Give `layer` start weights, and note on it which, for `start_of`."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    if not weight.is_meta:  # there torch would first import its compiler, for seconds
        nn.init.normal_(weight, std=start.std)
    nn.init.constant_(bias, start.bias)
    setattr(layer, "start", start)  # noqa: B010 - torch types plain assignments as tensors only


def start_of(layer: nn.Module) -> Start | None:
    """Return how `layer` begins; None where that is PyTorch's own way."""
    start: Start | None = getattr(layer, "start", None)
    return start
