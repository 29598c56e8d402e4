"""bfloat16 on a CPU: blocks round as PyTorch does, training follows float32, `auto` measures."""

from collections.abc import Callable

import pytest
import torch
from network_makers import shrunk
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import Settings
from alexnet.kernels import accelerate
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.blocks import Block, ChannelNorm, MaxPool, Relu
from alexnet.kernels.cpu import precision
from alexnet.kernels.cpu.blocks import run_block
from alexnet.networks.registry import create_model
from alexnet.optim import make_optimizer

NORM, POOL = ChannelNorm(5, 1e-4, 0.75, 2.0, towers=1), MaxPool(3, 2, ceil_mode=False)
BLOCKS: dict[str, Block] = {
    "paper": (Relu(), NORM, POOL),
    "caffenet": (Relu(), POOL, NORM),
    "pool, then ReLU": (POOL, Relu()),
    "normalisation": (NORM,),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_that_of_float32_rounded(name: str) -> None:
    block = BLOCKS[name]
    torch.manual_seed(0)
    x = (torch.randn(3, 12, 9, 9) * 40).bfloat16()
    x[0, 0, 0, 0], x[0, 1, 4, 4], x[1, 5, 5, 5] = float("inf"), float("-inf"), 3.3e38
    narrow, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    y, exact = run_block(narrow, block), run_block(wide, block)
    torch.testing.assert_close(y, exact.bfloat16(), rtol=0, atol=0, equal_nan=True)
    g = torch.randn(y.shape).bfloat16()
    (found,), (expected,) = (
        torch.autograd.grad(result, given, g.to(result.dtype))
        for result, given in ((y, narrow), (exact, wide))
    )
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_a_nan_stays_one_whatever_its_bits() -> None:
    bits = torch.tensor([0x7F81, -1, 0x7FFF, 0x7FC0], dtype=torch.int16).view(1, 4, 1, 1)
    assert run_block(bits.view(torch.bfloat16), (MaxPool(1, 1, ceil_mode=False),)).isnan().all()


# Training.


def losses(dtype: torch.dtype, seed: int, steps: int = 200) -> Tensor:
    """Train a small network on noisy images of three kinds; return the losses."""
    torch.manual_seed(0)
    model = shrunk("alexnet_small", 8).float().train()
    network = accelerate(model)
    optimizer = make_optimizer(model, Settings(lr=0.001, optimizer="adamw"))
    kinds, values = torch.randn(3, *image_shape(model)) * 30, []
    for step in range(steps):
        torch.manual_seed(1000 * seed + step)
        labels = torch.randint(3, (8,))
        images = kinds[labels] + torch.randn(8, *kinds.shape[1:]) * 60
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(loss.detach())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return torch.stack(values)


def image_shape(model: nn.Sequential) -> tuple[int, int, int]:
    shape = model.get_submodule("input").shape
    assert isinstance(shape, tuple)
    return shape


def test_losses_over_200_steps_follow_those_of_float32() -> None:
    exact, narrow = losses(torch.float32, 1), losses(torch.bfloat16, 1)
    other = losses(torch.float32, 2)
    assert exact[-50:].mean() < 0.7 * exact[:20].mean()  # it learns, so the curves mean something
    assert (narrow - exact).abs().mean() < 0.5 * (other - exact).abs().mean()
    assert abs(narrow[-50:].mean() - exact[-50:].mean()) < 0.1 * exact[:20].mean()


def test_two_trainings_in_bfloat16_have_the_same_bits() -> None:
    assert torch.equal(losses(torch.bfloat16, 3, steps=10), losses(torch.bfloat16, 3, steps=10))


# The choice.


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that decides which precision is the fastest, after running both."""

    def decide(name: str) -> None:
        def fastest(_name: str, forms: dict[str, Callable[[], object]]) -> str:
            for run in forms.values():
                run()
            return name

        monkeypatch.setattr(precision, "fastest", fastest)
        monkeypatch.setattr(precision, "cpu_facts", lambda: {"flags": "fpu avx512_bf16"})

    return decide


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_network_takes_the_faster_precision_and_is_left_as_it_was(
    name: str, chosen: Callable[[str], None]
) -> None:
    chosen(name)
    model = create_model("alexnet_small", 3, ablate={"norm": "batch"}).train()
    network = accelerate(model)
    assert isinstance(network, AcceleratedNetwork)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert network.training_precision(4) == name
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("flags", ["fpu avx2", ""])
def test_other_processors_train_in_float32_without_a_measurement(
    flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_facts", lambda: {"flags": flags})
    monkeypatch.setattr(precision, "fastest", None)
    network = accelerate(shrunk("alexnet_small", 4).float())
    assert isinstance(network, AcceleratedNetwork)
    assert network.training_precision(4) == "float32"
