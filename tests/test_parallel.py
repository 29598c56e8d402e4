"""Several ranks compute what one process computes; the bytes that they send are counted."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, Stripes
from network_makers import empty
from parallel_makers import (
    Case,
    CaseResult,
    Pool,
    double_precision,
    evaluate_as_rank,
    first_of,
    pool_of,
    steps_alone,
    steps_as_rank,
    train_alone,
    train_as_rank,
)

from alexnet.errors import UsageError
from alexnet.evaluate import evaluate_run, evaluate_split
from alexnet.networks.registry import create_model
from alexnet.parallel.comm_stats import CommStats
from alexnet.parallel.exchange import Batch, RankGroup, part_of, parts
from alexnet.parallel.sharding import shard_images, shard_towers, shard_units, tower_order
from alexnet.prepare import prepare_dataset
from alexnet.settings_text import override
from alexnet.storage import checkpoint_store
from alexnet.storage.run import Run
from alexnet.train import train_model


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with pool_of(4) as started:
        yield started


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any tensor, as a fraction of its largest value."""
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(
        float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-30))
        for name in one
    )


def compare(pool: Pool, mode: str, ranks: int, case: Case, tolerance: float) -> list[CaseResult]:
    expected = steps_alone(case)
    results: list[CaseResult] = pool.run(ranks, steps_as_rank, mode, case)
    for each in results:
        assert each.losses == pytest.approx(expected.losses, rel=tolerance)
        assert each.norm == pytest.approx(expected.norm, rel=tolerance)
    assert largest_difference(expected.gradients, results[0].gradients) < tolerance
    assert largest_difference(expected.weights, results[0].weights) < tolerance
    return results


@pytest.mark.parametrize("network", ["alexnet", "alexnet_2012", "alexnet_nocomm"])
def test_two_towers_are_the_one_network(pool: Pool, network: str) -> None:
    compare(pool, "towers", 2, Case(network), 1e-10)


@pytest.mark.parametrize(
    ("mode", "ranks", "images"),
    [("data", 2, 5), ("data", 3, 2), ("hybrid", 2, 5), ("hybrid", 3, 2), ("towers", 4, 3)],
)
def test_a_divided_batch_is_the_one_batch(pool: Pool, mode: str, ranks: int, images: int) -> None:
    compare(pool, mode, ranks, Case("alexnet", images), 1e-10)


def test_the_difference_in_single_precision_is_that_of_rounding(pool: Pool) -> None:
    compare(pool, "towers", 2, Case("alexnet_2012", dtype=torch.float32), 2e-4)


@pytest.mark.parametrize(("mode", "ranks"), [("towers", 2), ("hybrid", 2), ("data", 2)])
@pytest.mark.slow
def test_fifty_steps_stay_together(pool: Pool, mode: str, ranks: int) -> None:
    compare(pool, mode, ranks, Case("alexnet_small", images=4, steps=50), 1e-9)


def test_the_comparison_notices_another_dropout(pool: Pool) -> None:
    dropped, whole = steps_alone(Case("alexnet")), steps_alone(Case("alexnet", dropout=False))
    assert largest_difference(dropped.gradients, whole.gradients) > 0.1


# Bytes sent. The networks have an eighth of the real width and compute in float64.


def test_towers_send_what_the_paper_says(pool: Pool) -> None:
    results = pool.run(2, steps_as_rank, "towers", Case("alexnet", images=3, steps=2))
    halves = {
        "norm1": 2 * 55 * 55,  # two maps at the border
        "norm2": 2 * 27 * 27,
        "conv3": 16 * 13 * 13,  # half of pool2's maps, and so on
        "fc6": 16 * 6 * 6,
        "fc7": 256,
        "fc8": 256,
    }
    expected = {
        layer: {"forward": 3 * 8 * values, "backward": 3 * 8 * values}
        for layer, values in halves.items()
    }
    expected["logits"] = {"forward": 3 * 8 * 3}  # five classes: three and two
    for rank, result in enumerate(results):
        report = result.report[rank]
        assert report["bytes"] == expected
        assert report["steps"] == 2
        assert report["total_bytes"] == sum(sum(kinds.values()) for kinds in expected.values())
        assert report["overlap"] == 0  # the towers wait for each other
        assert report["peak_memory_bytes"] > 2**20


def test_towers_of_2012_that_normalise_alone_send_less(pool: Pool) -> None:
    sent = {
        network: set(pool.run(2, steps_as_rank, "towers", Case(network))[0].report[0]["bytes"])
        for network in ("alexnet_2012", "alexnet_nocomm")
    }
    assert sent == {
        "alexnet_2012": {"conv3", "fc6", "fc7", "fc8", "logits"},
        "alexnet_nocomm": {"fc8", "logits"},
    }


def test_data_parallel_ranks_send_gradients_and_hybrid_ones_the_batch(pool: Pool) -> None:
    data = pool.run(3, steps_as_rank, "data", Case("alexnet"))[0].report[2]
    hybrid = pool.run(3, steps_as_rank, "hybrid", Case("alexnet", images=4))[0].report[0]
    weights = {
        "conv1": 12 * 3 * 11 * 11 + 12,
        "conv2": 32 * 6 * 5 * 5 + 32,
        "conv3": 48 * 32 * 3 * 3 + 48,
        "conv4": 48 * 24 * 3 * 3 + 48,
        "conv5": 32 * 24 * 3 * 3 + 32,
        "fc6": 512 * 1152 + 512,
        "fc7": 512 * 512 + 512,
        "fc8": 5 * 512 + 5,
    }
    for layer, count in weights.items():
        assert data["bytes"][layer]["weights"] == pytest.approx(2 * 2 / 3 * 8 * count, abs=2)
    assert list(data["bytes"]["fc6"]) == ["weights"]
    assert 0 <= data["overlap"] <= 1
    sent = hybrid["bytes"]
    assert sent["conv5"] == data["bytes"]["conv5"]
    assert sent["fc6"] == dict.fromkeys(("forward", "backward"), 2 * 8 * 2 * 1152)  # 2 of 4 images
    assert sent["fc7"] == dict.fromkeys(("forward", "backward"), 2 * 8 * 4 * 171)  # of 512 units
    assert sent["logits"] == {"forward": 2 * 8 * 4 * 2}


# Sharding.


def shard_names(mode: str, ranks: int, network: str) -> list[str]:
    group = RankGroup(None, 0, ranks, CommStats(timed=False))
    model = empty(network)
    function = shard_towers if mode == "towers" else shard_units
    return list(dict(function(model, Batch(), group, group).model.named_children()))


@pytest.mark.parametrize(
    ("mode", "ranks", "network", "says"),
    [
        ("towers", 2, "one_weird_trick", "towers needs a network of two towers, such as alexnet"),
        ("towers", 2, "cifar10_11", "use --parallel data or hybrid"),
        ("hybrid", 2, "alexnet_nocomm", "in groups: use --parallel data or towers"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    mode: str, ranks: int, network: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        shard_names(mode, ranks, network)


def test_batch_normalisation_is_refused_where_the_batch_is_divided() -> None:
    group = RankGroup(None, 0, 2, CommStats(timed=False))
    model = create_model("alexnet_small", 3, ablate={"norm": "batch"})
    with pytest.raises(UsageError, match="batch normalisation needs the whole batch"):
        shard_images(model, Batch(), group)


def test_the_table_of_a_tower_shows_where_it_talks() -> None:
    rows = shard_names("towers", 2, "alexnet_2012")
    assert [row for row in rows if row.startswith("gather")] == [
        "gather_conv3",
        "gather_fc6",
        "gather_fc7",
        "gather_fc8",
        "gather_logits",
    ]
    assert rows[rows.index("gather_conv3") + 1] == "conv3"


def test_kernels_are_ordered_by_tower() -> None:
    assert tower_order(empty("alexnet")) == [list(range(48)), list(range(48, 96))]
    group = RankGroup(None, 1, 2, CommStats(timed=False))
    alone = RankGroup(None, 0, 1, CommStats(timed=False))
    whole = create_model("alexnet_small", 3)
    own = shard_towers(whole, Batch(), alone, group).model.get_parameter("conv1.weight")
    assert torch.equal(own, whole.get_parameter("conv1.weight")[tower_order(whole)[1]])


@pytest.mark.parametrize(
    ("total", "count", "sizes"), [(7, 3, [3, 2, 2]), (1, 2, [1, 0]), (4, 2, [2, 2]), (0, 2, [0, 0])]
)
def test_parts_differ_by_one_at_most(total: int, count: int, sizes: list[int]) -> None:
    assert parts(total, count) == sizes
    divided = [list(range(total))[part_of(total, count, number)] for number in range(count)]
    assert [len(part) for part in divided] == sizes
    assert [item for part in divided for item in part] == list(range(total))


# Run directories.

SMALL = dataclasses.replace(
    TINY,
    model="alexnet_small",
    epochs=4,
    optimizer="paper",
    lr=0.005,
    layer_lr={},
    schedule="steps",
    clip_norm=1.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parallel") / "data"
    prepare_dataset(Stripes(), out, size=56, workers=1)
    return out


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs by one process."""
    run = tmp_path_factory.mktemp("parallel") / "run"
    train_alone(data, run, SMALL)
    return run


def rows_of(run: Path) -> list[dict[str, object]]:
    return [row for row in Run.open(run).metrics() if "kind" in row]


def agree(one: Path, other: Path) -> None:
    """Compare weights, velocities, positions and the epochs' figures of two runs in float64."""
    first, second = (checkpoint_store.load(run, "last") for run in (one, other))
    for key, value in vars(first.position).items():
        if "seconds" not in key and "loss" not in key:
            assert getattr(second.position, key) == value
    assert largest_difference(first.tensors, second.tensors) < 1e-9
    for expected, row in zip(rows_of(one), rows_of(other), strict=True):
        # The loop always computes losses in float32.
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-9)


@pytest.mark.fault(37)
@pytest.mark.fault(19)
@pytest.mark.slow
def test_one_run_goes_through_all_modes(
    pool: Pool, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [dataclasses.replace(SMALL, epochs=epochs) for epochs in range(1, 5)]
    assert pool.run(2, train_as_rank, "towers", data, run, settings[0]) == ["done"] * 2
    train_alone(data, run, settings[1])
    assert pool.run(3, train_as_rank, "data", data, run, settings[2]) == ["done"] * 3
    assert pool.run(2, train_as_rank, "hybrid", data, run, settings[3]) == ["done"] * 2
    agree(undisturbed, run)
    with double_precision():
        result = evaluate_run(run, data, checkpoint="last", device="cpu")
    assert rows_of(run)[-1]["val_loss"] == pytest.approx(result.loss, rel=1e-9)


@pytest.mark.slow
def test_the_comparison_of_runs_notices_another_seed(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    train_alone(data, tmp_path / "run", dataclasses.replace(SMALL, seed=1))
    with pytest.raises(AssertionError):
        agree(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step(
    pool: Pool, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ends = pool.run(4, train_as_rank, "towers", data, run, SMALL, 7)
    assert {end.partition(";")[0] for end in ends} == {
        "130: stopped by SIGINT after step 7 and saved"
    }
    assert checkpoint_store.load(run, "last").position.step == 7
    assert pool.run(2, train_as_rank, "data", data, run, SMALL) == ["done"] * 2
    agree(undisturbed, run)


@pytest.mark.parametrize("optimizer", ["lars"])
@pytest.mark.fault(37)
@pytest.mark.slow
def test_update_rules_see_whole_layers(
    pool: Pool, data: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = override(SMALL, [f"optimizer={optimizer}", "epochs=2", "lr=0.001"])
    train_alone(data, tmp_path / "alone", settings)
    for mode in ("towers", "hybrid"):
        run = tmp_path / mode
        assert pool.run(2, train_as_rank, mode, data, run, settings) == ["done"] * 2
        agree(tmp_path / "alone", run)


@pytest.mark.parametrize(("mode", "frozen"), [("data", 2), ("hybrid", 5), ("towers", 5)])
@pytest.mark.slow
def test_frozen_layers_have_no_gradients_to_sum(
    pool: Pool, data: Path, tmp_path: Path, mode: str, frozen: int
) -> None:
    rates = ",".join(f"conv{number}=0" for number in range(1, frozen + 1))
    settings = override(SMALL, [f"layer_lr={rates}", "epochs=1", "clip_norm=0.1"])
    train_alone(data, tmp_path / "alone", settings)
    assert pool.run(2, train_as_rank, mode, data, tmp_path / mode, settings) == ["done"] * 2
    agree(tmp_path / "alone", tmp_path / mode)


def test_an_error_at_the_start_is_the_error_of_all_ranks(
    pool: Pool, data: Path, undisturbed: Path
) -> None:
    other = dataclasses.replace(SMALL, lr=0.5)
    ends = pool.run(2, train_as_rank, "data", data, undisturbed, other)
    assert ends == [ends[0]] * 2
    assert "lr was 0.005, is 0.5" in ends[0]


def test_divergence_stops_all_ranks_and_saves_nothing(
    pool: Pool, data: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SMALL, optimizer="sgd", lr=1e20)
    ends = pool.run(2, train_as_rank, "hybrid", data, tmp_path / "run", settings)
    assert ends == [ends[0]] * 2
    assert ends[0].startswith("5: the ")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(("mode", "ranks"), [("data", 3), ("hybrid", 2), ("towers", 4)])
@pytest.mark.parametrize("images", [1, 7])
@pytest.mark.fault(34)
def test_every_image_counts_once(
    pool: Pool, data: Path, undisturbed: Path, mode: str, ranks: int, images: int
) -> None:
    run = Run.open(undisturbed)
    with double_precision():
        model = run.load_model(checkpoint="last")
        expected = evaluate_split([(model, run.preprocessing)], first_of(data, images), run.classes)
    results = pool.run(ranks, evaluate_as_rank, mode, undisturbed, data, images)
    for result in results:
        assert result.images == images
        assert result.loss == pytest.approx(expected.loss, rel=1e-9)
        assert result.confusion == expected.confusion


def test_torchrun_without_a_mode_says_what_to_add(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"torchrun started 2 processes.* add --parallel data"):
        train_model(tiny_data, tmp_path / "run", TINY, device="cpu")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    train_model(tiny_data, tmp_path / "run", dataclasses.replace(TINY, epochs=1), device="cpu")
