"""Output for users: results on stdout; progress, notes and errors on stderr.

On a terminal, progress is a bar; elsewhere it is a line at intervals, without control codes.
"""

import io
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

from alexnet.progress import Advance, Progress

SECONDS_BETWEEN_LINES = 10.0
RATE_SECONDS = 30.0
"""The rate of a task is that of the last reports, as far back as this."""
SERIES = re.compile(r"(\d+)/(\d+)$")
"""Ends the label of one of several equal tasks: "epoch 3/90"."""
BAR_WIDTH = 8
"""Columns that a progress bar has at least."""
CTRL_C = 3
"""Columns that a terminal needs to show ^C."""
SHORTEST_NAME = 12
"""Columns that a shortened name in a table has at least."""
COUNT = re.compile(r" \([\d,]+\)$")
"""A number that ends a name, and is never cut off: "cat (12)"."""
ASCII_HEAD = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
"""`SIMPLE_HEAD` for consoles without line characters."""


def print_any_character() -> None:
    """Let stdout and stderr write what their encoding lacks as an escape, such as "\\u72ac".

    A stream that the caller has closed (`>&-`) becomes one that discards what is written.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    """Escape line breaks, control codes, and characters that the encoding of stdout lacks."""
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def has_character(character: str) -> bool:
    """Tell whether the encoding of stdout has a character."""
    return one_line(character) == character


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
    """Units done, speed and time left of one task."""

    label: str
    total: int
    unit: str
    started: float
    later: int = 0
    """Equal tasks that follow, as the epochs of a training do."""
    pause: float = 0.0
    """Seconds between two of them, such as those of an evaluation."""
    done: int = 0
    text: str = ""
    reports: deque[tuple[float, int]] = field(default_factory=deque)
    """When how many units were done: the last reports."""
    skipped: int = 0

    def advance(self, count: int, text: str = "") -> None:
        """Count `count` more units as done."""
        now = time.monotonic()
        self.done += count
        self.text = text or self.text
        # The first report can be for earlier work, as in a resumed training, and the first batch
        # is slow: it compiles or loads kernels. The rate is measured from the second report on.
        if self.skipped < 2:
            self.reports.clear()
            self.skipped += 1
        self.reports.append((now, self.done))
        while len(self.reports) > 2 and self.reports[1][0] <= now - RATE_SECONDS:
            self.reports.popleft()

    @property
    def rate(self) -> float:
        """Units per second of late; 0 if not known yet."""
        if len(self.reports) < 2:
            return 0.0
        (since, before), (_, now_done) = self.reports[0], self.reports[-1]
        seconds = time.monotonic() - since
        return (now_done - before) / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> str:
        """The time to the end of the task, or of all tasks of its series; "" if not known."""
        rate = self.rate
        seconds = (self.total - self.done) / rate if rate else 0.0
        if rate and self.later:
            return (
                f"{duration(seconds + self.later * (self.total / rate + self.pause))} left in all"
            )
        return f"{duration(seconds)} left" if rate and self.done < self.total else ""

    def describe(self, width: int = 1000) -> str:
        """Write for example "640/2,000 images, 122/s, 0:05, 0:11 left, loss 1.93".

        Where `width` is too small, leave out the elapsed time, the rate, the unit, then the text.
        """
        rate = self.rate
        done = f"{self.done:,}/{self.total:,}"
        speed = "" if not rate else f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
        parts = [f"{done} {self.unit}", speed, duration(time.monotonic() - self.started)]
        parts += [self.left, self.text]
        for number, shorter in ((2, ""), (1, ""), (0, done), (4, "")):
            if cell_len(", ".join(filter(None, parts))) > width:
                parts[number] = shorter
        return ", ".join(filter(None, parts))


class Tasks:
    """Begins tasks, and knows what earlier ones of the same series took."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self.pauses: dict[str, float] = {}

    @contextmanager
    def begin(self, label: str, total: int, unit: str) -> Iterator[TaskProgress]:
        """Yield the state of a new task; the context ends with the task."""
        state = TaskProgress(label, total, unit, started=time.monotonic())
        found = SERIES.search(label)
        if not found:
            yield state
            return
        name, number, count = label[: found.start()], int(found[1]), int(found[2])
        state.later = max(count - number, 0)
        if name in self.ends:
            pause = state.started - self.ends[name]
            # The first evaluation may compile kernels: the shortest pause is the usual one.
            self.pauses[name] = min(pause, self.pauses.get(name, pause))
            state.pause = self.pauses[name]
        yield state
        self.ends[name] = time.monotonic()


class LogProgress:
    """Progress for logs and pipes: a line at most every ten seconds."""

    def __init__(self, console: Console, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.console, self.seconds = console, seconds
        self.tasks = Tasks()
        self.written = time.monotonic()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Write the state of the task when enough time has passed since the last line."""
        with self.tasks.begin(label, total, unit) as state:

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
    """The text to the right of a bar, as long as the console has room for."""

    def __init__(self, console: Console) -> None:
        super().__init__(table_column=Column(no_wrap=True, overflow="crop"))
        self.screen = console

    def render(self, task: Task) -> Text:
        """Describe the current state of the task."""
        state: TaskProgress = task.fields["state"]
        room = self.screen.width - CTRL_C - cell_len(state.label) - BAR_WIDTH - 2  # two gaps
        return Text(state.describe(room))


class NarrowProgress(RichProgress):
    """Bars that leave room for the ^C that a terminal shows on Ctrl-C.

    In a full line, ^C would wrap to the next line, and the bar could not be erased.
    """

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self.screen = console  # set first: the next line draws immediately
        super().__init__(*columns, console=console, transient=True, expand=True)

    def get_renderable(self) -> RenderableType:
        """Return all bars, narrower than the terminal."""
        return Constrain(super().get_renderable(), self.screen.width - CTRL_C)


class BarProgress:
    """Progress for terminals: a bar for each running task, removed when the task ends."""

    def __init__(self, console: Console) -> None:
        self.console, self.tasks = console, Tasks()
        self.display: RichProgress | None = None

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Draw a bar until the context ends; a nested task's bar is drawn below."""
        with self.open_display() as display, self.tasks.begin(label, total, unit) as state:
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
            StateColumn(self.console),
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


class PlainTable(Table):
    """A table without a frame that fits the console: columns left out, names shortened.

    Left-aligned columns are names, the others numbers, which are never shortened. `least` are the
    columns that can be left out, the first one first.
    """

    def __init__(
        self, columns: Sequence[str], right: Sequence[str], gap: int, least: Sequence[str]
    ) -> None:
        super().__init__(
            box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0)
        )
        self.gap, self.least = gap, least
        for name in columns:
            self.add_column(name, justify="right" if name in right else "left", no_wrap=True)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts, each written as one line."""
        super().add_row(*map(one_line, cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits; below it, name the columns for which there is no room."""
        columns, hidden = list(self.columns), []
        for name in self.least:
            if self.total(self.widths(columns, SHORTEST_NAME)) <= options.max_width:
                break
            hidden.append(name)
            columns = [column for column in columns if column.header != name]
        widths = self.fitted(columns, options.max_width)
        if self.total(widths) > options.max_width:  # not even the numbers fit: as lines that wrap
            for cells in zip(*(column.cells for column in self.columns), strict=True):
                pairs = zip(self.columns, cells, strict=True)
                yield Text(", ".join(f"{column.header} {cell}" for column, cell in pairs if cell))
            return
        drawn = self.drawn(columns, widths, ascii_only=options.ascii_only)
        yield from drawn.__rich_console__(console, options.update(width=self.total(widths)))
        if hidden:
            yield Text(f"(no room for {', '.join(hidden)})")

    def drawn(self, columns: Sequence[Column], widths: Sequence[int], *, ascii_only: bool) -> Table:
        """Return a table of `columns` with names cut to `widths`."""
        dots = "..." if ascii_only else "…"
        table = Table(
            *(Column(justify=column.justify, no_wrap=column.no_wrap) for column in columns),
            box=ASCII_HEAD if ascii_only else SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=self.padding,
        )
        texts = []
        for column, drawn, width in zip(columns, table.columns, widths, strict=True):
            drawn.width, drawn.header = width, str(column.header)
            cells = list(map(str, column.cells))
            if column.no_wrap:
                drawn.header = shorten(drawn.header, width, dots)
                cells = shorten_all(cells, width, dots)
            texts.append(map(Text, cells))
        for row in zip(*texts, strict=True):
            table.add_row(*row)
        return table

    @property
    def narrowest(self) -> int:
        """The width of the whole table with the shortest names."""
        return self.total(self.widths(self.columns, SHORTEST_NAME))

    def widths(self, columns: Sequence[Column], longest_name: int) -> list[int]:
        """Return the columns' widths, those of names at most `longest_name`.

        A number that ends a name, which is not cut, counts in addition to `SHORTEST_NAME`.
        """
        widths = []
        for column in columns:
            texts = [str(column.header), *map(str, column.cells)]
            full = max(map(cell_len, texts))
            shortest = SHORTEST_NAME + max(len(count_of(text)) for text in texts)
            is_number = column.justify == "right"
            widths.append(full if is_number else min(full, max(longest_name, shortest)))
        return widths

    def fitted(self, columns: Sequence[Column], room: int) -> list[int]:
        """Return the widths with names as long as there is room for, at least `SHORTEST_NAME`."""
        longest = max(room, SHORTEST_NAME)
        while longest > SHORTEST_NAME and self.total(self.widths(columns, longest)) > room:
            longest -= 1
        return self.widths(columns, longest)

    def total(self, widths: Sequence[int]) -> int:
        """Return the width of a table of columns of these `widths`."""
        return sum(widths) + self.gap * (len(widths) - 1)


def plain_table(
    *columns: str, right: tuple[str, ...] = (), gap: int = 2, least: tuple[str, ...] = ()
) -> PlainTable:
    """Return an empty table without a frame; the columns named in `right` are numbers.

    `least` are columns that can be left out where there is no room, the first one first.
    """
    return PlainTable(columns, right, gap, least)


def shorten_all(names: Sequence[str], width: int, dots: str) -> list[str]:
    """Cut names to `width` columns, in the middle if their beginnings alone are the same."""
    short = [shorten(name, width, dots) for name in names]
    if len(set(short)) == len(set(names)):
        return short
    return [shorten(name, width, dots, end=(width - len(dots)) // 2) for name in names]


def shorten(text: str, width: int, dots: str = "…", end: int = 0) -> str:
    """Cut a name to `width` columns; leave `end` characters of its end, and a number after it.

    For example "English spr… (12)", or with an end "English s…iel (12)".
    """
    if cell_len(text) <= width:
        return text
    count = count_of(text)
    name = text.removesuffix(count)
    last = dots + name[len(name) - end :] + count
    return set_cell_size(name, max(width - cell_len(last), 1)).rstrip(" ,") + last


def count_of(name: str) -> str:
    """Return the number that ends a name: " (12)", or nothing."""
    found = COUNT.search(name)
    return found[0] if found else ""


def fits(table: Table, console: Console) -> bool:
    """Return whether the console is wide enough to print the table in full."""
    unlimited = console.options.update(width=10_000)
    return console.measure(table, options=unlimited).maximum <= console.width
