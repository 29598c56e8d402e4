"""Blocks on a CPU against PyTorch's own layers, numbers worked by hand and numerical gradients."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from alexnet.kernels.blocks import Block, ChannelNorm, MaxPool, Relu, SpatialNorm, operation_of
from alexnet.kernels.cpu.blocks import run_block, supports
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm

RELU, POOL, CEIL_POOL = nn.ReLU(), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, ceil_mode=True)
NORM = LocalResponseNorm(alpha=1e-3)
TOWERS = LocalResponseNorm(alpha=1e-3, k=1, towers=2)
BLOCKS: dict[str, list[nn.Module]] = {
    "paper": [RELU, NORM, POOL],
    "caffenet": [RELU, POOL, NORM],
    "2012, layer 1": [TOWERS, POOL, RELU],
    "2012, layer 2": [RELU, TOWERS],
    "within maps": [SpatialResponseNorm(alpha=1e-3)],
    "no normalisation": [RELU, POOL],
    "2012, layer 5": [POOL, RELU],
    "cifar10": [RELU, NORM, CEIL_POOL],
    "no overlap": [RELU, NORM, nn.MaxPool2d(2, 2, ceil_mode=True)],
    "normalisation alone": [TOWERS],
    "pool alone": [nn.MaxPool2d(3, 1)],
    "after the pool, then ReLU": [CEIL_POOL, TOWERS, RELU],
}


def block_of(layers: list[nn.Module]) -> Block:
    operations = [operation_of(layer) for layer in layers]
    return tuple(operation for operation in operations if operation is not None)


def signed(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(sum(shape))
    return (torch.randn(shape, dtype=torch.float64) * 40).to(dtype)


def with_gradient(function: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function's result and the gradient of a sum with fixed random factors."""
    x = x.detach().requires_grad_()
    y = function(x)  # type: ignore[operator]
    torch.manual_seed(5)
    factors = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, x, factors)[0]


@pytest.mark.parametrize("size", [(7, 7), (8, 6), (9, 10)])
@pytest.mark.parametrize("order", BLOCKS)
def test_a_block_is_its_layers(order: str, size: tuple[int, int]) -> None:
    layers = BLOCKS[order]
    assert supports(block_of(layers))
    x = signed(3, 12, *size)
    ours = with_gradient(lambda x: run_block(x, block_of(layers)), x)
    theirs = with_gradient(nn.Sequential(*layers), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_bias_is_added_first() -> None:
    x, bias, block = signed(2, 6, 5, 5), signed(6), block_of(BLOCKS["paper"])
    expected = run_block(x + bias[:, None, None], block)
    assert torch.equal(run_block(x, block, bias), expected)


@pytest.mark.parametrize("order", BLOCKS)
def test_gradients_are_the_numerical_ones(order: str) -> None:
    block = block_of(BLOCKS[order])
    # Six channels: each is at most two from an edge or from the border of a tower of three.
    x = signed(2, 6, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run_block(x, block), x)


@pytest.mark.parametrize("order", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_every_type_and_memory_format(
    order: str, dtype: torch.dtype, memory: torch.memory_format
) -> None:
    layers = BLOCKS[order]
    x = signed(2, 12, 7, 7, dtype=dtype).contiguous(memory_format=memory)
    y, gradient = with_gradient(lambda x: run_block(x, block_of(layers)), x)
    exact, exact_gradient = with_gradient(nn.Sequential(*layers), x.double())
    assert y.dtype == gradient.dtype == dtype
    assert y.is_contiguous(memory_format=memory)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=2 * eps, atol=1e-5)
    # Half precision makes ties, so that another pixel may be the largest: compare the sums.
    torch.testing.assert_close(
        gradient.double().sum((2, 3)), exact_gradient.sum((2, 3)), rtol=1e-2, atol=20 * eps
    )


def test_normalisation_by_hand() -> None:
    x = torch.tensor([3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 1.0], dtype=torch.float64).view(1, 7, 1, 1)
    block = (ChannelNorm(size=5, alpha=1.0, beta=0.75, k=7.0, towers=1),)
    # The squares around channel 0 add up to 9, around 3 to 16, around 6 to 1: d is 16, 23, 8.
    expected = torch.zeros_like(x)
    expected[0, [0, 3, 6], 0, 0] = torch.tensor(
        [3 / 8, 4 / 23**0.75, 1 / 8**0.75], dtype=torch.float64
    )
    torch.testing.assert_close(run_block(x, block), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("order", ["no normalisation", "2012, layer 5", "pool alone"])
def test_the_first_of_equal_maxima_gets_the_gradient(order: str) -> None:
    torch.manual_seed(0)
    x = torch.randint(-1, 2, (4, 8, 9, 9)).double()  # nearly every window has several
    ours = with_gradient(lambda x: run_block(x, block_of(BLOCKS[order])), x)
    theirs = with_gradient(nn.Sequential(*BLOCKS[order]), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


def test_equal_maxima_after_a_normalisation() -> None:
    x = torch.full((1, 5, 3, 3), 2.0, dtype=torch.float64)
    y, gradient = with_gradient(lambda x: run_block(x, block_of([NORM, POOL])), x)
    assert y.shape == (1, 5, 1, 1)
    assert (gradient[:, :, 0, 0] != 0).all()
    assert gradient.flatten(2)[:, :, 1:].count_nonzero() == 0


@pytest.mark.parametrize("order", BLOCKS)
def test_a_nan_is_not_lost(order: str) -> None:
    x = signed(2, 8, 7, 7)
    x[0, 3, 3, 3] = float("nan")
    ours = run_block(x, block_of(BLOCKS[order]))
    theirs = nn.Sequential(*BLOCKS[order])(x)
    assert theirs[0].isnan().any()
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_an_image_does_not_depend_on_its_neighbours_and_threads() -> None:
    block, x = block_of(BLOCKS["paper"]), signed(5, 12, 9, 9, dtype=torch.float32)
    alone = torch.cat([run_block(image[None], block) for image in x])
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            assert torch.equal(run_block(x, block), alone)
    finally:
        torch.set_num_threads(1)


def test_several_threads_may_call_at_once() -> None:
    block, x = block_of(BLOCKS["caffenet"]), signed(6, 12, 9, 9, dtype=torch.float32)
    expected = with_gradient(lambda x: run_block(x, block), x)

    def repeat(_: int) -> bool:
        results = [with_gradient(lambda x: run_block(x, block), x) for _ in range(20)]
        return all(torch.equal(y, expected[0]) for y, _ in results)

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(repeat, range(4)))
    finally:
        torch.set_num_threads(1)


def test_a_forked_process_continues() -> None:
    code = """
        import os, torch
        from alexnet.kernels.cpu.blocks import run_block
        from alexnet.kernels.blocks import MaxPool, Relu
        torch.set_num_threads(2)
        x = torch.ones(4, 3, 5, 5)
        before = run_block(x, (Relu(), MaxPool(3, 2, False)))
        child = os.fork()
        after = run_block(x, (Relu(), MaxPool(3, 2, False)))
        if child == 0:
            os._exit(7 if torch.equal(before, after) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_an_empty_batch_has_a_shape() -> None:
    x = torch.empty(0, 12, 9, 9, requires_grad=True)
    y = run_block(x, block_of(BLOCKS["paper"]))
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.shape == (0, 12, 4, 4)
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "block",
    [
        (),
        (Relu(),),
        (MaxPool(3, 2, ceil_mode=False), MaxPool(3, 2, ceil_mode=False)),
        (ChannelNorm(3, 1e-4, 0.75, 2, 1),),
        (ChannelNorm(5, 1e-4, 0.5, 2, 1),),
        (MaxPool(2, 3, ceil_mode=False),),
        (Relu(), ChannelNorm(5, 1e-4, 0.75, 2, 1), SpatialNorm(5, 1e-4, 0.75)),
        (SpatialNorm(3, 1e-4, 0.75),),
    ],
)
def test_other_blocks_are_not_supported(block: Block) -> None:
    assert not supports(block)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d((3, 2), 2),
        nn.MaxPool2d(3, 2, dilation=2),
        nn.MaxPool2d(3, 2, return_indices=True),
        nn.Tanh(),
        nn.LocalResponseNorm(5),
    ],
)
def test_other_layers_are_no_operations(layer: nn.Module) -> None:
    assert operation_of(layer) is None


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("size", "stride"), [(3, 2), (2, 2), (3, 1), (1, 1), (4, 3), (2, 3), (1, 2)]
)
def test_pools_have_as_many_windows_as_torch_s(size: int, stride: int, ceil_mode: bool) -> None:
    for length in range(size, 14):
        theirs = nn.MaxPool2d(size, stride, ceil_mode=ceil_mode)(torch.zeros(1, length, length))
        assert MaxPool(size, stride, ceil_mode).output_side(length) == theirs.shape[-1]
