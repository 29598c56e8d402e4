"""Noticing work that hangs: the threads' stacks are kept and the process ends, with a message."""

import ctypes
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
"""How much longer the first beat may take: kernels are compiled and files read for the first time.
"""


@contextmanager
def watchdog(seconds: float, what: str, stacks: Path) -> Iterator[Callable[[], None]]:
    """End the process, with exit code 7, if `beat` is not called for `seconds`; 0: never.

    Gives `beat`, to be called from any thread after each piece of `what` ("a training step"). The
    stacks of all threads are then written to stderr and to the file `stacks`. A thread watches, and
    behind it, for the case that compiled code holds Python's lock and no thread can run, a timer
    of the system's: faulthandler writes the stacks then, to the file alone.
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
            f"no {what} ended within {seconds:g} s: it hangs, and is given up. What each thread "
            f"was doing stands in {stacks}; what was saved before is whole (--resume goes on)"
        )
        self._stacks = stacks
        self._file: IO[str] = stacks.open("w", encoding="utf-8")
        self._deadline = time.monotonic() + FIRST * seconds
        self._over, self._arming = threading.Event(), threading.Lock()
        self._timers = _Timers(f"{self._message}\n", self._file)
        self._timers.start(FIRST * seconds)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        self._before: Any = None
        with suppress(ValueError):  # not the main thread
            self._before = signal.signal(signal.SIGTSTP, self._sleep)

    def beat(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def end(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)
        self._over.set()
        self._thread.join()
        self._timers.stop()
        self._file.close()
        with suppress(OSError):  # nothing happened
            self._stacks.unlink()

    def _sleep(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Let Ctrl-Z stop the process with the timers off: no time passes until it is woken."""
        with self._arming:
            self._timers.pause()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)  # returns when it is woken
            signal.signal(signal.SIGTSTP, self._sleep)
            self.beat()
            self._timers.start(self._seconds)

    def _watch(self) -> None:
        pause = min(self._seconds / 4, 10.0)
        while not self._over.wait(pause):
            with self._arming:
                left = self._deadline - time.monotonic()
                if left < 0:
                    self._give_up()
                self._timers.start(left)

    def _give_up(self) -> None:
        for file in (self._file, sys.stderr):
            with suppress(OSError, ValueError):  # a stderr that is closed or no file
                print(f"alexnet: {self._message}", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        os._exit(WorkerError.exit_code)


class _Timers:
    """Let the system end the process even when no Python code can run any more.

    faulthandler's own thread writes the stacks. It could only exit with 1; so where there is
    `timer_create` (Linux), threads that the C library starts when a timer runs out say why
    (`warnx`) and call `_exit` with our code.
    """

    GRACE = 2.0
    """Seconds for the thread that watches, which can say more, before the stacks are written; and
    as many again until the exit."""

    def __init__(self, message: str, file: IO[str]) -> None:
        self._file = file
        self._text = ctypes.c_char_p(message.strip().replace("%", "%%").encode())
        self._last: list[tuple[ctypes.c_void_p, float]] = []
        if sys.platform != "linux":
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        text = ctypes.cast(self._text, ctypes.c_void_p).value or 0
        with suppress(OSError, AttributeError):
            self._last = [
                (self._timer("warnx", text), 1.5 * self.GRACE),
                (self._timer("_exit", WorkerError.exit_code), 2 * self.GRACE),
            ]

    def start(self, seconds: float) -> None:
        """Begin anew: the stacks are written `seconds` + GRACE from now."""
        later = max(seconds, 0.0) + self.GRACE
        faulthandler.dump_traceback_later(later, file=self._file, exit=not self._last)
        for timer, delay in self._last:
            self._set(timer, max(seconds, 0.0) + delay)

    def pause(self) -> None:
        """Let nothing run out until the next start."""
        faulthandler.cancel_dump_traceback_later()
        for timer, _ in self._last:
            self._set(timer, 0.0)

    def stop(self) -> None:
        """End all timers."""
        faulthandler.cancel_dump_traceback_later()
        for timer, _ in self._last:
            self._libc.timer_delete(timer)

    def _timer(self, function: str, argument: int) -> ctypes.c_void_p:
        """Make a timer that calls a function of the C library in a thread of its own."""
        event = _SignalEvent(
            argument, 0, _SIGEV_THREAD, ctypes.cast(self._libc[function], ctypes.c_void_p)
        )
        timer = ctypes.c_void_p()
        if self._libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        return timer

    def _set(self, timer: ctypes.c_void_p, seconds: float) -> None:
        whole, part = divmod(seconds, 1)
        value = _TimerValue(0, 0, int(whole), int(part * 1e9))
        self._libc.timer_settime(timer, 0, ctypes.byref(value), None)


_SIGEV_THREAD = 2


class _SignalEvent(ctypes.Structure):
    """`struct sigevent` of Linux: 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("rest", ctypes.c_byte * 40),
    )


class _TimerValue(ctypes.Structure):
    """`struct itimerspec`: the interval, then the time to the first event."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")
    )
