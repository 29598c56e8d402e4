"""Console output: progress on terminals and in logs, JSON, errors, tables."""

import io
import json
from typing import Any

import numba
import pytest
from data_makers import Recorder
from rich.console import Console
from rich.table import Table

from alexnet.cli import console
from alexnet.cli.compiling import note_compilation
from alexnet.cli.console import (
    BarProgress,
    LogProgress,
    TaskProgress,
    class_label,
    duration,
    fits,
    one_line,
    percent,
    plain_table,
    print_error,
    print_json,
    print_note,
    progress,
)
from alexnet.prepare.sources.imagenet_classes import imagenet_classes


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("alexnet.cli.console.time.monotonic", lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def screen(width: int = 80, *, terminal: bool = True) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_progress_shows_rate_elapsed_and_left(clock: Clock) -> None:
    task = TaskProgress("train", 1000, "images", started=clock.now)
    assert task.describe() == "0/1,000 images, 0:00"
    task.advance(0)
    clock.wait(5)  # the first batch is slow: the rate counts from its end
    task.advance(100, "loss 2.30")
    assert task.describe() == "100/1,000 images, 0:05, loss 2.30"
    clock.wait(2)
    task.advance(100)
    assert task.describe() == "200/1,000 images, 50/s, 0:07, 0:16 left, loss 2.30"
    clock.wait(16)
    task.advance(800, "loss 1.10")
    assert task.describe() == "1,000/1,000 images, 50/s, 0:23, loss 1.10"


def test_what_was_done_before_does_not_count_as_speed(clock: Clock) -> None:
    task = TaskProgress("resumed", 1000, "images", started=clock.now)
    task.advance(900)
    for _ in range(2):
        clock.wait(10)
        task.advance(5)
    assert task.describe() == "910/1,000 images, 0.5/s, 0:20, 3:00 left"


def test_compiling_in_the_first_batch_is_not_the_speed_of_the_others(clock: Clock) -> None:
    task = TaskProgress("epoch 1/2", 3000, "images", started=clock.now)
    task.advance(0)
    clock.wait(60)
    task.advance(100)
    assert "left" not in task.describe()
    clock.wait(1)
    task.advance(100)
    assert task.describe() == "200/3,000 images, 100/s, 1:01, 0:28 left"


def test_the_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    task = TaskProgress("prepare", 10_000, "images", started=clock.now)
    for count in [10] * 60 + [100] * 31:
        clock.wait(1)
        task.advance(count)
    assert task.rate == 100


def test_time_left_is_that_of_the_whole_training_with_its_evaluations(clock: Clock) -> None:
    log = screen(terminal=False)
    lines = LogProgress(log, seconds=1)
    for epoch in (1, 2, 3):
        with lines.task(f"epoch {epoch}/3", 1000, "images") as advance:
            for _ in range(10):
                clock.wait(5)
                advance(100, "loss 2.0")
        with lines.task("evaluate val", 100, "images") as advance:
            clock.wait(8)
            advance(100)
    texts = shown(log).splitlines()
    # 20 images/s: 30 s to the end of the epoch, 50 s for each later one, and 8 s for each
    # evaluation between them once one has been seen.
    assert [text for text in texts if ": 400" in text] == [
        "epoch 1/3: 400/1,000 images, 20/s, 0:20, 2:10 left in all, loss 2.0",
        "epoch 2/3: 400/1,000 images, 20/s, 0:20, 1:28 left in all, loss 2.0",
        "epoch 3/3: 400/1,000 images, 20/s, 0:20, 0:30 left, loss 2.0",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_a_line_every_ten_seconds_at_most(clock: Clock) -> None:
    log = screen(terminal=False)
    lines = LogProgress(log)
    with lines.task("epoch 1", 4000, "images") as advance:
        for _ in range(40):
            clock.wait(1)
            advance(100, "loss 2.0")
    assert shown(log).splitlines() == [
        "epoch 1: 1,000/4,000 images, 100/s, 0:10, 0:30 left, loss 2.0",
        "epoch 1: 2,000/4,000 images, 100/s, 0:20, 0:20 left, loss 2.0",
        "epoch 1: 3,000/4,000 images, 100/s, 0:30, 0:10 left, loss 2.0",
        "epoch 1: 4,000/4,000 images, 100/s, 0:40, loss 2.0",
    ]


def test_many_short_tasks_share_the_ten_seconds(clock: Clock) -> None:
    log = screen(terminal=False)
    lines = LogProgress(log)
    for _ in range(30):
        with lines.task("short", 1, "files") as advance:
            clock.wait(1)
            advance(1)
    assert len(shown(log).splitlines()) == 3


def test_notes_in_a_log_come_at_once_whole_and_without_control_codes() -> None:
    log = screen(width=20, terminal=False)
    LogProgress(log).note("a note longer than the line [bold]\x1b[31m :smile:\n")
    assert shown(log) == "a note longer than the line [bold]\\x1b[31m :smile:\\n\n"


def test_the_first_compilation_is_noted_once() -> None:
    recorder = Recorder()
    note_compilation(recorder)

    def triple(x: int) -> int:
        return 3 * x

    function: Any = numba.njit(triple)
    assert recorder.notes == []
    assert (function(1), function(1.5)) == (3, 4.5)
    (note,) = recorder.notes
    assert note.startswith("compiling kernels for this machine")


def test_bars_show_running_tasks_and_vanish() -> None:
    terminal = screen(width=100)
    bars = BarProgress(terminal)
    with bars.task("epoch 1/2", 1000, "images") as advance:
        advance(500, "loss [1.9]")
        bars.note("a note")
        with bars.task("evaluate", 10, "images") as inner:
            inner(5)
            assert bars.display is not None
            assert [task.description for task in bars.display.tasks] == ["epoch 1/2", "evaluate"]
            bars.display.refresh()
        assert [task.description for task in bars.display.tasks] == ["epoch 1/2"]
    assert bars.display is None
    text = shown(terminal)
    assert "500/1,000 images" in text
    assert "loss [1.9]" in text
    assert "5/10 images" in text
    assert "a note\n" in text
    with bars.task("again", 1, "files") as advance:
        advance(1)
    assert bars.display is None


def test_bars_are_removed_when_the_task_fails() -> None:
    bars = BarProgress(screen())
    with pytest.raises(KeyboardInterrupt), bars.task("a", 2, "files"):
        raise KeyboardInterrupt
    assert bars.display is None


def test_a_narrow_terminal_keeps_one_line_for_a_bar() -> None:
    terminal = screen(width=40)
    bars = BarProgress(terminal)
    with bars.task("epoch 12/90", 1_281_167, "images") as advance:
        advance(128, "loss 6.908")
        assert bars.display is not None
        (line,) = terminal.render_lines(bars.display.get_renderable(), pad=False)
        assert sum(segment.cell_length for segment in line) <= 37  # room for ^C


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (
            140,
            "640,128/1,281,167 images, 1,280/s, 0:10, 113:34:32 left in all, loss 6.908",
        ),
        (80, "640,128/1,281,167, 113:34:32 left in all, loss 6.908"),
        (60, "640,128/1,281,167, 113:34:32 left in all"),
    ],
)
def test_a_bar_keeps_the_most_useful_figures_whole(clock: Clock, width: int, text: str) -> None:
    terminal = screen(width=width)
    bars = BarProgress(terminal)
    with bars.task("epoch 2/410", 1_281_167, "images") as advance:
        advance(0)
        advance(627_328)
        clock.wait(10)
        advance(12_800, "loss 6.908")
        assert bars.display is not None
        (line,) = terminal.render_lines(bars.display.get_renderable(), pad=False)
        drawn = "".join(segment.text for segment in line)
        assert drawn.rstrip().endswith(text)
        assert len(drawn.rstrip()) <= width - 3


@pytest.mark.parametrize(
    ("terminal", "term", "kind"),
    [(True, "xterm", BarProgress), (False, "xterm", LogProgress), (True, "dumb", LogProgress)],
)
def test_bars_are_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(
        console, "stderr", lambda: Console(file=io.StringIO(), force_terminal=terminal)
    )
    assert isinstance(progress(), kind)


def test_errors_and_notes_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("a[b]\nc\x1b]0;title\x07 " + "long " * 50)
    print_note("saved")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("alexnet: error: a[b]\\nc\\x1b]0;title\\x07 long long")
    assert second == "alexnet: saved"


def test_one_line_escapes_what_terminals_act_on_and_keeps_letters() -> None:
    assert one_line("a\r\nb\x9b1m\u202e\udcff é 猫") == r"a\r\nb\x9b1m\u202e\udcff é 猫"


@pytest.mark.parametrize("terminal", [True, False])
def test_json_is_one_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    document = [{"image": "a\udcff.jpg", "x": 0.5}]
    print_json(document)
    out = capsys.readouterr().out
    assert json.loads(out) == document
    assert out.isascii()
    assert (out.count("\n") == 1) is not terminal


def test_words_for_numbers_and_classes() -> None:
    assert percent(0.12345) == "12.35%"
    assert class_label("cat", "cat") == "cat"
    assert class_label("n02123045", "tabby\n") == r"n02123045 (tabby\n)"


ENGLISH = "n02102040 (English springer, English springer spaniel)"


def drawn(table: Table, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(table)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return [line.rstrip() for line in file.buffer.getvalue().decode(encoding).splitlines()]


def errors_table() -> Table:
    numbers = ("images", "top-1 error")
    table = plain_table("class", *numbers, "mistake", right=numbers, least=("mistake", "images"))
    table.add_row(ENGLISH, "1,234", "58.67%", "n02102177 (Welsh springer spaniel) (1,012)")
    table.add_row("n02104029 (kuvasz)", "50", "100.00%", "n02105251 (briard) (7)")
    return table


def test_names_are_shortened_and_numbers_are_not() -> None:
    lines = drawn(errors_table(), 80)
    assert lines[2] == (
        "n02102040 (English springer…   1,234       58.67%  n02102177 (Welsh sp… (1,012)"
    )
    assert lines[3].split() == [
        "n02104029",
        "(kuvasz)",
        "50",
        "100.00%",
        "n02105251",
        "(briard)",
        "(7)",
    ]
    assert max(map(len, lines)) <= 80


def test_columns_are_left_out_before_numbers_are_shortened() -> None:
    lines = drawn(errors_table(), 50)
    assert lines[2] == "n02102040 (English springer…    1,234       58.67%"
    assert lines[-1] == "(no room for mistake)"
    assert drawn(errors_table(), 30)[2:] == [
        "n02102040 (Engli…       58.67%",
        "n02104029 (kuvas…      100.00%",
        "(no room for mistake, images)",
    ]
    narrow = " ".join(drawn(errors_table(), 20))
    assert all(text in narrow for text in ("1,234", "58.67%", "(1,012)", "100.00%"))


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_table_of_all_of_imagenets_names_keeps_every_number(width: int) -> None:
    names = imagenet_classes()
    table = plain_table("class", "images", right=("images",))
    for number, (name, words) in enumerate(names.items(), start=1000):
        table.add_row(class_label(name, words), f"{number:,}")
    lines = drawn(table, width)[2:]
    assert [line.split()[-1] for line in lines] == [f"{number:,}" for number in range(1000, 2000)]
    assert max(map(len, lines)) <= width


def test_names_with_the_same_beginning_are_cut_in_the_middle() -> None:
    table = plain_table("class", "images", right=("images",))
    for name in ("Tomato___Septoria_leaf_spot", "Tomato___Septoria_leaf_blight"):
        table.add_row(name, "1")
    assert [line.split()[0] for line in drawn(table, 24)[2:]] == [
        "Tomato__…af_spot",
        "Tomato__…_blight",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_table_on_any_console_has_straight_columns(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    table = plain_table("class", "images", right=("images",))
    table.add_row("犬", "12")
    table.add_row("a name that is far too long", "1")
    assert drawn(table, 24, encoding) == [
        "class             images",
        "------------------------",
        "\\u72ac                12",
        "a name that i...       1",
    ]


def test_whether_a_table_fits() -> None:
    table = plain_table("name", "count", right=("count",), gap=1)
    table.add_row("a" * 20, "1,000")
    narrow, wide = screen(width=25), screen(width=26)
    assert not fits(table, narrow)
    assert fits(table, wide)
    wide.print(table)
    assert shown(wide).splitlines()[2] == "a" * 20 + " 1,000"
