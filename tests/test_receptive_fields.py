"""Receptive fields against the gradients of the networks: not zero there, and only there."""

import json
from collections import OrderedDict

import pytest
import torch
from network_makers import TABLES, shrunk
from torch import nn

from alexnet.analysis.receptive_fields import Field, fields_and_shapes, receptive_fields
from alexnet.analysis.summary import build_without_memory, image_shape
from alexnet.cli import main
from alexnet.networks.layers import Input
from alexnet.networks.registry import create_model


def without_selection(model: nn.Sequential) -> nn.Sequential:
    """Let gradients reach all that a unit reads: averages for maxima, no ReLU, positive weights."""
    rows: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in model.named_children():
        fresh = layer
        if isinstance(layer, nn.MaxPool2d):
            fresh = nn.AvgPool2d(layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode)
        elif isinstance(layer, nn.ReLU):
            fresh = nn.Identity()
        rows[name] = fresh
    changed = nn.Sequential(rows).double().eval()
    for parameter in changed.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0)).abs_().mul_(0.01)
    return changed


def seen(unit: torch.Tensor, image: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the smallest window that holds all pixels on which `unit` depends."""
    (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


def clipped(window: tuple[int, int, int, int], side: int) -> tuple[int, ...]:
    return tuple(min(max(edge, 0), side) for edge in window)


@pytest.mark.parametrize("name", TABLES)
def test_gradients_reach_exactly_the_field(name: str) -> None:
    wide = name.startswith("cifar10")  # its unshared kernels cannot be fewer
    model = without_selection(create_model(name, 3) if wide else shrunk(name))
    side = image_shape(model)[1]
    image = torch.rand((1, 3, side, side), dtype=torch.float64).add_(1).requires_grad_()
    fields = receptive_fields(model)
    x: torch.Tensor = image
    for row, layer in model.named_children():
        x = layer(x)
        if row.startswith(("pad", "flatten")):
            continue  # units of padding see nothing
        last = x.shape[-1] - 1
        places = [(0, 0), (last // 2, last // 3), (last, last)] if x.ndim == 4 else [(0, 0)]
        for place in places:
            unit = x[0, :, place[0], place[1]].sum() if x.ndim == 4 else x[0, 0]
            assert seen(unit, image) == clipped(fields[row].window(*place), side), (row, place)


def test_known_fields() -> None:
    """Araujo and others (2019) list AlexNet's: 11, 19, 51, 67, 99, 131, 163, 195."""
    fields = receptive_fields(build_without_memory("alexnet", 10))
    rows = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [fields[row].size[0] for row in rows] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert [fields[row].stride[0] for row in rows] == [4, 8, 8, 16, 16, 16, 16, 32]
    assert fields["fc6"] == fields["fc8"] == Field((224, 224), (0, 0), (0, 0))
    assert fields["conv2"].center == (9, 9)


def test_height_and_width_can_differ() -> None:
    rows = OrderedDict[str, nn.Module](
        input=Input(1, 9, 12),
        pad=nn.ZeroPad2d((1, 0, 2, 0)),
        conv=nn.Conv2d(1, 1, (3, 2), stride=(2, 3)),
    )
    model = nn.Sequential(rows)
    fields = receptive_fields(model)
    assert fields["conv"] == Field((3, 2), (2, 3), (-2, -1))
    assert fields["conv"].window(1, 2) == (0, 5, 3, 7)
    assert [shape for _, _, shape in fields_and_shapes(model)][-1] == (1, 5, 4)


def test_the_command_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["summary", "--model", "cifar10_11", "--receptive-fields"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["receptive_fields"]}
    assert rows["local4"]["size"] == [35, 35]
    assert rows["conv1"]["center"] == [0, 0]
    assert rows["pool1"]["output"] == [64, 12, 12]
    assert main(words) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "local4" in line)
    assert line.split() == ["local4", "32x6x6", "35x35", "4", "-14", "3"]
    assert main([*words, "--diff", "alexnet", "alexnet_2012"]) == 2
    assert "name one of them" in capsys.readouterr().err
