"""Convolutions and linear layers by other algorithms against PyTorch's."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_makers import TABLES
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.compiled import cache_folder
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.conv_forms import ConvAlgorithm, Tile
from alexnet.kernels.convolutions import (
    convolve,
    input_layout,
    is_supported,
    space_to_depth,
)
from alexnet.kernels.cpu import blocks as cpu_blocks
from alexnet.kernels.cpu import onednn
from alexnet.kernels.cpu.tuning import conv_algorithm
from alexnet.kernels.cuda.autotune import Autotuner
from alexnet.kernels.cuda.conv_candidates import (
    PASSES,
    Passes,
    agree,
    describe,
    needed_passes,
)
from alexnet.kernels.tuning_cache import TuningCache
from alexnet.networks.layers import Input
from alexnet.networks.registry import create_model

CONVOLUTIONS = {
    "the paper's first": (nn.Conv2d(3, 4, 11, stride=4), (35, 35)),
    "torchvision's first": (nn.Conv2d(3, 4, 11, stride=4, padding=2), (32, 33)),
    "rows that no window reaches": (nn.Conv2d(3, 4, 5, stride=3), (16, 19)),
    "a kernel smaller than the stride": (nn.Conv2d(3, 4, (2, 3), stride=4, padding=(0, 1)), (9, 9)),
    "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=2), (6, 5)),
    "four groups without biases": (nn.Conv2d(8, 12, 3, groups=4, bias=False), (6, 5)),
    "groups and a stride": (nn.Conv2d(8, 12, 3, stride=2, groups=2), (7, 7)),
}
ALGORITHMS = {
    "grouped": ConvAlgorithm(channels_last=False),
    "channels last": ConvAlgorithm(),
    "split": replace(ConvAlgorithm.uniform("split"), channels_last=False),
    "filled": ConvAlgorithm.uniform("filled"),
    "space to depth": ConvAlgorithm(space_to_depth=True),
    "another form each": ConvAlgorithm("split", "filled", "grouped", space_to_depth=True),
    "filled weights for one pass": ConvAlgorithm("filled", "split", "filled"),
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_algorithm_is_the_convolution(case: str, algorithm: str) -> None:
    conv, size = CONVOLUTIONS[case]
    conv = conv.double()
    assert is_supported(conv)
    x = torch.randn(2, conv.in_channels, *size, dtype=torch.float64)
    ours = gradients(lambda x: convolve(x, conv, ALGORITHMS[algorithm]), conv, x)
    torch.testing.assert_close(ours, gradients(conv, conv, x), rtol=1e-10, atol=1e-10)
    if conv.bias is not None:  # a kernel after the convolution may add it
        without = convolve(x, conv, ALGORITHMS[algorithm], with_bias=False)
        torch.testing.assert_close(without + conv.bias[:, None, None], ours[0])


def test_under_autocast_the_type_is_that_of_autocast() -> None:
    conv, x = nn.Conv2d(8, 12, 3, groups=2), torch.randn(2, 8, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(x, conv, ConvAlgorithm("filled", "filled", "split"))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x), rtol=2e-2, atol=2e-2)
    gradients = torch.autograd.grad(y.sum(), list(conv.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 4, 3, stride=(1, 2)),
    ],
)
def test_other_convolutions_are_not_supported(conv: nn.Conv2d) -> None:
    assert not is_supported(conv)


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
def test_gradients_that_are_not_needed_are_not_computed() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    layer.weight.requires_grad_(False)
    onednn.linear(x, layer.weight, layer.bias).sum().backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 3.0))


def test_types_that_the_operations_compute_in() -> None:
    x, weight = torch.zeros(2, 2), torch.zeros(2, 2)
    assert onednn.compute_type(x, weight) == torch.float32
    assert onednn.compute_type(x.bfloat16(), weight) is None
    assert onednn.compute_type(x.double(), weight.double()) is None
    assert onednn.compute_type(x.to("meta"), weight) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn.compute_type(x, weight) == torch.bfloat16
        assert onednn.compute_type(x.bfloat16(), weight) == torch.bfloat16
        assert onednn.compute_type(x.double(), weight) is None
    with torch.autocast("cpu", torch.float16):
        assert onednn.compute_type(x, weight) is None


# Images in the layout of the first convolution.


def rearranged(images: Tensor, rows: OrderedDict[str, nn.Module]) -> Tensor:
    """Rearrange images to `input_layout`: zeros around them, then pixel_unshuffle."""
    layout = input_layout(rows.values())
    assert layout is not None
    channels, height, width = layout.shape
    assert channels == images.shape[1] * layout.stride**2
    after = [
        squares * layout.stride - side - layout.before
        for squares, side in zip((width, height), reversed(images.shape[2:]), strict=True)
    ]
    padding = (layout.before, after[0], layout.before, after[1])
    return F.pixel_unshuffle(F.pad(images, padding), layout.stride)


@pytest.mark.parametrize("name", TABLES)
def test_rearranged_images_give_the_first_convolution_of_every_network(name: str) -> None:
    model = create_model(name, 2)
    rows = OrderedDict(model.named_children())
    if model.get_submodule("conv1").stride == (1, 1):
        assert input_layout(rows.values()) is None
        return
    assert isinstance(model[0], Input)
    images = torch.randn(1, *model[0].shape)
    expected = images
    for row in model:
        expected = row(expected)
        if isinstance(row, nn.Conv2d):
            ours = convolve(rearranged(images, rows), row, conv_algorithm(images, row))
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            break


def test_images_are_rearranged_as_pixel_unshuffle_does_and_channels_last() -> None:
    x = torch.randn(2, 3, 8, 12)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        result = space_to_depth(given, 4)
        assert torch.equal(result, F.pixel_unshuffle(x, 4))
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_paper_s_images_are_57_by_57_of_48() -> None:
    layout = input_layout(create_model("alexnet", 2).children())
    assert layout == (4, 0, (48, 57, 57))


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
def test_other_first_rows_have_no_such_layout(rows: list[nn.Module]) -> None:
    assert input_layout(rows) is None


def test_an_accelerated_network_takes_images_in_both_layouts() -> None:
    rows = OrderedDict(
        input=Input(3, 20, 20),
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),
        conv1=nn.Conv2d(3, 4, 11, stride=4, padding=1),
        relu1=nn.ReLU(),
        flatten=nn.Flatten(),
        fc2=nn.Linear(64, 2),
    )
    network = AcceleratedNetwork(rows, cpu_blocks, "cpu", conv_algorithm)
    images = torch.randn(2, 3, 20, 20)
    results = []
    for given in (images, rearranged(images, rows)):
        y = network(given)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(network.parameters()))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


# The choice of an algorithm on a GPU.

GROUPS = nn.Conv2d(4, 4, 3, groups=2)
STRIDE = nn.Conv2d(3, 4, 5, stride=2)


class Clock:
    """A timer that runs the work once and returns `times[n]` at the n-th call."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.calls = times, 0

    def __call__(self, work: Callable[[], object]) -> float:
        work()
        self.calls += 1
        return self.times[self.calls - 1]


def test_the_fastest_form_of_each_pass_is_chosen_and_measured_once(tmp_path: Path) -> None:
    clock = Clock([1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 1.0])
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", clock)
    fastest = ConvAlgorithm("grouped", "split", "filled")
    assert choose(x, GROUPS) == choose(x, GROUPS) == fastest
    assert clock.calls == 9
    another_process = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", clock)
    assert another_process(x, GROUPS) == fastest
    with torch.no_grad():  # the same bits in training and in evaluation
        assert another_process(x, GROUPS).forward == "grouped"
    assert clock.calls == 9
    another_gpu = Clock([2.0, 1.0, 2.0] * 3)
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "another GPU", another_gpu)
    assert choose(x, GROUPS) == ConvAlgorithm.uniform("split")


@pytest.mark.parametrize("chosen", [False, True])
def test_the_layout_of_a_convolution_with_a_stride_is_chosen(tmp_path: Path, chosen: bool) -> None:
    clock = Clock([2.0, 1.0] if chosen else [1.0, 2.0])
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", clock)
    x = torch.randn(1, 3, 9, 9)
    for _ in range(2):
        assert choose(x, STRIDE) == ConvAlgorithm(space_to_depth=chosen)
    rearranged_already = F.pixel_unshuffle(torch.randn(1, 3, 8, 8), 2)
    assert choose(rearranged_already, STRIDE) == ConvAlgorithm()
    assert clock.calls == 2


def test_a_single_form_is_not_measured(tmp_path: Path) -> None:
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", Clock([]))
    assert choose(torch.randn(1, 3, 5, 5), nn.Conv2d(3, 4, 3)) == ConvAlgorithm()
    assert choose(torch.empty(0, 4, 5, 5), GROUPS) == ConvAlgorithm()


def test_what_fails_or_computes_something_else_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    choose = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", Clock([3.0, 2.0]))
    options = ["fails", "right", "wrong", "nan", "also right"]

    def result(option: str) -> tuple[Tensor, ...]:
        values = {"wrong": 1.1, "nan": float("nan")}
        if option == "fails":
            raise RuntimeError("no kernel\nand a trace")
        return (torch.full((3,), values.get(option, 1.0)),)

    assert choose.choose("a pass", options, result) == "also right"
    assert "fails is left out: no kernel" in caplog.text
    assert "trace" not in caplog.text
    assert caplog.text.count("computes something else") == 2
    alone = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", Clock([]))
    assert alone.choose("another", ["fails", "fails "], lambda _: result("fails")) == "fails"
    assert alone.choices.get("another") is None


def test_forms_agree_up_to_rounding() -> None:
    x = torch.randn(1000)
    assert agree((x.bfloat16(),), (x.bfloat16() * 1.005,))
    assert not agree((x.bfloat16(),), (x.bfloat16() * 1.05,))
    assert not agree((x, x), (x, x * 1.01))
    assert agree((x * 0,), (x * 0,))


def test_types_sizes_and_passes_have_choices_of_their_own() -> None:
    x = torch.randn(5, 4, 5, 5)
    names = {describe(x, GROUPS), describe(x[:3], GROUPS), describe(x.bfloat16(), GROUPS)}
    with torch.autocast("cpu", torch.bfloat16):
        names.add(describe(x, GROUPS))
    assert len(names) == 3, "under autocast it is bfloat16, too"
    assert describe(torch.cat([x, x[:3]]), GROUPS) == describe(x, GROUPS), "8 as 5"


def test_only_what_a_step_needs_is_measured() -> None:
    x, frozen = torch.randn(1, 4, 6, 6), nn.Conv2d(4, 4, 3, groups=2).requires_grad_(False)
    assert needed_passes(x, GROUPS) == ["forward", "weight_gradient"], "the first layer"
    assert needed_passes(x.requires_grad_(), GROUPS) == list(PASSES)
    assert needed_passes(x, frozen) == ["forward", "input_gradient"]
    with torch.no_grad():
        assert needed_passes(x, GROUPS) == ["forward"]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layout", ["as it is", "space to depth"])
def test_a_pass_by_itself_is_that_of_the_convolution(layout: str, autocast: bool) -> None:
    conv, x = (STRIDE, torch.randn(2, 3, 9, 9)) if layout != "as it is" else (GROUPS, None)
    x = torch.randn(2, 4, 6, 6) if x is None else x
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        passes = Passes(x, conv, layout)  # type: ignore[arg-type]
        expected = conv(x)
        assert agree(
            passes.run("forward", "grouped"),
            (
                expected - conv.bias[:, None, None],  # type: ignore[index]
            ),
        )
        for name in PASSES:
            results = [passes.run(name, form) for form in passes.forms(name)]
            assert all(agree(result, results[0]) for result in results)
            assert results[0][0].dtype == (torch.bfloat16 if autocast else torch.float32)


def test_our_kernel_is_a_candidate_where_tiles_of_others_are_idle() -> None:
    def tiles(x: Tensor, conv: nn.Conv2d, name: str) -> set[str]:
        forms = Passes(x, conv, "as it is").forms(name)  # type: ignore[arg-type]
        return {str(form) for form in forms if isinstance(form, Tile)}

    def half(channels: int, side: int) -> Tensor:
        return torch.empty(64, channels, side, side, dtype=torch.bfloat16)

    with torch.device("meta"):
        rows = dict(create_model("alexnet").named_modules())
    conv1, conv2, conv3, conv4 = (rows[f"conv{index}"] for index in (1, 2, 3, 4))
    wide = {"tile 128x256x64", "tile 128x128x64"}
    assert tiles(half(48, 57), conv1, "weight_gradient")
    assert tiles(half(96, 27), conv2, "forward") == wide
    assert tiles(half(96, 27), conv2, "input_gradient") == {"tile 64x256x32"}
    assert tiles(half(96, 27), conv2, "weight_gradient") == wide
    assert tiles(half(384, 13), conv4, "forward") == {"tile 64x256x32"}
    assert not tiles(half(256, 13), conv3, "forward"), "nothing is idle"
    assert not tiles(half(96, 27).float(), conv2, "forward"), "not for 32 bits"
    assert not tiles(half(3, 227), conv1, "forward"), "not with a stride"


@pytest.mark.parametrize("value", [7, -1, "tile 1x1x1", None, [0]])
def test_an_invalid_choice_is_measured_again(tmp_path: Path, value: object) -> None:
    cache, x = TuningCache(tmp_path / "gpus.json"), torch.randn(1, 4, 5, 5)
    cache.put(f"a GPU: {describe(x, GROUPS)}, as it is, forward", value)
    clock = Clock([3.0, 2.0, 1.0])
    with torch.no_grad():
        assert Autotuner(cache, "a GPU", clock)(x, GROUPS).forward == "filled"


# The tuning cache.


def test_values_of_other_processes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.json"
    one, other = TuningCache(path), TuningCache(path)
    one.put("a", 1)
    other.put("b", [2])
    assert json.loads(path.read_text()) == {"a": 1, "b": [2]}
    assert TuningCache(path).get("a") == other.get("a") == 1
    assert one.get("b") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"a": 1} more'])
def test_a_damaged_file_is_empty_and_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cache.json"
    path.write_text(text)
    cache = TuningCache(path)
    assert cache.get("a") is None
    cache.put("a", 3)
    assert TuningCache(path).get("a") == 3


def test_where_nothing_can_be_written_values_last_as_long_as_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = TuningCache(tmp_path / "file" / "cache.json")
    cache.put("a", 3)
    assert cache.get("a") == 3


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "alexnet" / "kernels"
