"""Console output: progress on terminals and in logs, JSON, errors, tables."""

import io
import json

import pytest
from rich.console import Console

from alexnet.cli import console
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
    clock.wait(10)
    task.advance(5)
    assert task.describe() == "905/1,000 images, 0.5/s, 0:10, 3:10 left"


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


def test_whether_a_table_fits() -> None:
    table = plain_table("name", "count", right=("count",), gap=1)
    table.add_row("a" * 20, "1,000")
    narrow, wide = screen(width=25), screen(width=26)
    assert not fits(table, narrow)
    assert fits(table, wide)
    wide.print(table)
    assert shown(wide).splitlines()[2] == "a" * 20 + " 1,000"
