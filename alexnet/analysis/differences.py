"""The differences of two networks, row by row: in existence, order and properties."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from alexnet.analysis.summary import Row, Summary

Value = float | str | tuple[int, ...] | dict[str, float] | None


@dataclass(frozen=True)
class Difference:
    """One difference of a row: its values in the first network and in the second.

    `what` is "type" where only one network has the row (None in the other), "after" where it
    follows another row, and otherwise a property: "kernel", "groups", "alpha", "start", ...
    "inputs" counts what one kernel or unit reads, the maps of its group or units; "outputs" counts
    kernels or units.
    """

    row: str
    what: str
    values: tuple[Value, Value]


def find_differences(first: Summary, second: Summary) -> list[Difference]:
    """List the differences of `second` from `first`, in the order of the rows.

    The size of a row without weights follows from the rows before it and does not count.
    """
    one, other = ({row.name: row for row in summary.layers} for summary in (first, second))
    moved = moved_rows(list(one), list(other))
    before = predecessors(one), predecessors(other)
    found: list[Difference] = []
    for name in merged_names(list(one), list(other)):
        if name in moved:
            found.append(Difference(name, "after", (before[0][name], before[1][name])))
        found += compare_rows(name, one.get(name), other.get(name))
    return found


def as_json(first: Summary, second: Summary) -> dict[str, Any]:
    """Return what `alexnet summary --diff A B --json` prints."""
    return {
        "models": [first.model, second.model],
        "parameters": [first.parameters, second.parameters],
        "macs": [first.macs, second.macs],
        "neurons": [first.neurons, second.neurons],
        "differences": [asdict(each) for each in find_differences(first, second)],
    }


def compare_rows(name: str, one: Row | None, other: Row | None) -> Iterator[Difference]:
    """List the differences of two rows called `name`; None stands for a row that is missing."""
    ours, theirs = properties(one), properties(other)
    names = dict.fromkeys([*ours, *theirs])
    differ = [what for what in names if ours.get(what) != theirs.get(what)]
    for what in ["type"] if "type" in differ else differ:  # other types share no properties
        yield Difference(name, what, (ours.get(what), theirs.get(what)))


def properties(row: Row | None) -> dict[str, Value]:
    """List the properties of a row that do not follow from the rows before it."""
    if row is None:
        return {}
    size: dict[str, Value] = {"output": row.output} if row.type == "Image" else {}
    if row.inputs is not None:
        size = {"inputs": row.inputs, "outputs": row.output[0], "start": row.start}
    shape = {"kernel": row.kernel, "stride": row.stride, "padding": row.padding}
    return {"type": row.type, **shape, "groups": row.groups, **size, **row.options}


def predecessors(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the one before it."""
    return {name: before for before, name in pairwise(["", *names])}


def merged_names(first: list[str], second: list[str]) -> list[str]:
    """Merge two lists of names; names of `second` alone follow their predecessor there."""
    merged = ["", *first]
    for name, before in predecessors(second).items():
        if name not in merged:
            merged.insert(merged.index(before) + 1, name)
    return merged[1:]


def moved_rows(first: list[str], second: list[str]) -> set[str]:
    """Return the rows of both networks that are not in the same order."""
    second = [name for name in second if name in first]
    first = [name for name in first if name in second]
    blocks = SequenceMatcher(None, second, first, autojunk=False).get_matching_blocks()
    in_order = {second[block.a + step] for block in blocks for step in range(block.size)}
    return set(first) - in_order
