"""A run directory, examined: its description, its checkpoints, its metrics, its data."""

import fcntl
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from alexnet.dataset import Dataset
from alexnet.doctor.files import Expected, wrong_files
from alexnet.doctor.findings import Notebook, told
from alexnet.errors import AlexnetError
from alexnet.progress import Progress
from alexnet.storage.checkpoint import read_manifest
from alexnet.storage.run import Run
from alexnet.storage.untrusted import parse_json

_UNFINISHED = (".tmp", ".partial", ".part")


def examine_run(path: Path, book: Notebook, progress: Progress) -> None:
    """Examine the run directory at `path` and write down what is found."""
    run = _open(path, book)
    _check_checkpoints(path, run, book, progress)
    _check_metrics(path / "metrics.jsonl", book)
    left = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.suffix in _UNFINISHED)
    if _is_locked(path / "lock"):
        book.warn("lock", "a training is at work in it now", "examine it again when that has ended")
    elif left:
        book.warn(
            "files",
            f"{len(left):,} unfinished files were left by a crash",
            "delete them, or resume the training, which does",
            left,
        )


def _open(path: Path, book: Notebook) -> Run | None:
    try:
        run = Run.open(path)
        with torch.device("meta"):
            run.new_model()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the person asked for
        what = told(error, path / "run.json")
        book.damage("description", what, "take run.json and mean_image.npy from a copy")
        return None
    book.facts |= {"model": run.model_name, "classes": len(run.classes)}
    mean, size = run.preprocessing.mean_image, run.preprocessing.size
    low, high = (float(mean.min()), float(mean.max())) if mean.numel() else (math.nan, math.nan)
    if tuple(mean.shape) != (3, size, size) or not (low >= 0 and high <= 255):
        book.damage(
            "mean image",
            f"mean_image.npy is {' x '.join(map(str, mean.shape))} from {low:g} to {high:g}, not "
            f"3 x {size} x {size} within 0 to 255",
            "take it from a copy, or from the data set (mean_image.npy there)",
        )
    if len(run.titles) != len(run.classes):
        what = f"{len(run.titles):,} titles for {len(run.classes):,} classes"
        book.damage("classes", what, "take run.json from a copy")
    _check_data(run, book)
    return run


def _check_data(run: Run, book: Notebook) -> None:
    """Compare the data set that the run was trained on with what lies there now."""
    data = run.info.get("data")
    data = data if isinstance(data, dict) else {}
    place, fingerprint = data.get("path"), data.get("fingerprint")
    if not fingerprint or not isinstance(place, str):
        book.note("data", "the run does not say on which data set it was trained")
        return
    try:
        found = Dataset(place).fingerprint
    except AlexnetError as error:
        book.note("data", f"the data set it was trained on is not at hand: {error}")
        return
    if found != fingerprint:
        book.warn(
            "data",
            f"{place} is another data set than the one that this run was trained on",
            "evaluate it on the right one; it cannot be resumed with this one",
        )


def _check_checkpoints(path: Path, run: Run | None, book: Notebook, progress: Progress) -> None:
    try:
        manifest = read_manifest(path)
        files = [_expected(path / "checkpoints", entry) for entry in manifest["checkpoints"]]
        expected = {file.path: file for file in files}
    except Exception as error:  # noqa: BLE001 - as above
        text = told(error, path / "checkpoints.json")
        book.damage("checkpoints", text, "take checkpoints.json from a copy")
        return
    wrong = wrong_files(expected.values(), "sha256", progress)
    with progress.task("weights", len(expected), "checkpoints") as advance:
        for file in expected:
            problem = wrong.get(file) or _wrong_weights(file, run)
            if problem:
                wrong[file] = problem
            advance(1)
    book.facts["checkpoints"] = {file.name: wrong.get(file, "sound") for file in expected}
    _report_checkpoints(path, manifest, list(expected), wrong, book)


def _expected(folder: Path, entry: dict[str, Any]) -> Expected:
    name, size = str(entry["file"]), entry.get("bytes")
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file")
    return Expected(folder / name, str(entry["sha256"]), size if isinstance(size, int) else None)


def _report_checkpoints(
    path: Path,
    manifest: dict[str, Any],
    files: list[Path],
    wrong: dict[Path, str],
    book: Notebook,
) -> None:
    sound = [file.name for file in files if file not in wrong]
    if not files:
        book.warn("checkpoints", "there is none yet", "train longer, or start again with --resume")
    if wrong:
        remedy = f"the others are used instead ({', '.join(sound)})" if sound else "train again"
        listed = [f"{file.name}: {problem}" for file, problem in wrong.items()]
        what = f"{len(wrong):,} of {len(files):,} checkpoints cannot be used"
        book.damage("checkpoints", what, remedy, listed)
    for which in ("last", "best"):
        if files and manifest[which] not in [file.name for file in files]:
            what = f"{which} is {manifest[which]!r}, which checkpoints.json does not list"
            book.damage("checkpoints", what, "take checkpoints.json from a copy")
    named = {file.name for file in files}
    strays = sorted(file.name for file in (path / "checkpoints").glob("*.safetensors"))
    if strays := [name for name in strays if name not in named]:
        book.note("checkpoints", f"not in checkpoints.json, and never used: {', '.join(strays)}")


def _wrong_weights(file: Path, run: Run | None) -> str:
    """Say what is wrong with a checkpoint whose bytes are right; "" if nothing is."""
    try:
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
            problem = _wrong_shapes(shapes, run) if run else ""
            for name in names:  # one tensor at a time: a checkpoint may not fit into memory
                if not problem and not torch.isfinite(stored.get_tensor(name)).all():
                    problem = f"{name} holds numbers that are not finite"
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        return f"cannot be read ({error})"
    return problem


def _wrong_shapes(shapes: dict[str, tuple[int, ...]], run: Run) -> str:
    try:
        with torch.device("meta"):
            wanted = {f"model.{k}": tuple(t.shape) for k, t in run.new_model().state_dict().items()}
    except AlexnetError as error:
        return str(error)
    found = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    wrong = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    return f"does not fit the network in {', '.join(wrong[:5])}" if wrong else ""


def _check_metrics(path: Path, book: Notebook) -> None:
    """Read metrics.jsonl line by line: torn or broken lines, steps that go back, numbers lost."""
    if not path.exists():
        book.note("metrics", "there is no metrics.jsonl")
        return
    rows, broken, last_step, lost = 0, list[int](), -math.inf, list[str]()
    backwards = False
    with path.open("rb") as file:
        for rows, line in enumerate(file, 1):
            row = _row(line)
            if row is None:
                broken.append(rows)
                continue
            backwards |= row["step"] < last_step
            last_step = row["step"]
            lost += [f"{k} at step {row['step']}" for k, v in row.items() if _is_lost(v)]
    book.facts["metrics"] = {"rows": rows, "last_step": last_step if rows > len(broken) else None}
    if broken == [rows] and rows:
        book.warn("metrics", f"line {rows:,} is torn, as by a crash", "resume, which cuts it off")
    elif broken:
        what = f"{len(broken):,} lines of metrics.jsonl are no rows, from line {broken[0]:,} on"
        book.warn("metrics", what, "they are passed over; delete them")
    if backwards:
        book.warn("metrics", "the steps do not rise", "curves drawn from it will go back")
    if lost:
        what = f"{len(lost):,} measured numbers are not finite"
        book.warn("metrics", what, "the training diverged there: lower the rate", lost)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    right = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if right and not isinstance(row["step"], bool) else None


def _is_lost(value: object) -> bool:
    return isinstance(value, float) and not np.isfinite(value)


def _is_locked(path: Path) -> bool:
    """Tell whether another process holds the lock of a run directory."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
