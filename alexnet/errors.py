"""The errors that a user sees: one line each, with an exit code per kind."""


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
