"""What a step on a GPU consists of besides the blocks: update rules, loss, dropout, crops.

Without a GPU the kernels run in Triton's interpreter.
"""

import copy
from collections.abc import Callable

import dropout_makers
import numpy as np
import pytest
import torch
from test_kernels_cuda import (  # before Triton
    CROP,
    DEVICE,
    INDICES,
    PREPROCESSING,
    SIZE,
    images,
    random,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from alexnet.config import Settings
from alexnet.images.yuv420 import from_yuv420, to_yuv420
from alexnet.kernels.cuda.batch import crop_table, prepare_batch
from alexnet.kernels.cuda.dropout import BLOCK, SeededDropout, with_seeds
from alexnet.kernels.cuda.loss import cross_entropy
from alexnet.kernels.cuda.update import FusedUpdate, rule_of
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.optim import PaperSGD
from alexnet.train.lars import LARS
from alexnet.train.state import PixelFormat
from alexnet.transforms import augment, crop_matrices, sample_augment

# The update rules.

MakeOptimizer = Callable[[list[dict[str, object]]], Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "paper": lambda groups: PaperSGD(groups, lr=0.01),
    "sgd": lambda groups: SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": lambda groups: AdamW(groups, lr=0.01, betas=(0.9, 0.999), fused=True),
}


def parameters() -> list[nn.Parameter]:
    """Make kernels that are channels-last, several blocks, and a single number."""
    kernels = random(5, 3, 2, 2, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    others = [random(size, dtype=torch.float32) for size in (2500, 1)]
    return [nn.Parameter(t.to(DEVICE)) for t in (kernels, *others)]


def optimizer_of(name: str, weights: list[nn.Parameter]) -> Optimizer:
    groups: list[dict[str, object]] = [
        {"params": weights[:1], "weight_decay": 0.05},
        {"params": weights[1:], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups)


def gradients_of(weights: list[nn.Parameter], seed: int) -> list[Tensor]:
    return [random(*p.shape, dtype=torch.float32, seed=seed).to(DEVICE) for p in weights]


def reference_step(
    optimizer: Optimizer, weights: list[nn.Parameter], seed: int, clip_norm: float = 0
) -> None:
    for parameter, gradient in zip(weights, gradients_of(weights, seed), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(gradient)  # strides as autograd makes
    if clip_norm:
        nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()


def assert_same(
    ours: list[nn.Parameter], optimizer: Optimizer, others: list[nn.Parameter], reference: Optimizer
) -> None:
    for own, other in zip(ours, others, strict=True):
        torch.testing.assert_close(own, other, rtol=2e-6, atol=1e-5)
        assert optimizer.state[own].keys() == reference.state[other].keys()
        for key, value in reference.state[other].items():
            torch.testing.assert_close(optimizer.state[own][key], value, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_optimiser(name: str) -> None:
    ours, others = parameters(), parameters()
    optimizer, reference = optimizer_of(name, ours), optimizer_of(name, others)
    copies: dict[Tensor, Tensor] = {p: p.detach().half() for p in ours}
    update = FusedUpdate(optimizer, copies)
    for step in range(4):
        for each in (optimizer, reference):
            each.param_groups[0]["lr"] = 0.01 / (1 + step)
            each.param_groups[1]["lr"] = 0.0 if step == 2 else 0.02  # 0: the paper's rule stops
        update.set_rates()
        update.update(gradients_of(ours, step))
        reference_step(reference, others, step)
        assert_same(ours, optimizer, others, reference)
        assert all(torch.equal(copies[own], own.half()) for own in ours)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_either_continues_the_other(name: str) -> None:
    """The state is the optimiser's own, so a checkpoint does not tell who trained."""
    ours, others = parameters(), parameters()
    optimizer, reference = optimizer_of(name, ours), optimizer_of(name, others)
    reference_step(optimizer, ours, 0)
    update = FusedUpdate(optimizer)
    update.set_rates()
    update.update(gradients_of(ours, 1))
    reference_step(optimizer, ours, 2)
    for seed in range(3):
        reference_step(reference, others, seed)
    assert_same(ours, optimizer, others, reference)


def measured(
    update: FusedUpdate, gradients: list[Tensor], *, active: float = 1, clip_norm: float = 0
) -> Tensor:
    """Make a step with losses 1, 2 and 3; return its results."""
    results = torch.zeros(2, device=DEVICE)
    update.step(
        gradients,
        torch.tensor([1.0, 2, 3], device=DEVICE),
        results,
        rates=torch.from_numpy(update.next_rates()).to(DEVICE),
        active=torch.full((1,), active, device=DEVICE),
        clip_norm=clip_norm,
    )
    return results


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e6])
def test_a_step_is_measured_and_its_gradient_limited(clip_norm: float) -> None:
    ours, others = parameters(), parameters()
    update, reference = FusedUpdate(optimizer_of("sgd", ours)), optimizer_of("sgd", others)
    loss, norm = measured(update, gradients_of(ours, 1), clip_norm=clip_norm).tolist()
    assert loss == 2
    expected = nn.utils.get_total_norm(gradients_of(others, 1))
    assert norm == pytest.approx(expected.item(), rel=1e-6)
    reference_step(reference, others, 1, clip_norm)
    assert_same(ours, update.optimizer, others, reference)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("why", ["inactive", "a NaN", "an infinite number"])
def test_a_step_that_must_not_change_anything(name: str, why: str) -> None:
    weights = parameters()
    optimizer = optimizer_of(name, weights)
    update = FusedUpdate(optimizer)
    gradients = gradients_of(weights, 0)
    before = copy.deepcopy([p.detach() for p in weights]), copy.deepcopy(optimizer.state_dict())
    if why != "inactive":
        gradients[1][3] = torch.nan if why == "a NaN" else torch.inf
    with np.errstate(invalid="ignore"):
        measured(update, gradients, active=float(why != "inactive"))
    assert all(torch.equal(p, old) for p, old in zip(weights, before[0], strict=True))
    for number, state in before[1]["state"].items():
        for key, value in state.items():
            assert torch.equal(optimizer.state_dict()["state"][number][key], value)
    measured(update, gradients_of(weights, 0))
    assert not any(torch.equal(p, old) for p, old in zip(weights, before[0], strict=True))


def test_captured_updates_read_the_addresses_of_their_capture() -> None:
    """As in a graph: the kernel runs again, on memory that was filled anew, after other updates."""
    weights, others = parameters(), parameters()
    update = FusedUpdate(optimizer_of("paper", weights), slots=2)
    reference = FusedUpdate(optimizer_of("paper", others))
    captured = [[torch.zeros_like(p) for p in weights] for _ in range(2)]
    rows = [update._locate(gradients, slot) for slot, gradients in enumerate(captured)]
    update.end_capture()
    for seed, slot in enumerate([1, 0, None, 1]):
        update.set_rates()
        reference.set_rates()
        gradients = gradients_of(weights, seed)
        if slot is None:
            update.update(gradients)
        else:
            for there, values in zip(captured[slot], gradients, strict=True):
                there.copy_(values)
            update._update(rows[slot], torch.float32, update.rates)
        reference.update(gradients)
        assert_same(weights, update.optimizer, others, reference.optimizer)


def test_velocities_of_a_checkpoint_take_the_parameters_strides() -> None:
    weights = parameters()
    optimizer = optimizer_of("paper", weights)
    saved = torch.randn(weights[0].shape)  # contiguous, the kernels are channels-last
    optimizer.state[weights[0]]["velocity"] = saved.to(DEVICE)
    FusedUpdate(optimizer)
    velocity = optimizer.state[weights[0]]["velocity"]
    assert velocity.stride() == weights[0].stride() != saved.stride()
    assert torch.equal(velocity.cpu(), saved)


def test_a_copy_with_other_strides_is_refused() -> None:
    weights = parameters()
    wrong: dict[Tensor, Tensor] = {weights[0]: weights[0].detach().contiguous().half()}
    with pytest.raises(ValueError, match="has other strides"):
        FusedUpdate(optimizer_of("paper", weights), wrong)


def test_parameters_with_gaps_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(4, 4, device=DEVICE)[:, :2])
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        FusedUpdate(PaperSGD([weight], lr=0.1))


@pytest.mark.parametrize("kind", [LARS, SGD])
def test_optimisers_without_a_kernel_are_refused(kind: type[Optimizer]) -> None:
    optimizer = kind(parameters(), lr=0.1)  # type: ignore[call-arg]
    assert rule_of(optimizer) is None
    with pytest.raises(ValueError, match="has no kernel"):
        FusedUpdate(optimizer)


# The loss.


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cross_entropy_and_its_gradient(label_smoothing: float, dtype: torch.dtype) -> None:
    logits = (random(7, 11) / 5).to(dtype).to(DEVICE)
    labels = torch.arange(7, device=DEVICE)
    losses, gradient = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    given = logits.double().requires_grad_()
    expected = F.cross_entropy(given, labels, reduction="none", label_smoothing=label_smoothing)
    (slope,) = torch.autograd.grad(expected.mean(), given)
    assert (losses.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, slope.to(dtype), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_makes_the_loss_so(wrong: float) -> None:
    logits = torch.zeros(3, 5, device=DEVICE)
    logits[1, 2] = wrong
    with np.errstate(invalid="ignore"):
        losses, _ = cross_entropy(logits, torch.zeros(3, dtype=torch.int64, device=DEVICE))
    assert losses.isfinite().tolist() == [True, False, True]


# Dropout.


def dropped(layer: SeededDropout, seed: int, count: int = 5000) -> Tensor:
    layer.seed = torch.tensor([seed], device=DEVICE)
    result: Tensor = layer(torch.ones(count, device=DEVICE))
    return result


def test_philox_is_that_of_its_authors() -> None:
    """The first and the last known answer of Random123 for philox4x32-10."""
    zeros = dropout_makers.philox(0, np.zeros((4, 1), np.uint32))
    assert [hex(number) for number in zeros[:, 0]] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8",
    ]  # fmt: skip
    counters = np.array([[0x243F6A88], [0x85A308D3], [0x13198A2E], [0x03707344]], np.uint32)
    digits = dropout_makers.philox(0x299F31D0A4093822, counters)
    assert [hex(number) for number in digits[:, 0]] == [
        "0xd16cfe09", "0x94fdcceb", "0x5001e420", "0x24126ea1",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 7, 2**62 + 12345])
def test_dropout_draws_philoxs_numbers(seed: int) -> None:
    for number in (0, 3):
        ours = dropped(SeededDropout(0.3, 1 / 0.7, number), seed).cpu()
        kept = dropout_makers.uniforms(seed, number, len(ours)) >= 0.3
        assert torch.equal(ours, kept / torch.tensor(0.7))
        assert 0.28 < 1 - kept.float().mean() < 0.32


def test_dropout_differs_between_steps_and_layers_and_is_the_same_again() -> None:
    layer = SeededDropout(0.5, 2.0, 0)
    first = dropped(layer, 1)
    assert torch.equal(dropped(layer, 1), first)
    for other in (dropped(layer, 2), dropped(SeededDropout(0.5, 2.0, 1), 1)):
        assert 0.45 < (other == first).float().mean() < 0.55


def test_the_gradient_passes_where_the_value_did() -> None:
    layer = SeededDropout(0.5, 2.0, 0)
    layer.seed = torch.tensor([5], device=DEVICE)
    x = random(3, BLOCK, dtype=torch.bfloat16).to(DEVICE).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(y, x * gradient)
    assert set(gradient.flatten().tolist()) == {0, 2}


def test_rows_are_shared_and_the_papers_dropout_does_not_scale() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.25), PaperDropout(0.5)).to(DEVICE)
    rows, seeded = with_seeds(model)
    assert rows[0] is model[0]
    assert [(layer.p, layer.scale, layer.layer) for layer in seeded] == [
        (0.25, 1 / 0.75, 0), (0.5, 1.0, 1),
    ]  # fmt: skip
    assert not isinstance(model[1], SeededDropout)


# Crops of any size.


@pytest.mark.parametrize("pixel_format", ["rgb", "yuv420"])
@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_scaled_crops_are_those_of_augment(pixel_format: PixelFormat, scale: float) -> None:
    settings = Settings(seed=1, min_crop_scale=scale)
    params = sample_augment(settings, PREPROCESSING, 1, INDICES)
    assert 0 < params.flip.sum() < len(INDICES)
    pixels, rows = images(), images().flatten(1)
    if pixel_format == "yuv420":
        rows = to_yuv420(pixels)
        pixels = from_yuv420(rows, SIZE)
    out = torch.empty(len(INDICES), 3, CROP, CROP, device=DEVICE)
    prepare_batch(
        rows,
        crop_table(params, INDICES, SIZE, CROP).to(DEVICE),
        torch.from_numpy(params.shift).to(DEVICE),
        PREPROCESSING.mean,
        out,
        size=SIZE,
        pixel_format=pixel_format,
        matrices=torch.from_numpy(crop_matrices(params)).to(DEVICE),
    )
    expected = augment(pixels[torch.from_numpy(INDICES)], params, PREPROCESSING, settings)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-3)  # of 255: float32's rounding
