"""Locks: one process at a time works in a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from alexnet.errors import StorageError, UsageError


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold `folder`, made if missing, for this process alone, by its file `lock`.

    The kernel releases the lock when the process ends, however it ends. The file names the process
    and host that hold it. The file is removed at the end, and the folder too if it stayed empty.
    Raises `UsageError`, which begins with `busy`, if another process holds the lock, and `OSError`.
    """
    is_new = not folder.exists()
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
        if is_new:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the run directory `run`, made if missing.

    Raises `UsageError` if another process trains in it, `StorageError` if it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run, f"another training is writing to {run}"))
        except OSError as error:
            raise StorageError(f"cannot write the run directory {run}: {error.strerror}") from None
        yield


def _lock(path: Path) -> IO[str]:
    """Open and lock a file, and write its holder into it. Raises `BlockingIOError` if held."""
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
            pass  # the last holder removed the file between our opening and locking it
        except OSError:
            file.close()
            raise
        file.close()
