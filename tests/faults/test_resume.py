"""A training stopped at any point resumes to the same result, bit for bit."""

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import kill_points
import numpy as np
import pytest
import torch
from kill_points import SETTINGS, STEPS
from safetensors.torch import save_file

from alexnet import randomness
from alexnet.errors import Interrupted
from alexnet.kernels import accelerate
from alexnet.loader import read_ahead
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.train import image_cache as cache

THREE_EPOCHS = replace(SETTINGS, epochs=3, checkpoint_steps=0)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run of three epochs, and the state of torch's generator after it."""
    run = kill_points.finish(tiny_data, tmp_path_factory.mktemp("resume") / "run", THREE_EPOCHS)
    return run, torch.get_rng_state()


@pytest.fixture(scope="module")
def undisturbed(whole: tuple[Path, torch.Tensor]) -> Path:
    return whole[0]


def stop_in(data: Path, run: Path, step: int, threads: int | None = None, **options: Any) -> None:
    """Train until SIGINT in `step`."""
    with pytest.MonkeyPatch.context() as patch:
        if threads:
            patch.setattr(cache, "read_ahead", partial(read_ahead, threads=threads))
        kill_points.signal_in_step(step, patch)
        with pytest.raises(Interrupted):
            kill_points.finish(data, run, THREE_EPOCHS, **options)


# Steps 1-3 are the first epoch, 4-6 the second, 7-9 the third.
@pytest.mark.fault(3)
@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("stops", "threads"),
    [
        pytest.param([1], None, id="once, mid-epoch 1"),
        pytest.param([STEPS], 1, id="once, end of epoch 1"),
        pytest.param([5], 2, id="once, mid-epoch 2"),
        pytest.param([2 * STEPS], None, id="once, end of epoch 2"),
        pytest.param([8], 5, id="once, mid-epoch 3"),
        pytest.param([3 * STEPS], None, id="once, after the last step"),
        pytest.param([1, 2], 3, id="twice in epoch 1"),
        pytest.param([4, 5], None, id="twice in epoch 2"),
        pytest.param([7, 8], 1, id="twice in epoch 3"),
        pytest.param([2, 5, 8], 2, id="in epochs 1, 2 and 3"),
        pytest.param([STEPS, 2 * STEPS], None, id="at the ends of epochs 1 and 2"),
    ],
)
def test_the_result_is_the_same_bit_for_bit(
    tiny_data: Path,
    whole: tuple[Path, torch.Tensor],
    tmp_path: Path,
    stops: list[int],
    threads: int | None,
) -> None:
    run = tmp_path / "run"
    with kill_points.recorded_steps() as made:
        for stop in stops:
            stop_in(tiny_data, run, stop, threads)
            torch.manual_seed(stop)  # a new process starts with another state
        kill_points.finish(tiny_data, run, THREE_EPOCHS)
    undisturbed, random_state = whole
    assert kill_points.differences(undisturbed, run) == []
    assert kill_points.leftovers(run) == []
    if stops[-1] < 3 * STEPS:
        assert torch.equal(torch.get_rng_state(), random_state)
    # Each image once per epoch, and the steps in order.
    assert [step for _, step, _ in made] == list(range(1, 3 * STEPS + 1))
    for epoch in (1, 2, 3):
        seen = Counter(np.concatenate([images for of, _, images in made if of == epoch]).tolist())
        assert seen == Counter(range(39))


@pytest.mark.fault(3)
@pytest.mark.parametrize(("before", "after"), [("none", "host"), ("host", "none")])
def test_where_the_images_are_kept_makes_no_difference(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, before: str, after: str
) -> None:
    run = tmp_path / "run"
    stop_in(tiny_data, run, 5, cache=before)
    kill_points.finish(tiny_data, run, THREE_EPOCHS, cache=after)
    assert kill_points.differences(undisturbed, run) == []


@pytest.mark.fault(3)
def test_the_faster_form_of_a_network_goes_on_to_the_same_result(
    tiny_data: Path, tmp_path: Path
) -> None:
    def resume(run: Path) -> Path:
        return kill_points.finish(tiny_data, run, THREE_EPOCHS, accelerate=accelerate)

    whole, run = resume(tmp_path / "whole"), tmp_path / "run"
    for stop in (1, STEPS + 1):
        with pytest.MonkeyPatch.context() as patch:
            kill_points.signal_in_step(stop, patch)
            with pytest.raises(Interrupted):
                resume(run)
    resume(run)
    assert kill_points.differences(whole, run) == []


@pytest.mark.fault(3)
def test_stopped_during_a_save(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, original = tmp_path / "run", save_file

    def interrupted(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(checkpoint_format, "save_file", original)
        signal.raise_signal(signal.SIGINT)
        original(*arguments, **options)

    monkeypatch.setattr(checkpoint_format, "save_file", interrupted)
    with pytest.raises(Interrupted):
        kill_points.finish(tiny_data, run, THREE_EPOCHS)
    monkeypatch.undo()
    assert checkpoint_store.load(run, "last").position.step == STEPS + 1
    kill_points.finish(tiny_data, run, THREE_EPOCHS)
    assert kill_points.differences(undisturbed, run) == []


@pytest.mark.fault(5)
def test_the_comparison_notices_a_loader_that_is_not_rewound(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_in(tiny_data, run, 1)

    def from_the_start(read: Any, requests: list[Any]) -> Iterator[Any]:
        if len(requests) < STEPS:  # the resumed epoch
            order = randomness.order(THREE_EPOCHS.seed, 1, 39).reshape(STEPS, 13)
            requests = list(order[: len(requests)])
        return read_ahead(read, requests)

    monkeypatch.setattr(cache, "read_ahead", from_the_start)
    kill_points.finish(tiny_data, run, THREE_EPOCHS)
    found = kill_points.differences(undisturbed, run)
    assert {"last model.conv1.weight", "metrics"} <= set(found)


@pytest.mark.fault(5)
@pytest.mark.parametrize("field", ["epoch", "step", "batch", "images", "loss_sum", "recent_loss"])
def test_the_comparison_notices_what_is_not_restored(
    tiny_data: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    run, original = tmp_path / "run", checkpoint_store.load
    stop_in(tiny_data, run, 5)

    def forgetful(run: Path, name: checkpoint_store.CheckpointName) -> checkpoint_format.Saved:
        saved = original(run, name)
        start = getattr(checkpoint_format.Position(), field)
        return replace(saved, position=replace(saved.position, **{field: start}))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_store, "load", forgetful)
        kill_points.finish(tiny_data, run, THREE_EPOCHS)
    assert kill_points.differences(undisturbed, run)


@pytest.mark.fault(5)
def test_the_comparison_notices_a_velocity_that_is_not_restored(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_in(tiny_data, run, 5)
    monkeypatch.setattr("alexnet.train.opening.load_optimizer", lambda *arguments: None)
    kill_points.finish(tiny_data, run, THREE_EPOCHS)
    assert "last model.conv1.weight" in kill_points.differences(undisturbed, run)
