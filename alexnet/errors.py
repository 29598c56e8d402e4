"""The errors that a user sees: one line each, with an exit code per kind."""

import mmap


class AlexnetError(Exception):
    """A problem that the user can act on; the message says what, where and what to do."""

    exit_code = 1


class UsageError(AlexnetError):
    """An invalid command, setting or name."""

    exit_code = 2


class DataError(AlexnetError):
    """Images, labels or a packed data set that cannot be used."""

    exit_code = 3


class CheckpointError(AlexnetError):
    """A run directory or weight file that cannot be used."""

    exit_code = 4


class DivergedError(AlexnetError):
    """Training produced numbers that are not finite."""

    exit_code = 5


class StorageError(AlexnetError):
    """No space, no permission, or a failing storage device."""

    exit_code = 6


class WorkerError(AlexnetError):
    """A process died or does not respond, or a device computes a wrong result."""

    exit_code = 7


class Interrupted(AlexnetError):  # noqa: N818 - no mistake was made
    """A signal stopped the work, which is saved; exit code 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


OUT_OF_MEMORY = (
    *("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory"),
    *("bad_alloc", "_ALLOC_FAILED", "could not create a primitive", "could not create a memory"),
    *("failed to map segment", "can't start new thread", "unable to start watchdog thread"),
)
"""What messages say where memory ran out: of PyTorch, the C library, CUDA, oneDNN, Python."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` means that host or device memory ran out.

    PyTorch raises a plain `RuntimeError` on a CPU, importing a library an `ImportError`.
    """
    if isinstance(error, AlexnetError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError | ImportError) and any(
        text in str(error) for text in OUT_OF_MEMORY
    )


def can_allocate(size: int) -> bool:
    """Tell whether this process can get `size` bytes more; none of them is written."""
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True
