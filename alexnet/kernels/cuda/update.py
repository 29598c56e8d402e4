"""Update rules on a GPU: every parameter of a network in one launch of one Triton kernel.

The kernel reads weight, state and gradient once, and writes weight and state once, and a copy of
the weight in the type of the forward pass. A table in device memory has the addresses of all
tensors. Learning rates are read from device memory too, as is whether to update at all, so that a
captured step (a CUDA graph) can change both. `Gradients` has the norm, measured the same way.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from alexnet.optim import PaperSGD

BLOCK = 1024
"""Weights updated by one program."""
PARTS = 1024
"""Partial sums of the gradient's norm, at most."""
FACTORS = 12
"""Numbers of a row of the table of rates; each rule says what they are."""
ALIGNMENT = 16
"""Bytes: a program reads so many at a time."""
TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

Group = dict[str, Any]


class Rule(NamedTuple):
    """What the kernel must know of an optimiser."""

    name: str
    states: tuple[str, ...]
    """Names of its tensors of a parameter's shape in `Optimizer.state`; one or two."""
    factors: Callable[[Group, int], Sequence[float]]
    """Returns the numbers of a group's row of rates for an update, the first being 1."""


def _paper_factors(group: Group, number: int) -> Sequence[float]:  # noqa: ARG001 - as the others
    return -group["weight_decay"] * group["lr"], -group["lr"], group["momentum"]


def _nesterov_factors(group: Group, number: int) -> Sequence[float]:  # noqa: ARG001
    return group["weight_decay"], -group["lr"], group["momentum"]


def _adamw_factors(group: Group, number: int) -> Sequence[float]:
    """Correct for the moments' start at 0 as torch.optim.AdamW does, in double precision."""
    beta1, beta2 = group["betas"]
    rate = group["lr"] / (1 - beta1**number)
    return (
        1 - group["lr"] * group["weight_decay"],
        -rate, beta1, 1 - beta1, beta2, 1 - beta2, (1 - beta2**number) ** -0.5, group["eps"],
        number,
    )  # fmt: skip


PAPER = Rule("paper", ("velocity",), _paper_factors)
NESTEROV = Rule("nesterov", ("momentum_buffer",), _nesterov_factors)
ADAMW = Rule("adamw", ("exp_avg", "exp_avg_sq"), _adamw_factors)


def rule_of(optimizer: Optimizer) -> Rule | None:
    """Return the rule of an optimiser that `alexnet.optim` makes; None if it has no kernel."""
    match optimizer:
        case PaperSGD():
            return PAPER
        case SGD() if all(group["nesterov"] for group in optimizer.param_groups):
            return NESTEROV
        case AdamW():
            return ADAMW
    return None


class FusedUpdate:
    """The updates of `optimizer`, with its own groups and state.

    `copies` maps all parameters to tensors of one other type that each update sets to the new
    weights.
    `slots` is how many captured updates there are, each with gradients at addresses of its own.
    Create this after a checkpoint was loaded, since it refers to the tensors of that moment.
    Raises `ValueError` for parameters with gaps in memory, for copies with other strides, and for
    an optimiser without a kernel.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        copies: Mapping[Tensor, Tensor] | None = None,
        *,
        slots: int = 0,
    ) -> None:
        rule = rule_of(optimizer)
        if rule is None:
            raise ValueError(f"{type(optimizer).__name__} has no kernel")
        self.optimizer, self.rule, self.copies = optimizer, rule, dict(copies or {})
        self.groups = [
            (group, parameter) for group in optimizer.param_groups for parameter in group["params"]
        ]
        self.updates_done = [self._prepare_state(parameter) for parameter in self.parameters]
        self.copy_type = next((TYPES[copy.dtype] for copy in self.copies.values()), None)
        device, count = self.parameters[0].device, len(self.groups)
        self.tensors = torch.tensor([self._row(p) for p in self.parameters]).to(device)
        self.chunks = _chunks(self.parameters).to(device)
        self.gradients = torch.zeros(slots + 1, count, dtype=torch.int64, device=device)
        """Addresses of gradients: a row for each slot, and one for updates outside of a graph."""
        self.captured: dict[int, list[int]] = {}
        """Those of a capture, until `end_capture` writes them to `gradients`."""
        self.partial_sums = torch.zeros(min(PARTS, len(self.chunks)), device=device)
        self.rates = torch.zeros(count, FACTORS, device=device)
        """The rates of `set_rates`."""
        self.scale = torch.ones((), device=device)
        """What gradients are multiplied by; 0 means that `update` changes nothing."""

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters in the order in which `update` takes their gradients."""
        return [parameter for _, parameter in self.groups]

    def next_rates(self) -> NDArray[np.float32]:
        """Return the rates of the next update, which is counted: (parameters, FACTORS)."""
        rates = np.zeros((len(self.groups), FACTORS), np.float32)
        for row, (group, _) in enumerate(self.groups):
            self.updates_done[row] += 1
            factors = self.rule.factors(group, self.updates_done[row])
            rates[row, : len(factors)] = factors
        return rates

    def set_rates(self) -> None:
        """Copy the rates of the next update to the device."""
        self.rates.copy_(torch.from_numpy(self.next_rates()))

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Update every parameter by its gradient; all gradients have one float type."""
        gradients = self._laid_out(gradients)
        self._update(self._locate(gradients), gradients[0].dtype, self.rates)

    def step(
        self,
        gradients: Sequence[Tensor],
        losses: Tensor,
        results: Tensor,
        *,
        rates: Tensor,
        active: Tensor,
        clip_norm: float = 0.0,
        slot: int | None = None,
    ) -> None:
        """Measure a step and update every parameter.

        Sets `results` (2,) to the mean of `losses` (N,) and the norm of the gradient. Nothing else
        changes where one of them is not finite, or `active` (1,) is 0. The norm is limited to
        `clip_norm`, unless that is 0. `rates` (parameters, FACTORS) are those of `next_rates`. All
        these are float32. A captured step names its `slot`; before a replay, call `end_capture`.
        """
        gradients = self._laid_out(gradients)
        row, dtype = self._locate(gradients, slot), gradients[0].dtype
        _squares_kernel[(len(self.partial_sums),)](
            self.chunks, self.tensors, row, self.partial_sums, len(self.chunks),
            gradient_type=TYPES[dtype], columns=self.tensors.shape[1], block=BLOCK,
        )  # fmt: skip
        _results_kernel[(1,)](
            self.partial_sums, losses, active, results, self.scale, len(self.partial_sums),
            len(losses), clip_norm, block=PARTS,
        )  # fmt: skip
        self._update(row, dtype, rates)

    def _update(self, row: Tensor, dtype: torch.dtype, rates: Tensor) -> None:
        _update_kernel[(len(self.chunks),)](
            self.chunks, self.tensors, row, rates, self.scale, rule=self.rule.name,
            copy_type=self.copy_type, gradient_type=TYPES[dtype],
            columns=self.tensors.shape[1], factors=FACTORS, block=BLOCK,
        )  # fmt: skip

    def end_capture(self) -> None:
        """Tell the captured updates where their gradients are; call this before a replay."""
        for slot, addresses in self.captured.items():
            self.gradients[slot].copy_(torch.tensor(addresses))
        self.captured.clear()

    def _laid_out(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        return [
            _match_strides(gradient, parameter)
            for gradient, parameter in zip(gradients, self.parameters, strict=True)
        ]

    def _locate(self, gradients: Sequence[Tensor], slot: int | None = None) -> Tensor:
        """Return the row of the table that has, or after a capture will have, their addresses.

        A captured copy would read host memory that is freed by then. What a graph allocates keeps
        its address, so the table can be written after the capture.
        """
        addresses = [gradient.data_ptr() for gradient in gradients]
        if slot is None:
            self.gradients[-1].copy_(torch.tensor(addresses))
            return self.gradients[-1]
        self.captured[slot] = addresses
        return self.gradients[slot]

    def _prepare_state(self, parameter: Tensor) -> int:
        """Make the state that is missing; return how many updates there were."""
        if not torch.ops.aten.is_non_overlapping_and_dense(parameter):
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not dense")
        if self.copies.get(parameter, parameter).stride() != parameter.stride():
            raise ValueError(f"the copy of shape {tuple(parameter.shape)} has other strides")
        state = self.optimizer.state[parameter]
        for name in self.rule.states:
            state[name] = _match_strides(state.get(name, torch.zeros_like(parameter)), parameter)
        if self.rule is ADAMW:
            state.setdefault("step", torch.zeros((), device=parameter.device))
        return int(state["step"]) if "step" in state else 0

    def _row(self, parameter: Tensor) -> list[int]:
        """Return a parameter's row of the table of tensors: its size and the addresses."""
        state = self.optimizer.state[parameter]
        states = [state[name] for name in self.rule.states]
        copy = self.copies.get(parameter, parameter)
        tensors = [parameter, copy, states[0], states[-1], state.get("step", parameter)]
        return [parameter.numel(), *(tensor.data_ptr() for tensor in tensors)]


def _chunks(parameters: Sequence[Tensor]) -> Tensor:
    """Return (programs, 2) int32: the number of a parameter, and that of a block within it."""
    blocks = [triton.cdiv(parameter.numel(), BLOCK) for parameter in parameters]
    numbers = np.repeat(np.arange(len(blocks)), blocks)
    within = np.concatenate([np.arange(count) for count in blocks])
    return torch.from_numpy(np.stack([numbers, within], axis=1).astype(np.int32))


@torch.no_grad()
def _match_strides(x: Tensor, parameter: Tensor) -> Tensor:
    """Return `x` with the strides of the parameter, at an address that kernels take."""
    if x.stride() == parameter.stride() and x.data_ptr() % ALIGNMENT == 0:
        return x
    return torch.empty_like(parameter, dtype=x.dtype).copy_(x)


@triton.jit
def _pointer(table, number, column: tl.constexpr, columns: tl.constexpr, dtype: tl.constexpr):
    """Return an address of a table as a pointer; torch's memory is aligned to 16 bytes."""
    address = tl.load(table + number * columns + column)
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), 16)


# Rows of tables begin at any multiple of 8 bytes. Without these words some rows would need another
# variant of a kernel, which would be compiled during a capture.
@triton.jit(do_not_specialize_on_alignment=["gradients"])
def _squares_kernel(
    chunks, tensors, gradients, sums, count,
    gradient_type: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Sum the squares of every so many blocks of gradients, in the same order each time."""
    total = tl.zeros([block], tl.float32)
    for chunk in range(tl.program_id(0), count, tl.num_programs(0)):
        number, start = tl.load(chunks + 2 * chunk), tl.load(chunks + 2 * chunk + 1) * block
        at = start + tl.arange(0, block)
        gradient = _pointer(gradients, number, 0, 1, gradient_type)
        size = tl.load(tensors + number * columns)
        if start + block <= size:  # without a mask, which would split wide loads
            g = tl.load(gradient + at).to(tl.float32)
        else:
            g = tl.load(gradient + at, mask=at < size, other=0).to(tl.float32)
        total += g * g
    tl.store(sums + tl.program_id(0), tl.sum(total))


@triton.jit(do_not_specialize_on_alignment=["results"])
def _results_kernel(
    sums, losses, active, results, scale, parts, images, clip_norm, block: tl.constexpr
):
    """Write mean loss and gradient norm, and by what the update multiplies gradients."""
    at = tl.arange(0, block)
    norm = tl.sqrt_rn(tl.sum(tl.load(sums + at, mask=at < parts, other=0)))
    total = tl.zeros([block], tl.float32)
    for start in range(0, images, block):
        total += tl.load(losses + start + at, mask=start + at < images, other=0)
    loss = tl.sum(total) / images
    finite = (tl.abs(loss) < float("inf")) & (norm < float("inf"))  # false for a NaN
    limited = tl.where(clip_norm > 0, tl.minimum(clip_norm / (norm + 1e-6), 1), 1.0)
    tl.store(results, loss)
    tl.store(results + 1, norm)
    tl.store(scale, tl.where(finite & (tl.load(active) != 0), limited, 0.0))


@triton.jit(do_not_specialize_on_alignment=["gradients"])
def _update_kernel(
    chunks, tensors, gradients, rates, scale, rule: tl.constexpr, copy_type: tl.constexpr,
    gradient_type: tl.constexpr, columns: tl.constexpr, factors: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Update a block of the weights of one parameter."""
    factor = tl.load(scale)
    if factor != 0:
        chunk = chunks + 2 * tl.program_id(0)
        number, start = tl.load(chunk), tl.load(chunk + 1) * block
        at = start + tl.arange(0, block)
        size = tl.load(tensors + number * columns)
        rate = rates + number * factors
        gradient = _pointer(gradients, number, 0, 1, gradient_type)
        if start + block <= size:  # without a mask, which would split wide loads and stores
            _update_block(
                tensors, number, gradient, rate, factor, at, None,
                rule, copy_type, columns,
            )  # fmt: skip
        else:
            _update_block(
                tensors, number, gradient, rate, factor, at, at < size,
                rule, copy_type, columns,
            )  # fmt: skip


@triton.jit
def _update_block(
    tensors, number, gradient, rate, factor, at, live,
    rule: tl.constexpr, copy_type: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Update the weights at `at`, where `live`."""
    weight = _pointer(tensors, number, 1, columns, tl.float32)
    first = _pointer(tensors, number, 3, columns, tl.float32)
    w = tl.load(weight + at, mask=live)
    g = tl.load(gradient + at, mask=live).to(tl.float32) * factor
    m = tl.load(first + at, mask=live)
    if rule == "paper":
        w, m = _paper(w, g, m, rate)
    elif rule == "nesterov":
        w, m = _nesterov(w, g, m, rate)
    else:
        second = _pointer(tensors, number, 4, columns, tl.float32)
        w, m, v = _adamw(w, g, m, tl.load(second + at, mask=live), rate)
        tl.store(second + at, v, mask=live)
        step = _pointer(tensors, number, 5, columns, tl.float32)
        tl.store(step, tl.load(rate + 8))  # each program the same number
    tl.store(first + at, m, mask=live)
    tl.store(weight + at, w, mask=live)
    if copy_type is not None:
        copy = _pointer(tensors, number, 2, columns, copy_type)
        tl.store(copy + at, w.to(copy_type), mask=live)


@triton.jit
def _paper(w, g, v, rate):
    """Rounded as PaperSGD's operations on a GPU: one product, then two fused additions."""
    minus_decay, minus_rate = tl.load(rate), tl.load(rate + 1)
    changed = tl.fma(g, minus_rate, tl.fma(w, minus_decay, v * tl.load(rate + 2)))
    # Nothing changes where the rate is 0 (2012 code, weights.cu:148).
    return tl.where(minus_rate != 0, w + changed, w), tl.where(minus_rate != 0, changed, v)


@triton.jit
def _nesterov(w, g, v, rate):
    """As torch.optim.SGD with Nesterov's momentum."""
    minus_rate, momentum = tl.load(rate + 1), tl.load(rate + 2)
    g = tl.fma(w, tl.load(rate), g)
    v = tl.fma(v, momentum, g)
    return tl.fma(tl.fma(v, momentum, g), minus_rate, w), v


@triton.jit
def _adamw(w, g, m, v, rate):
    """As torch.optim.AdamW."""
    m = tl.fma(m, tl.load(rate + 2), tl.load(rate + 3) * g)
    v = tl.fma(v, tl.load(rate + 4), tl.load(rate + 5) * g * g)
    divisor = tl.fma(tl.sqrt_rn(v), tl.load(rate + 6), tl.load(rate + 7))
    return tl.fma(tl.div_rn(m, divisor), tl.load(rate + 1), tl.load(rate) * w), m, v
