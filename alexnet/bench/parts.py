"""Parts of a step, timed alone: blocks, convolutions; and the device's limits, matmul and copy.

Matrix product and copy have run on an H200; blocks and convolutions have run on CPUs only.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from alexnet.bench.spec import Spec, Step
from alexnet.kernels.blocks import operation_of
from alexnet.kernels.conv_forms import TILES, ConvAlgorithm
from alexnet.kernels.convolutions import convolve
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm
from alexnet.networks.registry import create_model

Shape = tuple[int, int, int]

TWO_TOWERS = LocalResponseNorm(5, 2e-5, 0.75, 2.0, towers=2)
POOL = nn.MaxPool2d(3, 2)
BLOCKS: dict[str, tuple[Shape, list[nn.Module]]] = {
    "block_1": ((96, 55, 55), [nn.ReLU(), LocalResponseNorm(), POOL]),
    "block_2": ((256, 27, 27), [nn.ReLU(), LocalResponseNorm(), POOL]),
    "block_5": ((256, 13, 13), [nn.ReLU(), POOL]),
    "lrn_1": ((96, 55, 55), [LocalResponseNorm()]),
    "caffenet_1": ((96, 55, 55), [nn.ReLU(), POOL, LocalResponseNorm()]),
    "two_towers_1": ((96, 55, 55), [TWO_TOWERS, POOL, nn.ReLU()]),
    "code_2012_1": (
        (96, 55, 55),
        [nn.ReLU(), TWO_TOWERS, SpatialResponseNorm(5, 4e-5, 0.75), POOL],
    ),
}
"""Shape of the input, and layers: the paper's blocks, then those of other networks."""

TORCH_NORM = nn.LocalResponseNorm(5, 5e-4, 0.75, 2)
"""PyTorch's own; it divides alpha by the size, so this is the paper's alpha of 1e-4."""

CONVOLUTION_SIDES = {"conv1": 227, "conv2": 27, "conv4": 13, "conv5": 13}
"""Side of the input of the paper's convolutions; conv1's has its zeros."""

ALGORITHMS = {
    "grouped": ConvAlgorithm(),
    "contiguous": ConvAlgorithm(channels_last=False),
    "space_to_depth": ConvAlgorithm(space_to_depth=True),
    "split": ConvAlgorithm.uniform("split"),
    "filled": ConvAlgorithm.uniform("filled"),
    **{str(tile): replace(ConvAlgorithm.uniform(tile), space_to_depth=True) for tile in TILES},
}
"""Ways of computing a convolution, as PyTorch runs it first; "tile 128x256x64": our kernel."""


def build(spec: Spec) -> Step:
    """Return a function that does the work of `spec` once."""
    match spec.work:
        case "block":
            return _block(spec)
        case "convolution":
            return _convolution(spec)
        case "copy":
            return _copy(spec)
        case _:
            return _matmul(spec)


def _block(spec: Spec) -> Step:
    """Make a forward pass of a block, or a forward and a backward pass."""
    shape, layers = BLOCKS[spec.layer]
    run = _our_block(layers, spec.engine) if spec.net == "alexnet" else _torch_block(layers)
    x = torch.randn(spec.batch, *shape, device=spec.device, dtype=spec.dtype) * 60
    x = x.contiguous(memory_format=spec.memory_format)
    if not spec.backward:
        return torch.no_grad()(partial(run, x))
    x.requires_grad_()
    gradient = torch.randn_like(run(x))
    return lambda: torch.autograd.grad(run(x), x, gradient)


def _our_block(layers: list[nn.Module], engine: str) -> Callable[[Tensor], Tensor]:
    block = tuple(each for each in map(operation_of, layers) if each)
    run_block = importlib.import_module(f"alexnet.kernels.{engine}.blocks").run_block
    return partial(run_block, block=block)


def _torch_block(layers: list[nn.Module]) -> nn.Sequential:
    """Return PyTorch's layers, and our reference layers for the norms that it does not have."""
    return nn.Sequential(
        *(
            TORCH_NORM if isinstance(layer, LocalResponseNorm) and layer.towers == 1 else layer
            for layer in layers
        )
    )


def _convolution(spec: Spec) -> Step:
    """Make a forward and a backward pass, channels-last; conv1's input needs no gradient."""
    with torch.device("meta"):
        layer = create_model("alexnet").get_submodule(spec.layer)
    assert isinstance(layer, nn.Conv2d)  # noqa: S101 - one of CONVOLUTION_SIDES
    layer = layer.to_empty(device=spec.device).to(spec.dtype)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.01)
    side, algorithm = CONVOLUTION_SIDES[spec.layer], ALGORITHMS[spec.algorithm]
    shape = (spec.batch, layer.in_channels, side, side)
    x = torch.randn(shape, device=spec.device, dtype=spec.dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(layer.in_channels > 3)
    inputs = [layer.weight, x] if x.requires_grad else [layer.weight]
    gradient = torch.randn_like(convolve(x, layer, algorithm))
    return lambda: torch.autograd.grad(convolve(x, layer, algorithm), inputs, gradient)


def _matmul(spec: Spec) -> Step:
    """Multiply two square matrices, by torch.mm or, on a CPU, by oneDNN."""
    shape = (spec.side, spec.side)
    a, b = (torch.randn(shape, device=spec.device, dtype=spec.dtype) for _ in range(2))
    if spec.work == "matmul_onednn":  # compiled networks call it; torch.mm is MKL's on a CPU
        linear = torch.ops.mkldnn._linear_pointwise
        return lambda: linear(a, b, None, "none", [], "")
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _copy(spec: Spec) -> Step:
    """Copy so many bytes: as many are read as written."""
    source = torch.ones(spec.side, dtype=torch.uint8, device=spec.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
