"""The forms in which each pass of a convolution may be computed, as plain values.

A convolution has three passes: forward, the gradient of its input, and that of its weights. The
form that is fastest for one of them need not be so for another, so each has its own.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple


class Tile(NamedTuple):
    """The part of a matrix product that one program of `cuda.implicit_gemm` computes."""

    channels: int
    """Output channels: the rows of the product."""
    columns: int
    """Pixels; for the gradient of the weights, weights of one output."""
    depth: int
    """How many products of each element are added up in one go."""
    warps: int
    stages: int
    """How many such parts of the depth are in shared memory, or on their way there."""

    def __str__(self) -> str:
        """Write it as a name, such as "tile 128x256x64"."""
        return f"tile {self.channels}x{self.columns}x{self.depth}"

    def used_share(self, channels: int, columns: int) -> float:
        """Return which share of the tiles over a product (channels, columns) lies in it."""
        rows = -(-channels // self.channels) * self.channels
        width = -(-columns // self.columns) * self.columns
        return channels * columns / (rows * width)


TILES = (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 4, 3), Tile(64, 256, 32, 4, 4))
"""For large products, of which this tile loads least; for small products; for few channels."""


Form = Literal["grouped", "split", "filled"] | Tile
"""PyTorch's grouped convolution, one per group, one with zeros between groups; or our kernel."""


@dataclass(frozen=True)
class ConvAlgorithm:
    """How a convolution is computed."""

    forward: Form = "grouped"
    input_gradient: Form = "grouped"
    weight_gradient: Form = "grouped"
    _: KW_ONLY
    space_to_depth: bool = False
    """Whether a convolution with a stride becomes one without, see `convolutions`."""
    channels_last: bool = True
    """Whether images are stored with the channels of a pixel together."""

    @classmethod
    def uniform(cls, form: Form) -> "ConvAlgorithm":
        """Return the algorithm with one form for all passes."""
        return cls(form, form, form)

    @property
    def is_plain(self) -> bool:
        """Whether every pass is that of torch.nn.functional.conv2d."""
        return self.forward == self.input_gradient == self.weight_gradient == "grouped"


class Geometry(NamedTuple):
    """How a window moves: equal strides, zeros at the edges, no dilation."""

    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    """Rows of zeros above and below, columns to the left and right."""
