"""Every parser and loader reads damaged and crafted files, or raises one of its own errors.

The quick test tries some inputs for each. With `ALEXNET_SOAK_SECONDS=1200` the long test takes a
quarter of that time and writes results/reliability/fuzz.json. A failure names the surface, the seed
and the number of the input, which reproduce it.
"""

import time
from itertools import islice

import fuzzing
import pytest
from fuzz_surfaces import build_surfaces
from fuzzing import (
    FUZZ_SHARE,
    SOAK_SECONDS,
    Surface,
    Tally,
    fuzz,
    in_soak,
    limits,
    mutations,
    try_one,
    write_soak_result,
)

from alexnet.errors import DataError

GROUPS = ("weights", "runs", "data sets", "sources", "images", "interrupted")
QUICK_INPUTS = 25
SLOW_INPUTS = 4
SEED = 2012


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Surface]:
    return build_surfaces(tmp_path_factory.mktemp("surfaces"), *GROUPS)


@pytest.mark.fault(13)
@pytest.mark.fault(44)
@pytest.mark.fault(52)
def test_damaged_files_are_refused_by_name(surfaces: dict[str, Surface]) -> None:
    problems = []
    with limits():
        for name, surface in surfaces.items():
            inputs = SLOW_INPUTS if name.startswith("doctor") else QUICK_INPUTS
            tally = fuzz(surface, SEED, inputs=inputs)
            problems += [f"{name}, seed {SEED}, {failure}" for failure in tally.failures]
    assert not problems, "\n".join(problems)


def test_the_whole_files_are_read(surfaces: dict[str, Surface]) -> None:
    """Otherwise the fuzzing would reach only the first check of a reader."""
    for name, surface in surfaces.items():
        if name != "checkpoint":  # shortened to a few numbers, to be quick
            for seed in surface.seeds:
                surface.read(seed)


@in_soak
def test_damaged_files_for_minutes(surfaces: dict[str, Surface]) -> None:
    seconds = SOAK_SECONDS * FUZZ_SHARE / len(surfaces)
    began, seed = time.monotonic(), time.time_ns() % 2**32
    with limits():
        tallies = {name: fuzz(each, seed, seconds=seconds) for name, each in surfaces.items()}
    document = fuzzing.as_json(tallies)
    document |= {"seed": seed, "seconds": round(time.monotonic() - began)}
    write_soak_result("fuzz.json", document)
    found = [f"{name}, seed {seed}, {f}" for name, t in tallies.items() for f in t.failures]
    assert not found, "\n".join(found)


# The fuzzing itself.


def test_damage_is_the_same_for_the_same_seed_and_of_many_kinds() -> None:
    seeds = [bytes(range(200)), b'{"a": [1, 2.5, "x"], "b": null}']
    for text in (False, True):
        first, again = (list(islice(mutations(seeds, 7, text=text), 300)) for _ in range(2))
        assert first == again
        assert len(set(first)) > 250
        assert list(islice(mutations(seeds, 8, text=text), 300)) != first
        lengths = {len(data) for data in first}
        assert min(lengths) < 31
        assert max(lengths) > 200


def read_once(read: object, monkeypatch: pytest.MonkeyPatch) -> Tally:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    tally = Tally()
    with limits():
        try_one(Surface([b"x"], read), b"x", tally)  # type: ignore[arg-type]
    return tally


def refuse_what_takes_memory(data: bytes) -> None:
    try:
        bytearray(64 * fuzzing.MEMORY)
    except MemoryError as error:
        raise DataError("damaged: MemoryError") from error


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (refuse_what_takes_memory, "damaged: MemoryError"),
        (lambda _: time.sleep(5), "Hang"),
        (lambda _: bytearray(64 * fuzzing.MEMORY), "MemoryError"),
        (lambda data: data[7], "IndexError"),
    ],
)
def test_what_hangs_takes_memory_or_fails_otherwise_is_found(
    read: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = read_once(read, monkeypatch)
    assert len(tally.failures) == 1
    assert says in tally.failures[0]


def test_what_is_read_or_refused_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = read_once(len, monkeypatch)
    assert (tally.inputs, tally.outcomes["read"], tally.failures) == (1, 1, [])
    assert fuzzing.as_json({"len": tally})["inputs"] == 1
