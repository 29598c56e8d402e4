"""The steps of a block, as data: what may stand between two layers with weights.

A block is a tuple of steps in the order of the table. The engines, `cpu_blocks` and `cuda_blocks`,
run a whole block as one: they read what it is from these, and know nothing of the modules.
"""

from dataclasses import dataclass

from torch import nn

from alexnet.networks.layers import LocalResponseNorm, SpatialResponseNorm


@dataclass(frozen=True)
class Relu:
    """Negative values become 0; so does the gradient where the input is not above 0."""


@dataclass(frozen=True)
class ChannelNorm:
    """`alexnet.networks.layers.LocalResponseNorm`, whose constants these are."""

    size: int
    alpha: float
    beta: float
    k: float
    towers: int


@dataclass(frozen=True)
class MapNorm:
    """`alexnet.networks.layers.SpatialResponseNorm`, whose constants these are."""

    size: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each square window of side `size`; no padding, no dilation."""

    size: int
    stride: int
    ceil_mode: bool

    def output(self, length: int) -> int:
        """Count the windows along a side of so many pixels, as torch.nn.MaxPool2d does."""
        past = length - self.size + (self.stride - 1 if self.ceil_mode else 0)
        count = past // self.stride + 1
        # A window that would begin past the end is none.
        return count - 1 if (count - 1) * self.stride >= length else count


Step = Relu | ChannelNorm | MapNorm | MaxPool
Block = tuple[Step, ...]


def step_of(layer: nn.Module) -> Step | None:
    """Return what `layer` does as a step; None if it is not one, or not of a kind known here."""
    match layer:
        case nn.ReLU():
            return Relu()
        case LocalResponseNorm(size=size, alpha=alpha, beta=beta, k=k, towers=towers):
            return ChannelNorm(size, alpha, beta, k, towers)
        case SpatialResponseNorm(size=size, alpha=alpha, beta=beta):
            return MapNorm(size, alpha, beta)
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
