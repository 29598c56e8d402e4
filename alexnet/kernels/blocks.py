"""The operations between two layers with weights, as data.

A block is a tuple of operations in the order of the table. The engines `alexnet.kernels.cpu.blocks`
and `alexnet.kernels.cuda.blocks` run a whole block at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm


@dataclass(frozen=True)
class Relu:
    """max(x, 0); the gradient is 0 where x <= 0."""


@dataclass(frozen=True)
class ChannelNorm:
    """`alexnet.networks.layers.LocalResponseNorm` with these constants."""

    size: int
    alpha: float
    beta: float
    k: float
    towers: int


@dataclass(frozen=True)
class SpatialNorm:
    """`alexnet.networks.layers_2012.SpatialResponseNorm` with these constants."""

    size: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each square window of side `size`; no padding, no dilation."""

    size: int
    stride: int
    ceil_mode: bool

    def output_side(self, side: int) -> int:
        """Count the windows along a side of so many pixels, as torch.nn.MaxPool2d does."""
        rest = side - self.size + (self.stride - 1 if self.ceil_mode else 0)
        count = rest // self.stride + 1
        # A window that would begin past the end does not count.
        return count - 1 if (count - 1) * self.stride >= side else count


IDENTITY_NORM = ChannelNorm(5, 0.0, 0.75, 1.0, towers=1)
IDENTITY_POOL = MaxPool(1, 1, ceil_mode=False)
"""They change nothing: constants for the kernels of blocks without a normalisation or a pool."""

Operation = Relu | ChannelNorm | SpatialNorm | MaxPool
Block = tuple[Operation, ...]


def operation_of(layer: nn.Module) -> Operation | None:
    """Return what `layer` computes; None if no block can contain it."""
    match layer:
        case nn.ReLU():
            return Relu()
        case LocalResponseNorm(size=size, alpha=alpha, beta=beta, k=k, towers=towers):
            return ChannelNorm(size, alpha, beta, k, towers)
        case SpatialResponseNorm(size=size, alpha=alpha, beta=beta):
            return SpatialNorm(size, alpha, beta)
        case nn.MaxPool2d(
            kernel_size=int(size),
            stride=int(stride),
            padding=0,
            dilation=1,
            return_indices=False,
            ceil_mode=ceil_mode,
        ):
            return MaxPool(size, stride, ceil_mode)
    return None


def reference_layer(operation: Operation) -> nn.Module:
    """Return the layer that computes `operation`: the inverse of `operation_of`."""
    match operation:
        case Relu():
            return nn.ReLU()
        case ChannelNorm(size, alpha, beta, k, towers):
            return LocalResponseNorm(size, alpha, beta, k, towers=towers)
        case SpatialNorm(size, alpha, beta):
            return SpatialResponseNorm(size, alpha, beta)
        case MaxPool(size, stride, ceil_mode):
            return nn.MaxPool2d(size, stride, ceil_mode=ceil_mode)


def reference_block(x: Tensor, block: Sequence[Operation]) -> Tensor:
    """Compute `block` on `x` (N, C, H, W) with the layers of the tables."""
    for operation in block:
        x = reference_layer(operation)(x)
    return x


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias (C,), if there is one, to `x` (N, C, H, W), in the type of `x`."""
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]
