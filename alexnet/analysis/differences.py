"""How two networks differ, row by row: what is in one only, at another place, or of other make."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from alexnet.analysis.summary import Row, Summary

Value = float | str | tuple[int, ...] | dict[str, float] | None


@dataclass(frozen=True)
class Difference:
    """One thing in which a row differs: its value in the first network and in the second.

    `what` is "type" where only one of the networks has the row (None in the other), "after" where
    it stands behind another one, and otherwise what is of another make: "kernel", "groups",
    "alpha", "start", ... "inputs" are what one kernel or unit reads: the maps of its group, or
    units; "outputs" are kernels or units.
    """

    row: str
    what: str
    values: tuple[Value, Value]


def find_differences(first: Summary, second: Summary) -> list[Difference]:
    """List in what `second` differs from `first`, in the order of the rows.

    A row without weights whose size merely follows from the rows before it counts as equal.
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
    """List in what two rows called `name` are of different make; None: there is none."""
    makes = make(one), make(other)
    differ = [
        what
        for what in dict.fromkeys([*makes[0], *makes[1]])
        if makes[0].get(what) != makes[1].get(what)
    ]
    for what in ["type"] if "type" in differ else differ:  # of two types nothing else compares
        yield Difference(name, what, (makes[0].get(what), makes[1].get(what)))


def make(row: Row | None) -> dict[str, Value]:
    """List how a row is made; what follows from the rows before it is left out."""
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
    """List the names of both: the first one's, and the second's own where they stand there."""
    merged = ["", *first]
    for name, before in predecessors(second).items():
        if name not in merged:
            merged.insert(merged.index(before) + 1, name)
    return merged[1:]


def moved_rows(first: list[str], second: list[str]) -> set[str]:
    """Name those rows of both that do not stand in the same order."""
    second = [name for name in second if name in first]
    first = [name for name in first if name in second]
    blocks = SequenceMatcher(None, second, first, autojunk=False).get_matching_blocks()
    kept = {second[block.a + step] for block in blocks for step in range(block.size)}
    return set(first) - kept
