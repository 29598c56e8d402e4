"""The kernels for CUDA devices against the plain layers, augmentation and update rule.

Without a GPU they run in Triton's interpreter, on tiny inputs: the same source, line by line, in
numpy. Its only known difference is that it cuts numbers off, where a GPU rounds, to bfloat16.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
pytest.importorskip("triton")

from alexnet.config import Settings  # noqa: E402
from alexnet.errors import WorkerError  # noqa: E402
from alexnet.images.yuv420 import from_yuv420, to_yuv420  # noqa: E402
from alexnet.kernels.blocks import ChannelNorm, MapNorm, MaxPool, Relu, Step  # noqa: E402
from alexnet.kernels.cuda import self_check as cuda_check  # noqa: E402
from alexnet.kernels.cuda.batch import prepare_batch, windows  # noqa: E402
from alexnet.kernels.cuda.blocks import plain_block, run_block, stages, supports  # noqa: E402
from alexnet.kernels.cuda.norm_kernels import Stage, pooled_side  # noqa: E402
from alexnet.kernels.cuda.sgd import FusedUpdate  # noqa: E402
from alexnet.optim import PaperSGD  # noqa: E402
from alexnet.train.image_cache import PixelFormat  # noqa: E402
from alexnet.transforms import Preprocessing, augment, sample_augment  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
RELU, POOL = Relu(), MaxPool(3, 2, ceil_mode=False)
NORM = ChannelNorm(5, 1e-3, 0.75, 2.0, towers=1)
TOWERS = ChannelNorm(5, 1e-3, 0.75, 1.0, towers=2)
MAPS = MapNorm(5, 0.001 / 25, 0.75)
Block = tuple[Step, ...]


def both(
    x: Tensor, block: Block, run: Callable[[Tensor, Block], Tensor] = run_block
) -> list[tuple[Tensor, Tensor]]:
    """Return values and input's gradient of `block`, by `run` and by the plain layers."""
    results = []
    for compute in (run, plain_block):
        given = x.detach().to(DEVICE).requires_grad_()
        y = compute(given, block)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y).view(y.shape)
        (gradient,) = torch.autograd.grad(y, given, weights)
        results.append((y.detach(), gradient))
    return [(ours, plain) for ours, plain in zip(*results, strict=True)]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 30).to(dtype)


# Blocks.


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((2, 8, 5, 7), (RELU, NORM, POOL)),
        ((1, 48, 7, 5), (RELU, NORM, POOL)),  # 48 is no power of two: channels are masked
        ((1, 24, 5, 5), (RELU, POOL, NORM)),
        ((1, 24, 5, 5), (TOWERS, POOL, RELU)),
        ((1, 8, 6, 5), (RELU, TOWERS, MAPS, POOL)),
        ((2, 4, 5, 9), (RELU, POOL)),
        ((1, 4, 5, 5), (POOL, RELU)),
        ((2, 40, 3, 2), (NORM,)),
        ((1, 8, 3, 3), (RELU, replace(NORM, beta=0.6, alpha=0.01))),
        ((1, 8, 6, 6), (replace(TOWERS, towers=2), MaxPool(3, 2, ceil_mode=True))),
        ((1, 4, 5, 5), (MaxPool(2, 2, ceil_mode=True),)),
        ((1, 4, 7, 7), (RELU, MaxPool(3, 1, ceil_mode=False))),
        ((1, 4, 7, 7), (MaxPool(2, 3, ceil_mode=False),)),
        ((1, 4, 4, 6), (replace(MAPS, size=3, alpha=0.01, beta=0.5),)),
    ],
)
def test_blocks_equal_the_layers_to_the_last_digits(shape: tuple[int, ...], block: Block) -> None:
    for ours, plain in both(random(*shape), block):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_blocks_round_as_the_layers_do(dtype: torch.dtype, digits: float) -> None:
    """Sums are float32 in every type; results are within one step of the type."""
    for ours, plain in both(random(1, 8, 5, 5, dtype=dtype), (RELU, NORM)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, plain, rtol=digits, atol=digits)


def test_large_numbers_do_not_overflow_in_float16() -> None:
    x = torch.full((1, 8, 1, 1), 60000, dtype=torch.float16)
    ((ours, plain), _) = both(x, (NORM,))
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_blocks_keep_the_memory_format(memory: torch.memory_format) -> None:
    x = random(2, 8, 5, 5).to(DEVICE).contiguous(memory_format=memory)
    y = run_block(x, (RELU, POOL))
    assert y.is_contiguous(memory_format=memory)
    torch.testing.assert_close(y, plain_block(x, (RELU, POOL)))


@pytest.mark.parametrize("block", [(RELU, POOL), (NORM, POOL), (POOL, RELU)])
def test_of_equal_values_the_first_has_the_gradient(block: Block) -> None:
    """Whole numbers from -2 to 2, so that nearly every window has its maximum more than once."""
    x = (random(2, 4, 5, 5) / 20).round()
    for ours, plain in both(x, block):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-13)


def test_without_a_gradient_nothing_is_kept_for_one() -> None:
    x = random(1, 4, 5, 5).to(DEVICE).contiguous(memory_format=torch.channels_last)
    assert run_block(x, (RELU, POOL)).grad_fn is None
    y = run_block(x.requires_grad_(), (RELU, POOL))
    assert y.grad_fn is not None
    kept = y.grad_fn.saved_tensors  # type: ignore[attr-defined]
    assert [(t.dtype, tuple(t.shape)) for t in kept] == [
        (torch.float64, (1, 4, 5, 5)),
        (torch.uint8, (1, 4, 2, 2)),  # one byte for each pooled value, and nothing else
    ]


def test_what_is_no_number_stays_none() -> None:
    x = random(1, 4, 5, 5).to(DEVICE)
    x[0, 1, 2, 2] = torch.nan
    with np.errstate(invalid="ignore"):
        for block in ((RELU, POOL), (POOL, RELU), (RELU, NORM)):
            ours, plain = run_block(x, block), plain_block(x, block)
            assert plain.isnan().any()
            torch.testing.assert_close(ours, plain, equal_nan=True)


@pytest.mark.fault(36)
def test_the_same_gradient_each_time() -> None:
    x = random(1, 8, 5, 5, dtype=torch.float32)
    first, second = (both(x, (RELU, NORM, POOL))[1][0] for _ in range(2))
    assert torch.equal(first, second)


def test_numerical_gradient() -> None:
    x = (random(1, 4, 1, 2) / 10).to(DEVICE).requires_grad_()
    block: Block = (replace(NORM, alpha=0.05), MaxPool(1, 1, ceil_mode=False))
    assert torch.autograd.gradcheck(lambda t: run_block(t, block), (x,), eps=1e-5, atol=1e-6)


def test_an_empty_batch() -> None:
    x = torch.zeros(0, 4, 5, 5, device=DEVICE, requires_grad=True)
    y = run_block(x, (RELU, NORM, MAPS, POOL))
    assert y.shape == (0, 4, 2, 2)
    y.sum().backward()  # type: ignore[no-untyped-call]


def test_channels_that_make_no_whole_groups_go_through_the_layers() -> None:
    for ours, plain in both(random(1, 6, 3, 3), (RELU, NORM)):
        assert torch.equal(ours, plain)


def test_blocks_are_cut_into_few_stages() -> None:
    assert stages((RELU, NORM, POOL)) == [Stage(relu=True, norm=NORM, pool=POOL)]
    assert stages((TOWERS, POOL, RELU)) == [Stage(norm=TOWERS, pool=POOL, relu_after=True)]
    assert stages((RELU, POOL, NORM)) == [Stage(relu=True, pool=POOL), Stage(norm=NORM)]
    assert stages((NORM, MAPS, POOL)) == [Stage(norm=NORM), MAPS, Stage(pool=POOL)]
    assert stages((NORM, RELU)) == [Stage(norm=NORM), Stage(relu=True)]


def test_what_is_supported() -> None:
    assert supports((RELU, TOWERS, MAPS, POOL))
    assert supports((POOL,))
    assert not supports(())
    assert not supports((RELU,))  # PyTorch does that in place
    assert not supports((replace(NORM, size=3),))
    assert not supports((RELU, MaxPool(17, 2, ceil_mode=False)))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools_have_as_many_windows_as_torchs(ceil_mode: bool) -> None:
    for size, stride in ((3, 2), (2, 2), (3, 1), (2, 3), (1, 2)):
        for side in range(3, 12):
            expected = F.max_pool2d(torch.zeros(1, 1, side, 3), size, stride, ceil_mode=ceil_mode)
            assert pooled_side(side, MaxPool(size, stride, ceil_mode)) == expected.shape[2]


# Batches.

SIZE, CROP = 14, 11
COLORS = ((0.5, 0.5, 0.7), (0.3, -0.8, 0.1), (0.2, 0.1, 0.9))
PREPROCESSING = Preprocessing(
    SIZE, CROP, random(3, SIZE, SIZE).float().abs(), (50.0, 10.0, 5.0), COLORS
).to(DEVICE)
NUMBERS = np.array([4, 1, 3, 0])


def images(count: int = 5) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return torch.from_numpy(pixels).to(DEVICE)


def prepared(
    settings: Settings, out: Tensor, *, pixel_format: PixelFormat = "rgb", before: int = 0
) -> tuple[Tensor, Tensor]:
    """Return a batch by the kernel and by `augment`."""
    draws = sample_augment(settings, PREPROCESSING, 1, NUMBERS)
    assert 0 < draws.flip.sum() < len(NUMBERS)  # both kinds are there
    table = windows(draws, NUMBERS, SIZE, CROP).to(DEVICE)
    shift = torch.from_numpy(draws.shift).to(DEVICE)
    divisor = 1 + settings.lighting if settings.lighting_rescale else 1.0
    pixels, rows = images(), images().flatten(1)
    if pixel_format == "yuv420":
        rows = to_yuv420(pixels)
        pixels = from_yuv420(rows, SIZE)
    prepare_batch(
        rows, table, shift, PREPROCESSING.mean, out,
        size=SIZE, pixel_format=pixel_format, before=before, divisor=divisor,
    )  # fmt: skip
    return out, augment(pixels[torch.from_numpy(NUMBERS)], draws, PREPROCESSING, settings)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_batch_is_exactly_that_of_augment(memory: torch.memory_format, rescale: bool) -> None:
    out = torch.empty(len(NUMBERS), 3, CROP, CROP, device=DEVICE).contiguous(memory_format=memory)
    ours, plain = prepared(Settings(seed=1, lighting_rescale=rescale), out)
    assert torch.equal(ours, plain)


def test_a_batch_in_half_precision() -> None:
    out = torch.empty(len(NUMBERS), 3, CROP, CROP, dtype=torch.float16, device=DEVICE)
    ours, plain = prepared(Settings(seed=1), out)
    assert torch.equal(ours, plain.half())


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_batch_rearranged_for_conv1(stride: int, before: int) -> None:
    side = -(-(before + CROP) // stride)
    out = torch.full((len(NUMBERS), 3 * stride**2, side, side), torch.nan, device=DEVICE)
    out = out.contiguous(memory_format=torch.channels_last)
    ours, plain = prepared(Settings(seed=1), out, before=before)
    after = side * stride - CROP - before
    zeros = F.pad(plain, (before, after, before, after))
    assert torch.equal(ours, F.pixel_unshuffle(zeros, stride))


@pytest.mark.parametrize("stride", [1, 4])
def test_a_batch_whose_colour_is_halved(stride: int) -> None:
    """Its pixels, made in the kernel, are those of the cache to the last bit."""
    side = -(-CROP // stride)
    out = torch.empty(len(NUMBERS), 3 * stride**2, side, side, device=DEVICE)
    ours, plain = prepared(Settings(seed=1), out, pixel_format="yuv420")
    zeros = side * stride - CROP
    assert torch.equal(ours, F.pixel_unshuffle(F.pad(plain, (0, zeros, 0, zeros)), stride))


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


# The update rule.


def parameters() -> list[nn.Parameter]:
    kernels = random(5, 3, 2, 2, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(t.to(DEVICE)) for t in (kernels, random(1500, dtype=torch.float32))]


def optimizer_of(weights: list[nn.Parameter]) -> PaperSGD:
    groups: list[dict[str, object]] = [
        {"params": [weights[0]], "weight_decay": 5e-4},
        {"params": [weights[1]], "weight_decay": 0.0},
    ]
    return PaperSGD(groups, lr=0.01)


def test_updates_are_those_of_the_paper() -> None:
    ours, plain = parameters(), parameters()
    fused, reference = optimizer_of(ours), optimizer_of(plain)
    copies: dict[Tensor, Tensor] = {p: p.detach().half() for p in ours}
    update = FusedUpdate(fused, copies)
    for step in range(4):
        gradients = [random(*p.shape, dtype=torch.float32, seed=step).to(DEVICE) for p in ours]
        for optimizer in (fused, reference):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            optimizer.param_groups[1]["lr"] = 0.0 if step == 2 else 0.02  # one stands still
        update.set_rates()
        update.update(gradients)
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
        for own, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(
                fused.state[own]["velocity"], reference.state[other]["velocity"],
                rtol=1e-6, atol=1e-7,
            )  # fmt: skip
            assert torch.equal(copies[own], own.half())


def test_an_update_that_is_called_off_changes_nothing() -> None:
    weights = parameters()
    update = FusedUpdate(optimizer_of(weights))
    before = [p.detach().clone() for p in weights]
    update.set_rates()
    update.apply_it.zero_()
    update.update([torch.full_like(p, torch.nan) for p in weights])
    assert all(torch.equal(p, old) for p, old in zip(weights, before, strict=True))
    update.apply_it.fill_(1)
    update.update([torch.ones_like(p) for p in weights])
    assert not any(torch.equal(p, old) for p, old in zip(weights, before, strict=True))


def test_velocities_of_a_checkpoint_are_put_in_the_parameters_order() -> None:
    weights = parameters()
    optimizer = optimizer_of(weights)
    saved = torch.randn(weights[0].shape)  # contiguous, the kernels are channels-last
    optimizer.state[weights[0]]["velocity"] = saved.to(DEVICE)
    FusedUpdate(optimizer)
    velocity = optimizer.state[weights[0]]["velocity"]
    assert velocity.stride() == weights[0].stride() != saved.stride()
    assert torch.equal(velocity.cpu(), saved)


def test_a_copy_in_another_order_is_refused() -> None:
    weights = parameters()
    wrong: dict[Tensor, Tensor] = {weights[0]: weights[0].detach().contiguous().half()}
    with pytest.raises(ValueError, match="ordered otherwise"):
        FusedUpdate(optimizer_of(weights), wrong)


def test_parameters_with_gaps_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(4, 4, device=DEVICE)[:, :2])
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        FusedUpdate(PaperSGD([weight], lr=0.1))


# The check of a device.

SMALL = (1, 8, 7, 7)


def test_the_check_accepts_these_kernels() -> None:
    cuda_check.check_blocks(DEVICE, shape=SMALL)
    for compare in (cuda_check._update, cuda_check._batch):
        cuda_check._refuse_wrong(DEVICE, compare(DEVICE))


def test_the_check_accepts_pytorchs_convolutions() -> None:
    cuda_check.check_convolutions(DEVICE)


def slightly_wrong(x: Tensor, block: Block) -> Tensor:
    return plain_block(x, block) * 1.001


def wrong_backwards(x: Tensor, block: Block) -> Tensor:
    return plain_block(x, block).detach() + 0 * x.mean()


def does_not_compile(x: Tensor, block: Block) -> Tensor:
    raise RuntimeError("ptxas failed\nwith many lines")


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (slightly_wrong, "computes relu, norm, pool wrongly .error 1.0e-03, at most 1e-04.; use"),
        (wrong_backwards, "computes the gradient of relu, norm, pool wrongly .* --plain"),
        (does_not_compile, r"cannot run the kernel of relu, norm, pool \(ptxas failed\).*--plain"),
    ],
)
def test_the_check_names_a_wrong_kernel(
    run: Callable[[Tensor, Block], Tensor], message: str
) -> None:
    with pytest.raises(WorkerError, match=message):
        cuda_check.check_blocks(DEVICE, shape=SMALL, run=run)


def test_the_check_names_a_wrong_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cuda_check._convolved

    def wrong(x: Tensor, weight: Tensor, conv: cuda_check.Convolution) -> tuple[Tensor, ...]:
        y, to_input, to_weight = right(x, weight, conv)
        return y, to_input, to_weight if x.dtype == torch.float64 else to_weight.roll(1)

    monkeypatch.setattr(cuda_check, "_convolved", wrong)
    with pytest.raises(WorkerError, match="computes the weights' of conv1 in float32 wrongly"):
        cuda_check.check_convolutions(DEVICE)


def test_a_check_on_nothing_would_fail() -> None:
    """The error of a kernel that returns nan, or zeros, is not within any limit."""
    for wrong in (torch.nan, 0.0):

        def run(x: Tensor, block: Block, factor: float = wrong) -> Tensor:
            return plain_block(x, block) * factor

        with pytest.raises(WorkerError):
            cuda_check.check_blocks(DEVICE, shape=SMALL, run=run)


# Compilation, which needs no GPU.

COMPILE = Path(__file__).with_name("compile_kernels.py")


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Triton brings its own compiler and assembler, so only the running needs a device."""
    backends = pytest.importorskip("triton.backends").backends
    if "nvidia" not in backends:
        pytest.skip("this triton has no NVIDIA backend")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(COMPILE)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert {name.split(":")[0] for name in built} >= {"forward", "backward", "batch", "update"}
    for name, facts in built.items():
        assert facts["spilled"] == 0, name
        assert facts["layout_conversions"] <= facts["allowed"], name
