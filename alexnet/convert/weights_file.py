"""What a file with weights holds, whatever its format."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm

Kind = Literal["conv", "fc", "relu", "norm", "snorm", "pool", "avgpool"]

KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "conv",
    nn.Linear: "fc",
    nn.ReLU: "relu",
    LocalResponseNorm: "norm",
    SpatialResponseNorm: "snorm",
    nn.MaxPool2d: "pool",
    nn.AvgPool2d: "avgpool",
}
"""The rows whose order tells networks with weights of the same shapes apart."""


@dataclass(frozen=True)
class WeightsFile:
    """The weights of a file, and what else it says."""

    format: str
    """The display name of the format: "Caffe model"."""
    weights: dict[str, Tensor]
    """By name, as "conv1.weight": the layer's name in the file, and weight or bias. Weights of
    fully connected layers are (out, in), of convolutions (out, in / groups, height, width)."""
    kinds: tuple[Kind, ...] = ()
    """The kinds of the network's rows, in order; empty where the file does not say."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Texts stored with the weights."""
    ordered: bool = False
    """Whether the layers are in the network's order, so that their names need not be ours."""
    sigmoid: bool = False
    """Whether the file says that a sigmoid follows the last layer, in place of a softmax."""

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of the file."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.weights))


def kinds_of(model: nn.Sequential) -> tuple[Kind, ...]:
    """List the kinds of a network's rows, in order, as `WeightsFile.kinds` does."""
    return tuple(KINDS[type(row)] for row in model if type(row) in KINDS)
