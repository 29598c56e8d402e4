"""Writing so that a name only ever stands for something whole, and by one process at a time.

All that must survive a kill or a power cut goes through here: written under another name, flushed
to the disk, renamed, and the folder flushed too, so that the new name is on the disk as well.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from alexnet.errors import StorageError, UsageError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
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


def publish(aside: Path, path: Path) -> None:
    """Flush a finished file or folder to the disk and give it its name, which is flushed too."""
    if aside.is_dir():
        for inside in aside.rglob("*"):
            flush(inside)
    flush(aside)
    aside.replace(path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole file so that a crash leaves the old one or the new one, never a part."""
    aside = path.with_suffix(".tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        publish(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(out: Path) -> Iterator[Path]:
    """Give a place beside `out`, for a file or folder, that becomes `out` if all goes well.

    After an error it is removed, and what was at `out` before is still there. Raises `StorageError`
    where the disk refuses.
    """
    aside = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        yield aside
        publish(aside, out)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(f"cannot write {out}: {reason}") from None
    finally:
        with suppress(OSError):  # it was never made, as where a file is in the place of a folder
            _remove(aside)


def check_writable(folder: Path, needed: int = 0) -> None:
    """Write to `folder`, which exists, before work begins that would be lost otherwise.

    Raises `StorageError` where that fails, or where fewer than `needed` bytes are free.
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
            f"choose another place"
        )


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process alone, by its file `lock`.

    The kernel lets go of the lock when the process ends, in whatever way; the file names the holder
    by process and host. File, and folder if nothing came into it, are removed at the end.
    Raises `UsageError`, beginning with `busy`, if another process holds it, and `OSError`.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        file = _lock(path)
    except BlockingIOError:
        with suppress(OSError):
            busy += f" ({path.read_text(encoding='utf-8').strip()})"
        raise UsageError(f"{busy}; wait for it, or use another directory") from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        file.close()
        if made:
            with suppress(OSError):  # not empty: something came of it
                folder.rmdir()


def _lock(path: Path) -> IO[str]:
    """Open and lock a file, and write into it who holds it. Raises `BlockingIOError` if held."""
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except FileNotFoundError:
            pass  # the one before removed it between our opening and locking it
        except OSError:
            file.close()
            raise
        file.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
