"""Atomic writes: after a crash a file or folder has its old content or its new one, never a part.

Everything that must survive a kill or a power cut is written under a temporary name, flushed to the
disk and renamed. The folder is flushed too, so that the new name is on the disk as well.
"""

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from alexnet.errors import StorageError

WINDOWS = sys.platform == "win32"


def expanded(path: str | Path) -> Path:
    """Return `path` with the home folder in place of a leading "~" or "~user"."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user: a name that begins so
        return Path(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    if WINDOWS and path.is_dir():  # cannot be opened there; NTFS records names in its journal
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush folders; they write names at once.
        if not (error.errno in (errno.EINVAL, errno.ENOTSUP) and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


def sync(file: IO[bytes]) -> None:
    """Wait until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished file or folder to the disk, rename it to `path` and flush the name.

    A file gets the mode that the umask gives to new files; some writers restrict it to the owner.
    """
    if temporary.is_dir():
        for inside in temporary.rglob("*"):
            flush(inside)
    else:
        with suppress(OSError):  # some file systems have no modes
            temporary.chmod(_mode_of_new_files())
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def _mode_of_new_files() -> int:
    umask = os.umask(0o077)  # reading it means setting it
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically. Raises `OSError`; the old content then stays.

    The folder must be ours, such as a run directory: its file `path` with the ending .tmp is
    replaced. A link of that name is not followed.
    """
    temporary = path.with_suffix(".tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        publish(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(out: Path) -> Iterator[Path]:
    """Give a temporary path for a file or folder that is renamed to `out` at the end.

    The path is in a new folder beside `out`, which this process alone knows. So nothing of anybody
    else is replaced or removed, whatever its name. After an error the old `out` stays. Raises
    `StorageError` for failed writes.
    """
    out = expanded(out)
    folder = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".alexnet-", suffix=".partial", dir=out.parent))
        temporary = folder / f"new{out.suffix}"
        yield temporary
        publish(temporary, out)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(f"cannot write {out}: {reason}") from None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(folder: Path, needed: int = 0) -> None:
    """Write a test file to `folder`, which exists, before long work begins.

    Raises `StorageError` if that fails or if fewer than `needed` bytes are free.
    """
    probe = folder / "probe.tmp"
    try:
        probe.write_bytes(bytes(4096))
        flush(probe)
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        with suppress(OSError):
            probe.unlink()
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None
    if free < needed:
        raise StorageError(
            f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room, or "
            f"choose another folder"
        )
