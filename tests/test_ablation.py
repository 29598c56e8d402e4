"""What each ablation changes, that nothing else changes, and that every network takes it."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import TINY
from network_makers import TABLES, pictures, taps_of
from torch import nn

from alexnet.analysis.differences import find_differences
from alexnet.analysis.summary import Summary, summarize
from alexnet.errors import UsageError
from alexnet.evaluate import evaluate_run
from alexnet.networks.ablation import ABLATIONS
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.networks.registry import create_model, input_shape, set_dropout
from alexnet.storage.run import Run
from alexnet.train import train_model

CHANGES = [(part, kind) for part, kinds in ABLATIONS.items() for kind in kinds]
DEFAULTS = {
    "order": "norm_pool", "towers": "two", "activation": "relu", "norm": "lrn", "overlap": "yes",
}  # fmt: skip
LOCAL = ("cifar10_13", "cifar10_11")
VGG = ("vgg11", "vgg11_small")
NO_NORM = ("one_weird_trick", "cifar10_13", *VGG)
MAPS_NORM = ("cifar10_18",)
ONE_TOWER = ("alexnet_one_tower", "alexnet_half", "one_weird_trick", "cifar10_18", *LOCAL, *VGG)
POOL_FIRST = ("caffenet",)
SIGNED = ("alexnet_2012", "alexnet_half", "alexnet_nocomm")


def has(name: str, part: str, kind: str) -> bool:
    """Tell whether a network has what this changes."""
    if kind in DEFAULTS.values():
        return True
    lacking = {"norm": NO_NORM, "overlap": VGG, "towers": ONE_TOWER}
    if part in lacking:
        return name not in lacking[part]
    if part == "order":
        return name not in (
            *NO_NORM,
            *MAPS_NORM,
            *POOL_FIRST,
            *(SIGNED if kind == "signed" else ()),
        )
    if part == "without" and name == "cifar10_18":
        return kind == "conv3"
    return part != "without" or name not in LOCAL


def outputs(summary: Summary) -> dict[str, tuple[int, ...]]:
    return {row.name: row.output for row in summary.layers}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("part", "kind"), CHANGES)
def test_every_network_takes_every_change_that_has_a_row(name: str, part: str, kind: str) -> None:
    if has(name, part, kind):
        changed = summarize(name, 7, ablate={part: kind})  # runs it, so that the shapes must fit
        assert changed.layers[-1].output == (7,)
        found = find_differences(summarize(name, 7), changed)
        assert bool(found) == (kind not in DEFAULTS.values())
    else:
        with pytest.raises(UsageError, match=f"{part}={kind} has no row to change"):
            input_shape(name, ablate={part: kind})


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_activation(kind: str) -> None:
    """P 3.1 and figure 1: the same network with tanh units, or with the logistic function."""
    torch.manual_seed(0)
    reference = create_model("alexnet_small", 3)
    torch.manual_seed(0)
    model = create_model("alexnet_small", 3, ablate={"activation": kind})
    names = [name.replace("relu", kind) for name, _ in reference.named_children()]
    assert [name for name, _ in model.named_children()] == names
    assert all(map(torch.equal, reference.parameters(), model.parameters()))
    taps = taps_of(model, pictures(1, 56).float())
    function = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}[kind]
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        assert torch.equal(taps[f"{kind}{layer[-1]}"], function(taps[layer]))


def test_without_norm_is_net_148() -> None:
    """AN layers-148.cfg: all three gone, conv to pool; the paper's 1.4 and 1.2 points (3.3)."""
    found = find_differences(
        summarize("alexnet_2012"), summarize("alexnet_2012", ablate={"norm": "none"})
    )
    assert [(each.row, each.values[1]) for each in found] == [
        ("norm1", None),
        ("norm2", None),
        ("snorm2", None),
    ]


def test_batch_norm_replaces_each_norm_and_has_no_weights() -> None:
    model = create_model("alexnet_small", 3, ablate={"norm": "batch"})
    norms = {name: layer for name, layer in model.named_children() if "norm" in name}
    assert {name: layer.num_features for name, layer in norms.items()} == {
        "norm1": 48,
        "norm2": 128,
    }
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in create_model("alexnet_small", 3).named_parameters()]
    images = pictures(4, 56).float()
    model.train()
    taps = taps_of(model, images)
    means = taps["norm1"].mean((0, 2, 3))
    torch.testing.assert_close(means, torch.zeros(48), atol=1e-5, rtol=0)
    # What it has seen is part of the state, and so of checkpoints.
    other = create_model("alexnet_small", 3, ablate={"norm": "batch"})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), model.eval()(images))


def test_batch_norm_replaces_one_norm_of_each_layer() -> None:
    for name, norms in (("alexnet_2012", "norm1 norm2"), ("cifar10_18", "snorm1 snorm2")):
        with torch.device("meta"):
            model = create_model(name, 3, ablate={"norm": "batch"})
        assert [row for row, _ in model.named_children() if "norm" in row] == norms.split()
        assert all(type(model.get_submodule(row)) is nn.BatchNorm2d for row in norms.split())


def test_measuring_leaves_batch_norm_as_it_was() -> None:
    model = create_model("alexnet_small", 3, ablate={"norm": "batch"})
    before = copy.deepcopy(model.state_dict())
    model.get_submodule("norm1").eval()
    summarize(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not model.get_submodule("norm1").training


def test_without_overlap_is_net_147() -> None:
    """AN layers-147.cfg: 2 x 2 pools, conv2 padded by 1, conv5 by 0; 0.4 and 0.3 points (P 3.4)."""
    summary = summarize("alexnet", ablate={"overlap": "no"})
    sides = {name: output[-1] for name, output in outputs(summary).items()}
    layers = ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")
    assert [sides[name] for name in layers] == [55, 28, 26, 13, 11, 6]
    assert (summary.parameters, summary.macs) == (60_965_224, 686_891_552)
    found = find_differences(summarize("alexnet"), summary)
    assert {each.row for each in found} == {"pool1", "conv2", "pool2", "conv5", "pool5"}


def test_windows_without_overlap_cover_each_pixel_once() -> None:
    model = create_model("alexnet_small", 3, ablate={"overlap": "no"})
    maps = torch.zeros(1, 1, 27, 27)
    for row, column in ((0, 0), (13, 13), (26, 26)):
        maps[0, 0, row, column] = 1
    pooled = model.get_submodule("pool1")(maps)[0, 0]
    assert pooled.nonzero().tolist() == [[0, 0], [6, 6], [13, 13]]


@pytest.mark.parametrize(
    ("conv", "changed", "inputs"),
    [("conv3", "conv4", 256), ("conv4", "conv5", 384), ("conv5", "fc6", 384 * 36)],
)
def test_without_a_middle_layer(conv: str, changed: str, inputs: int) -> None:
    """P 7: "removing any of the middle layers results in a loss of about 2%"."""
    with torch.device("meta"):
        model = create_model("alexnet", ablate={"without": conv})
        reference = create_model("alexnet")
    gone = {conv, f"relu{conv[-1]}"}
    names = [name for name, _ in reference.named_children() if name not in gone]
    assert [name for name, _ in model.named_children()] == names
    for name, layer in model.named_children():
        if name == changed:
            assert inputs in (getattr(layer, "in_channels", 0), getattr(layer, "in_features", 0))
        else:
            assert repr(layer) == repr(reference.get_submodule(name)), name


def test_layers_that_no_longer_fit_are_drawn_as_their_table_says() -> None:
    torch.manual_seed(5)
    reference = create_model("alexnet_small", 3)
    torch.manual_seed(5)
    model = create_model("alexnet_small", 3, ablate={"without": "conv3"})
    for name, parameter in model.named_parameters():
        if not name.startswith("conv4"):
            assert torch.equal(parameter, reference.get_parameter(name)), name
    weight = model.get_parameter("conv4.weight")
    assert weight.shape == (192, 64, 3, 3)
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(model.get_parameter("conv4.bias"), torch.ones(192))


def test_without_conv5_the_grouped_layer_takes_more_too() -> None:
    row = next(
        row
        for row in summarize("alexnet_nocomm", ablate={"without": "conv5"}).layers
        if row.name == "fc6"
    )
    assert (row.inputs, row.groups) == (384 * 36 // 2, 2)
    assert row.start == {"std": 0.01, "bias": 1.0}


def test_changes_go_together_in_any_order() -> None:
    changes = {"activation": "tanh", "norm": "batch", "overlap": "no", "without": "conv5"}
    one = summarize("alexnet", 5, ablate=changes)
    other = summarize("alexnet", 5, ablate=dict(reversed(changes.items())))
    assert one.layers == other.layers
    assert outputs(one)["fc8"] == (5,)


def test_no_change_gives_the_table_itself() -> None:
    torch.manual_seed(0)
    reference = create_model("alexnet_small", 3)
    for changes in (None, {}, DEFAULTS):
        torch.manual_seed(0)
        model = create_model("alexnet_small", 3, ablate=changes)
        assert repr(model) == repr(reference)
        assert all(map(torch.equal, reference.parameters(), model.parameters()))


@pytest.mark.parametrize(
    ("kind", "name", "table"),
    [
        ("one", "alexnet", "alexnet_one_tower"),
        ("half", "alexnet_2012", "alexnet_half"),
        ("apart", "alexnet_2012", "alexnet_nocomm"),
    ],
)
def test_towers_give_the_tables_that_were_written_by_hand(kind: str, name: str, table: str) -> None:
    """AN layers-145-half.cfg and layers-150.cfg; the norms alone know their towers."""
    found = find_differences(summarize(name, ablate={"towers": kind}), summarize(table))
    assert {each.row for each in found} <= {"norm1", "norm2"}
    assert summarize(name, ablate={"towers": kind}).parameters == summarize(table).parameters


def test_orders_of_norm_and_pool() -> None:
    """CaffeNet's order, and that of 2012's layer 1."""

    def rows(name: str, **changes: str) -> list[str]:
        return [each.name for each in summarize(name, ablate=changes).layers]

    assert rows("caffe_alexnet", order="pool_norm") == rows("caffenet")
    first = [name for name in rows("alexnet", order="signed") if name.endswith("1")]
    assert first == [name for name in rows("alexnet_2012") if name.endswith("1")]


def test_unknown_changes_are_refused_with_the_list() -> None:
    for changes in ({"activation": "gelu"}, {"pooling": "no"}, {"norm": ""}):
        with pytest.raises(
            UsageError, match=r"order=norm_pool, .*activation=tanh, .*without=conv5"
        ):
            input_shape("alexnet", ablate=changes)


def test_a_changed_network_learns() -> None:
    torch.manual_seed(0)
    changes = {"activation": "tanh", "norm": "batch", "overlap": "no", "without": "conv4"}
    model = create_model("alexnet_small", 2, ablate=changes)
    set_dropout(model, 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    images, labels = pictures(6, 56).float() / 60, torch.tensor([0, 1, 0, 1, 0, 1])
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_run_knows_what_was_changed(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"norm": "batch", "activation": "tanh"}
    settings = dataclasses.replace(TINY, epochs=1, ablate=changes)
    train_model(tiny_data, tmp_path / "run", settings, device="cpu")
    model = Run.open(tmp_path / "run").load_model("cpu")
    kinds = [type(model.get_submodule(row)) for row in ("tanh1", "norm1")]
    assert kinds == [nn.Tanh, nn.BatchNorm2d]
    assert model.get_buffer("norm1.running_mean").any()  # what it has seen is in the checkpoint
    assert evaluate_run(tmp_path / "run", tiny_data, device="cpu").images == 15
    other = dataclasses.replace(settings, ablate={})
    with pytest.raises(UsageError, match="ablate was"):
        train_model(tiny_data, tmp_path / "run", other, device="cpu", resume=True)


def test_a_change_without_a_row_leaves_no_run(tiny_data: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, ablate={"without": "conv3"})
    with pytest.raises(UsageError, match="has no row to change"):
        train_model(tiny_data, tmp_path / "run", settings, device="cpu")
    assert not Run.exists(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "kind"), [("alexnet", nn.Dropout), ("alexnet_2012", PaperDropout)]
)
def test_dropout_is_a_setting(name: str, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    set_dropout(model, 0.0)
    drops = [layer for layer in model if isinstance(layer, kind)]
    assert len(drops) == 2
    x = torch.rand(20)
    assert all(torch.equal(drop.train()(x), x) for drop in drops)
    assert all(torch.equal(drop.eval()(x), x) for drop in drops)
