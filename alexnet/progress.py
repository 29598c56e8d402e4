"""Progress reports: long work calls this interface, the command line displays it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Report `count` more units done, with a short text such as "loss 1.93"."""

    def __call__(self, count: int, text: str = "") -> None:  # noqa: D102 - as above
        ...


class Progress(Protocol):
    """Receives the progress reports of long work."""

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Begin a task of `total` units, such as "images"; the context ends with the task.

        A label that ends in "3/90" names one of several equal tasks: the epochs of a training.
        """

    def note(self, message: str) -> None:
        """Show the user one line."""


class Silent:
    """Shows nothing: the default in Python."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002
        """Do nothing."""

        def ignore(count: int, text: str = "") -> None:
            pass

        yield ignore

    def note(self, message: str) -> None:
        """Do nothing."""


SILENT = Silent()
