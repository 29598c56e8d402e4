"""Output for users: results on stdout; progress, notes and errors on stderr.

On a terminal, progress is a bar; elsewhere it is a line at intervals, without control codes.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

from alexnet.progress import Advance, Progress

SECONDS_BETWEEN_LINES = 10.0


def stdout() -> Console:
    """Return the console for results."""
    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(document: object) -> None:
    """Write one JSON document to stdout: indented on a terminal, otherwise on one line."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")


def print_error(message: str) -> None:
    """Write "alexnet: error: message" to stderr, as one line."""
    print_line(Text.assemble("alexnet: ", ("error:", "bold red"), " ", one_line(message)), stderr())


def print_note(message: str) -> None:
    """Write "alexnet: message" to stderr, as one line."""
    print_line(Text(f"alexnet: {one_line(message)}"), stderr())


def print_line(line: Text, console: Console) -> None:
    """Write one line; only a terminal wraps it, between words."""
    console.print(line, soft_wrap=not console.is_terminal)


def one_line(text: str) -> str:
    """Escape line breaks and control codes, which file names can contain."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def percent(fraction: float) -> str:
    """Write a fraction as "12.34%"."""
    return f"{fraction:.2%}"


def bar(fraction: float, width: int, console: Console) -> str:
    """Draw a fraction as a bar of up to `width` columns."""
    return ("-" if console.options.ascii_only else "━") * round(fraction * width)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: "1 epoch", "1,200 epochs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def class_label(name: str, display_name: str) -> str:
    """Write a class as its name in the data, with its display name if that differs."""
    return one_line(name if display_name == name else f"{name} ({display_name})")


def duration(seconds: float) -> str:
    """Write a duration as "0:07", "12:34" or "1:02:03"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@dataclass
class TaskProgress:
    """Units done and speed of one task."""

    label: str
    total: int
    unit: str
    started: float
    done: int = 0
    text: str = ""
    first_report: tuple[float, int] | None = None

    def advance(self, count: int, text: str = "") -> None:
        """Count `count` more units as done."""
        self.done += count
        self.text = text or self.text
        # The rate is measured from the first report on. That report can be for earlier work, as in
        # a resumed training, or for a slow first batch.
        self.first_report = self.first_report or (time.monotonic(), self.done)

    @property
    def rate(self) -> float:
        """Units per second since the first report; 0 if not known yet."""
        if self.first_report is None:
            return 0.0
        since, done = self.first_report
        seconds = time.monotonic() - since
        return (self.done - done) / seconds if seconds > 0 else 0.0

    def describe(self) -> str:
        """Write for example "640/2,000 images, 122/s, 0:05, 0:11 left, loss 1.93"."""
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        if rate := self.rate:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        parts.append(duration(time.monotonic() - self.started))
        if rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self.text] if self.text else parts)


class LogProgress:
    """Progress for logs and pipes: a line at most every ten seconds."""

    def __init__(self, console: Console, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.console, self.seconds = console, seconds
        self.written = time.monotonic()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Write the state of the task when enough time has passed since the last line."""
        state = TaskProgress(label, total, unit, started=time.monotonic())

        def advance(count: int, text: str = "") -> None:
            state.advance(count, text)
            if time.monotonic() - self.written >= self.seconds:
                self.note(f"{label}: {state.describe()}")
                self.written = time.monotonic()

        yield advance

    def note(self, message: str) -> None:
        """Write one line immediately."""
        print_line(Text(one_line(message)), self.console)


class StateColumn(ProgressColumn):
    """The text to the right of a bar."""

    def render(self, task: Task) -> Text:
        """Describe the current state of the task."""
        state: TaskProgress = task.fields["state"]
        return Text(state.describe())


class NarrowProgress(RichProgress):
    """Bars that leave three columns free for the ^C that a terminal shows on Ctrl-C.

    In a full line, ^C would wrap to the next line, and the bar could not be erased.
    """

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self.screen = console  # set first: the next line draws immediately
        super().__init__(*columns, console=console, transient=True, expand=True)

    def get_renderable(self) -> RenderableType:
        """Return all bars, three columns narrower than the terminal."""
        return Constrain(super().get_renderable(), self.screen.width - 3)


class BarProgress:
    """Progress for terminals: a bar for each running task, removed when the task ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display: RichProgress | None = None

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Draw a bar until the context ends; a nested task's bar is drawn below."""
        with self.open_display() as display:
            state = TaskProgress(label, total, unit, started=time.monotonic())
            task = display.add_task(label, total=total, state=state)

            def advance(count: int, text: str = "") -> None:
                state.advance(count, text)
                display.advance(task, count)

            try:
                yield advance
            finally:
                display.remove_task(task)

    @contextmanager
    def open_display(self) -> Iterator[RichProgress]:
        """Open the part of the screen that shows bars, or return the one that is open."""
        if self.display is not None:
            yield self.display
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            StateColumn(table_column=Column(no_wrap=True)),
        )
        with NarrowProgress(*columns, console=self.console) as display:
            self.display = display
            try:
                yield display
            finally:
                self.display = None

    def note(self, message: str) -> None:
        """Write one line above the bars."""
        print_line(Text(one_line(message)), self.console)


def progress() -> Progress:
    """Return the progress display for stderr: bars on a terminal, otherwise lines."""
    console = stderr()
    return BarProgress(console) if console.is_interactive else LogProgress(console)


def plain_table(*columns: str, right: tuple[str, ...] = (), gap: int = 2) -> Table:
    """Return an empty table without a frame; the columns named in `right` are right-aligned."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def fits(table: Table, console: Console) -> bool:
    """Return whether the console is wide enough to print the table in full."""
    unlimited = console.options.update(width=10_000)
    return console.measure(table, options=unlimited).maximum <= console.width
