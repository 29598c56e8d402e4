"""Networks, images and taps for the tests of the tables."""

import copy
import importlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.networks.initialization import he_initialize
from alexnet.networks.layers_2012 import GroupedLinear
from alexnet.networks.registry import create_model, list_models

BRANCHED = ["googlenet", "resnet18", "googlenet_small", "resnet18_small"]
"""Networks with rows that have branches: tests/test_lineage.py tests them."""
TABLES = [name for name in list_models() if name not in BRANCHED]
"""Networks whose rows are layers."""


def pictures(count: int, side: int) -> torch.Tensor:
    """Draw float64 images with the spectrum of photographs (1 / frequency), less their mean."""
    rng = np.random.default_rng(side)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = np.inf
    waves = np.fft.fft2(rng.normal(size=(count, 3, side, side))) / frequency
    waves[:, 1:] = 0.8 * waves[:, :1] + 0.2 * waves[:, 1:]  # colours go together
    images = np.real(np.fft.ifft2(waves))
    images *= 60 / images.std()
    return torch.from_numpy(np.clip(images, -120, 135))


def empty(name: str, num_classes: int = 1000) -> nn.Sequential:
    """Build a network on torch's meta device: shapes without numbers."""
    with torch.device("meta"):
        return create_model(name, num_classes)


def shrunk(name: str, factor: int = 8, num_classes: int = 3) -> nn.Sequential:
    """Build a network with a fraction of its kernels and units, in float64 and evaluation mode.

    All else is as in the table. The weights keep the signal at the size of the input.
    """
    rows: OrderedDict[str, nn.Module] = OrderedDict()
    table = list(empty(name).named_children())
    for row, layer in table:
        fresh = copy.deepcopy(layer)
        if isinstance(layer, nn.Conv2d):
            fresh = nn.Conv2d(
                layer.in_channels if layer.in_channels == 3 else layer.in_channels // factor,
                layer.out_channels // factor,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                groups=layer.groups,
            )
        elif isinstance(layer, GroupedLinear):
            sizes = layer.in_features // factor, layer.out_features // factor
            fresh = GroupedLinear(*sizes, groups=layer.groups)
        elif isinstance(layer, nn.Linear):
            out = num_classes if row == table[-1][0] else layer.out_features // factor
            fresh = nn.Linear(layer.in_features // factor, out)
        rows[row] = fresh
    model = nn.Sequential(rows)
    torch.manual_seed(1)
    he_initialize(model, pixel_std=1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model.double().eval()


def taps_of(model: nn.Sequential, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output of each row."""
    taps, x = {}, images
    with torch.no_grad():
        for name, layer in model.named_children():
            taps[name] = x = layer(x)
    return taps


def relative_error(ours: torch.Tensor, expected: NDArray[np.float64]) -> float:
    """Return the largest difference, as a fraction of the largest expected value."""
    return float(np.abs(ours.double().numpy() - expected).max() / np.abs(expected).max())


_registered: list[Any] = []  # a library's operators live as long as it does


def import_torchvision() -> Any:
    """Import torchvision, or skip the test: it is no dependency.

    Beside a torch without CUDA its compiled operators cannot be loaded and the import fails as a
    whole, though no model needs them: then they are declared here.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        pytest.skip(f"torchvision is not installed: {error}")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        declare: Any = torch.library.Library
        _registered.append(declare("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            arguments = "(Tensor dets, Tensor scores, float iou_threshold)"
            _registered[-1].define(f"{name}{arguments} -> Tensor")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
