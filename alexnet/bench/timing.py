"""The timer of all benchmarks: candidates are timed in turn, in rounds.

Work on a CPU is timed by the clock, work on a CUDA GPU by events on its stream. On a CPU each
candidate has a process of its own, because what one does to the memory allocator cannot be undone
(`alexnet.device.keep_memory`); it waits while another one is timed. The process is
`python -m alexnet.bench.timing SPEC`, SPEC being a `Spec` as JSON. Each line on its stdin is a
number of steps. Each line on its stdout is a JSON object: the seconds of one step, or the error
that ends the process.

What has run on a GPU: the steps, timed by the clock after `torch.cuda.synchronize`. The timing by
events has not.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from alexnet.bench.report import Row
from alexnet.bench.spec import Spec, Step
from alexnet.bench.steps import build
from alexnet.device import keep_memory
from alexnet.errors import WorkerError
from alexnet.progress import Progress

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rounds:
    """How often and how long each candidate is timed."""

    count: int = 5
    seconds: float = 1.0
    """About how long the steps of one candidate take in a round; one step at least."""
    warm_up: int = 2
    """Steps before the first round."""


class Timer(Protocol):
    """Times the steps of one candidate."""

    note: str

    def time(self, steps: int) -> float:
        """Return the seconds of one step, the mean of `steps`."""

    def close(self) -> None:
        """Release what it holds."""


@dataclass
class LocalTimer:
    """Times a step in this process."""

    step: Step
    device: torch.device = CPU
    note: str = ""
    clock: Callable[[], float] = time.perf_counter

    @classmethod
    def of(cls, spec: Spec) -> "LocalTimer":
        """Build the step that `spec` describes, in this process."""
        step, note = build(spec)
        return cls(step, torch.device(spec.device), note)

    def time(self, steps: int) -> float:
        """Return the seconds of one step, the mean of `steps`."""
        if self.device.type == "cuda":
            return self._time_by_events(steps)
        self._wait()
        began = self.clock()
        for _ in range(steps):
            self.step()
        self._wait()
        return (self.clock() - began) / steps

    def close(self) -> None:
        """Do nothing: the step is freed with this object."""

    def _time_by_events(self, steps: int) -> float:
        stream = torch.cuda.current_stream(self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        begin.record(stream)
        for _ in range(steps):
            self.step()
        end.record(stream)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / steps

    def _wait(self) -> None:
        """Wait until the device has done all its work; a CPU has."""
        if self.device.type == "mps":
            torch.mps.synchronize()


class WorkerTimer:
    """Times a step in a process of its own, which is idle in between."""

    def __init__(self, spec: Spec) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads)}
        words = [sys.executable, "-m", "alexnet.bench.timing", json.dumps(spec.as_json())]
        self.process = subprocess.Popen(  # noqa: S603 - this package itself
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.note: str = self._answer()["note"]

    def time(self, steps: int) -> float:
        """Return the seconds of one step, the mean of `steps`."""
        assert self.process.stdin  # noqa: S101 - a pipe, see above
        with suppress(BrokenPipeError):  # `_answer` says what happened
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout  # noqa: S101 - a pipe, see above
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process died"}
        if "error" in answer:
            self.close()
            raise WorkerError(answer["error"])
        return answer


def serve() -> None:
    """Be the process of a `WorkerTimer`, until stdin ends."""
    answers = sys.stdout

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    with redirect_stdout(sys.stderr):  # what compilers print is no answer
        try:
            spec = Spec(**json.loads(sys.argv[1]))
            if spec.keep_memory:
                keep_memory()
            torch.set_num_threads(spec.threads)
            timer = LocalTimer.of(spec)
            answer(note=timer.note)
            for line in sys.stdin:
                answer(seconds=timer.time(int(line)))
        except Exception as error:  # noqa: BLE001 - the other process reports it
            answer(error=first_line(error))


# Rounds.


@dataclass
class Candidate:
    """One way of doing the work."""

    key: str
    name: str
    start: Callable[[], Timer]
    units: float = 1.0
    """What one step does: images, operations, bytes."""
    operations: float = 0.0
    """Floating-point operations for each unit."""
    timer: Timer | None = None
    steps: int = 1
    """In a round."""
    rates: list[float] = field(default_factory=list)
    note: str = ""

    @classmethod
    def of(
        cls, key: str, name: str, spec: Spec, units: float = 1.0, operations: float = 0.0
    ) -> "Candidate":
        """Time the step of `spec`: on a CPU in a process of its own, unless it says otherwise."""
        own_process = spec.own_process and spec.device == "cpu"
        start = (lambda: WorkerTimer(spec)) if own_process else (lambda: LocalTimer.of(spec))
        return cls(key, name, start, units, operations)

    def row(self) -> Row:
        """Return what was measured."""
        return Row(self.key, self.name, tuple(self.rates), self.note, self.operations)

    def warm_up(self, rounds: Rounds) -> None:
        """Make the first steps, and choose how many steps a round has."""
        self.timer = self.start()
        self.note = self.timer.note
        seconds = 0.0
        for _ in range(rounds.warm_up):
            seconds = self.timer.time(1)
        self.steps = max(1, min(1000, math.ceil(rounds.seconds / max(seconds, 1e-6))))

    def run_round(self) -> None:
        """Time the steps of one round."""
        if self.timer is None:
            return
        if self.steps > 1:
            self.timer.time(1)  # the other candidates have displaced the caches
        self.rates.append(self.units / self.timer.time(self.steps))

    def give_up(self, error: Exception) -> None:
        """Note why the work cannot be measured."""
        self.close()
        self.note, self.rates = f"not measured: {first_line(error)[:120]}", []

    def close(self) -> None:
        """Release what the timer holds."""
        if self.timer:
            self.timer.close()
        self.timer = None


def measure(
    label: str, candidates: Sequence[Candidate], rounds: Rounds, progress: Progress
) -> list[Row]:
    """Time all candidates in rounds, one after the other in each; return a row for each.

    A candidate that cannot do the work, for want of memory or a compiler, has a note and no rates.
    """
    total = len(candidates) * (rounds.count + 1)
    try:
        with progress.task(label, total, "timings") as advance:
            for number in range(rounds.count + 1):
                for candidate in candidates:
                    try:
                        candidate.run_round() if number else candidate.warm_up(rounds)
                    except Exception as error:  # noqa: BLE001 - a peer's failure is its result
                        candidate.give_up(error)
                    advance(1, candidate.name)
    finally:
        for candidate in candidates:
            candidate.close()
    return [candidate.row() for candidate in candidates]


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    serve()
