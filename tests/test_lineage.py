"""The networks after AlexNet, against torchvision's and GoogLeNet's table; rows with branches."""

import math
from collections.abc import Iterator

import pytest
import torch
from network_makers import BRANCHED, empty, import_torchvision, pictures, taps_of
from torch import nn

from alexnet.analysis.features import layer_shapes, taps
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.analysis.summary import summarize
from alexnet.config import Settings
from alexnet.errors import UsageError
from alexnet.kernels import accelerate
from alexnet.networks.initialization import he_initialize, weight_layers
from alexnet.networks.registry import create_model, input_shape
from alexnet.optim import parameter_groups

SMALL = ["vgg11_small", "googlenet_small", "resnet18_small"]
GOOGLENET_OPERATIONS = {
    "inception3a": 128, "inception3b": 304, "inception4a": 73, "inception4b": 88,
    "inception4c": 100, "inception4d": 119, "inception4e": 170, "inception5b": 71,
}  # fmt: skip
"""Millions (GN table 1, whose 54 for inception5a do not fit its own columns)."""


# Published facts.


def test_totals_are_the_published_ones() -> None:
    """Those of torchvision's documentation; for GoogLeNet of Caffe's bvlc_googlenet."""
    parameters = {"vgg11": 132_863_336, "googlenet": 6_998_552, "resnet18": 11_689_512}
    billions = {"vgg11": 7.609, "googlenet": 1.583, "resnet18": 1.814}
    for name, expected in parameters.items():
        found = summarize(name)
        assert found.parameters == expected
        assert found.macs / 1e9 == pytest.approx(billions[name], abs=0.0005)


def test_googlenets_blocks_are_those_of_its_table() -> None:
    rows = summarize("googlenet").layers
    for block, operations in GOOGLENET_OPERATIONS.items():
        macs = sum(row.macs for row in rows if row.name.startswith(f"{block}."))
        assert macs / 1e6 == pytest.approx(operations, abs=1), block


def test_vgg_has_torchvisions_layers() -> None:
    with torch.device("meta"):
        theirs = import_torchvision().models.vgg11(init_weights=False)
    expected = [repr(layer) for part in (theirs.features, theirs.classifier) for layer in part]
    ours = [repr(layer) for name, layer in empty("vgg11").named_children()
            if name not in ("input", "flatten")]  # fmt: skip
    assert ours == [text.replace("inplace=True", "") for text in expected]


@pytest.mark.parametrize("training", [True, False])
def test_resnet_computes_what_torchvisions_does(training: bool) -> None:
    torch.manual_seed(0)
    theirs = import_torchvision().models.resnet18(num_classes=7).train(training)
    ours = create_model("resnet18", 7).train(training)
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)  # strict: every tensor, in the same order, and of the same shape
    images, labels = pictures(2, 224).float(), torch.tensor([1, 5])
    found = []
    for model in (ours, theirs):
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([logits, *gradients, *model.state_dict().values()])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


# Rows with branches.


@pytest.mark.parametrize("name", BRANCHED)
def test_each_row_is_a_tap(name: str) -> None:
    model = create_model(name, 3).eval()
    expected = taps_of(model, pictures(1, input_shape(name)[1]).float())
    found = taps(model, pictures(1, input_shape(name)[1]).float(), list(expected))
    assert all(torch.equal(found[row], tap) for row, tap in expected.items())
    shapes = layer_shapes(model)
    assert {row: shapes[row] for row in expected} == {
        row: tuple(tap.shape[1:]) for row, tap in expected.items()
    }


def test_parts_of_a_block_are_rows_of_the_summary_and_count_once() -> None:
    rows = {row.name: row for row in summarize("resnet18").layers}
    names = list(rows)
    first = names.index("block3a.main.conv1")
    parts = ["conv1", "norm1", "relu1", "conv2", "norm2"]
    assert names[first : first + 9] == [
        *(f"block3a.main.{part}" for part in parts),
        *("block3a.shortcut.conv", "block3a.shortcut.norm", "block3a", "relu3a"),
    ]
    block = rows["block3a"]
    assert (block.type, block.output, block.parameters, block.activation) == (
        "Sum", (128, 28, 28), 0, "ReLU",
    )  # fmt: skip


def without_selection(model: nn.Module) -> nn.Module:
    """Let gradients reach all that a unit reads: averages for maxima, no ReLU, positive weights."""
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            sizes = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
            setattr(model, name, nn.AvgPool2d(*sizes))
        elif isinstance(layer, nn.ReLU | nn.BatchNorm2d):
            setattr(model, name, nn.Identity())
        else:
            without_selection(layer)
    return model


def seen(unit: torch.Tensor, image: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the smallest window that holds all pixels on which `unit` depends."""
    (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("googlenet_small", ("conv2", "inception3a", "inception3b", "pool3", "inception4a")),
        ("resnet18_small", ("pool1", "block2a", "block2b", "block3a", "block4a")),
    ],
)
def test_gradients_reach_exactly_the_field(name: str, rows: tuple[str, ...]) -> None:
    model = without_selection(create_model(name, 3)).double().eval()
    assert isinstance(model, nn.Sequential)
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0)).abs_().mul_(0.01)
    fields = receptive_fields(create_model(name, 3))
    image = torch.rand((1, 3, 56, 56), dtype=torch.float64).requires_grad_()
    for row, maps in taps(model, image, rows).items():
        last = maps.shape[-1] - 1
        for place in ((0, 0), (last // 2, last // 3), (last, last)):
            window = [min(max(edge, 0), 56) for edge in fields[row].window(*place)]
            assert seen(maps[0, :, place[0], place[1]].sum(), image) == tuple(window), row


def test_known_fields_of_resnet() -> None:
    """Araujo and others (2019) have 435 pixels for ResNet-18's last maps, at a stride of 32."""
    field = receptive_fields(empty("resnet18").to_empty(device="cpu"))["block5b"]
    assert (field.size, field.stride) == ((435, 435), (32, 32))


@pytest.mark.parametrize("name", SMALL[1:])
def test_accelerated_it_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3)
    he_initialize(model, 60)
    model = model.double().train()
    images, found = pictures(4, 56), []
    for network in (accelerate(model), model):
        torch.manual_seed(1)  # for dropout
        loss = nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 1]))
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", BRANCHED[:2])
def test_networks_with_branches_are_not_changed(name: str) -> None:
    with pytest.raises(UsageError, match="a network with branches is not changed"):
        input_shape(name, ablate={"activation": "tanh"})


# Training.


def test_every_parameter_has_one_group_and_only_biases_are_biases() -> None:
    model = create_model("resnet18_small", 3)
    groups = parameter_groups(model, Settings(weight_decay=0.5, bias_decay=False))
    parameters = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert list(map(id, parameters)) == list(map(id, model.parameters()))
    decays = {(group["part"], group["weight_decay"]) for group in groups}
    assert decays == {("weight", 0.5), ("bias", 0.0)}
    assert "block3a.shortcut.conv" in {group["layer"] for group in groups}


def sizes(model: nn.Sequential, images: torch.Tensor) -> Iterator[float]:
    for row, tap in taps_of(model, images).items():
        if row.startswith(("conv", "inception", "block", "fc")):
            yield tap.std().item()


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_from_weights_that_preserve_the_signal(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 10)
    he_initialize(model, 60)
    for layer, part in weight_layers(model):
        if isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight)), layer
            assert not part.bias.any()
    images, labels = pictures(20, 56).float(), torch.arange(20) % 10
    assert all(0.1 < size < 30 for size in list(sizes(model, images))[:-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(10), abs=1)
    assert losses[-1] < 0.75 * losses[0]
