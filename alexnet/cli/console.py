"""What a person sees: results on stdout; progress, notes and errors on stderr.

On a terminal progress is a bar; elsewhere it is a plain line now and then, without control codes.
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
    """Write one JSON document to stdout: indented for a person, on one line for a program."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")


def print_error(message: str) -> None:
    """Write "alexnet: error: message" to stderr, as one line."""
    print_line(Text.assemble("alexnet: ", ("error:", "bold red"), " ", one_line(message)), stderr())


def print_note(message: str) -> None:
    """Write "alexnet: message" to stderr, as one line."""
    print_line(Text(f"alexnet: {one_line(message)}"), stderr())


def print_line(line: Text, console: Console) -> None:
    """Write one line: a terminal breaks it between words, elsewhere it stays whole."""
    console.print(line, soft_wrap=not console.is_terminal)


def one_line(text: str) -> str:
    """Escape what would break a line or drive the terminal, as a file's name may."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def percent(fraction: float) -> str:
    """Write a fraction as "12.34%"."""
    return f"{fraction:.2%}"


def bar(fraction: float, width: int, console: Console) -> str:
    """Draw a fraction as a bar of up to `width` columns."""
    return ("-" if console.options.ascii_only else "━") * round(fraction * width)


def counted(number: int, thing: str) -> str:
    """Write a number with what it counts: "1 epoch", "1,200 epochs"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def class_label(name: str, title: str) -> str:
    """Write a class for a person: its name in the data, and its title where that says more."""
    return one_line(name if title == name else f"{name} ({title})")


def duration(seconds: float) -> str:
    """Write a duration as "0:07", "12:34" or "1:02:03"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@dataclass
class Pace:
    """How far a piece of work is, and how fast it goes."""

    label: str
    total: int
    unit: str
    began: float
    done: int = 0
    text: str = ""
    first: tuple[float, int] | None = None

    def advance(self, count: int, text: str = "") -> None:
        """Count `count` more units as done."""
        self.done += count
        self.text = text or self.text
        # The rate counts from the first report on: that one may stand for work done long ago, as
        # in a training that goes on, or take long, as a first batch does.
        self.first = self.first or (time.monotonic(), self.done)

    @property
    def rate(self) -> float:
        """Units per second since the first report; 0 where that cannot be told yet."""
        if self.first is None:
            return 0.0
        since, done = self.first
        seconds = time.monotonic() - since
        return (self.done - done) / seconds if seconds > 0 else 0.0

    def describe(self) -> str:
        """Write for example "640/2,000 images, 122/s, 0:05, 0:11 left, loss 1.93"."""
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        if rate := self.rate:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        parts.append(duration(time.monotonic() - self.began))
        if rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self.text] if self.text else parts)


class Lines:
    """Progress for logs and pipes: a plain line at most every ten seconds."""

    def __init__(self, console: Console, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.console, self.seconds = console, seconds
        self.written = time.monotonic()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Write how the work goes, when enough time has passed since the last line."""
        pace = Pace(label, total, unit, began=time.monotonic())

        def advance(count: int, text: str = "") -> None:
            pace.advance(count, text)
            if time.monotonic() - self.written >= self.seconds:
                self.note(f"{label}: {pace.describe()}")
                self.written = time.monotonic()

        yield advance

    def note(self, message: str) -> None:
        """Write one line, at once."""
        print_line(Text(one_line(message)), self.console)


class PaceColumn(ProgressColumn):
    """The figures to the right of a bar."""

    def render(self, task: Task) -> Text:
        """Describe the task's pace as of now."""
        pace: Pace = task.fields["pace"]
        return Text(pace.describe())


class NarrowProgress(RichProgress):
    """Bars that leave room at the end of the line for the ^C that a terminal shows for Ctrl-C.

    In a full line it would begin a new one, and the bar could no longer be wiped off.
    """

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self.screen = console  # before the rest, which draws at once
        super().__init__(*columns, console=console, transient=True, expand=True)

    def get_renderable(self) -> RenderableType:
        """Return all bars, three columns narrower than the terminal."""
        return Constrain(super().get_renderable(), self.screen.width - 3)


class Bars:
    """Progress for terminals: a bar for each piece of work under way, gone when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.drawn: RichProgress | None = None

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Draw a bar until the context ends; inside another task's context, below its bar."""
        with self.drawing() as drawn:
            pace = Pace(label, total, unit, began=time.monotonic())
            task = drawn.add_task(label, total=total, pace=pace)

            def advance(count: int, text: str = "") -> None:
                pace.advance(count, text)
                drawn.advance(task, count)

            try:
                yield advance
            finally:
                drawn.remove_task(task)

    @contextmanager
    def drawing(self) -> Iterator[RichProgress]:
        """Open the area of the screen where bars are drawn, or join the one that is open."""
        if self.drawn is not None:
            yield self.drawn
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            PaceColumn(table_column=Column(no_wrap=True)),
        )
        with NarrowProgress(*columns, console=self.console) as drawn:
            self.drawn = drawn
            try:
                yield drawn
            finally:
                self.drawn = None

    def note(self, message: str) -> None:
        """Write one line above the bars."""
        print_line(Text(one_line(message)), self.console)


def progress() -> Progress:
    """Return what reports long work on stderr, as that is a terminal or not."""
    console = stderr()
    return Bars(console) if console.is_interactive else Lines(console)


def plain_table(*columns: str, right: tuple[str, ...] = (), gap: int = 2) -> Table:
    """Begin a table without frame; the columns named in `right` are set flush right."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def fits(table: Table, console: Console) -> bool:
    """Tell whether a table can be printed without shortening anything."""
    unlimited = console.options.update(width=10_000)
    return console.measure(table, options=unlimited).maximum <= console.width
