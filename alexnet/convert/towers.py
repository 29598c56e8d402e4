"""The same network with another number of towers: groups joined, or separated again.

A layer with groups is one without whose weights between the groups are 0. So a network of two
towers has an exact one-tower form; the way back is open as long as these weights are 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.analysis.differences import find_differences
from alexnet.analysis.summary import summarize
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.groups import join_groups, separate_groups
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import create_model
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import atomic_write, expanded
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.run import Run

FOLLOWS_FROM_GROUPS = ("groups", "inputs", "start")
"""Properties in which the rows of the two networks may differ: initial weights play no part."""


@dataclass(frozen=True)
class ConvertReport:
    """What was converted."""

    run: str
    model: str
    converted_from: str
    """The network of the run before."""
    layers: tuple[str, ...]
    """Those whose groups changed."""
    parameters: int
    zeros: int
    """Weights between groups that the new network has and the old one has not; less than 0 for
    those that were left out."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def convert_run(
    run: str | Path,
    out: str | Path,
    to: str,
    *,
    ablate: Mapping[str, str] | None = None,
    checkpoint: CheckpointName = "best",
) -> ConvertReport:
    """Make the run directory `out` with the weights of a run in the network `to`, exactly.

    `ablate` are the changes to that network (`alexnet.networks.ablation`); None: those of the run.
    The two networks may differ in the groups of their layers alone, as "alexnet" and
    "alexnet_one_tower" do. Raises `UsageError` for another pair and for an `out` that exists, and
    `CheckpointError` for weights between groups that are not 0.
    """
    out = expanded(out)
    if out.exists():
        raise UsageError(f"{out} exists already: name another directory")
    opened = Run.open(run)
    changes = opened.settings.ablate if ablate is None else dict(ablate)
    settings = replace(opened.settings, model=to, ablate=changes)
    with torch.device("meta"):  # no weights are drawn, only to be replaced
        target = create_model(to, len(opened.classes), ablate=settings.ablate)
    target = target.to_empty(device="cpu")
    source, _ = opened.load(checkpoint)
    _check_rows(opened.model_name, source, to, target)
    weights = convert_weights(source, target)
    layers = [name for name, layer in weight_layers(source) if _differs(layer, target, name)]
    target.load_state_dict(weights)
    note = {
        "data": {"path": f"converted from {opened.path}", "fingerprint": ""},
        "converted": {"run": str(opened.path), "model": opened.model_name},
    }
    with atomic_write(out) as temporary:
        Run.write(temporary, settings, opened.classes, opened.titles, opened.preprocessing, note)
        checkpoint_store.save(temporary, target, torch.optim.SGD(target.parameters()), Position())
    before, after = (sum(p.numel() for p in each.parameters()) for each in (source, target))
    return ConvertReport(
        str(out), to, opened.model_name, tuple(layers), after, zeros=after - before
    )


def convert_weights(source: nn.Sequential, target: nn.Sequential) -> dict[str, Tensor]:
    """Return the state of `source` for `target`, whose layers may have other groups.

    Raises `CheckpointError` for a weight that is not 0 and has no place there.
    """
    state = dict(source.state_dict())
    for name, layer in weight_layers(source):
        if _differs(layer, target, name):
            weight = join_groups(layer.get_parameter("weight").detach(), _groups(layer))
            groups = _groups(target.get_submodule(name))
            state[f"{name}.weight"] = _separate(name, weight, groups)
    return state


def _separate(name: str, weight: Tensor, groups: int) -> Tensor:
    """Separate groups; raise `CheckpointError` where a weight between them is not 0."""
    separated = separate_groups(weight, groups)
    between = weight.count_nonzero().item() - separated.count_nonzero().item()
    if between:
        total = weight.numel() - separated.numel()
        raise CheckpointError(
            f"{between:,.0f} of the {total:,} weights between the {groups} groups of {name} are "
            f"not 0: this network has learned what the towers cannot do apart"
        )
    return separated


def _groups(layer: nn.Module) -> int:
    groups: int = getattr(layer, "groups", 1)  # a linear layer has none
    return groups


def _differs(layer: nn.Module, target: nn.Sequential, name: str) -> bool:
    return _groups(layer) != _groups(target.get_submodule(name))


def _check_rows(name: str, source: nn.Sequential, to: str, target: nn.Sequential) -> None:
    """Refuse networks that compute different things with the same weights."""
    found = find_differences(summarize(source), summarize(target))
    others = [each for each in found if each.what not in FOLLOWS_FROM_GROUPS]
    if others:
        rows = [f"{each.row} ({each.what})" for each in others]
        more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
        raise UsageError(
            f"{name} cannot be written as {to}, which differs in {', '.join(rows[:4])}{more}: only "
            f"networks that differ in their groups alone can be converted, such as alexnet and "
            f"alexnet_one_tower"
        )
    if not found:
        raise UsageError(f"{name} and {to} have the same groups: there is nothing to convert")
