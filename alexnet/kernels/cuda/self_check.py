"""Comparisons of a GPU's results with those of the reference layers, before its first use.

A new GPU, driver or library may compute wrong results without an error: cuDNN computed wrong
gradients of convolutions on some models of GPU (pytorch issue 150700). Each check compares one
piece of work with the same on the CPU in float64. `alexnet.kernels.cuda.first_use` chooses the
checks that a network needs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.errors import AlexnetError, WorkerError
from alexnet.kernels.blocks import (
    Block,
    ChannelNorm,
    MaxPool,
    Operation,
    Relu,
    SpatialNorm,
    reference_block,
)
from alexnet.kernels.cuda.blocks import run_block

Shape = tuple[int, int, int]
"""Channels, rows and columns."""

PAPER = ChannelNorm(5, 1e-4, 0.75, 2.0, towers=1)
TOWERS = ChannelNorm(5, 2e-5, 0.75, 2.0, towers=2)
POOL = MaxPool(3, 2, ceil_mode=False)
BLOCKS: tuple[Block, ...] = (
    (Relu(), PAPER, POOL),
    (Relu(), POOL, PAPER),
    (TOWERS, POOL, Relu()),
    (Relu(), TOWERS, SpatialNorm(5, 4e-5, 0.75), POOL),
    (Relu(), POOL),
)
"""The blocks of all networks."""

IMAGES = 16
"""Images of a check. Triton compiles other kernels where a size is no multiple of 16, and the
batches of trainings are."""
SQUARES = 13
"""Positions of a kernel along a side of a convolution that is checked: results do not depend on
the map's size, and the CPU's would take seconds."""
LIMITS = {torch.float64: 2e-3, torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest relative errors of convolutions: cuDNN may round float32 to TF32."""
KERNEL_LIMITS = LIMITS | {torch.float64: 1e-4, torch.float32: 1e-4}
"""The same of our own kernels, which compute in float32 or better in every type."""
CLEAR = 0.02
"""How far the largest value of a window exceeds the next one, relative to it, if rounding to
bfloat16 cannot change which it is."""


class Comparison(NamedTuple):
    """The relative error of a result, and its limit."""

    name: str
    error: float
    limit: float


class Check(Protocol):
    """A piece of work to be compared. Its repr names everything that its result depends on."""

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Do the work on `device` and on the CPU."""


def run_check(check: Check, device: torch.device) -> None:
    """Compare; raise `WorkerError` with the name of the first wrong result.

    A kernel's own error, as of a failed compilation, becomes a `WorkerError` as well.
    """
    name = str(check)
    try:
        with _own_modes(device):
            _raise_if_wrong(device, check.compare(device))
    except AlexnetError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerError(
            f"{device_name(device)} cannot run the kernel of {name} ({reason}); "
            "use --plain, which runs without our own kernels"
        ) from error


@contextmanager
def _own_modes(device: torch.device) -> Iterator[None]:
    """Compare outside of the caller's modes: a network's first pass may be within them."""
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def check_blocks(
    device: torch.device,
    *,
    shape: tuple[int, int, int, int] = (IMAGES, 96, 27, 27),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Compare the blocks of all networks on `shape` (N, C, H, W); raise `WorkerError` if wrong."""
    images, *sizes = shape
    channels, height, width = sizes
    for block in BLOCKS:
        check = BlockCheck(block, (channels, height, width), dtype, backward=True, images=images)
        run_check(check, device)


def _raise_if_wrong(device: torch.device, comparisons: Iterable[Comparison]) -> None:
    for name, error, limit in comparisons:
        if not error <= limit:  # a NaN is wrong, too
            raise WorkerError(
                f"{device_name(device)} computes {name} wrongly (error {error:.1e}, at most "
                f"{limit:.0e}); use --plain, or another PyTorch version or device"
            )


def device_name(device: torch.device) -> str:
    """Return the model of a GPU; elsewhere the device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of the reference."""
    found = found.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers, the same ones for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Blocks.


@dataclass(frozen=True)
class BlockCheck:
    """A block on images of one shape and type."""

    block: Block
    shape: Shape
    dtype: torch.dtype
    backward: bool
    """Whether its gradient is needed."""
    images: int = IMAGES
    bias_learns: bool | None = None
    """Whether the gradient of a bias that is added first is needed; None: there is no bias."""

    def __str__(self) -> str:
        """Name the operations and the type."""
        return f"{_names(self.block)} in {_type_name(self.dtype)}"

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare values and gradients; a block is checked up to a pool, and then what follows."""
        shape, bias = self.shape, None
        if self.bias_learns is not None:
            bias = (random(shape[0], seed=3) * 10).to(self.dtype)
        for piece in _pieces(self.block):
            x = (random(min(2, self.images), *shape) * 50).to(self.dtype)
            yield from self._compare_piece(device, piece, x, bias)
            shape, bias = shape_of(reference_block(x.double(), piece)), None

    def _compare_piece(
        self, device: torch.device, piece: Block, x: Tensor, bias: Tensor | None
    ) -> Iterator[Comparison]:
        """Compare on `x` (1 or 2, C, H, W), repeated on the device up to the number of images."""
        copies, limit = max(1, self.images // 2), KERNEL_LIMITS[self.dtype]
        name = f"{_names(piece)} in {_type_name(self.dtype)}"
        given = x.to(device).repeat(copies, 1, 1, 1)
        given = given.contiguous(memory_format=torch.channels_last).requires_grad_(self.backward)
        added, reference = None, x.double()
        if bias is not None:
            added = bias.to(device).requires_grad_(bool(self.bias_learns))
            reference = (x + bias.view(-1, 1, 1)).double()  # the sum is rounded to the type
        reference.requires_grad_(self.backward)
        expected, found = reference_block(reference, piece), run_block(given, piece, added)
        yield Comparison(
            name, relative_error(found, expected.detach().repeat(copies, 1, 1, 1)), limit
        )
        if self.backward:
            weights = random(*expected.shape, seed=1) * _clear(reference.detach(), piece)
            weights = weights.to(self.dtype)
            (right,) = torch.autograd.grad(expected, reference, weights.double())
            needed = [each for each in (given, added) if each is not None and each.requires_grad]
            gradients = torch.autograd.grad(
                found, needed, weights.to(device).repeat(copies, 1, 1, 1)
            )
            error = relative_error(gradients[0], right.repeat(copies, 1, 1, 1))
            yield Comparison(f"the gradient of {name}", error, limit)
            for gradient in gradients[1:]:
                error = relative_error(gradient, copies * right.sum((0, 2, 3)))
                yield Comparison(f"the bias gradient of {name}", error, limit)


def shape_of(images: Tensor) -> Shape:
    """Return channels, rows and columns of images (N, C, H, W)."""
    _, channels, height, width = images.shape
    return channels, height, width


def _names(block: Sequence[Operation]) -> str:
    """Name the operations: "relu, norm, pool"."""
    return ", ".join(_name(operation) for operation in block)


def _name(operation: Operation) -> str:
    match operation:
        case Relu():
            return "relu"
        case MaxPool():
            return "pool"
        case ChannelNorm(towers=1):
            return "norm"
        case ChannelNorm(towers=towers):
            return f"norm of {towers} towers"
        case SpatialNorm():
            return "norm within maps"


def _pieces(block: Block) -> list[Block]:
    """Cut a block before each normalisation that follows a pool: `_clear` could not see past it."""
    pieces: list[Block] = [()]
    for operation in block:
        pooled = any(isinstance(each, MaxPool) for each in pieces[-1])
        if pooled and isinstance(operation, ChannelNorm | SpatialNorm):
            pieces.append(())
        pieces[-1] = (*pieces[-1], operation)
    return pieces


def _clear(x: Tensor, block: Block) -> Tensor:
    """Return 1 for each result of `block` on `x` whose window has a clear maximum, else 0.

    Elsewhere rounding may choose another maximum, which would look like a wrong gradient. The last
    dimensions are those of the result. A block without a pool has no windows: 1.
    """
    pool = next((each for each in block if isinstance(each, MaxPool)), None)
    if pool is None or pool.size == 1:
        return torch.ones(())
    x = reference_block(x, tuple(takewhile(lambda each: each is not pool, block)))
    sides = x.shape[2:]
    ends = [(pool.output_side(side) - 1) * pool.stride + pool.size - side for side in sides]
    x = F.pad(x, (0, ends[1], 0, ends[0]), value=-torch.inf)
    windows = x.unfold(2, pool.size, pool.stride).unfold(3, pool.size, pool.stride)
    first, second = windows.flatten(4).topk(2).values.unbind(4)
    return (first - second > CLEAR * first.abs()).to(x.dtype)


# Convolutions: PyTorch's own.


@dataclass(frozen=True)
class ConvolutionCheck:
    """A convolution on images of one shape and type, channels-last, without a bias."""

    weight: tuple[int, int, int, int]
    """Outputs, inputs of a group, rows, columns."""
    shape: Shape
    stride: int
    padding: tuple[int, int]
    groups: int
    dtype: torch.dtype
    backward: tuple[bool, bool]
    """Whether the gradients of the images and of the weights are needed."""

    def __str__(self) -> str:
        """Name channels, kernel and type."""
        outputs, inputs, rows, columns = self.weight
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return (
            f"the {rows} x {columns} convolution of {inputs * self.groups} to {outputs} "
            f"channels{groups}, in {_type_name(self.dtype)}"
        )

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare values and the gradients of images and weights, on maps of a few positions."""
        channels, *sides = self.shape
        kernels = zip(sides, self.weight[2:], strict=True)
        sides = [min(side, SQUARES * self.stride + kernel) for side, kernel in kernels]
        x = random(2, channels, *sides).to(self.dtype)
        weight = random(*self.weight, seed=1)
        weight = (weight / weight[0].numel() ** 0.5).to(self.dtype)
        needed = zip(("images", "weights"), self.backward, strict=True)
        names = [str(self)] + [f"the {what}' gradient of {self}" for what, needs in needed if needs]
        for name, found, expected in zip(
            names, self._results(x.to(device), weight.to(device)),
            self._results(x.double(), weight.double()), strict=True,
        ):  # fmt: skip
            yield Comparison(name, relative_error(found, expected), LIMITS[self.dtype])

    def _results(self, x: Tensor, weight: Tensor) -> Iterator[Tensor]:
        """Yield the result, then the gradient of the images and that of the weights, if needed."""
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_(self.backward[0])
        weight = weight.contiguous(memory_format=torch.channels_last)
        weight.requires_grad_(self.backward[1])
        y = F.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)
        yield y.detach()
        needed = [tensor for tensor in (x, weight) if tensor.requires_grad]
        if needed:
            yield from torch.autograd.grad(y, needed, random(*y.shape, seed=2).to(y))
