"""Signals that ask a training to stop: they are recorded, and it stops after the current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]
"""Ctrl-C; a polite kill; a closed terminal; a scheduler's warning that time is nearly up.

Windows has the first two.
"""


@contextmanager
def recorded_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop, so that a step can end first; a second acts at once.

    Signals that the process was told to ignore stay ignored, as SIGHUP is under `nohup`. Signals
    can be caught in the main thread only; in another thread the list stays empty.
    """
    caught: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def record(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        caught.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, record)
    except ValueError:  # not the main thread
        previous.clear()
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
