"""Reproducible damage to files, and limits on the time and memory of what reads them."""

import json
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alexnet.errors import AlexnetError, DataError

SECONDS = 10
"""Limit for each input."""
MEMORY = 1 << 30
"""Limit for each input: bytes of address space, in addition to what the process has."""

SOAK_SECONDS = float(os.environ.get("ALEXNET_SOAK_SECONDS", "0"))
SOAK_RESULTS = Path(
    os.environ.get("ALEXNET_SOAK_RESULTS", Path(__file__).parents[1] / "results/reliability")
)
FUZZ_SHARE = 0.25
"""Share of a soak's time for reading damaged files."""

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (*EDGES, 2**62, 2**63, 2**64 - 1)
WORDS = (
    b"-1", b"0", b"1e999", b"99999999999999999999", b"null", b"true", b"NaN", b'""', b"[]", b"{}",
    b"[" * 3000, b'"\\ud800"', b"\x00", b"..", b"/", b"\n", b"0.5", b'"a"', b"1e-999", b"4294967296"
)  # fmt: skip
SPLICED = (
    b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x02",
)  # fmt: skip


class Hang(BaseException):
    """An input took too long; a base exception, so that no handler of errors catches it."""


@dataclass(frozen=True)
class Surface:
    """A function that reads untrusted files."""

    seeds: Sequence[bytes]
    """Valid files."""
    read: Callable[[bytes], object]
    """Reads the bytes of a file."""
    refusals: tuple[type[Exception], ...] = (AlexnetError,)
    """The errors that it may raise."""
    text: bool = False
    """Whether words are changed, not only bytes."""


@dataclass
class Tally:
    """Counts of the inputs of one surface by outcome."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "inputs": self.inputs,
            "read": self.outcomes["read"],
            "refused": self.inputs - self.outcomes["read"] - len(self.failures),
            "failures": len(self.failures),
            "slowest_seconds": round(self.slowest, 3),
        }


def mutations(seeds: Sequence[bytes], seed: int, *, text: bool) -> Iterator[bytes]:
    """Yield damaged files without end, the same for the same arguments."""
    rng = random.Random(seed)
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            change = rng.choice(TEXT_CHANGES if text else CHANGES)
            data = change(data, rng, seeds)
        yield bytes(data)


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(rng.paretovariate(0.5)))


def _flip(data: bytearray, rng: random.Random, _: object) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _set(data: bytearray, rng: random.Random, _: object) -> bytearray:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def _number(data: bytearray, rng: random.Random, _: object) -> bytearray:
    """Overwrite bytes by a number from the limits of an integer type."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    value = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    start = rng.randrange(len(data) + 1)
    data[start : start + width] = value
    return data


def _cut(data: bytearray, rng: random.Random, _: object) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _delete(data: bytearray, rng: random.Random, _: object) -> bytearray:
    start, end = _span(data, rng)
    del data[start:end]
    return data


def _repeat(data: bytearray, rng: random.Random, _: object) -> bytearray:
    start, end = _span(data, rng)
    data[start:start] = data[start : min(end, start + 4096)]
    return data


def _insert(data: bytearray, rng: random.Random, _: object) -> bytearray:
    start = rng.randrange(len(data) + 1)
    noise = rng.randbytes(rng.choice((1, 2, 8, 40)))
    data[start:start] = rng.choice(SPLICED) if rng.random() < 0.2 else noise
    return data


def _zeros(data: bytearray, rng: random.Random, _: object) -> bytearray:
    start, end = _span(data, rng)
    data[start:end] = bytes(end - start)
    return data


def _splice(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    """Replace the rest by that of another file, from about the same offset."""
    other = rng.choice(seeds)
    start = rng.randrange(len(data) + 1)
    return data[:start] + other[max(0, start + rng.choice((-8, -1, 0, 0, 1, 8))) :]


def _word(data: bytearray, rng: random.Random, _: object) -> bytearray:
    """Replace a word of a text by one from `WORDS`."""
    words = list(_words(data))
    start, end = rng.choice(words) if words else (0, 0)
    data[start:end] = rng.choice(WORDS)
    return data


def _words(data: bytearray) -> Iterator[tuple[int, int]]:
    start = 0
    for offset, byte in enumerate(data):
        if byte in b" \n\t,:[]{}":
            if offset > start:
                yield start, offset
            start = offset + 1
    if len(data) > start:
        yield start, len(data)


def _exchange(data: bytearray, rng: random.Random, _: object) -> bytearray:
    """Replace a word of a text by another word of it."""
    words = list(_words(data))
    if len(words) > 1:
        one, other = rng.sample(words, 2)
        data[one[0] : one[1]] = data[other[0] : other[1]]
    return data


Change = Callable[[bytearray, random.Random, Sequence[bytes]], bytearray]
CHANGES: tuple[Change, ...] = (
    _flip, _flip, _set, _number, _number, _cut, _delete, _repeat, _insert, _zeros, _splice,
)  # fmt: skip
TEXT_CHANGES: tuple[Change, ...] = (_word, _word, _word, _exchange, _exchange, *CHANGES)


@contextmanager
def limits() -> Iterator[None]:
    """Limit memory and time; restore both at the end."""

    def hang(*_: object) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a pseudo file
        used = int(file.read().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def fuzz(surface: Surface, seed: int, *, inputs: int | None = None, seconds: float = 0) -> Tally:
    """Let a surface read damaged files: a number of `inputs`, or for some `seconds`."""
    tally, until = Tally(), time.monotonic() + seconds
    for data in mutations(surface.seeds, seed, text=surface.text):
        if tally.inputs == inputs or (inputs is None and time.monotonic() > until):
            return tally
        try_one(surface, data, tally)
    raise AssertionError("mutations never end")


def try_one(surface: Surface, data: bytes, tally: Tally) -> None:
    """Let a surface read one file and count the outcome."""
    tally.inputs += 1
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        surface.read(data)
        tally.outcomes["read"] += 1
    except surface.refusals as error:
        # Old files of torch are excepted: PyTorch allocates the sizes that their pickles claim.
        if isinstance(error, DataError) and comes_from_memory(error):
            tally.failures.append(f"input {tally.inputs}: {error!r} for {bytes(data[:200])!r}")
        tally.outcomes[type(error).__name__] += 1
    except (Exception, Hang) as error:  # noqa: BLE001 - the failures to find
        tally.failures.append(f"input {tally.inputs}: {error!r} for {bytes(data[:200])!r}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.slowest = max(tally.slowest, time.monotonic() - began)


def comes_from_memory(error: BaseException | None) -> bool:
    """Return whether a refusal only wraps an allocation that failed."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def as_json(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Return the counts of all surfaces as plain JSON values."""
    return {
        "surfaces": {name: tally.as_json() for name, tally in sorted(tallies.items())},
        "inputs": sum(tally.inputs for tally in tallies.values()),
        "failures": sum(len(tally.failures) for tally in tallies.values()),
    }


def in_soak(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that runs in `make soak` only, without a time limit."""
    skipped = pytest.mark.skipif(not SOAK_SECONDS, reason="takes minutes: make soak")(test)
    unlimited: Callable[..., None] = pytest.mark.timeout(0)(skipped)
    return unlimited


def write_soak_result(name: str, document: Mapping[str, Any]) -> None:
    """Write a JSON file to the results of the soak."""
    SOAK_RESULTS.mkdir(parents=True, exist_ok=True)
    (SOAK_RESULTS / name).write_text(json.dumps(document, indent=1) + "\n")
