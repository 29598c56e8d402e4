"""Results as files: where each came from, what is kept of it, and all that a folder has."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.dataset import Dataset
from alexnet.errors import StorageError
from alexnet.reproduce.experiments import EXPERIMENTS
from alexnet.reproduce.plan import BudgetName
from alexnet.storage.atomic import write_text
from alexnet.storage.environment import commit
from alexnet.storage.untrusted import parse_json

Result = dict[str, Any]
"""What an experiment found, as plain JSON values; docs/reproduce.md lists them."""

DIGITS, CURVE_DIGITS = 6, 3
"""That are kept of figures, and of values by epoch."""


def origin(name: str, data: Path, budget: BudgetName, seeds: int | None) -> Result:
    """Return the command that repeats an experiment, the code's commit, and the data set it takes.

    The data set is called as its folder is, without the path to it.
    """
    dataset = Dataset(data)
    words = ["alexnet", "reproduce", name, "--data", f"data/{data.name}", "--budget", budget]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    return {
        "command": " ".join(words),
        "commit": commit(),
        "source": {
            "name": data.name,
            "images": {split: len(dataset.split(split)) for split in dataset.split_names},
        },
    }


def write_result(folder: Path, name: str, result: Result) -> Result:
    """Write FOLDER/NAME.json, and return what it has: rounded figures, epochs as columns."""
    arms = {
        arm: {**facts, "seeds": [_condensed(seed) for seed in facts["seeds"]]}
        for arm, facts in result["arms"].items()
    }
    stored: Result = rounded({**result, "arms": arms}, DIGITS)
    text = json.dumps(stored, indent=1, allow_nan=False)
    # A list of numbers takes one line.
    text = re.sub(r"\[[^][{}\"]*\]", lambda found: "".join(found[0].split()), text)
    write_text(folder / f"{name}.json", text + "\n")
    return stored


def _condensed(seed: Mapping[str, Any]) -> Result:
    """Return the figures of a training, its rows by epoch as columns."""
    rows = seed.get("epochs")
    if not isinstance(rows, list):
        return dict(seed)
    return {**seed, "epochs": rounded(columns(rows), CURVE_DIGITS)}


def columns(rows: Sequence[Mapping[str, Any]]) -> Result:
    """Turn rows, which may have rows in them, into columns; leave out what has no value."""
    found: Result = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != "epoch"):
        values = [row.get(name) for row in rows]
        if all(isinstance(value, Mapping) for value in values):
            found[name] = columns([dict(value) for value in values if value])
        elif any(value is not None for value in values):
            found[name] = values
    return found


def rounded(value: Any, digits: int) -> Any:
    """Round all fractions in plain JSON values to significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {name: rounded(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return value


def read_results(folder: Path) -> list[Result]:
    """Return the results that a folder has, in the order of `alexnet reproduce --list`."""
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {path}: {error}") from None
        if isinstance(result, dict) and {"experiment", "arms", "comparisons"} <= result.keys():
            found[result["experiment"]] = result
    return [found[name] for name in _ordered(found)]


def _ordered(names: Iterable[str]) -> list[str]:
    known = list(EXPERIMENTS)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))
