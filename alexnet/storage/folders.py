"""What a named folder is: one line of advice where a data set or run was expected."""

import re
import shlex
from pathlib import Path

from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.storage.atomic import expanded

DATASET, RUN = "dataset.json", "run.json"
"""The files that make a folder a packed data set, or a run directory."""

SHIPPED, SHIPPED_RUN = "shipped", Path(__file__).parents[1] / "shipped" / "cifar10_11"
"""What commands call the run directory that comes with the package, and where it is."""


def named_run(path: Path) -> Path:
    """Return the folder that `path` names, the package's for "shipped" if there is none here."""
    return SHIPPED_RUN if str(path) == SHIPPED and not path.exists() else path


def refuse_address(path: str | Path) -> None:
    """Raise `UsageError` if `path` is an address, from which nothing is downloaded here."""
    if match := re.match(r"([a-z][a-z0-9+]+):/+", str(path)):  # a Path has one slash only
        address = f"{match[1]}://{str(path)[match.end() :]}"
        raise UsageError(f"{address} is an address: download the file first, and name it here")


def is_dataset(path: Path) -> bool:
    """Tell whether `path` is a packed data set."""
    return (expanded(path) / DATASET).is_file()


def is_run(path: Path) -> bool:
    """Tell whether `path` is a run directory."""
    return (expanded(path) / RUN).is_file()


def not_a_dataset(path: Path) -> str:
    """Say what `path` is instead of a packed data set, and how to make one."""
    folder = expanded(path)
    if not folder.exists():
        return f"{path} does not exist; make a packed data set with: {prepare('SOURCE', path)}"
    if is_run(path):
        return f"{path} is a run directory, not a packed data set"
    if folder.is_dir() and not any(folder.iterdir()):
        return f"{path} is empty; make a packed data set with: {prepare('SOURCE', path)}"
    source = folder.resolve()
    out = Path("data", source.name.partition(".")[0] if source.is_file() else source.name)
    if out.resolve().is_relative_to(source):  # never into the images
        out = source.with_name(f"{source.name}-packed")
    return (
        f"{path} is not a packed data set: it has no {DATASET}; if it holds images, pack them "
        f"into another folder: {prepare(path, out)}"
    )


def prepare(source: str | Path, out: Path) -> str:
    """Write the command that makes the packed data set `out`."""
    return f"alexnet prepare {shlex.quote(str(source))} {shlex.quote(str(out))}"


def not_a_run(path: Path) -> str:
    """Say what `path` is instead of a run directory."""
    if not expanded(path).exists():
        return f"{path} is not a run directory: it does not exist"
    if is_dataset(path):
        return f"{path} is a packed data set, not a run directory"
    return f"{path} is not a run directory: it has no {RUN}"


def check_run(path: Path) -> None:
    """Raise `CheckpointError` unless `path` is a run directory, `UsageError` for an address."""
    refuse_address(path)
    if not is_run(path):
        raise CheckpointError(not_a_run(path))


def check_training(data: Path, run: Path) -> None:
    """Raise an error if `data` is no packed data set, or if `run` is one."""
    refuse_address(data)
    if is_run(data) and is_dataset(run):
        raise DataError(
            f"{data} is a run directory and {run} a packed data set: train takes them the other "
            f"way round, alexnet train {shlex.quote(str(run))} {shlex.quote(str(data))}"
        )
    if not is_dataset(data):
        raise DataError(not_a_dataset(data))
    if is_dataset(run):
        raise UsageError(f"{run} is a packed data set: name another folder for the run")


def check_evaluation(runs: list[Path], data: Path) -> None:
    """Raise an error if `runs` are no run directories, or `data` no packed data set."""
    others = [path for path in runs if not is_run(path)]
    if is_run(data) and len(others) == 1 and is_dataset(others[0]):
        words = [*(path for path in runs if path is not others[0]), data, others[0]]
        raise CheckpointError(
            f"{others[0]} is a packed data set and {data} a run directory: evaluate takes the data "
            f"last, alexnet evaluate {shlex.join(map(str, words))}"
        )
    for path in others:
        raise CheckpointError(not_a_run(path))
    if not is_dataset(data):
        raise DataError(not_a_dataset(data))
