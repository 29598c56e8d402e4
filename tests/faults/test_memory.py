"""Memory that runs out ends a command with one line that says what needs less."""

import mmap
import resource
from collections.abc import Callable
from pathlib import Path

import kill_points
import numpy as np
import pytest
import torch

from alexnet import cli
from alexnet.cli import console
from alexnet.errors import CheckpointError, can_allocate, is_out_of_memory
from alexnet.images import decode

TOO_MUCH = 2**50
"""Bytes that no machine has."""


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: np.empty(TOO_MUCH, np.uint8),
        lambda: bytearray(TOO_MUCH),
        lambda: mmap.mmap(-1, TOO_MUCH),
    ],
    ids=["torch", "numpy", "Python", "the C library"],
)
def test_the_error_of_each_allocator_is_recognised(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(2, "No such file or directory"),
        CheckpointError("weights.pt: out of memory is what its title says"),
    ],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.fault(31)
@pytest.mark.parametrize("is_short", [True, False])
def test_an_image_is_not_left_out_because_memory_was_short(
    monkeypatch: pytest.MonkeyPatch, is_short: bool
) -> None:
    """A broken file may claim a size that no memory has: that alone is the file's fault."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_decode", fail)
    monkeypatch.setattr(decode, "can_allocate", lambda size: not is_short)
    with pytest.raises(MemoryError if is_short else decode.ImageError):
        decode.load_square(b"\x89PNG", 32)


def test_how_much_can_be_allocated() -> None:
    assert can_allocate(2**20)
    assert not can_allocate(TOO_MUCH)


def with_little_memory(headroom: int, arguments: list[str]) -> None:
    """Run a command that can take `headroom` bytes more than this process has already."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    raise SystemExit(cli.main(arguments))


@pytest.mark.fault(31)
@pytest.mark.parametrize("headroom", [0, 2**18, 2**20, 2**23])
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("train DATA NEW --model tiny", "try --batch-size 16, or --cache none"),
        ("evaluate RUN DATA", "close other programs, or raise the limit of this one (ulimit -v)"),
    ],
)
def test_a_limit_of_memory_is_one_line_of_advice(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, command: str, advice: str, headroom: int
) -> None:
    """Whether memory runs out in the command's work or before it, while its words are read."""
    paths = {"DATA": tiny_data, "RUN": tiny_run, "NEW": tmp_path / "run"}
    arguments = [str(paths.get(word, word)) for word in command.split()]
    code, stderr = kill_points.child(tmp_path, with_little_memory, headroom, arguments)
    assert (code, stderr) == (6, f"alexnet: error: out of memory; {advice}\n")


@pytest.mark.fault(31)
def test_the_line_is_written_even_where_no_memory_is_left_to_draw_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(console, "stderr", fail)
    assert cli.report_error(MemoryError(), ["train"]) == 6
    assert capfd.readouterr().err == (
        "alexnet: error: out of memory; try --batch-size 16, or --cache none\n"
    )
