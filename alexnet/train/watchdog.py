"""Noticing a hang: the stacks of all threads are written and the process ends, with a message."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from alexnet.errors import WorkerError

FIRST = 3.0
"""Factor for the first deadline: kernels are compiled and files are read for the first time."""
GRACE = 2.0
"""Seconds that the watching thread has, since it can say more, before faulthandler acts."""


@contextmanager
def watchdog(seconds: float, what: str, stacks: Path) -> Iterator[Callable[[], None]]:
    """End the process with exit code 7 if `beat` is not called for `seconds`; 0: no limit.

    Gives `beat`, to be called from any thread after each `what` ("training step"). A thread writes
    the stacks of all threads to stderr and to the file `stacks`. Where compiled code holds Python's
    lock no thread can run: faulthandler then writes the stacks to stderr alone and ends the process
    with exit code 1.
    """
    if not seconds:
        yield lambda: None
        return
    watch = _Watch(seconds, what, stacks)
    try:
        yield watch.beat
    finally:
        watch.end()


class _Watch:
    def __init__(self, seconds: float, what: str, stacks: Path) -> None:
        self._seconds = seconds
        self._message = (
            f"alexnet: no {what} ended within {seconds:g} s: it hangs, so the process ends. "
            f"{stacks} has the stack of each thread; earlier checkpoints are whole (continue with "
            f"--resume)"
        )
        self._stacks = stacks
        self._file: IO[str] = stacks.open("w", encoding="utf-8")
        self._deadline = time.monotonic() + FIRST * seconds
        self._over, self._timer_lock = threading.Event(), threading.Lock()
        self._start_timer(FIRST * seconds)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        self._previous_handler: Any = None
        with suppress(ValueError, AttributeError):  # not the main thread; Windows has no Ctrl-Z
            self._previous_handler = signal.signal(signal.SIGTSTP, self._suspend)

    def beat(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def end(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTSTP, self._previous_handler)
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        with suppress(OSError):  # nothing happened
            self._stacks.unlink()

    def _start_timer(self, seconds: float) -> None:
        """Let faulthandler act `seconds` and the grace from now."""
        try:
            file = sys.stderr.fileno()
        except (AttributeError, OSError, ValueError):  # none, closed or no file
            file = self._file.fileno()
        faulthandler.dump_traceback_later(max(seconds, 0.0) + GRACE, file=file, exit=True)

    def _suspend(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Let Ctrl-Z stop the process without the timer: no time counts until it continues."""
        with self._timer_lock:
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)  # returns on SIGCONT
            signal.signal(signal.SIGTSTP, self._suspend)
            self.beat()
            self._start_timer(self._seconds)

    def _watch(self) -> None:
        pause = min(self._seconds / 4, 10.0)
        while not self._over.wait(pause):
            with self._timer_lock:
                left = self._deadline - time.monotonic()
                if left < 0:
                    self._give_up()
                self._start_timer(left)

    def _give_up(self) -> None:
        for file in (self._file, sys.stderr):
            with suppress(OSError, ValueError):  # stderr is closed or no file
                print(self._message, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        os._exit(WorkerError.exit_code)
