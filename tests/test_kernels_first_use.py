"""The checks of a GPU before a network's first use of it: which ones, once, and what they catch.

Without a GPU the kernels run in Triton's interpreter, and the CPU stands for the device.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from data_makers import Recorder
from test_kernels_cuda import DEVICE  # before Triton
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import Settings
from alexnet.errors import WorkerError
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.blocks import Block, ChannelNorm, MaxPool, Relu, reference_block
from alexnet.kernels.cpu.tuning import conv_algorithm
from alexnet.kernels.cuda import autotune, blocks, loss, self_check, step_checks
from alexnet.kernels.cuda.dropout import SeededDropout
from alexnet.kernels.cuda.first_use import (
    FirstUse,
    check,
    check_training,
    network_checks,
    training_checks,
)
from alexnet.kernels.cuda.self_check import (
    BlockCheck,
    Check,
    ConvolutionCheck,
    check_blocks,
    run_check,
)
from alexnet.kernels.cuda.step_checks import (
    BatchCheck,
    DropoutCheck,
    LossCheck,
    OptimizerName,
    UpdateCheck,
)
from alexnet.kernels.cuda.update import FusedUpdate
from alexnet.kernels.tuning_cache import TuningCache
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.registry import create_model, input_shape
from alexnet.train.state import PixelFormat

SMALL = (2, 8, 7, 7)
NORM, POOL = ChannelNorm(5, 1e-4, 0.75, 2.0, towers=1), MaxPool(3, 2, ceil_mode=False)
CONVOLUTION = ConvolutionCheck(
    (8, 2, 3, 3), (4, 9, 9), 1, (1, 1), 2, torch.float32, backward=(True, True)
)


def accelerated(model: nn.Sequential) -> AcceleratedNetwork:
    rows = OrderedDict(model.named_children())
    return AcceleratedNetwork(rows, blocks, DEVICE.type, conv_algorithm).train(model.training)


def small_network(**others: nn.Module) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        input=Input(3, 17, 17),
        conv1=nn.Conv2d(3, 8, 5, stride=4),
        relu1=nn.ReLU(),
        norm1=LocalResponseNorm(),
        conv2=nn.Conv2d(8, 8, 3, padding=1, groups=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        fc3=nn.Linear(32, 3),
    )
    return nn.Sequential(layers | OrderedDict(others)).to(DEVICE)


# What is compared.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_right_blocks_pass(dtype: torch.dtype) -> None:
    check_blocks(DEVICE, shape=SMALL, dtype=dtype)


def test_right_blocks_pass_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's layers stand for the kernels: the interpreter truncates where a GPU rounds."""
    monkeypatch.setattr(self_check, "run_block", right)
    check_blocks(DEVICE, shape=(2, 96, 27, 27), dtype=torch.bfloat16)


@pytest.mark.parametrize("bias_learns", [False, True])
@pytest.mark.parametrize("block", [(Relu(),), (Relu(), NORM, POOL), (Relu(), POOL, NORM)])
def test_blocks_that_add_a_bias_pass(block: Block, bias_learns: bool) -> None:
    run_check(
        BlockCheck(block, (8, 5, 5), torch.float32, True, images=4, bias_learns=bias_learns), DEVICE
    )


@pytest.mark.parametrize(
    "check",
    [
        *(UpdateCheck(name) for name in get_args(OptimizerName)),
        *(BatchCheck(kind, scaled) for kind in get_args(PixelFormat) for scaled in (False, True)),
        LossCheck(1000, torch.float32),
        LossCheck(10, torch.float16),
        DropoutCheck(torch.float32),
        DropoutCheck(torch.float16),
    ],
    ids=str,
)
def test_what_a_captured_step_needs_passes(check: Check) -> None:
    run_check(check, DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward", [(True, True), (False, True), (True, False), (False, False)])
def test_pytorchs_convolutions_pass(dtype: torch.dtype, backward: tuple[bool, bool]) -> None:
    run_check(replace(CONVOLUTION, dtype=dtype, backward=backward), DEVICE)


def test_a_check_runs_within_any_modes_of_its_caller() -> None:
    """A network's first pass may be an evaluation."""
    block = BlockCheck((Relu(), POOL), (4, 5, 5), torch.float32, backward=True, images=2)
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
        run_check(block, DEVICE)
        run_check(CONVOLUTION, DEVICE)


def test_without_a_gradient_a_block_runs_as_in_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a kernel saves nothing for a backward pass, so it is another one."""
    given: list[bool] = []

    def run(x: Tensor, block: Block, bias: Tensor | None) -> Tensor:
        given.append(x.requires_grad)
        return right(x, block, bias)

    monkeypatch.setattr(self_check, "run_block", run)
    for backward in (False, True):
        run_check(BlockCheck((Relu(), POOL), (4, 5, 5), torch.float32, backward), DEVICE)
    assert given == [False, True]


# What is caught.


def right(x: Tensor, block: Block, bias: Tensor | None = None) -> Tensor:
    return reference_block(x if bias is None else x + bias.view(-1, 1, 1), block)


def slightly_wrong(x: Tensor, block: Block, _bias: Tensor | None) -> Tensor:
    return reference_block(x, block) * 1.001


def wrong_backwards(x: Tensor, block: Block, _bias: Tensor | None) -> Tensor:
    return reference_block(x, block).detach() + 0 * x.mean()


def another_maximum(x: Tensor, block: Block, _bias: Tensor | None) -> Tensor:
    """Send the gradients of a few windows to their second largest value."""
    y = reference_block(x, block)
    other = reference_block(x.roll(1, 3), block)
    return torch.where(torch.arange(y.numel()).view(y.shape) % 20 == 0, y.detach() + 0 * other, y)


def wrong_in_one_image(x: Tensor, block: Block, _bias: Tensor | None) -> Tensor:
    y = reference_block(x, block)
    return torch.cat([y[:-1], y[-1:] * 1.01])


def does_not_compile(x: Tensor, block: Block, _bias: Tensor | None) -> Tensor:
    raise RuntimeError("ptxas failed\nwith many lines")


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (slightly_wrong, "computes relu, norm, pool in float32 wrongly .error 1.0e-03, at most"),
        (wrong_in_one_image, "computes relu, norm, pool in float32 wrongly"),
        (wrong_backwards, "computes the gradient of relu, norm, pool in float32 .* --plain"),
        (another_maximum, "computes the gradient of relu, norm, pool in float32 wrongly"),
        (does_not_compile, r"kernel of relu, norm, pool in float32 \(ptxas failed\).*--plain"),
    ],
)
def test_a_wrong_kernel_is_named(
    run: Callable[..., Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "run_block", run)
    with pytest.raises(WorkerError, match=message):
        check_blocks(DEVICE, shape=SMALL)


def test_a_wrong_bias_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, block: Block, bias: Tensor) -> Tensor:
        return right(x, block, bias * 1.01 - bias.detach() * 0.01)

    monkeypatch.setattr(self_check, "run_block", wrong)
    message = "the bias gradient of relu, pool in float32 wrongly .error 1.0e-02"
    with_bias = BlockCheck(
        (Relu(), POOL), (8, 5, 5), torch.float32, backward=True, bias_learns=True
    )
    with pytest.raises(WorkerError, match=message):
        run_check(with_bias, DEVICE)


@pytest.mark.parametrize("wrong", [torch.nan, 0.0])
def test_a_check_on_nothing_would_fail(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a kernel that returns NaN or zeros exceeds every limit."""
    monkeypatch.setattr(self_check, "run_block", lambda *given: right(*given) * wrong)
    with pytest.raises(WorkerError):
        check_blocks(DEVICE, shape=SMALL)


def test_a_wrong_convolution_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ConvolutionCheck._results

    def wrong(check: ConvolutionCheck, x: Tensor, weight: Tensor) -> Iterator[Tensor]:
        y, to_images, to_weight = right(check, x, weight)
        yield from (y, to_images, to_weight if x.dtype == torch.float64 else to_weight.roll(1))

    monkeypatch.setattr(ConvolutionCheck, "_results", wrong)
    message = "computes the weights' gradient of the 3 x 3 convolution of 4 to 8 channels, 2 groups"
    with pytest.raises(WorkerError, match=message):
        run_check(CONVOLUTION, DEVICE)


def test_a_wrong_update_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedUpdate, "step", lambda self, *_, **__: None)
    with pytest.raises(WorkerError, match="computes the update rule adamw wrongly"):
        run_check(UpdateCheck("adamw"), DEVICE)


def test_a_wrong_loss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = loss.cross_entropy

    def wrong(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        losses, gradient = right(*arguments, **options)
        return losses, gradient * 1.01

    monkeypatch.setattr(step_checks, "cross_entropy", wrong)
    with pytest.raises(WorkerError, match="the gradient of the loss over 10 classes wrongly"):
        run_check(LossCheck(10, torch.float32), DEVICE)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: F.dropout(x, 0.5) * 1.01, "dropout"),
        (lambda x: F.dropout(x, 0.6) * 0.8, "the share of dropout"),
        (lambda x: F.dropout(x, 0.5).detach() + 0 * x, "the gradient of dropout"),
    ],
)
def test_wrong_dropout_is_named(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Tensor], Tensor], named: str
) -> None:
    monkeypatch.setattr(SeededDropout, "forward", lambda self, x: function(x))
    with pytest.raises(WorkerError, match=f"computes {named} wrongly"):
        run_check(DropoutCheck(torch.float32), DEVICE)


# Which checks a network needs.


def test_the_checks_of_the_paper_are_its_own_blocks_and_convolutions() -> None:
    model = create_model("alexnet")
    found = training_checks(accelerated(model), input_shape("alexnet"), torch.bfloat16, Settings())
    assert [(each.shape, len(each.block)) for each in found if isinstance(each, BlockCheck)] == [
        ((96, 55, 55), 3), ((256, 27, 27), 3), ((384, 13, 13), 1), ((256, 13, 13), 2)
    ]  # fmt: skip
    assert all(each.bias_learns for each in found if isinstance(each, BlockCheck))
    convolutions = [each for each in found if isinstance(each, ConvolutionCheck)]
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert (
        [each.weight for each in convolutions]
        == [
            tuple(layers[0].weight.shape),
            (96, 48, 3, 3),  # the same without a stride
            *(tuple(layer.weight.shape) for layer in layers[1:]),
        ]
    )
    assert [each.backward for each in convolutions] == [(False, True)] * 2 + [(True, True)] * 4
    rest = found[len(convolutions) + 4 :]
    assert rest == [
        DropoutCheck(torch.bfloat16), LossCheck(1000, torch.bfloat16), UpdateCheck("paper"),
        BatchCheck("rgb"), BatchCheck("yuv420"),
    ]  # fmt: skip
    assert all(each.dtype == torch.bfloat16 for each in convolutions)


def test_an_evaluation_needs_no_gradients() -> None:
    network = accelerated(small_network())
    with torch.inference_mode():
        found = network_checks(network, torch.zeros(1, 3, 17, 17, device=DEVICE), torch.float32)
    assert len(found) == 5
    for each in found:
        assert isinstance(each, BlockCheck | ConvolutionCheck)
        assert each.backward in (False, (False, False))


def test_layers_that_do_not_learn_need_no_gradients() -> None:
    network = accelerated(small_network())
    network.get_submodule("conv1").requires_grad_(requires_grad=False)
    found = network_checks(network, torch.zeros(1, 3, 17, 17, device=DEVICE), torch.float32)
    assert [each.backward for each in found if isinstance(each, BlockCheck)] == [False, True]


def test_images_that_are_rearranged_already_need_one_form_of_the_convolution() -> None:
    network = accelerated(small_network())
    assert network.input_layout
    images = torch.zeros(1, *network.input_layout.shape, device=DEVICE)
    found = network_checks(network, images, torch.float32)
    (first, *_) = (each for each in found if isinstance(each, ConvolutionCheck))
    assert (first.weight, first.shape, first.stride) == ((8, 48, 2, 2), (48, 5, 5), 1)


def test_weights_of_the_forward_type_are_listed_too() -> None:
    """Answers are captured with such weights, and images of another type."""
    network, images = accelerated(small_network()), torch.zeros(1, 3, 17, 17, device=DEVICE)
    found = network_checks(network, images, torch.bfloat16)
    for layer in (network.get_submodule("conv2"), network.get_submodule("fc3")):
        layer.to(torch.bfloat16)
    assert network_checks(network, images, torch.bfloat16) == found


def test_listing_the_checks_changes_nothing() -> None:
    model = small_network(norm1=nn.BatchNorm2d(8))  # whose state is updated in training
    network = accelerated(model.train())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    network_checks(network, torch.zeros(2, 3, 17, 17, device=DEVICE), torch.float32)
    assert torch.equal(torch.get_rng_state(), state), "dropout draws the same numbers"
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


# Once.


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for a GPU: what ran, and the software that it has."""
    machine = SimpleNamespace(ran=[], software="GPU, torch 1", path=tmp_path / "gpus.json")

    def run(each: Any, device: torch.device) -> None:
        machine.ran.append(str(each))

    monkeypatch.setattr("alexnet.kernels.cuda.first_use.run_check", run)
    monkeypatch.setattr(autotune, "gpu_cache", lambda: TuningCache(machine.path))
    monkeypatch.setattr(autotune, "identify", lambda device: machine.software)
    return machine


def test_a_first_pass_is_noted_and_checked_once(gpu: SimpleNamespace) -> None:
    recorder, images = Recorder(), torch.zeros(2, 3, 17, 17, device=DEVICE)
    for _ in range(2):  # two processes
        network = accelerated(small_network()).eval()
        network.register_forward_pre_hook(FirstUse(DEVICE, recorder.note))
        with torch.inference_mode():
            network(images)
            network(images)
    (note,) = recorder.notes
    assert note.endswith("compiling and checking 5 kernels, about 10 s")
    assert gpu.ran == [
        "the 5 x 5 convolution of 3 to 8 channels, in float32",
        "the 2 x 2 convolution of 48 to 8 channels, in float32",
        "relu, norm in float32",
        "the 3 x 3 convolution of 8 to 8 channels, 2 groups, in float32",
        "relu, pool in float32",
    ]


def test_another_type_mode_or_software_is_checked_anew(gpu: SimpleNamespace) -> None:
    network, images = accelerated(small_network()), torch.zeros(2, 3, 17, 17, device=DEVICE)
    network.register_forward_pre_hook(FirstUse(DEVICE, lambda _: None))

    def ran(*modes: Any) -> int:
        gpu.ran.clear()
        network(images)
        return len(gpu.ran)

    with torch.no_grad():
        assert ran() == 5
        assert ran() == 0
        with torch.autocast(DEVICE.type, torch.bfloat16):
            assert ran() == 5
    assert ran() == 5
    network._forward_pre_hooks.clear()
    network.register_forward_pre_hook(FirstUse(DEVICE, lambda _: None))
    assert ran() == 0
    gpu.software = "GPU, torch 2"
    network._forward_pre_hooks.clear()
    network.register_forward_pre_hook(FirstUse(DEVICE, lambda _: None))
    assert ran() == 5


def test_a_second_network_is_checked_for_what_is_new(gpu: SimpleNamespace) -> None:
    recorder = Recorder()
    first = training_checks(accelerated(small_network()), (3, 17, 17), torch.float32, Settings())
    check(first, DEVICE, recorder.note)
    other = small_network(pool2=nn.MaxPool2d(3, stride=1))
    gpu.ran.clear()
    check(
        training_checks(accelerated(other), (3, 17, 17), torch.float32, Settings()),
        DEVICE,
        recorder.note,
    )
    assert gpu.ran == ["relu, pool in float32"]
    assert recorder.notes[1].endswith("compiling and checking 1 kernel, about 2 s")


def test_a_failed_check_is_repeated(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(each: Any, device: torch.device) -> None:
        gpu.ran.append(str(each))
        if isinstance(each, UpdateCheck):
            raise WorkerError("wrong")

    monkeypatch.setattr("alexnet.kernels.cuda.first_use.run_check", fail)
    for _ in range(2):
        with pytest.raises(WorkerError):
            check(
                [BatchCheck("rgb"), UpdateCheck("paper"), BatchCheck("yuv420")],
                DEVICE,
                lambda _: None,
            )
    assert gpu.ran == [str(BatchCheck("rgb")), *["the update rule paper"] * 2]


def test_a_captured_training_is_checked_before_it_begins(gpu: SimpleNamespace) -> None:
    recorder = Recorder()
    state: Any = SimpleNamespace(
        device=DEVICE, settings=Settings(precision="bfloat16"), progress=recorder,
        preprocessing=SimpleNamespace(crop=17),
    )  # fmt: skip
    check_training(accelerated(small_network()), state)
    assert len(gpu.ran) == 9, "the rearranged convolution alone"
    assert gpu.ran[0] == "the 2 x 2 convolution of 48 to 8 channels, in bfloat16"
    assert gpu.ran[-3:] == [
        "the update rule paper",
        "the preparation of a batch (rgb)",
        "the preparation of a batch (yuv420)",
    ]  # fmt: skip
    assert len(recorder.notes) == 1
