"""Says what the first step of a network on a CPU waits for."""

from typing import Any

import numba
from numba.core import event

from alexnet.compiled import cache_folder
from alexnet.progress import Progress


class FirstCompilation(event.Listener):
    """Notes the first function that is compiled; those that were stored are only loaded."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.is_noted = progress, False

    def on_start(self, _: Any) -> None:
        """Write the note, once."""
        if not self.is_noted:
            self.is_noted = True
            self.progress.note(
                "compiling kernels for this machine, up to a minute; later runs load them from "
                f"{numba.config.CACHE_DIR or cache_folder()}"  # type: ignore[attr-defined]
            )

    def on_end(self, _: Any) -> None:
        """Do nothing."""


def note_compilation(progress: Progress) -> None:
    """Note on `progress` when kernels are compiled in this process."""
    event.register("numba:compile", FirstCompilation(progress))  # type: ignore[no-untyped-call]
