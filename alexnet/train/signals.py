"""Stopping at a good moment: signals are noted, and acted on after the step that is under way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; a polite kill; a closed terminal; a scheduler's word that time is nearly up."""


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop, so that a step can end first; a second acts at once.

    Those that the process was told to ignore stay ignored, as SIGHUP is under `nohup`. Signals can
    be caught in the main thread only; in another thread the list stays empty.
    """
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        caught.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in NOTED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
