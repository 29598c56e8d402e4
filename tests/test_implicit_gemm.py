"""The implicit-GEMM kernels against PyTorch's convolution in float64, and as the tuner uses them.

Without a GPU they run in Triton's interpreter, which cannot multiply bfloat16: there float16 stands
for both 16-bit types, and the compiler is asked about bfloat16.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
pytest.importorskip("triton")

from alexnet.kernels.conv_forms import TILES, ConvAlgorithm, Tile  # noqa: E402
from alexnet.kernels.convolutions import convolve  # noqa: E402
from alexnet.kernels.cuda import implicit_gemm  # noqa: E402
from alexnet.kernels.cuda.autotune import Autotuner  # noqa: E402
from alexnet.kernels.tuning_cache import TuningCache  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SMALL = Tile(16, 64, 32, 4, 2)
"""Several programs even for small images, and sums of several parts."""
ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(ROUNDING) if ON_GPU else [torch.float32, torch.float16]
CASES = {
    "3 x 3": (nn.Conv2d(3, 5, 3, padding=1), (6, 5)),
    "5 x 5 of two groups": (nn.Conv2d(8, 12, 5, padding=2, groups=2), (7, 6)),
    "1 x 1 of three groups": (nn.Conv2d(6, 9, 1, groups=3), (5, 4)),
    "no padding": (nn.Conv2d(4, 20, 3, bias=False), (5, 7)),
    "more padding than the window": (nn.Conv2d(2, 3, (2, 1), padding=(2, 1)), (3, 4)),
    "whole pieces": (nn.Conv2d(32, 32, (2, 4), padding=(1, 0), groups=2), (4, 6)),
    "a window as large as the image": (nn.Conv2d(2, 3, 4), (4, 4)),
}


def values_and_gradients(y: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Return `y` and the gradients of the sum of its squares."""
    return [y, *torch.autograd.grad(y.square().sum(), wanted)]


def passes(
    x: Tensor, weight: Tensor, gradient: Tensor, conv: nn.Conv2d, tile: Tile
) -> list[Tensor]:
    """Return the results of the three passes."""
    padding = (int(conv.padding[0]), int(conv.padding[1]))
    return [
        implicit_gemm.convolve(x, weight, padding, tile),
        implicit_gemm.input_gradient(gradient, weight, x.shape, padding, tile),
        implicit_gemm.weight_gradient(gradient, x, weight.shape, padding, tile),
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tile", [SMALL, TILES[0]], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_pass_is_that_of_the_convolution(case: str, tile: Tile, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and tile is TILES[0] and ON_GPU:
        pytest.skip("this tile of float32 is larger than the shared memory")
    conv, size = CASES[case]
    x = torch.randn(3, conv.in_channels, *size).to(dtype)
    weight = torch.randn(conv.weight.shape).to(dtype)
    inputs = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = F.conv2d(*inputs, padding=conv.padding, groups=conv.groups)
    gradient = torch.randn(expected.shape).to(dtype)
    reference = [expected, *torch.autograd.grad(expected, inputs, gradient.double())]
    found = passes(x.to(DEVICE), weight.to(DEVICE), gradient.to(DEVICE), conv, tile)
    for ours, exact in zip(found, reference, strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        error = (ours.cpu().double() - exact).norm() / exact.norm()
        assert error < ROUNDING[dtype]


def test_the_bits_are_the_same_each_time() -> None:
    conv, size = CASES["5 x 5 of two groups"]
    x, gradient = (torch.randn(8, n, *size, device=DEVICE).half() for n in (8, 12))
    weight = torch.randn(conv.weight.shape, device=DEVICE).half()
    first = passes(x, weight, gradient, conv, SMALL)
    for once, again in zip(first, passes(x, weight, gradient, conv, SMALL), strict=True):
        assert torch.equal(once, again)


def test_no_images_give_no_pixels_and_a_gradient_of_0() -> None:
    conv = nn.Conv2d(4, 6, 3)
    x, gradient = torch.zeros(0, 4, 5, 5, device=DEVICE), torch.zeros(0, 6, 3, 3, device=DEVICE)
    y, by_x, by_weight = passes(x, conv.weight.detach().to(DEVICE), gradient, conv, SMALL)
    assert y.shape == gradient.shape
    assert by_x.shape == x.shape
    assert not by_weight.any()


ALGORITHMS = {
    "our kernel": ConvAlgorithm.uniform(SMALL),
    "ours between others": ConvAlgorithm("filled", SMALL, "split"),
    "others between ours": ConvAlgorithm(SMALL, "filled", SMALL),
    "filled weights for gradients only": ConvAlgorithm("split", "filled", "filled"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
@pytest.mark.parametrize("frozen", [False, True])
def test_passes_of_different_forms_make_one_convolution(
    algorithm: ConvAlgorithm, frozen: bool
) -> None:
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=2).to(DEVICE)
    conv.weight.requires_grad_(not frozen)
    x = torch.randn(2, 8, 5, 6, device=DEVICE, requires_grad=True)
    wanted = [tensor for tensor in (x, *conv.parameters()) if tensor.requires_grad]
    results = [values_and_gradients(y, wanted) for y in (convolve(x, conv, algorithm), conv(x))]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_images_in_squares_run_through_the_kernel() -> None:
    conv = nn.Conv2d(3, 16, 5, stride=2, padding=1).to(DEVICE)
    algorithm = ConvAlgorithm(SMALL, SMALL, SMALL, space_to_depth=True)
    x = torch.randn(2, 3, 9, 8, device=DEVICE, requires_grad=True)
    wanted = [x, *conv.parameters()]
    results = [values_and_gradients(y, wanted) for y in (convolve(x, conv, algorithm), conv(x))]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_the_kernel_is_chosen_for_the_pass_in_which_it_is_fastest(tmp_path: Path) -> None:
    conv = nn.Conv2d(32, 64, 3, padding=1, groups=2).to(DEVICE, torch.float16)
    x = torch.randn(2, 32, 5, 5, device=DEVICE, dtype=torch.float16, requires_grad=True)
    times = iter([3.0, 2.0, 2.0, 1.0, *(2.0,) * 99])

    def timer(work: Callable[[], object]) -> float:
        work()
        return next(times)

    algorithm = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", timer)(x, conv)
    assert isinstance(algorithm.forward, Tile)
    assert algorithm.input_gradient == algorithm.weight_gradient == "grouped"
    kept = json.loads((tmp_path / "gpus.json").read_text())
    assert str(algorithm.forward) in kept.values()
    again = Autotuner(TuningCache(tmp_path / "gpus.json"), "a GPU", timer)
    assert again(x, conv) == algorithm


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Tensor cores are fed from shared memory, which is filled in pieces of 16 bytes."""
    backends = pytest.importorskip("triton.backends").backends
    if "nvidia" not in backends:
        pytest.skip("this triton has no NVIDIA backend")
    script = Path(__file__).with_name("compile_convolutions.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert len(built) == 3 * len(TILES)
    for name, facts in built.items():
        assert facts["spilled"] == 0, name
        assert facts["shared_memory"] <= implicit_gemm.SHARED_MEMORY, name
        assert facts["tensor_core_products"] > 0, name
        assert facts["bytes_of_copies"] == [16], name
        assert facts["layout_conversions"] <= 1, f"{name}: one, of the result"
