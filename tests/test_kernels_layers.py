"""Convolutions and linear layers in their fast forms against PyTorch's."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.convolutions import (
    ConvAlgorithm,
    convolve,
    convolve_cells,
    cpu_forms,
    first_cells,
    is_known,
    rearranged,
)
from alexnet.kernels.cpu import blocks as cpu_blocks
from alexnet.kernels.cpu import onednn
from alexnet.kernels.cuda.autotune import Autotuner, candidates, describe, work_of
from alexnet.kernels.tuning_cache import TuningCache, cache_folder
from alexnet.networks.layers import Input
from alexnet.networks.registry import create_model, list_models

CONVOLUTIONS = {
    "the paper's first": (nn.Conv2d(3, 4, 11, stride=4), (35, 35)),
    "torchvision's first": (nn.Conv2d(3, 4, 11, stride=4, padding=2), (32, 33)),
    "rows that no window reaches": (nn.Conv2d(3, 4, 5, stride=3), (16, 19)),
    "a kernel smaller than the stride": (nn.Conv2d(3, 4, (2, 3), stride=4, padding=(0, 1)), (9, 9)),
    "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=2), (6, 5)),
    "four groups without biases": (nn.Conv2d(8, 12, 3, groups=4, bias=False), (6, 5)),
    "groups and a stride": (nn.Conv2d(8, 12, 3, stride=2, groups=2), (7, 7)),
}
FORMS = {
    "grouped": ConvAlgorithm(),
    "channels last": ConvAlgorithm(channels_last=True),
    "split": ConvAlgorithm(groups="split"),
    "filled": ConvAlgorithm(channels_last=True, groups="filled"),
    "unshuffled": ConvAlgorithm(unshuffle=True),
    "as on CUDA": ConvAlgorithm(channels_last=True, unshuffle=True, groups="split"),
}


def gradients(function: object, layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the result and the gradients by the input and the parameters."""
    x = x.detach().requires_grad_()
    y = function(x)  # type: ignore[operator]
    torch.manual_seed(1)
    return [
        y,
        *torch.autograd.grad(y, [x, *layer.parameters()], torch.randn(y.shape, dtype=y.dtype)),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_form_is_the_convolution(case: str, form: str) -> None:
    conv, size = CONVOLUTIONS[case]
    conv = conv.double()
    assert is_known(conv)
    x = torch.randn(2, conv.in_channels, *size, dtype=torch.float64)
    ours = gradients(lambda x: convolve(x, conv, FORMS[form]), conv, x)
    torch.testing.assert_close(ours, gradients(conv, conv, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 4, 3, stride=(1, 2)),
    ],
)
def test_other_convolutions_are_not_taken(conv: nn.Conv2d) -> None:
    assert not is_known(conv)


needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="oneDNN is not available")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_a_linear_layer_is_torch_s(count: int, bias: bool) -> None:
    layer = nn.Linear(37, 19, bias=bias)
    x = torch.randn(count, 37)
    ours = gradients(lambda x: onednn.linear(x, layer.weight, layer.bias), layer, x)
    torch.testing.assert_close(ours, gradients(layer, layer, x), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_gradients_that_nobody_asks_for_are_left_out() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    layer.weight.requires_grad_(False)
    onednn.linear(x, layer.weight, layer.bias).sum().backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 3.0))


@needs_onednn
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 5), nn.Conv2d(4, 6, 3, padding=1, groups=2)], ids=str
)
@pytest.mark.parametrize("count", [1, onednn.PACKED_BATCH + 1])
def test_inference_is_the_layer_and_a_relu(
    layer: nn.Linear | nn.Conv2d, relu: bool, count: int
) -> None:
    x = torch.randn((count, 12) if isinstance(layer, nn.Linear) else (count, 4, 5, 5))
    run = onednn.Inference(layer, relu)
    with torch.no_grad():
        expected = F.relu(layer(x)) if relu else layer(x)
        for _ in range(3):
            torch.testing.assert_close(run(x), expected, rtol=1e-5, atol=1e-5)
    assert (run.packed is None) == (count > onednn.PACKED_BATCH)


@needs_onednn
def test_weights_made_for_inference_only_are_not_kept() -> None:
    with torch.inference_mode():
        layer, x = nn.Linear(12, 5), torch.randn(2, 12)
        run = onednn.Inference(layer, relu=False)
        for _ in range(3):
            layer.weight.add_(1)
            torch.testing.assert_close(run(x), layer(x), rtol=1e-5, atol=1e-5)


def test_mixed_precision_and_other_types_are_left_to_pytorch() -> None:
    x, weight = torch.zeros(2, 2), torch.zeros(2, 2)
    assert onednn.runs_here(x, weight)
    assert not onednn.runs_here(x.double(), weight.double())
    assert not onednn.runs_here(x.to("meta"), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.runs_here(x, weight)


# Images that are rearranged for the first convolution.


def put_in_cells(images: Tensor, rows: OrderedDict[str, nn.Module]) -> Tensor:
    """Rearrange images as `first_cells` says: zeros around them, then pixel_unshuffle."""
    cells = first_cells(rows.values())
    assert cells is not None
    channels, height, width = cells.shape
    assert channels == images.shape[1] * cells.stride**2
    after = [
        side * cells.stride - length - cells.before
        for side, length in zip((width, height), reversed(images.shape[2:]), strict=True)
    ]
    sides = (cells.before, after[0], cells.before, after[1])
    return F.pixel_unshuffle(F.pad(images, sides), cells.stride)


@pytest.mark.parametrize("name", list_models())
def test_rearranged_images_give_the_first_convolution_of_every_network(name: str) -> None:
    model = create_model(name, 2)
    rows = OrderedDict(model.named_children())
    cells = first_cells(rows.values())
    if model.get_submodule("conv1").stride == (1, 1):
        assert cells is None
        return
    assert isinstance(model[0], Input)
    images = torch.randn(1, *model[0].shape)
    expected = images
    for row in model:
        expected = row(expected)
        if isinstance(row, nn.Conv2d):
            ours = convolve_cells(put_in_cells(images, rows), row)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            break


def test_images_are_rearranged_as_pixel_unshuffle_does_and_channels_last() -> None:
    x = torch.randn(2, 3, 8, 12)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        cells = rearranged(given, 4)
        assert torch.equal(cells, F.pixel_unshuffle(x, 4))
        assert cells.is_contiguous(memory_format=torch.channels_last)


def test_the_paper_s_images_are_57_by_57_of_48() -> None:
    cells = first_cells(create_model("alexnet", 2).children())
    assert cells == (4, 0, (48, 57, 57))


@pytest.mark.parametrize(
    "rows",
    [
        [nn.Conv2d(3, 4, 3, stride=2)],
        [Input(3, 9, 9), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2)],
        [Input(3, 9, 9), nn.Conv2d(3, 6, 3, stride=2, groups=3)],
        [Input(3, 9, 9), nn.ZeroPad2d((1, 0, 0, 0)), nn.Conv2d(3, 4, 3, stride=2)],
        [Input(3, 9, 9), nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect")],
        [Input(3, 9, 9)],
    ],
)
def test_other_beginnings_have_no_such_form(rows: list[nn.Module]) -> None:
    assert first_cells(rows) is None


def test_a_fast_network_takes_images_in_both_forms() -> None:
    rows = OrderedDict(
        input=Input(3, 20, 20),
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),
        conv1=nn.Conv2d(3, 4, 11, stride=4, padding=1),
        relu1=nn.ReLU(),
        flatten=nn.Flatten(),
        fc2=nn.Linear(64, 2),
    )
    network = AcceleratedNetwork(rows, cpu_blocks, "cpu", cpu_forms)
    images = torch.randn(2, 3, 20, 20)
    results = []
    for given in (images, put_in_cells(images, rows)):
        y = network(given)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(network.parameters()))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


# The choice of a form on a GPU.

GROUPS = nn.Conv2d(4, 4, 3, groups=2)
STRIDE = nn.Conv2d(3, 4, 5, stride=2)


class Clock:
    """Says how long forms take: the n-th one that is asked for `times[n]`; runs each once."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.asked = times, 0

    def __call__(self, work: Callable[[], object]) -> float:
        work()
        self.asked += 1
        return self.times[self.asked - 1]


@pytest.mark.parametrize("fastest", range(3))
def test_the_fastest_form_is_taken_and_measured_once(tmp_path: Path, fastest: int) -> None:
    times = [2.0, 2.0, 2.0]
    times[fastest] = 1.0
    clock, x = Clock(times), torch.randn(2, 4, 5, 5)
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", clock)
    assert choose(x, GROUPS) == choose(x, GROUPS) == candidates(GROUPS)[fastest]
    assert clock.asked == 3
    another_process = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", clock)
    assert another_process(x, GROUPS) == candidates(GROUPS)[fastest]
    assert clock.asked == 3
    with pytest.raises(IndexError):  # another GPU is measured anew
        Autotuner(TuningCache(tmp_path / "gpus.json"), "another GPU", clock)(x, GROUPS)


def test_what_has_one_form_is_not_measured(tmp_path: Path) -> None:
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", Clock([]))
    plain = nn.Conv2d(3, 4, 3)
    assert choose(torch.randn(1, 3, 5, 5), plain) == ConvAlgorithm(channels_last=True)
    cells = F.pixel_unshuffle(torch.randn(1, 3, 8, 8), 2)
    assert choose(cells, STRIDE).unshuffle


def test_training_and_answering_are_chosen_apart() -> None:
    x = torch.randn(5, 4, 5, 5)
    names = {describe(x, GROUPS), describe(x[:3], GROUPS), describe(x.bfloat16(), GROUPS)}
    with torch.no_grad():
        names.add(describe(x, GROUPS))
    with torch.autocast("cpu", torch.bfloat16):
        names.add(describe(x, GROUPS))
    assert len(names) == 4, "under autocast it is bfloat16, too"
    assert describe(x, GROUPS) == describe(x.repeat(1, 1, 1, 1)[:5], GROUPS)
    assert describe(torch.cat([x, x[:3]]), GROUPS) == describe(x, GROUPS), "8 as 5"


@pytest.mark.parametrize("conv", [GROUPS, STRIDE])
def test_what_is_measured_is_what_a_step_does(conv: nn.Conv2d) -> None:
    x = torch.randn(1, conv.in_channels, 6, 6)
    for form in candidates(conv):
        assert len(work_of(x, conv, form)()) == 1, "the first layer's input needs no gradient"  # type: ignore[arg-type]
        assert len(work_of(x.requires_grad_(), conv, form)()) == 2  # type: ignore[arg-type]
        with torch.no_grad():
            assert isinstance(work_of(x, conv, form)(), Tensor)
        x = x.detach()
    assert conv.weight.grad is None


@pytest.mark.parametrize("value", [7, -1, "split", None, [0]])
def test_a_choice_that_makes_no_sense_is_made_anew(tmp_path: Path, value: object) -> None:
    kept, x = TuningCache(tmp_path / "gpus.json"), torch.randn(1, 4, 5, 5)
    kept.put(f"a GPU: {describe(x, GROUPS)}", value)
    clock = Clock([3.0, 2.0, 1.0])
    assert Autotuner(kept, "a GPU", clock)(x, GROUPS) == candidates(GROUPS)[2]


# What is kept.


def test_values_are_kept_beside_those_of_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.json"
    one, other = TuningCache(path), TuningCache(path)
    one.put("a", 1)
    other.put("b", [2])
    assert json.loads(path.read_text()) == {"a": 1, "b": [2]}
    assert TuningCache(path).get("a") == other.get("a") == 1
    assert one.get("b") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"a": 1} more'])
def test_a_damaged_file_keeps_nothing_and_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kept.json"
    path.write_text(text)
    kept = TuningCache(path)
    assert kept.get("a") is None
    kept.put("a", 3)
    assert TuningCache(path).get("a") == 3


def test_where_nothing_can_be_written_values_last_as_long_as_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = TuningCache(tmp_path / "file" / "kept.json")
    kept.put("a", 3)
    assert kept.get("a") == 3


def test_the_folder_is_the_persons_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "alexnet" / "kernels"
