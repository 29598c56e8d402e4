"""What a file with weights turns out to hold, whatever its format."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from alexnet.networks.layers import LocalResponseNorm

Kind = Literal["conv", "fc", "relu", "norm", "pool"]

KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "conv",
    nn.Linear: "fc",
    nn.ReLU: "relu",
    LocalResponseNorm: "norm",
    nn.MaxPool2d: "pool",
}
"""The rows by which networks with equal weights can be told apart: their order."""


@dataclass(frozen=True)
class Stored:
    """The weights in a file, and what else it says."""

    format: str
    """As a person calls it: "Caffe model"."""
    weights: dict[str, Tensor]
    """By name, as "conv1.weight": the layer as the file calls it, weight or bias. Weights of fully
    connected layers are (out, in), of convolutions (out, in / groups, height, width)."""
    kinds: tuple[Kind, ...] = ()
    """What the rows of the network are, in order; empty where the file does not say."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Texts that came with the weights."""
    ordered: bool = False
    """Whether the layers stand in the order of the network, so that names need not be ours."""

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of the file."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.weights))


def kinds_of(model: nn.Sequential) -> tuple[Kind, ...]:
    """List what the rows of a network are, in order, as `Stored.kinds` does."""
    return tuple(KINDS[type(row)] for row in model if type(row) in KINDS)
