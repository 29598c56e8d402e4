"""The kernels for CUDA devices against the reference layers, augmentation and update rule.

Without a GPU they run in Triton's interpreter, on tiny inputs: the same source, line by line, in
numpy. The only known difference: it truncates to bfloat16, where a GPU rounds.
"""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
# With NumPy 2.4, the interpreter of 3.6 takes no argument as the end of a loop.
pytest.importorskip("triton", minversion="3.6" if ON_GPU else "3.7")

from alexnet.config import Settings  # noqa: E402
from alexnet.images.yuv420 import from_yuv420, to_yuv420  # noqa: E402
from alexnet.kernels.accelerated import (  # noqa: E402
    AcceleratedNetwork,
    ConvBlockStage,
    StageBuilder,
    WeightedStage,
)
from alexnet.kernels.blocks import (  # noqa: E402
    Block,
    ChannelNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    reference_block,
)
from alexnet.kernels.conv_forms import ConvAlgorithm  # noqa: E402
from alexnet.kernels.cuda import autotune, fused  # noqa: E402
from alexnet.kernels.cuda import blocks as cuda_blocks  # noqa: E402
from alexnet.kernels.cuda.batch import crop_table, prepare_batch  # noqa: E402
from alexnet.kernels.cuda.blocks import fuse, run_block, supports  # noqa: E402
from alexnet.kernels.cuda.fused import Fused  # noqa: E402
from alexnet.networks.layers import LocalResponseNorm  # noqa: E402
from alexnet.networks.registry import create_model, list_models  # noqa: E402
from alexnet.train.state import PixelFormat  # noqa: E402
from alexnet.transforms import Preprocessing, augment, sample_augment  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
RELU, POOL = Relu(), MaxPool(3, 2, ceil_mode=False)
NORM = ChannelNorm(5, 1e-3, 0.75, 2.0, towers=1)
TOWERS = ChannelNorm(5, 1e-3, 0.75, 1.0, towers=2)
SPATIAL = SpatialNorm(5, 0.001 / 25, 0.75)


def both(x: Tensor, block: Block, bias: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return values and gradients of input and bias, by `run_block` and by the layers."""
    results = []
    for compute in (run_block, reference_with_bias):
        given = [t.detach().to(DEVICE).requires_grad_() for t in (x, bias) if t is not None]
        y = compute(given[0], block, *given[1:])
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y).view(y.shape)
        results.append((y.detach(), *torch.autograd.grad(y, given, weights)))
    return [(ours, reference) for ours, reference in zip(*results, strict=True)]


def reference_with_bias(x: Tensor, block: Block, bias: Tensor | None = None) -> Tensor:
    return reference_block(x if bias is None else x + bias.to(x.dtype).view(-1, 1, 1), block)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 30).to(dtype)


# Blocks.


CASES: list[tuple[tuple[int, ...], Block]] = [
    ((2, 8, 5, 7), (RELU, NORM, POOL)),
    ((1, 48, 7, 5), (RELU, NORM, POOL)),  # 48 is no power of two: channels are masked
    ((1, 20, 5, 6), (RELU, NORM, POOL)),  # 20 is no multiple of eight: groups of four
    ((1, 8, 27, 4), (RELU, NORM, POOL)),  # more rows than one thread goes down
    ((1, 24, 5, 5), (RELU, POOL, NORM)),
    ((1, 24, 5, 5), (TOWERS, POOL, RELU)),
    ((1, 8, 6, 5), (RELU, TOWERS, SPATIAL, POOL)),
    ((2, 4, 5, 9), (RELU, POOL)),
    ((1, 4, 5, 5), (POOL, RELU)),
    ((2, 40, 3, 2), (NORM,)),
    ((1, 8, 3, 3), (RELU, replace(NORM, beta=0.6, alpha=0.01))),
    ((1, 8, 6, 6), (TOWERS, MaxPool(3, 2, ceil_mode=True))),
    ((1, 4, 5, 5), (MaxPool(2, 2, ceil_mode=True),)),
    ((1, 4, 7, 7), (RELU, MaxPool(3, 1, ceil_mode=False))),
    ((1, 4, 7, 7), (MaxPool(2, 3, ceil_mode=False),)),
    ((1, 4, 9, 8), (RELU, MaxPool(4, 2, ceil_mode=False))),
    ((1, 4, 3, 4), (RELU, MaxPool(1, 1, ceil_mode=False))),
    ((1, 4, 3, 4), (RELU, NORM, MaxPool(1, 2, ceil_mode=False))),
    ((1, 4, 4, 6), (replace(SPATIAL, size=3, alpha=0.01, beta=0.5),)),
    ((1, 8, 3, 4), (NORM, RELU)),
    ((2, 40, 5, 7), (RELU,)),
]


@pytest.mark.parametrize("programs", [1, 2048], ids=["long strips", "short strips"])
@pytest.mark.parametrize(("shape", "block"), CASES)
def test_blocks_equal_the_layers_to_the_last_digits(
    shape: tuple[int, ...], block: Block, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "PROGRAMS", programs)
    bias = random(shape[1], seed=1) if programs > 1 else None
    for ours, reference in both(random(*shape), block, bias):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def blocks_after_convolutions() -> set[tuple[int, Block]]:
    """List channels and block after every convolution of every network."""
    found: set[tuple[int, Block]] = set()
    for name in list_models():
        with torch.device("meta"):
            rows = list(create_model(name))
        builder = StageBuilder(cuda_blocks, lambda _x, _conv: ConvAlgorithm(), torch.float32)
        for stage in builder.stages(rows):
            if isinstance(stage, ConvBlockStage):
                found.add((stage.conv.out_channels, stage.block))
    return found


@pytest.mark.parametrize(("channels", "block"), sorted(blocks_after_convolutions(), key=str))
def test_every_block_of_every_network(
    channels: int, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ON_GPU:  # the interpreter's time is per program, not per value
        monkeypatch.setattr(fused, "CHANNELS", 512)
    bias = random(channels, seed=1)
    for ours, reference in both(random(1, channels, 6, 7), block, bias):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [(RELU, POOL), (POOL, RELU), (POOL,), (RELU,)])
def test_a_sum_with_a_bias_is_rounded_as_by_the_layers(block: Block) -> None:
    """In half precision many values are equal; a bias of float32 is rounded first."""
    x = random(2, 8, 7, 7, dtype=torch.float16)
    results = both(x, block, random(8, dtype=torch.float32, seed=1) / 7)
    assert [ours.dtype for ours, _ in results] == [torch.float16, torch.float16, torch.float32]
    (value, expected), (gradient, expected_gradient), (to_bias, expected_to_bias) = results
    assert torch.equal(value, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(to_bias, expected_to_bias, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("block", [(RELU, NORM, POOL), (RELU,)])
@pytest.mark.parametrize("frozen", ["x", "bias", "both"])
def test_what_is_frozen_has_no_gradient(block: Block, frozen: str) -> None:
    x, bias = random(1, 8, 5, 5).to(DEVICE), random(8, seed=1).to(DEVICE)
    expected = both(x, block, bias)
    x.requires_grad_(frozen == "bias")
    bias.requires_grad_(frozen == "x")
    y = run_block(x, block, bias)
    torch.testing.assert_close(y.detach(), expected[0][1])
    if frozen == "both":
        assert y.grad_fn is None
        return
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y).view(y.shape)
    y.backward(weights)  # type: ignore[no-untyped-call]
    learnt, (_, gradient) = (bias, expected[2]) if frozen == "x" else (x, expected[1])
    assert (x.grad is None) == (frozen == "x")
    assert (bias.grad is None) == (frozen == "bias")
    torch.testing.assert_close(learnt.grad, gradient)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_values_are_the_same(mode: Callable[[], Any]) -> None:
    x, bias = random(1, 8, 5, 5).to(DEVICE), random(8, seed=1).to(DEVICE).requires_grad_()
    for block in ((RELU, NORM, POOL), (RELU,)):
        with mode():
            y = run_block(x, block, bias)
        assert not y.requires_grad
        torch.testing.assert_close(y, run_block(x, block, bias).detach(), rtol=0, atol=0)


def test_the_gradient_of_a_bias_adds_up_many_programs() -> None:
    x, bias = random(3, 40, 33, 31), random(40, seed=1)
    for ours, reference in both(x, (RELU,), bias):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-11)


def test_convolutions_leave_their_bias_to_the_kernel_after_them() -> None:
    """The network for a GPU, on any device, equals its rows with every gradient."""
    torch.manual_seed(0)
    rows: list[nn.Module] = [
        nn.Conv2d(3, 8, 3), nn.ReLU(), LocalResponseNorm(), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(36, 3), nn.ReLU(),
    ]  # fmt: skip
    model = nn.Sequential(*rows).double().to(DEVICE)
    network = AcceleratedNetwork(
        OrderedDict(model.named_children()),
        cuda_blocks,
        DEVICE.type,
        lambda _x, _conv: ConvAlgorithm(),
    )
    kinds = [type(stage) for stage in network.stages]
    assert kinds.count(ConvBlockStage) == 3
    assert kinds.count(WeightedStage) == 2  # the last convolution and the linear layer
    images = random(2, 3, 17, 17).to(DEVICE)
    results = []
    for compute in (network, model):
        y = compute(images)
        results.append((y.detach(), *torch.autograd.grad((y * y).sum(), list(model.parameters()))))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_blocks_round_as_the_layers_do(dtype: torch.dtype, digits: float) -> None:
    """Sums are float32 in every type; results are within one step of the type."""
    for ours, reference in both(random(1, 8, 5, 5, dtype=dtype), (RELU, NORM)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, reference, rtol=digits, atol=digits)


def test_large_numbers_do_not_overflow_in_float16() -> None:
    x = torch.full((1, 8, 1, 1), 60000, dtype=torch.float16)
    ((ours, reference), _) = both(x, (NORM,))
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_blocks_keep_the_memory_format(memory: torch.memory_format) -> None:
    x = random(2, 8, 5, 5).to(DEVICE).contiguous(memory_format=memory)
    y = run_block(x, (RELU, POOL))
    assert y.is_contiguous(memory_format=memory)
    torch.testing.assert_close(y, reference_block(x, (RELU, POOL)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("block", [(RELU, POOL), (NORM, POOL), (POOL, RELU)])
def test_of_equal_values_the_first_has_the_gradient(block: Block, dtype: torch.dtype) -> None:
    """Whole numbers from -2 to 2, so that nearly every window has its maximum more than once."""
    x = (random(2, 4, 5, 5) / 20).round().to(dtype)
    digits = 1e-13 if dtype == torch.float64 else 2e-3
    for ours, reference in both(x, block):
        torch.testing.assert_close(ours, reference, rtol=digits, atol=digits)


def test_without_a_gradient_nothing_is_saved_for_one() -> None:
    x = random(1, 4, 5, 5).to(DEVICE).contiguous(memory_format=torch.channels_last)
    assert run_block(x, (RELU, POOL)).grad_fn is None
    y = run_block(x.requires_grad_(), (RELU, POOL))
    assert y.grad_fn is not None
    (codes,) = (t for t in y.grad_fn.saved_tensors if t is not None)  # type: ignore[attr-defined]
    assert codes.dtype == torch.uint8  # one byte for each pooled value, and nothing else
    assert codes.shape == y.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_nan_stays_a_nan(dtype: torch.dtype, gradient: bool) -> None:
    x = random(1, 4, 5, 5, dtype=dtype).to(DEVICE)
    x[0, 1, 2, 2] = torch.nan
    x.requires_grad_(gradient)
    with np.errstate(invalid="ignore"):
        for block in ((RELU, POOL), (POOL, RELU), (RELU, NORM)):
            ours, reference = run_block(x, block), reference_block(x, block)
            assert reference.isnan().any()
            torch.testing.assert_close(ours, reference, equal_nan=True)


@pytest.mark.fault(36)
@pytest.mark.parametrize("block", [(RELU, NORM, POOL), (RELU,)])
def test_the_same_gradients_each_time(block: Block) -> None:
    x, bias = random(1, 8, 5, 5, dtype=torch.float32), random(8, dtype=torch.float32, seed=1)
    first, second = (both(x, block, bias) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0])


def test_numerical_gradient() -> None:
    x = (random(1, 4, 1, 2) / 10).to(DEVICE).requires_grad_()
    bias = random(4, seed=1).to(DEVICE).requires_grad_()
    norm = replace(NORM, alpha=0.05)
    block: Block = (norm, MaxPool(1, 1, ceil_mode=False))
    assert torch.autograd.gradcheck(lambda *t: run_block(t[0], block, t[1]), (x, bias), atol=1e-6)


@pytest.mark.parametrize("block", [(RELU, NORM, SPATIAL, POOL), (RELU, POOL)])
def test_an_empty_batch(block: Block) -> None:
    x = torch.zeros(0, 4, 5, 5, device=DEVICE, requires_grad=True)
    bias = torch.ones(4, device=DEVICE, requires_grad=True)
    y = run_block(run_block(x, (RELU,)), block, bias)
    assert y.shape == (0, 4, 2, 2)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert bias.grad is not None
    assert (bias.grad == 0).all()


def test_channels_that_make_no_whole_groups_go_through_the_layers() -> None:
    for ours, reference in both(random(1, 6, 3, 3), (RELU, NORM), random(6, seed=1)):
        assert torch.equal(ours, reference)


def test_blocks_run_as_few_kernels() -> None:
    assert fuse((RELU, NORM, POOL)) == [Fused(relu=True, norm=NORM, pool=POOL)]
    assert fuse((TOWERS, POOL, RELU)) == [Fused(norm=TOWERS, pool=POOL, relu_after=True)]
    assert fuse((RELU, POOL, NORM)) == [Fused(relu=True, pool=POOL), Fused(norm=NORM)]
    assert fuse((NORM, SPATIAL, POOL)) == [Fused(norm=NORM), SPATIAL, Fused(pool=POOL)]
    assert fuse((NORM, RELU)) == [Fused(norm=NORM), Fused(relu=True)]


def test_what_is_supported() -> None:
    assert supports((RELU, TOWERS, SPATIAL, POOL))
    assert supports((POOL,))
    assert not supports(())
    assert not supports((RELU,))  # PyTorch does that in place
    assert not supports((replace(NORM, size=3),))
    assert not supports((RELU, MaxPool(5, 2, ceil_mode=False)))
    assert not supports((RELU, MaxPool(3, 5, ceil_mode=False)))


# Batches.

SIZE, CROP = 14, 11
COLORS = ((0.5, 0.5, 0.7), (0.3, -0.8, 0.1), (0.2, 0.1, 0.9))
PREPROCESSING = Preprocessing(
    SIZE, CROP, random(3, SIZE, SIZE).float().abs(), (50.0, 10.0, 5.0), COLORS
).to(DEVICE)
INDICES = np.array([4, 1, 3, 0])


def images(count: int = 5) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return torch.from_numpy(pixels).to(DEVICE)


def prepared(
    settings: Settings, out: Tensor, *, pixel_format: PixelFormat = "rgb", before: int = 0
) -> tuple[Tensor, Tensor]:
    """Return a batch by the kernel and by `augment`."""
    params = sample_augment(settings, PREPROCESSING, 1, INDICES)
    assert 0 < params.flip.sum() < len(INDICES)  # both kinds are there
    table = crop_table(params, INDICES, SIZE, CROP).to(DEVICE)
    shift = torch.from_numpy(params.shift).to(DEVICE)
    divisor = 1 + settings.lighting if settings.lighting_rescale else 1.0
    pixels, rows = images(), images().flatten(1)
    if pixel_format == "yuv420":
        rows = to_yuv420(pixels)
        pixels = from_yuv420(rows, SIZE)
    prepare_batch(
        rows, table, shift, PREPROCESSING.mean, out,
        size=SIZE, pixel_format=pixel_format, before=before, divisor=divisor,
    )  # fmt: skip
    return out, augment(pixels[torch.from_numpy(INDICES)], params, PREPROCESSING, settings)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_batch_is_exactly_that_of_augment(memory: torch.memory_format, rescale: bool) -> None:
    out = torch.empty(len(INDICES), 3, CROP, CROP, device=DEVICE).contiguous(memory_format=memory)
    ours, reference = prepared(Settings(seed=1, lighting_rescale=rescale), out)
    assert torch.equal(ours, reference)


def test_a_batch_in_half_precision() -> None:
    out = torch.empty(len(INDICES), 3, CROP, CROP, dtype=torch.float16, device=DEVICE)
    ours, reference = prepared(Settings(seed=1), out)
    assert torch.equal(ours, reference.half())


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_batch_rearranged_for_conv1(stride: int, before: int) -> None:
    side = -(-(before + CROP) // stride)
    out = torch.full((len(INDICES), 3 * stride**2, side, side), torch.nan, device=DEVICE)
    out = out.contiguous(memory_format=torch.channels_last)
    ours, reference = prepared(Settings(seed=1), out, before=before)
    after = side * stride - CROP - before
    zeros = F.pad(reference, (before, after, before, after))
    assert torch.equal(ours, F.pixel_unshuffle(zeros, stride))


@pytest.mark.parametrize("stride", [1, 4])
def test_a_batch_whose_colour_is_halved(stride: int) -> None:
    """Its pixels, made in the kernel, are those of the cache to the last bit."""
    side = -(-CROP // stride)
    out = torch.empty(len(INDICES), 3 * stride**2, side, side, device=DEVICE)
    ours, reference = prepared(Settings(seed=1), out, pixel_format="yuv420")
    zeros = side * stride - CROP
    assert torch.equal(ours, F.pixel_unshuffle(F.pad(reference, (0, zeros, 0, zeros)), stride))


def test_halved_colour_of_any_bytes_is_that_of_the_cache() -> None:
    """Random planes go out of 0 ... 255 in every colour, and have edges everywhere."""
    whole = Preprocessing(SIZE, SIZE, torch.zeros(3, SIZE, SIZE), (1.0, 1.0, 1.0), COLORS)
    length = SIZE * SIZE * 3 // 2
    rows = torch.randint(0, 256, (2, length), generator=torch.Generator().manual_seed(0)).byte()
    table = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int32).to(DEVICE)
    out = torch.empty(2, 3, SIZE, SIZE, device=DEVICE)
    shift = torch.zeros(2, 3, device=DEVICE)
    mean = whole.mean.to(DEVICE)
    prepare_batch(rows.to(DEVICE), table, shift, mean, out, size=SIZE, pixel_format="yuv420")
    pixels = from_yuv420(rows[[1, 0]], SIZE)
    assert torch.equal(out.cpu(), pixels.permute(0, 3, 1, 2).float())
    assert pixels.min() == 0
    assert pixels.max() == 255


# Compilation, which needs no GPU.


def compiled_by(script: str, cache: Path) -> str:
    """Run a script that compiles kernels and return what it prints."""
    backends = pytest.importorskip("triton.backends").backends
    if "nvidia" not in backends:
        pytest.skip("this triton has no NVIDIA backend")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, str(Path(__file__).with_name(script))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Triton includes compiler and assembler, so only running needs a device."""
    built = json.loads(compiled_by("compile_kernels.py", tmp_path))
    assert {name.split(":")[0] for name in built} >= {"forward", "backward", "batch", "update"}
    for name, facts in built.items():
        assert facts["spilled"] == 0, name
        assert facts["layout_conversions"] <= facts["allowed"], name


@pytest.mark.slow
def test_block_kernels_have_few_instructions(tmp_path: Path) -> None:
    """Their time is that of their instructions: for each element of the convolution's result."""
    lines = compiled_by("count_kernels.py", tmp_path).splitlines()[2:]
    counted = {line.split(" | ")[0]: float(line.split(" | ")[3]) for line in lines}
    assert len(counted) == 11
    for name, instructions in counted.items():
        assert instructions <= (58 if name.endswith("backward") else 32), name


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57  Release\n", "575.57"),
        ("something else\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_driver_is_read_where_linux_has_it(
    tmp_path: Path, text: str | None, version: str
) -> None:
    if text is not None:
        (tmp_path / "version").write_text(text)
    assert autotune.driver_version(tmp_path / "version") == version
