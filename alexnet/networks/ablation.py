"""The paper's ablations: parts of a network removed or replaced, by name.

    activation=tanh, sigmoid        instead of ReLU (P 3.1, figure 1)
    norm=none, batch                no response normalisation, or batch normalisation (P 3.3)
    overlap=no                      pools of 2 x 2 (P 3.4)
    without=conv3, conv4, conv5     one of the middle layers removed (P 7)
    order=pool_norm, signed         pool before norm (CaffeNet), or norm before ReLU (2012)
    towers=one, half, apart         one tower, wide or narrow, or two that meet in fc8 (P 3.2)

relu, lrn, yes, norm_pool and two change nothing. Dropout is a setting of its own (P 4.2). Each
ablation maps a table's rows to other rows, so the tables themselves do not depend on it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from alexnet.errors import UsageError
from alexnet.networks.branches import Branches
from alexnet.networks.initialization import draw_weights, start_of
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, SpatialResponseNorm

Rows = list[tuple[str, nn.Module]]
RESPONSE_NORMS = (LocalResponseNorm, SpatialResponseNorm)


def unchanged(rows: Rows) -> Rows:
    """Return the rows as they are."""
    return rows


def with_activation(kind: type[nn.Module], rows: Rows) -> Rows:
    """Replace each ReLU by another activation, which names the row: tanh1."""
    return [
        (name.replace("relu", kind.__name__.lower()), kind())
        if isinstance(layer, nn.ReLU)
        else (name, layer)
        for name, layer in rows
    ]


def without_norm(rows: Rows) -> Rows:
    """Remove all response normalisation, as net #148 does (AN layers-148.cfg)."""
    return [(name, layer) for name, layer in rows if not isinstance(layer, RESPONSE_NORMS)]


def with_batch_norm(rows: Rows) -> Rows:
    """Replace each layer's response normalisation by batch normalisation without weights.

    The next convolution can scale and shift as well. The second normalisation of the 2012 code's
    layer 2 is removed.
    """
    changed: Rows = []
    channels, has_norm = 0, False
    for name, layer in rows:
        if isinstance(layer, nn.Conv2d):
            channels, has_norm = layer.out_channels, False
        if not isinstance(layer, RESPONSE_NORMS):
            changed.append((name, layer))
        elif not has_norm:
            changed.append((name, nn.BatchNorm2d(channels, affine=False)))
            has_norm = True
    return changed


def without_overlap(rows: Rows) -> Rows:
    """Make pools 2 x 2, as net #147 does (AN layers-147.cfg), with maps of nearly the same size.

    conv2 and conv5 get padding 1 and 0, and pools round up: the maps' sides are 55, 28, 26, 13, 11
    and 6 instead of 55, 27, 27, 13, 13 and 6. The CIFAR-10 nets keep theirs.
    """
    pools = [layer for _, layer in rows if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)]
    if all(pool.kernel_size == pool.stride for pool in pools):
        return rows
    padding = {"conv2": (1, 1), "conv5": (0, 0)} if "conv5" in dict(rows) else {}
    changed: Rows = []
    for name, layer in rows:
        if isinstance(layer, nn.Conv2d) and name in padding:
            layer.padding = padding[name]
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            changed.append((name, type(layer)(2, stride=2, ceil_mode=True)))
        else:
            changed.append((name, layer))
    return changed


def without_layer(conv: str, rows: Rows) -> Rows:
    """Remove a convolution and its activation; the next layer reads the output of the one before.

    Groups do not change, so without conv3 the paper's towers first meet in fc6. Without conv5, fc6
    reads more maps and is larger.
    """
    if conv not in dict(rows):
        return rows
    removed = {conv, *(f"{kind}{conv[-1]}" for kind in ("relu", "tanh", "sigmoid"))}
    return [(name, layer) for name, layer in rows if name not in removed]


def with_order(signed: bool, rows: Rows) -> Rows:
    """Put each pool before the normalisation that it follows, or the ReLU of layer 1 after both.

    The first is CaffeNet's order; the second is that of 2012's layer 1, which normalises the signed
    responses (AN layers-145.cfg:35-63).
    """
    names = [name for name, _ in rows]
    layers = dict(rows)
    for name in [name for name in names if isinstance(layers[name], LocalResponseNorm)]:
        at, pool, relu = names.index(name), f"pool{name[-1]}", f"relu{name[-1]}"
        if names[at + 1 : at + 2] != [pool]:
            continue
        if not signed:
            names[at : at + 2] = [pool, name]
        elif name == "norm1" and names[at - 1] == relu:
            names[at - 1 : at + 2] = [name, pool, relu]
    return [(name, layers[name]) for name in names]


def with_towers(kind: str, rows: Rows) -> Rows:
    """Change how the towers of a network with two are connected.

    one: each kernel reads all maps. half: one tower with half of the kernels, but with all of
    conv5, fc6 and fc7 (AN layers-145-half.cfg). apart: the towers meet in the last layer only, with
    a quarter more kernels in conv2 and twice the units in fc6 instead (AN layers-150.cfg).
    """
    if not any(isinstance(layer, nn.Conv2d) and layer.groups == 2 for _, layer in rows):
        return rows
    widths = {"half": dict.fromkeys(("conv1", "conv2", "conv3", "conv4"), 0.5)}
    widths["apart"] = {"conv2": 1.25, "fc6": 2.0}
    return [(name, _in_towers(name, layer, kind, widths.get(kind, {}))) for name, layer in rows]


def _in_towers(name: str, layer: nn.Module, kind: str, widths: Mapping[str, float]) -> nn.Module:
    """Return a row of another width and with other groups; its number of inputs is set later."""
    fresh, apart = layer, kind == "apart"
    if isinstance(layer, nn.Conv2d):
        groups = 2 if apart and name != "conv1" else 1
        fresh = nn.Conv2d(
            layer.in_channels,
            int(layer.out_channels * widths.get(name, 1)),
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            groups=groups,
        )
    elif isinstance(layer, nn.Linear | GroupedLinear) and name in ("fc6", "fc7"):
        units = int(layer.out_features * widths.get(name, 1))
        grouped = partial(GroupedLinear, groups=2)
        fresh = (grouped if apart else nn.Linear)(layer.in_features, units)
    start = start_of(layer)
    if fresh is not layer and start is not None:
        draw_weights(fresh, start)
    return fresh


ABLATIONS: dict[str, dict[str, Callable[[Rows], Rows]]] = {
    "order": {
        "norm_pool": unchanged,
        "pool_norm": partial(with_order, False),
        "signed": partial(with_order, True),
    },
    "towers": {
        "two": unchanged,
        **{kind: partial(with_towers, kind) for kind in ("one", "half", "apart")},
    },
    "activation": {
        "relu": unchanged,
        "tanh": partial(with_activation, nn.Tanh),
        "sigmoid": partial(with_activation, nn.Sigmoid),
    },
    "norm": {"lrn": unchanged, "none": without_norm, "batch": with_batch_norm},
    "overlap": {"yes": unchanged, "no": without_overlap},
    "without": {conv: partial(without_layer, conv) for conv in ("conv3", "conv4", "conv5")},
}
"""What can be changed, and to what, in the order in which it is done."""


def ablate(model: nn.Sequential, changes: Mapping[str, str]) -> nn.Sequential:
    """Apply changes to a newly built network; layers of other input sizes get new weights.

    Raises `UsageError` for an unknown change, for one that has no row to change, and for a network
    with branches.
    """
    _refuse_unknown(changes)
    if changes and any(isinstance(layer, Branches) for layer in model):
        raise UsageError("ablate: a network with branches is not changed")
    rows = before = list(model.named_children())
    for name in (name for name in ABLATIONS if name in changes):
        change = ABLATIONS[name][changes[name]]
        changed = change(rows)
        if change is not unchanged and changed == rows:
            raise UsageError(f"ablate: {name}={changes[name]} has no row to change in this network")
        rows = changed
    return model if rows == before else _fit(nn.Sequential(OrderedDict(rows)))


def _refuse_unknown(changes: Mapping[str, str]) -> None:
    for name, value in changes.items():
        if value not in ABLATIONS.get(name, {}):
            known = [f"{part}={kind}" for part, kinds in ABLATIONS.items() for kind in kinds]
            raise UsageError(f"ablate: there is no {name}={value}; there are: {', '.join(known)}")


@torch.no_grad()
def _fit(model: nn.Sequential) -> nn.Sequential:
    """Rebuild each layer whose number of inputs is not the number of outputs of the row before."""
    first = model[0]
    assert isinstance(first, Input)  # noqa: S101 - the first row of every table
    # An empty batch costs nothing; batch normalisation accepts it in evaluation mode only.
    x = torch.empty((0, *first.shape), device=next(model.parameters()).device)
    for index, layer in enumerate(model.eval()):
        model[index] = _with_inputs(layer, x.shape[1])
        x = model[index](x)
    return model.train()


def _with_inputs(layer: nn.Module, inputs: int) -> nn.Module:
    """Return `layer`, or one with that many inputs and the same kind of initial weights."""
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
        draw_weights(fresh, start)
    return fresh
