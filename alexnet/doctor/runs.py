"""Examines a run directory: its description, checkpoints, metrics and data set."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from alexnet.dataset import Dataset
from alexnet.doctor.checksums import Expected, wrong_files
from alexnet.doctor.findings import Report, error_text
from alexnet.errors import AlexnetError
from alexnet.progress import Progress
from alexnet.storage.checkpoint_store import read_manifest
from alexnet.storage.locks import is_locked
from alexnet.storage.quantized import FORM, INTEGERS, STEP
from alexnet.storage.run import Run
from alexnet.storage.untrusted import parse_json

_UNFINISHED = (".tmp", ".partial", ".part")


def examine_run(path: Path, report: Report, progress: Progress) -> None:
    """Examine the run directory at `path` and add what is found to `report`."""
    run = _open(path, report)
    _check_checkpoints(path, run, report, progress)
    _check_metrics(path / "metrics.jsonl", report)
    left = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.suffix in _UNFINISHED)
    if is_locked(path / "lock"):
        report.warn("lock", "a training is running in it now", "examine it again after that")
    elif left:
        report.warn(
            "files",
            f"{len(left):,} unfinished files were left by a crash",
            "delete them, or resume the training, which deletes them",
            left,
        )


def _open(path: Path, report: Report) -> Run | None:
    try:
        run = Run.open(path)
        with torch.device("meta"):
            run.new_model()
    except Exception as error:  # noqa: BLE001 - any error is a finding
        what = error_text(error, path / "run.json")
        report.damage("description", what, "take run.json and mean_image.npy from a copy")
        return None
    report.facts |= {"model": run.model_name, "classes": len(run.classes)}
    mean, size = run.preprocessing.mean_image, run.preprocessing.size
    low, high = (float(mean.min()), float(mean.max())) if mean.numel() else (math.nan, math.nan)
    if tuple(mean.shape) != (3, size, size) or not (low >= 0 and high <= 255):
        report.damage(
            "mean image",
            f"mean_image.npy is {' x '.join(map(str, mean.shape))} from {low:g} to {high:g}, not "
            f"3 x {size} x {size} within 0 to 255",
            "take it from a copy, or from the data set (mean_image.npy there)",
        )
    if len(run.titles) != len(run.classes):
        what = f"{len(run.titles):,} titles for {len(run.classes):,} classes"
        report.damage("classes", what, "take run.json from a copy")
    _check_data(run, report)
    return run


def _check_data(run: Run, report: Report) -> None:
    """Compare the data set at the path in run.json with the one that the run was trained on."""
    data = run.info.get("data")
    data = data if isinstance(data, dict) else {}
    path, fingerprint = data.get("path"), data.get("fingerprint")
    if not fingerprint or not isinstance(path, str):
        report.note("data", "the run does not say on which data set it was trained")
        return
    try:
        found = Dataset(path).fingerprint
    except AlexnetError as error:
        report.note("data", f"its data set cannot be opened: {error}")
        return
    if found != fingerprint:
        report.warn(
            "data",
            f"{path} is another data set than the one of this run",
            "evaluate the run on its own data set; it cannot be resumed with this one",
        )


def _check_checkpoints(path: Path, run: Run | None, report: Report, progress: Progress) -> None:
    try:
        manifest = read_manifest(path)
        files = [_expected(path / "checkpoints", entry) for entry in manifest["checkpoints"]]
        expected = {file.path: file for file in files}
    except Exception as error:  # noqa: BLE001 - any error is a finding
        text = error_text(error, path / "checkpoints.json")
        report.damage("checkpoints", text, "take checkpoints.json from a copy")
        return
    wrong = wrong_files(expected.values(), "sha256", progress)
    with progress.task("weights", len(expected), "checkpoints") as advance:
        for file in expected:
            problem = wrong.get(file) or _wrong_weights(file, run)
            if problem:
                wrong[file] = problem
            advance(1)
    report.facts["checkpoints"] = {file.name: wrong.get(file, "sound") for file in expected}
    _report_checkpoints(path, manifest, list(expected), wrong, report)


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
    report: Report,
) -> None:
    sound = [file.name for file in files if file not in wrong]
    if not files:
        report.warn("checkpoints", "there are none yet", "train longer, or resume the training")
    if wrong:
        remedy = f"the others are used instead ({', '.join(sound)})" if sound else "train again"
        listed = [f"{file.name}: {problem}" for file, problem in wrong.items()]
        what = f"{len(wrong):,} of {len(files):,} checkpoints cannot be used"
        report.damage("checkpoints", what, remedy, listed)
    for checkpoint in ("last", "best"):
        if files and manifest[checkpoint] not in [file.name for file in files]:
            what = f"{checkpoint} is {manifest[checkpoint]!r}, which checkpoints.json does not list"
            report.damage("checkpoints", what, "take checkpoints.json from a copy")
    named = {file.name for file in files}
    strays = sorted(file.name for file in (path / "checkpoints").glob("*.safetensors"))
    if strays := [name for name in strays if name not in named]:
        report.note("checkpoints", f"not in checkpoints.json and never used: {', '.join(strays)}")


def _wrong_weights(file: Path, run: Run | None) -> str:
    """Return what is wrong with a checkpoint that has the right checksum, "" for nothing."""
    try:
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            problem = _wrong_shapes(_shapes_in(stored), run) if run else ""
            for name in names:  # one tensor at a time: a checkpoint can be larger than memory
                if not problem and not torch.isfinite(stored.get_tensor(name)).all():
                    problem = f"{name} holds numbers that are not finite"
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        return f"cannot be read ({error})"
    return problem


def _shapes_in(stored: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in an open checkpoint file, of weights as they are used."""
    shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    for name in [name.removesuffix(FORM) for name in shapes if name.endswith(FORM)]:
        shapes[name] = tuple(stored.get_tensor(name + FORM).tolist()[1:])
        for part in (INTEGERS, STEP, FORM):
            shapes.pop(name + part, None)
    return shapes


def _wrong_shapes(shapes: dict[str, tuple[int, ...]], run: Run) -> str:
    try:
        with torch.device("meta"):
            state = run.new_model().state_dict()
    except AlexnetError as error:
        return str(error)
    expected = {f"model.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    found = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    wrong = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return f"does not fit the network in {', '.join(wrong[:5])}" if wrong else ""


def _check_metrics(path: Path, report: Report) -> None:
    """Check metrics.jsonl for broken lines, decreasing steps and numbers that are not finite."""
    if not path.exists():
        report.note("metrics", "there is no metrics.jsonl")
        return
    rows, broken, last_step, not_finite = 0, list[int](), -math.inf, list[str]()
    backwards = False
    with path.open("rb") as file:
        for rows, line in enumerate(file, 1):
            row = _row(line)
            if row is None:
                broken.append(rows)
                continue
            backwards |= row["step"] < last_step
            last_step = row["step"]
            not_finite += [
                f"{k} at step {row['step']}" for k, v in row.items() if _is_not_finite(v)
            ]
    report.facts["metrics"] = {"rows": rows, "last_step": last_step if rows > len(broken) else None}
    if broken == [rows] and rows:
        what = f"line {rows:,} is incomplete, as after a crash"
        report.warn("metrics", what, "resume the training, which removes it")
    elif broken:
        what = f"{len(broken):,} lines of metrics.jsonl are not rows, from line {broken[0]:,} on"
        report.warn("metrics", what, "they are ignored; delete them")
    if backwards:
        report.warn("metrics", "the steps decrease", "curves drawn from it go backwards")
    if not_finite:
        what = f"{len(not_finite):,} measured numbers are not finite"
        report.warn("metrics", what, "the training diverged: lower the learning rate", not_finite)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    right = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if right and not isinstance(row["step"], bool) else None


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not np.isfinite(value)
