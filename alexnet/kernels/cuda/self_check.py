"""The check of a GPU before its first use: kernels against the reference layers, in seconds.

A new GPU, driver or library may compute wrong results without an error: cuDNN computed wrong
gradients of convolutions on some models of GPU (pytorch issue 150700). The inputs are small, and
the reference is computed on the CPU in float64.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.config import Settings
from alexnet.errors import AlexnetError, WorkerError
from alexnet.images.yuv420 import from_yuv420, to_yuv420
from alexnet.kernels.blocks import (
    Block,
    ChannelNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    reference_block,
)
from alexnet.kernels.cuda import autotune
from alexnet.kernels.cuda.batch import crop_table, prepare_batch
from alexnet.kernels.cuda.blocks import run_block
from alexnet.kernels.cuda.update import FusedUpdate
from alexnet.optim import PaperSGD
from alexnet.train.state import PixelFormat
from alexnet.transforms import Preprocessing, augment, sample_augment

RunBlock = Callable[[Tensor, Block], Tensor]

PAPER = ChannelNorm(5, 1e-4, 0.75, 2.0, towers=1)
TOWERS = ChannelNorm(5, 2e-5, 0.75, 2.0, towers=2)
POOL = MaxPool(3, 2, ceil_mode=False)
BLOCKS: dict[str, Block] = {
    "relu, norm, pool": (Relu(), PAPER, POOL),
    "relu, pool, norm": (Relu(), POOL, PAPER),
    "norm of two towers, pool, relu": (TOWERS, POOL, Relu()),
    "relu, norm, norm within maps, pool": (Relu(), TOWERS, SpatialNorm(5, 4e-5, 0.75), POOL),
    "relu, pool": (Relu(), POOL),
}
"""The blocks of the networks."""


class Convolution(NamedTuple):
    """A convolution's shape."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    groups: int
    side: int


CONVOLUTIONS = (
    Convolution("conv1", 3, 96, 11, 4, 0, 1, 67),
    Convolution("conv1, rearranged", 48, 96, 3, 1, 0, 1, 17),
    Convolution("conv2", 96, 256, 5, 1, 2, 2, 13),
    Convolution("conv3", 256, 384, 3, 1, 1, 1, 13),
    Convolution("conv4", 384, 384, 3, 1, 1, 2, 13),
)
"""The paper's, on smaller maps; conv5 equals conv4."""

LIMITS = {torch.float32: 2e-3, torch.bfloat16: 2e-2}
"""Largest relative error: cuDNN may round float32 to TF32."""
KERNEL_LIMIT = 1e-4
"""The same for our own float32 kernels, which do not round to a shorter type."""


class Comparison(NamedTuple):
    """The relative error of a result, and its limit."""

    name: str
    error: float
    limit: float


@functools.cache
def check_once(device: torch.device) -> None:
    """Run `check_device` unless it has passed on this machine with this GPU and software."""
    passed, name = autotune.gpu_cache(), f"{autotune.identify(device)}: computes right"
    if passed.get(name) is not True:
        check_device(device)
        passed.put(name, True)


def check_device(device: torch.device) -> None:
    """Compare everything; raise `WorkerError` with the name of the first wrong result."""
    check_blocks(device)
    check_convolutions(device)
    for name, compare in (("the update rule", _update), ("the preparation of a batch", _batch)):
        with _kernel_errors(device, name):
            _raise_if_wrong(device, compare(device))


def check_blocks(
    device: torch.device,
    *,
    shape: tuple[int, int, int, int] = (1, 96, 11, 13),
    run: RunBlock = run_block,
) -> None:
    """Compare values and gradients of blocks on `shape`; raise `WorkerError` for a wrong one."""
    for name, block in BLOCKS.items():
        with _kernel_errors(device, name):
            _raise_if_wrong(device, _block(device, name, block, shape, run))


def check_convolutions(device: torch.device) -> None:
    """Compare PyTorch's own convolutions and their gradients; raise `WorkerError` likewise."""
    for convolution in CONVOLUTIONS:
        for dtype in LIMITS:
            _raise_if_wrong(device, _convolution(device, convolution, dtype))


@contextmanager
def _kernel_errors(device: torch.device, name: str) -> Iterator[None]:
    """Turn any exception of a kernel, such as a failed compilation, into a `WorkerError`."""
    try:
        yield
    except AlexnetError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerError(
            f"{_device_name(device)} cannot run the kernel of {name} ({reason}); "
            "use --plain, which runs without our own kernels"
        ) from error


def _raise_if_wrong(device: torch.device, comparisons: Iterator[Comparison]) -> None:
    for name, error, limit in comparisons:
        if not error <= limit:  # a NaN is wrong, too
            raise WorkerError(
                f"{_device_name(device)} computes {name} wrongly (error {error:.1e}, at most "
                f"{limit:.0e}); use --plain, or another PyTorch version or device"
            )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of the reference."""
    found = found.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _block(
    device: torch.device,
    name: str,
    block: Block,
    shape: tuple[int, int, int, int],
    run: RunBlock,
) -> Iterator[Comparison]:
    """Compare one block in float32."""
    # With this seed the two largest values of every window differ by more than 3e-4. Otherwise a
    # pool might take the other one because of rounding, which would look like a wrong gradient.
    x = _random(*shape, seed=42) * 50
    expected_in, found_in = x.double().requires_grad_(), x.to(device).requires_grad_()
    expected = reference_block(expected_in, block)
    found = run(found_in.contiguous(memory_format=torch.channels_last), block)
    weights = _random(*expected.shape, seed=1)
    (expected_gradient,) = torch.autograd.grad(expected, expected_in, weights.double())
    (gradient,) = torch.autograd.grad(found, found_in, weights.to(device))
    yield Comparison(name, _error(found, expected.detach()), KERNEL_LIMIT)
    yield Comparison(f"the gradient of {name}", _error(gradient, expected_gradient), KERNEL_LIMIT)


def _convolution(
    device: torch.device, conv: Convolution, dtype: torch.dtype
) -> Iterator[Comparison]:
    """Compare one convolution: values and the gradients of input and weights."""
    x = _random(2, conv.inputs, conv.side, conv.side).to(dtype)
    weight = _random(conv.outputs, conv.inputs // conv.groups, conv.kernel, conv.kernel, seed=1)
    weight = (weight / weight[0].numel() ** 0.5).to(dtype)
    names = (conv.name, f"the input's gradient of {conv.name}", f"the weights' of {conv.name}")
    for name, found, expected in zip(
        names, _convolved(x.to(device), weight.to(device), conv),
        _convolved(x.double(), weight.double(), conv), strict=True,
    ):  # fmt: skip
        type_name = str(dtype).removeprefix("torch.")
        yield Comparison(f"{name} in {type_name}", _error(found, expected), LIMITS[dtype])


def _convolved(x: Tensor, weight: Tensor, conv: Convolution) -> tuple[Tensor, Tensor, Tensor]:
    """Return a convolution's result and the gradients of input and weights, channels-last."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = F.conv2d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)
    g = _random(*y.shape, seed=2).to(y.dtype).to(y.device)
    gradients = torch.autograd.grad(y, (x, weight), g)
    return y.detach(), gradients[0], gradients[1]


def _update(device: torch.device) -> Iterator[Comparison]:
    """Compare two steps of the update rule."""
    initial = _random(3000)
    updated = []
    for target in (torch.device("cpu"), device):
        weight = initial.clone().to(target).requires_grad_()
        optimizer = PaperSGD([weight], lr=0.1, weight_decay=0.01)
        fused = FusedUpdate(optimizer) if target is device else None
        for seed in (1, 2):
            weight.grad = _random(3000, seed=seed).to(target)
            if fused:
                fused.set_rates()
                fused.update([weight.grad])
            else:
                optimizer.step()
        updated.append(weight.detach())
    yield Comparison("the update rule", _error(updated[1], updated[0].double()), KERNEL_LIMIT)


def _batch(device: torch.device) -> Iterator[Comparison]:
    """Compare the preparation of a batch."""
    size, crop, indices = 20, 15, np.arange(4)
    images = (_random(4, size, size, 3) * 40 + 128).clamp(0, 255).byte()
    mean = _random(3, size, size).abs() * 100
    colors = ((0.6, 0.7, 0.4), (0.6, 0.1, -0.8), (0.6, -0.7, 0.4))
    preprocessing = Preprocessing(size, crop, mean, (50.0, 10.0, 5.0), colors)
    params = sample_augment(Settings(), preprocessing, 1, indices)
    out = torch.empty(len(indices), 3, crop, crop, device=device)
    table = crop_table(params, indices, size, crop).to(device)
    shift = torch.from_numpy(params.shift).to(device)
    stored: dict[PixelFormat, Tensor] = {"rgb": images.flatten(1), "yuv420": to_yuv420(images)}
    for pixel_format, rows in stored.items():
        pixels = from_yuv420(rows, size) if pixel_format == "yuv420" else images
        expected = augment(pixels, params, preprocessing, Settings())
        prepare_batch(
            rows.to(device), table, shift, preprocessing.mean.to(device), out,
            size=size, pixel_format=pixel_format,
        )  # fmt: skip
        name = f"the preparation of a batch ({pixel_format})"
        yield Comparison(name, _error(out, expected.double()), KERNEL_LIMIT)
