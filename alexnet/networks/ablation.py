"""The paper's ablations: parts of a table taken away or exchanged, by name.

    activation=tanh, sigmoid        instead of ReLU (P 3.1, figure 1)
    norm=none, batch                no response normalisation, or batch normalisation (P 3.3)
    overlap=no                      pools of 2 x 2 (P 3.4)
    without=conv3, conv4, conv5     one of the middle layers removed (P 7)

relu, lrn and yes leave the table as it is. Dropout is a setting of its own: 0 does without (P 4.2).
A table of rows goes in, another one comes out; the tables in `alexnet.networks` know nothing of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from alexnet.errors import UsageError
from alexnet.networks.initialization import draw, start_of
from alexnet.networks.layers import GroupedLinear, Input, LocalResponseNorm, SpatialResponseNorm

Rows = list[tuple[str, nn.Module]]


def unchanged(rows: Rows) -> Rows:
    """Return the rows as they are."""
    return rows


def with_activation(kind: type[nn.Module], rows: Rows) -> Rows:
    """Put another activation in the place of each ReLU; its row is called after it: tanh1."""
    return [
        (name.replace("relu", kind.__name__.lower()), kind())
        if isinstance(layer, nn.ReLU)
        else (name, layer)
        for name, layer in rows
    ]


def without_norm(rows: Rows) -> Rows:
    """Remove all response normalisation, as in net #148 (AN layers-148.cfg)."""
    norms = (LocalResponseNorm, SpatialResponseNorm)
    return [(name, layer) for name, layer in rows if not isinstance(layer, norms)]


def with_batch_norm(rows: Rows) -> Rows:
    """Put batch normalisation in the place of each normalisation across channels.

    It has no weights, as what it replaces: the next convolution can scale and shift as well. The
    second normalisation of the 2012 code's layer 2 goes.
    """
    changed: Rows = []
    channels = 0
    for name, layer in rows:
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        if isinstance(layer, LocalResponseNorm):
            changed.append((name, nn.BatchNorm2d(channels, affine=False)))
        elif not isinstance(layer, SpatialResponseNorm):
            changed.append((name, layer))
    return changed


def without_overlap(rows: Rows) -> Rows:
    """Make pools 2 x 2, as in net #147 (AN layers-147.cfg), for maps of nearly the same size.

    There conv2 and conv5 have padding 1 and 0, and pools round up: maps of 55, 28, 26, 13, 11 and 6
    for 55, 27, 27, 13, 13 and 6. The CIFAR-10 nets' 24, 12 and 6 stay as they are.
    """
    padding = {"conv2": (1, 1), "conv5": (0, 0)} if "conv5" in dict(rows) else {}
    changed: Rows = []
    for name, layer in rows:
        if isinstance(layer, nn.Conv2d) and name in padding:
            layer.padding = padding[name]
        pool = isinstance(layer, nn.MaxPool2d)
        changed.append((name, nn.MaxPool2d(2, stride=2, ceil_mode=True) if pool else layer))
    return changed


def without_layer(conv: str, rows: Rows) -> Rows:
    """Remove a convolution and its activation; the next layer reads what the one before gives.

    Groups stay, so without conv3 the paper's towers first meet in fc6. Without conv5, fc6 reads
    more maps and grows.
    """
    if conv not in dict(rows):
        return rows
    gone = {conv, *(f"{kind}{conv[-1]}" for kind in ("relu", "tanh", "sigmoid"))}
    return [(name, layer) for name, layer in rows if name not in gone]


ABLATIONS: dict[str, dict[str, Callable[[Rows], Rows]]] = {
    "activation": {
        "relu": unchanged,
        "tanh": partial(with_activation, nn.Tanh),
        "sigmoid": partial(with_activation, nn.Sigmoid),
    },
    "norm": {"lrn": unchanged, "none": without_norm, "batch": with_batch_norm},
    "overlap": {"yes": unchanged, "no": without_overlap},
    "without": {conv: partial(without_layer, conv) for conv in ("conv3", "conv4", "conv5")},
}
"""What can be changed and into what, in the order in which changes are made."""


def ablate(model: nn.Sequential, changes: Mapping[str, str]) -> nn.Sequential:
    """Change a freshly built table; layers that no longer fit are drawn anew, the others stay.

    Raises `UsageError` for an unknown change, and for one that finds nothing to change.
    """
    _refuse_unknown(changes)
    rows = before = list(model.named_children())
    for name in (name for name in ABLATIONS if name in changes):
        change = ABLATIONS[name][changes[name]]
        changed = change(rows)
        if change is not unchanged and changed == rows:
            raise UsageError(f"ablate: {name}={changes[name]} finds no such row in this network")
        rows = changed
    return model if rows == before else _fit(nn.Sequential(OrderedDict(rows)))


def _refuse_unknown(changes: Mapping[str, str]) -> None:
    for name, value in changes.items():
        if value not in ABLATIONS.get(name, {}):
            known = [f"{what}={kind}" for what, kinds in ABLATIONS.items() for kind in kinds]
            raise UsageError(f"ablate: there is no {name}={value}; there are: {', '.join(known)}")


@torch.no_grad()
def _fit(model: nn.Sequential) -> nn.Sequential:
    """Rebuild each layer whose number of inputs is not what the row before it gives."""
    first = model[0]
    assert isinstance(first, Input)  # noqa: S101 - the first row of every table
    # An empty batch has every shape and costs nothing; batch normalisation takes it in eval only.
    x = torch.empty((0, *first.shape), device=next(model.parameters()).device)
    for place, layer in enumerate(model.eval()):
        model[place] = _with_inputs(layer, x.shape[1])
        x = model[place](x)
    return model.train()


def _with_inputs(layer: nn.Module, inputs: int) -> nn.Module:
    """Return `layer`, or one that takes so many inputs, with the same kind of start weights."""
    fresh = layer
    if isinstance(layer, nn.Conv2d) and layer.in_channels != inputs:
        fresh = nn.Conv2d(
            inputs,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            groups=layer.groups,
        )
    if isinstance(layer, nn.Linear) and layer.in_features != inputs:
        fresh = nn.Linear(inputs, layer.out_features)
    if isinstance(layer, GroupedLinear) and layer.in_features != inputs:
        fresh = GroupedLinear(inputs, layer.out_features, groups=layer.groups)
    start = start_of(layer)
    if fresh is not layer and start is not None:
        draw(fresh, start)
    return fresh
