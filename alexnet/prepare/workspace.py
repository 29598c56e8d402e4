"""The folder OUT.partial, in which a data set is written; it survives a kill.

plan.json        digest of source and options, null until they are known; it shows that the folder
                 is a workspace, and another plan starts from the beginning
lock             held by the one process that works here
data/            becomes OUT by one rename, when all files are on the disk
NAME.npz         the result of a finished shard, written after the shard itself
*.part           unfinished files
unpacked/        decompressed archives
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import StorageError, UsageError
from alexnet.prepare.shards import ShardResult
from alexnet.prepare.sources.names import few
from alexnet.progress import SILENT
from alexnet.storage.atomic import flush, sha256_of, sync
from alexnet.storage.dataset_manifest import MANIFEST
from alexnet.storage.locks import locked


class Workspace:
    """The folder in which one data set is made; `open_workspace` opens it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.data = self.folder / "data"
        self.unpacked = self.folder / "unpacked"
        self._plan = self.folder / "plan.json"

    def begin(self, fingerprint: str) -> bool:
        """Reuse the work of an earlier prepare with the same plan; remove everything else.

        Returns False if the folder held the work of another plan.
        """
        before = self._fingerprint()
        if before != fingerprint:
            self._clear(self.data)
            self._write_plan(fingerprint)
        for unfinished in self.folder.glob("*.part"):
            unfinished.unlink()
        self.data.mkdir(exist_ok=True)
        return before in (None, fingerprint)

    def open(self) -> None:
        """Mark a new folder as a workspace, before anything else is written to it."""
        if not self._plan.exists():
            self._write_plan(None)

    def check_ours(self) -> None:
        """Raise UsageError if OUT.partial exists and is not what `prepare` left there."""
        if not os.path.lexists(self.folder):
            return
        seen = "is no folder"
        if self.folder.is_dir():
            names = {path.name for path in self.folder.iterdir()}
            has_just_begun = names <= {"lock", "plan.json.part"} and self._is_lock()
            if not names or self._is_plan() or has_just_begun:
                return
            seen = f"holds {few(sorted(names), 3)} but no plan.json of prepare"
        raise UsageError(
            f"{self.folder}, needed for unfinished work, {seen}: it is left as it is; "
            f"move it away, or choose another name than {self.out.name}"
        )

    def has_begun(self) -> bool:
        """Return whether there is work that the same command can continue."""
        return self._fingerprint() is not None

    def shard_path(self, name: str) -> Path:
        """Return the temporary file of shard `name`, which only this process writes."""
        return self.folder / f"{name}.{os.getpid()}.part"

    def add(self, result: ShardResult) -> None:
        """Add a shard that was written to `shard_path`: from now on it is finished."""
        self.shard_path(result.name).replace(self.data / result.file)
        result.save(self._result_path(result.name))

    def result(self, name: str) -> ShardResult:
        """Return the result of a shard that was added."""
        return ShardResult.load(self._result_path(name))

    def has_results(self) -> bool:
        """Return whether an earlier prepare has finished shards."""
        return any(self.folder.glob("*.npz"))

    def checked_result(self, name: str) -> ShardResult | None:
        """Return the result of a shard finished earlier; None if its file is missing or changed."""
        try:
            result = self.result(name)
            path = self.data / result.file
            intact = path.stat().st_size == result.bytes and sha256_of(path) == result.sha256
        except Exception:  # noqa: BLE001 - the shard is written again, whatever is wrong
            return None
        return result if intact else None

    def remove_shard(self, result: ShardResult) -> None:
        """Remove a shard without images from the data set."""
        (self.data / result.file).unlink(missing_ok=True)

    def check_space(self, needed: int, hint: str) -> None:
        """Raise StorageError, ending in `hint`, if fewer than `needed` bytes are free."""
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.folder.parent}: about {needed / 1e9:,.1f} GB needed, "
                f"{free / 1e9:,.1f} GB free{hint}"
            )

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Write a file of the data set; return its name, size and digest for the manifest."""
        _write(self.data / name, content)
        digest = hashlib.sha256(content).hexdigest()
        return {"file": name, "bytes": len(content), "sha256": digest}

    def write_array(self, name: str, array: NDArray[Any]) -> dict[str, Any]:
        """Write a .npy file of the data set; return the same as `write`."""
        content = io.BytesIO()
        np.save(content, array)
        return self.write(name, content.getvalue())

    def publish(self) -> None:
        """Rename the finished data set to OUT and remove the workspace."""
        flush(self.data)
        self.data.rename(self.out)
        flush(self.out.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the workspace, but nothing that another program has put there."""
        self._clear(self.data, self.unpacked)
        for name in ("plan.json", "lock"):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _result_path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _clear(self, *folders: Path) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in ("*.npz", "*.part"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _write_plan(self, fingerprint: str | None) -> None:
        """Write the plan atomically: a folder with a torn one would look like another's."""
        temporary = self.folder / "plan.json.part"
        _write(temporary, json.dumps({"fingerprint": fingerprint}).encode())
        temporary.replace(self._plan)

    def _fingerprint(self) -> str | None:
        """Return the digest of the plan, "" if the plan is damaged, None if there is none."""
        try:
            value = json.loads(self._plan.read_bytes())["fingerprint"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return value if value is None or isinstance(value, str) else ""

    def _is_plan(self) -> bool:
        """Return whether plan.json was written here, perhaps damaged at its end."""
        with suppress(OSError):
            return self._plan.read_bytes().startswith(b'{"fing')
        return False

    def _is_lock(self) -> bool:
        with suppress(OSError):
            text = (self.folder / "lock").read_bytes()
            return not text or text.startswith(b"process ")
        return False


@contextmanager
def open_workspace(out: Path, warn: Callable[[str], None] = SILENT.note) -> Iterator[Workspace]:
    """Open the workspace of `out` for this process alone; `warn` gets what is unsafe about that.

    Raises UsageError if OUT exists, if OUT.partial is not ours, or if another process is preparing
    it. Turns failures of the disk into StorageError. Work that has begun is kept when an error
    leaves the context.
    """
    _refuse_existing(out)
    workspace = Workspace(out)
    try:
        workspace.check_ours()
        with locked(workspace.folder, f"another prepare is working on {out}", warn):
            _refuse_existing(out)  # the other process may have finished meanwhile
            try:
                workspace.open()
                yield workspace
            finally:
                shutil.rmtree(workspace.unpacked, ignore_errors=True)
                if not workspace.has_begun():
                    workspace.remove()
    except OSError as error:
        path = error.filename or workspace.folder
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _refuse_existing(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise UsageError(f"{out} is a finished data set; remove it or choose another folder")
    if out.exists():
        raise UsageError(f"{out} exists and is not a data set; choose another folder")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync(file)
