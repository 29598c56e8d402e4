"""The doctor examines a data set, a run directory or ImageNet's archives and says what to do.

It reads everything, changes nothing and needs little memory.
"""

import time
from pathlib import Path

from alexnet.doctor.dataset import examine_dataset
from alexnet.doctor.findings import Diagnosis, Finding, Kind, Report
from alexnet.doctor.published import ARCHIVES, examine_archives, find_archives
from alexnet.doctor.runs import examine_run
from alexnet.errors import UsageError
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import expanded
from alexnet.storage.dataset_manifest import MANIFEST

__all__ = ["Diagnosis", "Finding", "diagnose"]


def diagnose(
    path: str | Path, *, source: str | Path | None = None, progress: Progress = SILENT
) -> Diagnosis:
    """Examine a packed data set, a run directory, or a folder with ImageNet's archives.

    `source` is a folder with archives, examined together with the data set that was made of them.
    Damage is returned, not raised. Raises `UsageError` if `path` is none of the three.
    """
    began, path, report = time.monotonic(), expanded(path), Report()
    kind, source = _kind(path), None if source is None else expanded(source)
    if source is not None and not find_archives(source):
        raise UsageError(f"{source} holds none of ImageNet's archives ({', '.join(ARCHIVES)})")
    if kind == "data set":
        examine_dataset(path, report, progress)
    elif kind == "run":
        examine_run(path, report, progress)
    if kind == "archives" or source is not None:
        examine_archives(path if source is None else source, report, progress)
    return report.diagnosis(path, kind, time.monotonic() - began)


def _kind(path: Path) -> Kind:
    partial = path.with_name(f"{path.name}.partial")
    if (path / MANIFEST).exists():
        return "data set"
    if (path / "run.json").exists() or (path / "checkpoints.json").exists():
        return "run"
    if find_archives(path):
        return "archives"
    if not path.exists() and partial.is_dir():
        raise UsageError(f"{path} is unfinished: repeat its prepare to continue {partial}")
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    raise UsageError(
        f"{path} is not a packed data set, a run directory or a folder with ImageNet's archives"
    )
