"""Locks: one process at a time works in a folder."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from alexnet.errors import StorageError, UsageError
from alexnet.progress import SILENT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that have no locks, as some network file systems."""
LOCKED_BYTE = 2**30
"""Windows locks bytes, which nobody else can read then: one beyond the text of the file."""


@contextmanager
def locked(folder: Path, busy: str, warn: Callable[[str], None] = SILENT.note) -> Iterator[None]:
    """Hold `folder`, made if missing, for this process alone, by its file `lock`.

    The kernel releases the lock when the process ends, however it ends. The file names the process
    and host that hold it. The file is removed at the end, and the folder too if it stayed empty.
    A file system may have no locks: `warn` then gets one sentence, and the folder is used.
    Raises `UsageError`, which begins with `busy`, if another process holds the lock, also if the
    file `lock` is of something else, and `OSError`.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        file = _lock(path, warn)
    except BlockingIOError:
        with suppress(OSError):
            busy += f" ({path.read_text(encoding='utf-8').strip()})"
        raise UsageError(f"{busy}; wait for it, or use another directory") from None
    try:
        yield
    finally:
        if fcntl is None:  # Windows removes no open file
            file.close()
        with suppress(OSError):
            path.unlink()
        file.close()
        if is_new:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()


@contextmanager
def run_lock(run: Path, warn: Callable[[str], None] = SILENT.note) -> Iterator[None]:
    """Hold the run directory `run`, made if missing; `warn` as for `locked`.

    Raises `UsageError` if another process trains in it, `StorageError` if it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run, f"another training is writing to {run}", warn))
        except OSError as error:
            raise StorageError(f"cannot write the run directory {run}: {error.strerror}") from None
        yield


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock whose file is `path`."""
    try:
        with path.open("rb") as file:
            _hold(file.fileno(), shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(path: Path, warn: Callable[[str], None]) -> IO[str]:
    """Open and lock a file, and write its holder into it. Raises `BlockingIOError` if held."""
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            _hold_if_possible(file.fileno(), path, warn)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _check_ours(path)
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except FileNotFoundError:
            pass  # the last holder removed the file between our opening and locking it
        except (OSError, UsageError):
            file.close()
            raise
        file.close()


def _check_ours(path: Path) -> None:
    if path.stat().st_size and not path.read_bytes().startswith(b"process "):
        raise UsageError(f"{path} is a file of something else: use another directory")


def _hold_if_possible(descriptor: int, path: Path, warn: Callable[[str], None]) -> None:
    try:
        _hold(descriptor)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        warn(
            f"{path.parent}: its file system has no locks ({error.strerror}), so nothing keeps a "
            f"second process out: start one at a time there"
        )


def _hold(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file until it is closed. Raises `BlockingIOError` if another one holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return
    import msvcrt

    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from None
