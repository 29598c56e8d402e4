"""The folder OUT.partial: where a data set grows, survives a kill, and is published from.

lock             held by the one process that works here
plan.json        digest of source and options: a different plan starts afresh
data/            becomes OUT by one rename, when everything is on the disk
NAME.npz         what is known of a finished shard, written after the shard itself
*.part           unfinished files
unpacked/        decompressed archives
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.dataset import MANIFEST
from alexnet.errors import StorageError, UsageError
from alexnet.prepare.shards import ShardResult
from alexnet.storage.atomic import flush, locked, sha256_of, sync


class Workspace:
    """The folder in which one data set is made; get it from `hold`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.data = self.folder / "data"
        self.unpacked = self.folder / "unpacked"
        self._plan = self.folder / "plan.json"

    def begin(self, fingerprint: str) -> bool:
        """Keep what an earlier prepare of the same plan left, remove all else.

        Returns False if there was another plan's work.
        """
        before = None
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = json.loads(self._plan.read_bytes())["fingerprint"]
        stale = self._plan.exists() and before != fingerprint
        if before != fingerprint:
            self._clear()
            _write(self._plan, json.dumps({"fingerprint": fingerprint}).encode())
        for part in self.folder.glob("*.part"):
            part.unlink()
        self.data.mkdir(exist_ok=True)
        return not stale

    def has_begun(self) -> bool:
        """Tell whether there is work that the same command can continue."""
        return self._plan.exists()

    def part(self, name: str) -> Path:
        """Return where to write shard `name`: a file of this process's own."""
        return self.folder / f"{name}.{os.getpid()}.part"

    def keep(self, result: ShardResult) -> None:
        """Take in a shard that was written to `part`: from now on it is finished."""
        self.part(result.name).replace(self.data / result.file)
        result.save(self._saved(result.name))

    def result(self, name: str) -> ShardResult:
        """Return what `keep` was given."""
        return ShardResult.load(self._saved(name))

    def has_results(self) -> bool:
        """Tell whether there are shards that an earlier prepare finished."""
        return any(self.folder.glob("*.npz"))

    def finished(self, name: str) -> ShardResult | None:
        """Return the result of a shard that was finished earlier, if its file is as it was."""
        try:
            result = self.result(name)
            path = self.data / result.file
            whole = path.stat().st_size == result.bytes and sha256_of(path) == result.sha256
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is made again
            return None
        return result if whole else None

    def drop(self, result: ShardResult) -> None:
        """Leave a shard without images out of the data set."""
        (self.data / result.file).unlink(missing_ok=True)

    def check_space(self, needed: int, hint: str) -> None:
        """Raise StorageError, ending in `hint`, if `needed` bytes are not free."""
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
        """Write a .npy file of the data set; return as `write` does."""
        path = self.data / name
        with path.open("wb") as file:
            np.save(file, array)
            sync(file)
        return {"file": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}

    def publish(self) -> None:
        """Make the data set appear as OUT, whole, and remove the rest."""
        flush(self.data)
        self.data.rename(self.out)
        flush(self.out.parent)
        shutil.rmtree(self.folder)

    def _saved(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and path != self.unpacked:
                shutil.rmtree(path)
            elif path.is_file() and path.name != "lock":
                path.unlink()


@contextmanager
def hold(out: Path) -> Iterator[Workspace]:
    """Hold the workplace of `out` for this process alone.

    Raises UsageError if OUT exists or another process is at work on it, and turns failures of the
    disk into StorageError. Work that has begun stays when an error leaves the context.
    """
    _refuse_existing(out)
    place = Workspace(out)
    try:
        with locked(place.folder, f"another prepare is at work on {out}"):
            _refuse_existing(out)  # the other may have ended in between
            try:
                yield place
            finally:
                shutil.rmtree(place.unpacked, ignore_errors=True)
                if not place.has_begun():
                    shutil.rmtree(place.folder, ignore_errors=True)
    except OSError as error:
        where = error.filename or place.folder
        raise StorageError(f"{where}: {error.strerror or error}") from error


def _refuse_existing(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise UsageError(f"{out} is a finished data set; remove it or choose another place")
    if out.exists():
        raise UsageError(f"{out} exists and is no data set; choose another place")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync(file)
