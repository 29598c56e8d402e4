"""Reading ahead: in order, bounded, errors at their place."""

import threading
import time

import pytest

from alexnet.loader import read_ahead


def test_results_come_in_order_whatever_finishes_first() -> None:
    def read(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(read_ahead(read, range(20), threads=4)) == [n * n for n in range(20)]


def test_no_more_is_read_than_a_few_batches_ahead() -> None:
    begun: list[int] = []
    batches = read_ahead(begun.append, range(100), threads=2)
    for _ in range(5):
        next(batches)
    assert len(begun) <= 5 + 3
    batches.close()  # type: ignore[attr-defined]
    assert len(begun) <= 5 + 4


def test_an_error_is_raised_at_its_batch() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise ValueError("bad batch")
        return number

    batches = read_ahead(read, range(6), threads=2)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad batch"):
        next(batches)


def test_threads_end_with_the_batches() -> None:
    before = set(threading.enumerate())
    list(read_ahead(lambda number: number, range(5), threads=3))
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("read")]


def test_there_is_a_thread_for_each_core_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (3, 3), (64, 16)):
        monkeypatch.setattr("alexnet.loader.available_cores", lambda cores=cores: cores)
        begun: list[int] = []
        batches = read_ahead(begun.append, range(100))
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        # Whatever was begun before the first batch was given out: one for each thread, and it.
        assert expected <= len(begun) + 1 <= expected + 2
