"""A network's table, measured by running it: shapes, parameters, multiply-adds, neurons.

Multiply-adds are counted as is usual for this paper: one for each weight at each output position in
layers of kernels or units, without biases, pooling and normalisation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alexnet.errors import UsageError
from alexnet.networks.branches import Branches, Concatenation, Sum
from alexnet.networks.cifar10 import LocallyConnected2d
from alexnet.networks.initialization import start_of
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout, SpatialResponseNorm
from alexnet.networks.registry import create_model
from alexnet.notebook import facts, table

TYPES: dict[type[nn.Module], str] = {
    Input: "Image",
    nn.ZeroPad2d: "Zero Padding",
    nn.Conv2d: "Convolution",
    LocallyConnected2d: "Locally Connected",
    nn.Linear: "Fully Connected",
    GroupedLinear: "Fully Connected",
    nn.MaxPool2d: "Max Pooling",
    nn.AvgPool2d: "Average Pooling",
    LocalResponseNorm: "Local Response Normalization",
    SpatialResponseNorm: "Spatial Response Normalization",
    nn.BatchNorm2d: "Batch Normalization",
    PaperDropout: "Dropout",
    Concatenation: "Concatenation",
    Sum: "Sum",
}
ACTIVATIONS = ("ReLU", "Tanh", "Sigmoid", "Dropout")  # rows listed with the row before them

Option = float | str
CONSTANTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MaxPool2d: ("ceil_mode",),
    nn.AvgPool2d: ("ceil_mode",),
    LocalResponseNorm: ("size", "alpha", "beta", "k", "towers"),
    SpatialResponseNorm: ("size", "alpha", "beta"),
    nn.BatchNorm2d: ("eps", "momentum"),
    nn.Dropout: ("p",),
    PaperDropout: ("p",),
}
SCALED_IN = {nn.Dropout: "training", PaperDropout: "test"}


@dataclass(frozen=True)
class Row:
    """One row of the network; None for what a layer of its type does not have.

    `output` is the shape without the batch: (channels, height, width) or (units,). `kernel` and
    `stride` are (vertical, horizontal), `padding` is (top, bottom, left, right). `activation` names
    the activation and dropout rows that directly follow. `inputs` counts what one kernel or unit
    reads: the maps of its group, or units. `options` holds the constants of normalisation, dropout
    and pooling. `start` has the standard deviation ("std") of a layer's initial weights and its
    initial "bias"; None for PyTorch's own.
    """

    name: str
    type: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    padding: tuple[int, int, int, int] | None = None
    groups: int | None = None
    activation: str | None = None
    inputs: int | None = None
    options: dict[str, Option] = field(default_factory=dict)
    start: dict[str, float] | None = None

    @property
    def neurons(self) -> int:
        """Count the outputs of a layer of kernels or units; 0 for other rows."""
        return torch.Size(self.output).numel() if self.macs else 0


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


@dataclass(frozen=True, repr=False)
class Summary:
    """A network's rows in the order of the forward pass, and their totals."""

    model: str
    input: tuple[int, ...]
    layers: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Count the weights and biases."""
        return sum(row.parameters for row in self.layers)

    @property
    def macs(self) -> int:
        """Count the multiply-adds of one image's forward pass."""
        return sum(row.macs for row in self.layers)

    @property
    def neurons(self) -> int:
        """Count the outputs of the layers of kernels or units, with the last layer's (P 3.5)."""
        return sum(row.neurons for row in self.layers)

    def as_json(self) -> dict[str, Any]:
        """Return what `alexnet summary --json` prints."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "macs": self.macs,
            "neurons": self.neurons,
            "input": self.input,
            "layers": [asdict(row) for row in self.layers],
        }

    def __repr__(self) -> str:
        counts = f"{self.parameters:,} parameters, {self.macs:,} multiply-adds"
        return f"Summary({self.model!r}: {len(self.layers)} rows, {counts})"

    def _repr_html_(self) -> str:
        head = ("layer", "type", "output", "parameters", "multiply-adds")
        rows = [
            (row.name, row.type, _sides(row.output), _count(row.parameters), _count(row.macs))
            for row in self.layers
        ]
        total = ("", "", "", f"{self.parameters:,}", f"{self.macs:,}")
        return facts(self.model, {}) + table(head, [*rows, total], right=(2, 3, 4))


def summarize(
    model: nn.Module | str, num_classes: int = 1000, *, ablate: Mapping[str, str] | None = None
) -> Summary:
    """Measure a network; one given by name is built without memory for its weights.

    `ablate` changes a network given by name: see `alexnet.create_model`. Raises `UsageError` for an
    unknown name and for a network without an `Input` row.
    """
    if isinstance(model, str):
        changes = ", ".join(f"{part}={kind}" for part, kind in (ablate or {}).items())
        name = f"{model} ({changes})" if changes else model
        network = build_without_memory(model, num_classes, ablate)
    else:
        name, network = type(model).__name__, model
    shape = image_shape(network)
    rows = [describe_row(*measured) for measured in forward_shapes(network, shape)]
    return Summary(name, shape, tuple(with_activations(rows)))


def build_without_memory(
    name: str, num_classes: int, ablate: Mapping[str, str] | None = None
) -> nn.Module:
    """Build a network whose weights are never written, so that they take no memory."""
    with torch.device("meta"):
        network = create_model(name, num_classes, ablate=ablate)
    # Not all operations run on "meta"; the system does not allocate memory that is not written.
    return network.to_empty(device="cpu")


def image_shape(network: nn.Module) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images that `network` takes."""
    for layer in network.modules():
        if isinstance(layer, Input):
            return layer.shape
    raise UsageError("the network has no row alexnet.networks.layers.Input, which has its size")


def forward_shapes(
    network: nn.Module, shape: tuple[int, int, int]
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Run `network` on an empty batch; list each layer's name, module and output shape in order.

    A row with branches comes after the layers in them. An empty batch costs nothing and uses no
    random numbers.
    """
    measured: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def add_hook(name: str, layer: nn.Module) -> RemovableHandle:
        def record(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            measured.append((name, layer, tuple(output.shape[1:])))

        return layer.register_forward_hook(record)

    weight = next(network.parameters())  # the images must be on the same device
    with torch.no_grad(), evaluating(network), ExitStack() as hooks:
        for name, layer in network.named_modules():
            if isinstance(layer, Branches) or not list(layer.children()):
                hooks.enter_context(add_hook(name, layer))
        network(weight.new_empty((0, *shape)))
    return measured


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put all layers in evaluation mode, and restore their modes at the end."""
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def describe_row(name: str, layer: nn.Module, output: tuple[int, ...]) -> Row:
    """Describe `layer` as a row; `output` is its output's shape without the batch."""
    start = start_of(layer)
    return Row(
        name=name,
        type=TYPES.get(type(layer), type(layer).__name__),
        output=output,
        parameters=sum(parameter.numel() for parameter in layer.parameters(recurse=False)),
        macs=multiply_adds(layer, output),
        kernel=pair(getattr(layer, "kernel_size", None)),
        stride=pair(getattr(layer, "stride", None)),
        padding=sides(getattr(layer, "padding", None)),
        groups=getattr(layer, "groups", None),
        inputs=inputs(layer),
        options=options(layer),
        start=start._asdict() if start else None,
    )


def inputs(layer: nn.Module) -> int | None:
    """Count what one kernel or unit of `layer` reads: maps or units."""
    total = getattr(layer, "in_channels", getattr(layer, "in_features", None))
    return None if total is None else int(total) // int(getattr(layer, "groups", 1))


def options(layer: nn.Module) -> dict[str, Option]:
    """List the constants of `layer`; for dropout also whether it scales in training or at test."""
    kind = type(layer)
    found: dict[str, Option] = {name: getattr(layer, name) for name in CONSTANTS.get(kind, ())}
    return {**found, "scaled_in": SCALED_IN[kind]} if kind in SCALED_IN else found


def multiply_adds(layer: nn.Module, output: tuple[int, ...]) -> int:
    """Count one image's multiply-adds: weights x the positions at which each one is used."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim == 1:  # batch normalisation
        return 0
    # A convolution's weights are used at each position of the map; all others are used once.
    positions = torch.Size(output[1:]).numel() if isinstance(layer, nn.Conv2d) else 1
    return int(weight.numel()) * positions


def pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return a size as (vertical, horizontal)."""
    return (size, size) if isinstance(size, int) else size


def sides(padding: int | tuple[int, ...] | None) -> tuple[int, int, int, int] | None:
    """Return a padding as (top, bottom, left, right), from any of the forms in layers."""
    match padding:
        case int(size):
            return (size, size, size, size)
        case (vertical, horizontal):
            return (vertical, vertical, horizontal, horizontal)
        case (left, right, top, bottom):  # the order of torch.nn.ZeroPad2d
            return (top, bottom, left, right)
    return None


def with_activations(rows: Sequence[Row]) -> list[Row]:
    """Set each row's activation: the activation and dropout that follow it ("ReLU + Dropout")."""
    noted: list[Row] = []
    for index, row in enumerate(rows):
        following = takewhile(lambda after: after.type in ACTIVATIONS, rows[index + 1 :])
        words = [] if row.type in ACTIVATIONS else [after.type for after in following]
        noted.append(replace(row, activation=" + ".join(words) or None))
    return noted
