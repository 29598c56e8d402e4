"""`cifar10_18` against loops written from Caffe's source, in float64.

lrn_layer.cpp and pooling_layer.cpp of BVLC/caffe; the prototxt is examples/cifar10/cifar10_full.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from network_makers import taps_of
from numpy.typing import NDArray
from torch import nn

from alexnet.kernels import accelerate
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.cpu.tuning import conv_algorithm
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import create_model

Array = NDArray[np.float64]
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported


def pool(x: Array, reduce: Callable[[Array], float]) -> Array:
    """Pool (C, H, W) by windows of 3 with stride 2, which the border cuts."""
    side = math.ceil((x.shape[1] - 3) / 2) + 1
    out = np.empty((len(x), side, side))
    for c, row, column in np.ndindex(out.shape):
        top, left = 2 * row, 2 * column
        out[c, row, column] = reduce(x[c, top : top + 3, left : left + 3])
    return out


def norm_within(x: Array) -> Array:
    """Divide by (1 + 5e-5 mean) ** 0.75: the mean of squares over 9 pixels, 0 outside the map."""
    out = np.empty_like(x)
    for c, row, column in np.ndindex(x.shape):
        window = x[c, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        out[c, row, column] = x[c, row, column] * (1 + 5e-5 * (window**2).sum() / 9) ** -0.75
    return out


def convolve(x: Array, layer: nn.Module) -> Array:
    """Convolve (C, H, W) with 5 x 5 kernels and two zeros around."""
    weight = layer.get_parameter("weight").detach().numpy()
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    out = np.empty((len(weight), *x.shape[1:]))
    for row, column in np.ndindex(x.shape[1:]):
        window = padded[:, row : row + 5, column : column + 5]
        out[:, row, column] = (weight * window).sum((1, 2, 3))
    bias: Array = layer.get_parameter("bias").detach().numpy()
    return out + bias[:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = create_model("cifar10_18", 10).double()
    for _, layer in weight_layers(model):
        nn.init.normal_(layer.get_parameter("bias"))
    nn.init.normal_(model.get_submodule("conv1").get_parameter("weight"), std=0.05)
    nn.init.normal_(model.get_submodule("conv2").get_parameter("weight"), std=0.05)
    return model


def test_every_row_is_that_of_caffes_formulas(model: nn.Sequential) -> None:
    image = np.random.default_rng(0).normal(0, 60, (3, 32, 32))
    taps = taps_of(model, torch.from_numpy(image[None]))
    layers = dict(model.named_children())
    x = norm_within(relu(pool(convolve(image, layers["conv1"]), np.max)))
    expected = {"snorm1": x}
    pooled = pool(relu(convolve(x, layers["conv2"])), np.mean)
    x = norm_within(pooled)
    expected["snorm2"] = x
    x = pool(relu(convolve(x, layers["conv3"])), np.mean)
    expected["pool3"] = x
    weight = layers["fc10"].get_parameter("weight").detach().numpy()
    expected["fc10"] = weight @ x.ravel() + layers["fc10"].get_parameter("bias").detach().numpy()
    for name, found in expected.items():
        np.testing.assert_allclose(taps[name][0].numpy(), found, rtol=1e-9, atol=1e-12)
    assert not np.allclose(expected["snorm2"], pooled, rtol=1e-3)  # the norm is felt


@pytest.mark.parametrize("learns", [True, False])
def test_the_accelerated_network_computes_it_too(model: nn.Sequential, learns: bool) -> None:
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64) * 60
    accelerated = accelerate(model)
    with torch.set_grad_enabled(learns):
        torch.testing.assert_close(accelerated(images), model(images), rtol=1e-8, atol=1e-10)


def test_the_kernels_for_gpus_compute_it_too(model: nn.Sequential) -> None:
    """Without a GPU in Triton's interpreter; average pools stay PyTorch's layers."""
    pytest.importorskip("triton")
    from alexnet.kernels.cuda import blocks

    device = torch.device("cuda" if ON_GPU else "cpu")
    model, rows = model.to(device), OrderedDict(model.named_children())
    network = AcceleratedNetwork(rows, blocks, device.type, conv_algorithm)
    assert rows["pool2"] in network.stages
    assert rows["snorm1"] not in network.stages
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, device=device) * 60
    found = []
    for each in (network, model):
        model.zero_grad()
        each(images).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)
