"""Which rows of a table learn, and their initial weights."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import nn

BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""Layers whose biases do not start at 0 (P 5: it "accelerates the early stages")."""


class Start(NamedTuple):
    """A layer's initial values: normal weights of standard deviation `std`, equal biases."""

    std: float
    bias: float


def weight_layers(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """List the layers that learn, in order, with their names: rows, or parts of their branches."""
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]


def initialize(
    model: nn.Sequential,
    *,
    std: float,
    stds: Mapping[str, float] | None = None,
    bias: float = 1.0,
    biased: Collection[str] = (),
) -> nn.Sequential:
    """Draw weights from a normal distribution; set biases to 0, in the layers `biased` to `bias`.

    `stds` replaces the standard deviation `std` in the layers that it names (P 5).
    """
    for name, layer in weight_layers(model):
        start = Start((stds or {}).get(name, std), bias if name in biased else 0.0)
        draw_weights(layer, start)
    return model


@torch.no_grad()
def draw_weights(layer: nn.Module, start: Start) -> None:
    """Draw the initial weights of `layer`, and note on it how, for `start_of`."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    if not weight.is_meta:  # there torch would first import its compiler, for seconds
        nn.init.normal_(weight, std=start.std)
    nn.init.constant_(bias, start.bias)
    setattr(layer, "start", start)  # noqa: B010 - torch types plain assignments as tensors only


def start_of(layer: nn.Module) -> Start | None:
    """Return how `layer` was initialised; None for PyTorch's default."""
    start: Start | None = getattr(layer, "start", None)
    return start


def he_initialize(model: nn.Sequential, pixel_std: float) -> None:
    """Draw initial weights that preserve the signal's size from layer to layer (He et al. 2015).

    `pixel_std` is the standard deviation of the input (0-255 units), by which conv1's weights are
    divided. Biases start at 0. The last layer starts small, so that the first loss is near
    ln(classes).
    """
    # All but batch normalisation, which starts at 1 and 0.
    layers = [each for each in weight_layers(model) if each[1].get_parameter("weight").ndim > 1]
    for name, layer in layers:
        weight = layer.get_parameter("weight")
        fan_in = weight[0].numel() if weight.ndim != 3 else weight.shape[-1]
        std = math.sqrt(2 / fan_in)
        if name == layers[0][0]:
            std /= pixel_std
        if name == layers[-1][0]:
            std = 0.01
        nn.init.normal_(weight, std=std)
        for bias in list(layer.parameters())[1:]:
            nn.init.zeros_(bias)
