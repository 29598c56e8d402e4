"""The plan: bytes against numbers worked out by hand, times against sums and published ones."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from alexnet.analysis.plan import (
    OPERATIONS,
    RATES,
    TIMES,
    UPDATE_BYTES,
    Machine,
    ScalingPlan,
    find_exchanges,
    mac_seconds,
    obstacle,
    plan_modes,
    plan_step,
    read_quantity,
    training_macs,
)
from alexnet.analysis.summary import Summary, summarize
from alexnet.cli import main

DOCUMENT = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
ALEXNET = summarize("alexnet")
ONE_WEIRD_TRICK = summarize("one_weird_trick")
PLAIN = Machine(mac_seconds=1e-12, memory=1e12, link=1e10, latency=0.0)


def sent(
    summary: Summary, mode: str, devices: int, batch: int, sizes: tuple[int, int] = (4, 4)
) -> dict[str, int]:
    machine = Machine(1e-12, 1e12, 1e10, 0.0, *sizes)
    exchanges = find_exchanges(summary, mode, devices, batch, machine)
    return {layer: each.size for layer, each in exchanges.items()}


# What is sent: batches of 128 images, 4 bytes a value.


def test_data_parallel_sends_all_gradients_nearly_twice() -> None:
    assert sent(ALEXNET, "data", 2, 128) == {
        "conv1": 34_944 * 4,
        "conv2": 307_456 * 4,
        "conv3": 885_120 * 4,
        "conv4": 663_936 * 4,
        "conv5": 442_624 * 4,
        "fc6": 37_752_832 * 4,
        "fc7": 16_781_312 * 4,
        "fc8": 4_097_000 * 4,
    }
    # Seven eighths of each device's gradients go out to be summed, and again as sums.
    assert sum(sent(ALEXNET, "data", 8, 128).values()) == 60_965_224 * 4 * 2 * 7 // 8
    assert sent(ALEXNET, "data", 8, 128) == sent(ALEXNET, "data", 8, 4096)


def test_towers_exchange_half_of_what_four_layers_read_and_two_borders() -> None:
    assert sent(ALEXNET, "towers", 2, 128) == {
        "norm1": 2 * 128 * 2 * 55 * 55 * 4,  # forward and back: two channels
        "norm2": 2 * 128 * 2 * 27 * 27 * 4,
        "conv3": 2 * 128 * 128 * 13 * 13 * 4,  # ... half of 256 maps
        "fc6": 2 * 128 * 4608 * 4,
        "fc7": 2 * 128 * 2048 * 4,
        "fc8": 2 * 128 * 2048 * 4 + 128 * 500 * 4,  # and half of the logits, forward only
    }


def test_networks_of_2012_normalise_within_a_tower() -> None:
    both = sent(summarize("alexnet_2012"), "towers", 2, 128)
    assert both == {
        layer: size
        for layer, size in sent(ALEXNET, "towers", 2, 128).items()
        if not layer.startswith("norm")
    }
    assert sent(summarize("alexnet_nocomm"), "towers", 2, 128) == {
        "fc8": 2 * 128 * 2048 * 4 + 128 * 500 * 4  # where its towers meet
    }


def test_pairs_of_towers_sum_the_gradients_of_their_halves() -> None:
    pairs, data = sent(ALEXNET, "towers", 8, 1024), sent(ALEXNET, "data", 4, 1024)
    exchanged = sent(ALEXNET, "towers", 2, 256)
    assert pairs["conv2"] == data["conv2"] // 2
    assert pairs["fc6"] == exchanged["fc6"] + data["fc6"] // 2
    assert pairs["norm1"] == exchanged["norm1"]


def test_hybrid_sums_convolutions_and_gathers_what_full_layers_read() -> None:
    # 8 devices with 128 images, then with 512 units; logits of 125 classes each.
    hybrid = sent(ALEXNET, "hybrid", 8, 1024)
    assert hybrid["conv3"] == 885_120 * 4 * 2 * 7 // 8
    assert hybrid["fc6"] == 2 * 7 * 128 * 9216 * 4
    assert hybrid["fc7"] == 2 * 7 * 1024 * 512 * 4
    assert hybrid["fc8"] == hybrid["fc7"] + 7 * 1024 * 125 * 4


def test_uneven_parts_count_by_the_largest() -> None:
    hybrid = sent(ALEXNET, "hybrid", 3, 128)
    assert hybrid["fc6"] == 2 * 2 * 43 * 9216 * 4
    assert hybrid["fc7"] == 2 * 2 * 128 * 1366 * 4


def test_sizes_of_activations_and_gradients_are_their_own() -> None:
    reference = sent(ALEXNET, "hybrid", 4, 512)
    small = sent(ALEXNET, "hybrid", 4, 512, (2, 4))
    tiny = sent(ALEXNET, "hybrid", 4, 512, (2, 2))
    assert (small["fc6"], small["conv2"]) == (reference["fc6"] // 2, reference["conv2"])
    assert [2 * size for size in tiny.values()] == list(reference.values())


# Times.


def test_training_costs_three_passes_but_for_the_first_layer() -> None:
    assert training_macs(ALEXNET) == 3 * 724_406_816 - 105_415_200


def test_speed_as_images_per_second_is_that_of_the_planned_step() -> None:
    seconds = mac_seconds(ALEXNET, "3000", 256, memory=7e11)
    machine = Machine(seconds, 7e11, 1e10, 0.0)
    one = plan_step(ALEXNET, "one", 1, 256, machine)
    assert one.images_per_second == pytest.approx(3000)
    assert one.update == UPDATE_BYTES * 60_965_224 / 7e11
    assert mac_seconds(ALEXNET, "2 TFLOP/s", 256, 7e11) == pytest.approx(1e-12)


def by_mode(summary: Summary, devices: int, batch: int, machine: Machine) -> dict[str, ScalingPlan]:
    return {plan.mode: plan for plan in plan_modes(summary, devices, batch, machine)}


def test_a_step_is_its_parts() -> None:
    plans = by_mode(ALEXNET, 2, 256, PLAIN)
    compute = 128 * training_macs(ALEXNET) * 1e-12
    for plan in plans.values():
        assert plan.compute == pytest.approx(compute * (2 if plan.mode == "one" else 1))
        assert plan.communication == pytest.approx(sum(plan.sent.values()) / 1e10)
        parts = plan.compute + plan.update + plan.communication - plan.hidden
        assert plan.step == pytest.approx(parts)
        assert 0 <= plan.hidden <= plan.communication
        rate = plans["one"].images_per_second
        per_device = plan.images_per_second / rate / plan.devices
        assert plan.efficiency == pytest.approx(per_device)
    assert plans["towers"].hidden == pytest.approx(0, abs=1e-12)  # activations are waited for
    assert plans["towers"].update == pytest.approx(plans["one"].update / 2)


def test_gradients_are_hidden_behind_the_backward_pass_that_is_left() -> None:
    """A slow link: it starts when fc8's gradient is there, and never rests."""
    slow = Machine(1e-12, 1e12, link=1e8, latency=0.0)
    plan = by_mode(ALEXNET, 2, 256, slow)["data"]
    before = 128 * (724_406_816 + 2 * 4_096_000) * 1e-12  # forward, and back through fc8
    assert plan.step == pytest.approx(before + sum(plan.sent.values()) / 1e8 + plan.update)


def test_on_a_fast_link_only_the_last_gradient_is_waited_for() -> None:
    fast = Machine(1e-12, 1e12, link=1e11, latency=0.0)
    plan = by_mode(ALEXNET, 2, 256, fast)["data"]
    assert plan.communication - plan.hidden == pytest.approx(34_944 * 4 / 1e11)


def test_without_overlap_nothing_is_hidden() -> None:
    reference = Machine(1e-12, 1e12, 1e10, 0.0, overlap=False)
    for plan in by_mode(ALEXNET, 4, 512, reference).values():
        assert plan.hidden == pytest.approx(0, abs=1e-12)


def test_messages_take_time_however_short() -> None:
    """8 devices: 3 rounds to sum and 3 to gather, for each of 8 layers."""
    late = Machine(1e-12, 1e12, 1e10, latency=1e-3)
    difference = [by_mode(ALEXNET, 8, 1024, each)["data"].communication for each in (late, PLAIN)]
    assert difference[0] - difference[1] == pytest.approx(8 * 6 * 1e-3)
    towers = [by_mode(ALEXNET, 2, 128, each)["towers"].communication for each in (late, PLAIN)]
    assert towers[0] - towers[1] == pytest.approx(2 * 6 * 1e-3)


def test_hybrid_sends_less_up_to_a_batch_of_about_3300() -> None:
    """58.6 million weights against 17,408 values read and half of 1,000 logits for each image."""
    turn = 58_631_144 / (9216 + 4096 + 4096 + 1000 / 2)
    assert turn == pytest.approx(3274, abs=1)
    for devices in (4, 8):
        for batch, less in [(3264, True), (3288, False)]:
            plans = by_mode(ALEXNET, devices, batch, PLAIN)
            totals = {mode: sum(plan.sent.values()) for mode, plan in plans.items()}
            assert (totals["hybrid"] < totals["data"]) is less


# Published trainings: docs/scaling.md has sources, assumptions, and these rows.


class Point(NamedTuple):
    """A training: `speed` of one device in images/s at `images`, and that of all `devices`."""

    name: str
    mode: str
    devices: int
    images: int
    speed: float
    published: float
    memory: float
    link: float
    size: int

    def bounds(self) -> tuple[float, float]:
        """Return the share of `devices` times one that the model gives, nothing hidden and all."""
        seconds = mac_seconds(ONE_WEIRD_TRICK, str(self.speed), self.images, self.memory)
        found = []
        for overlap in (False, True):
            machine = Machine(seconds, self.memory, self.link, 1e-5, self.size, self.size, overlap)
            batch = self.images * self.devices
            plan = plan_step(ONE_WEIRD_TRICK, self.mode, self.devices, batch, machine)
            found.append(plan.images_per_second / self.speed / self.devices)
        return found[0], found[1]

    @property
    def share(self) -> float:
        return self.published / self.speed / self.devices


EPOCHS_90 = 1_281_167 * 90 / 3600
K20 = (128, EPOCHS_90 / 98.05)
V100 = (128, 5148)
P100 = (512, 2987)
VOLTA = (128, 3297)
NODE = 56e9 / 8
POINTS = [
    Point("2 K20", "hybrid", 2, *K20, EPOCHS_90 / 50.24, 208e9, 2e9, 4),
    Point("4 K20", "hybrid", 4, *K20, EPOCHS_90 / 26.20, 208e9, 2e9, 4),
    Point("8 K20", "hybrid", 8, *K20, EPOCHS_90 / 15.68, 208e9, 2e9, 4),
    Point("2 V100", "data", 2, *V100, 8816, 900e9, 8e9, 2),
    Point("3 V100", "data", 3, *V100, 10350, 900e9, 8e9, 2),
    Point("4 V100", "data", 4, *V100, 11298, 900e9, 8e9, 2),
    Point("2 P100", "data", 2, *P100, 5658, 700e9, 10e9, 4),
    Point("4 P100", "data", 4, *P100, 10509, 700e9, 10e9, 4),
    Point("8 P100", "data", 8, *P100, 17822, 700e9, 10e9, 4),
    Point('64 Volta, "popular systems"', "data", 64, *VOLTA, 2.5 * 3297, 900e9, NODE / 8, 4),
    Point("512 Volta", "data", 512, *VOLTA, 410.2 * 3297, 900e9, NODE, 2),
    Point("1,024 P40", "data", 1024, 64, 2000, 95 * 1_281_167 / 240, 346e9, 12.5e9, 2),
]


def document_row(point: Point) -> str:
    low, high = (round(100 * share) for share in point.bounds())
    batch = f"{point.mode}, {point.images * point.devices:,}"
    return f"| {point.name} | {batch} | {100 * point.share:.0f} % | {low} to {high} % |"


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_published_trainings_are_as_near_as_the_document_says(point: Point) -> None:
    assert document_row(point) in DOCUMENT.splitlines()
    low, high = point.bounds()
    beyond = {"8 K20": -0.07, "8 P100": -0.06, "512 Volta": 0.04, "1,024 P40": -0.36}
    beyond['64 Volta, "popular systems"'] = -0.03
    miss = beyond.get(point.name, 0.0)
    assert low + min(miss, 0) < point.share < high + max(miss, 0)


def test_the_hybrid_would_help_four_v100s() -> None:
    four = next(point for point in POINTS if point.name == "4 V100")
    data, hybrid = four.bounds(), four._replace(mode="hybrid").bounds()
    assert hybrid[0] > data[1] + 0.1


def test_nodes_that_share_a_cable_have_to_sum_first() -> None:
    for name, low, high in [("512 Volta", 12, 13), ("1,024 P40", 17, 19)]:
        point = next(point for point in POINTS if point.name == name)
        shares = point._replace(link=point.link / 8).bounds()
        assert [round(100 * share) for share in shares] == [low, high]


def batch_row(batch: int) -> str:
    memory = 7e11
    machine = Machine(mac_seconds(ALEXNET, "3000", 256, memory), memory, 1e10, 1e-5)
    rates = [f"{plan.images_per_second:,.0f}" for plan in plan_modes(ALEXNET, 8, batch, machine)]
    return f"| {batch:,} | {' | '.join(rates[1:])} |"


@pytest.mark.parametrize("batch", [256, 512, 1024, 2048, 8192])
def test_the_document_says_which_mode_is_the_quickest(batch: int) -> None:
    assert batch_row(batch) in DOCUMENT.splitlines()


def test_the_document_shows_what_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = "plan --devices 2 --batch-size 128 --layers"
    assert main(words.split()) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "\n".join([f"$ alexnet {words}", *lines, "```"]) in DOCUMENT


# Texts, errors, the command.


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("50GB/s", RATES, 5e10),
        ("56 Gbit/s", RATES, 7e9),
        ("1.5e3 MB/s", RATES, 1.5e9),
        ("10us", TIMES, 1e-5),
        ("0.5ms", TIMES, 5e-4),
        ("100TFLOP/s", OPERATIONS, 1e14),
    ],
)
def test_quantities_are_read(text: str, units: dict[str, float], value: float) -> None:
    assert read_quantity(text, units, "x") == pytest.approx(value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--link", "50"], "--link takes bytes or bits per second, such as 50GB/s or 100Gbit/s"),
        (["--link", "50gb/s"], "not '50gb/s'"),
        (["--link", "0GB/s"], "not '0GB/s'"),
        (["--link", "-1GB/s"], "not '-1GB/s'"),
        (["--latency", "10"], "--latency takes a time such as 10us, not '10'"),
        (["--memory", "10us"], "--memory takes bytes or bits per second"),
        (["--speed", "fast"], "--speed takes images per second such as 3000, or 100TFLOP/s"),
        (["--speed", "1e9"], "more than --memory allows"),
        (["--devices", "0"], "cannot be spread over 0 devices"),
        (["--batch-size", "7"], "a batch of 7 cannot be spread over 8 devices"),
        (["--measured-at", "0"], "--measured-at must be at least 1, not 0"),
        (["--model", "vgg"], "there is no model 'vgg'"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    assert says in capsys.readouterr().err


def test_modes_that_a_network_does_not_allow() -> None:
    assert [plan.mode for plan in plan_modes(ALEXNET, 1, 8, PLAIN)] == ["one"]
    assert [plan.mode for plan in plan_modes(ALEXNET, 3, 8, PLAIN)] == ["one", "data", "hybrid"]
    assert obstacle(ALEXNET, "towers", 3) == "towers need an even number of devices"
    assert obstacle(ONE_WEIRD_TRICK, "towers", 2) == "one_weird_trick does not have two towers"
    assert obstacle(ONE_WEIRD_TRICK, "hybrid", 3) is None


def test_the_command_shows_its_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["plan", "--devices", "2", "--batch-size", "128", "--batch-size", "512", "--layers"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert [(plan["mode"], plan["batch_size"]) for plan in document["plans"]] == [
        (mode, size) for size in (128, 512) for mode in ("one", "data", "towers", "hybrid")
    ]
    for plan in document["plans"]:
        row = [plan["mode"], f"{plan['compute'] * 1e3:,.1f}", f"{plan['update'] * 1e3:,.1f}"]
        found = next(each for each in lines if each[:3] == row)
        assert found[3] == f"{plan['sent_bytes'] / 1e6:,.1f}"
        assert found[6:] == [
            f"{plan['step'] * 1e3:,.1f}",
            f"{plan['images_per_second']:,.0f}",
            f"{plan['efficiency']:.0%}",
        ]
    assert ["conv3", "3,540,480", "22,151,168", "3,540,480"] in lines
    assert ["norm1", "0", "6,195,200", "0"] in lines
    assert main(["plan", "--devices", "3", "--model", "cifar10_11"]) == 0
    assert "towers: not possible, cifar10_11 does not have two towers" in capsys.readouterr().out
