"""Weights as integers of a few bits, for a checkpoint file that is small.

A weight NAME is three tensors of the file in place of one:

    NAME.integers        uint8: the integers one after the other, each of `bits` bits, highest first
    NAME.step            float32: what an integer of 1 stands for, one for each filter
    NAME.form            int64: `bits`, and then the shape of the weight

The stored integers are at least 0: 2^(bits - 1) - 1 stands for a weight of 0.
"""

import math

import numpy as np
import torch
from torch import Tensor

INTEGERS, STEP, FORM = ".integers", ".step", ".form"
_MOST_BITS = 8


def quantize(name: str, weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Return the three tensors of a weight, rounded to the nearest of 2^bits - 1 steps per filter.

    The first dimension of `weight` counts the filters; of three, the first two: kernels that are
    not shared are (positions, out, inputs). No weight moves by more than half of its filter's step.
    """
    largest = 2 ** (bits - 1) - 1
    within = tuple(range(2 if weight.dim() == 3 else 1, weight.dim()))
    step = weight.abs().amax(within, keepdim=True).clamp(min=1e-12) / largest
    integers = ((weight / step).round() + largest).to(torch.uint8).numpy().reshape(-1, 1)
    packed = np.packbits(np.unpackbits(integers, axis=1)[:, _MOST_BITS - bits :])
    return {
        name + INTEGERS: torch.from_numpy(packed),
        name + STEP: step,
        name + FORM: torch.tensor([bits, *weight.shape]),
    }


def restore(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` with float32 weights in place of those that `quantize` made.

    Raises `ValueError` or `KeyError` for tensors that it did not make.
    """
    names = [name.removesuffix(FORM) for name in tensors if name.endswith(FORM)]
    parts = {name + part for name in names for part in (INTEGERS, STEP, FORM)}
    restored = {name: tensor for name, tensor in tensors.items() if name not in parts}
    for name in names:
        form = tensors[name + FORM].tolist()
        restored[name] = _restore(tensors[name + INTEGERS], tensors[name + STEP], *form)
    return restored


def _restore(packed: Tensor, step: Tensor, bits: int, *shape: int) -> Tensor:
    """Compute a weight of `shape`; check everything first, since the file may be a stranger's."""
    count = math.prod(shape)
    fits = step.dim() == len(shape) and all(
        part in (1, whole) for part, whole in zip(step.shape, shape, strict=True)
    )
    if not (1 < bits <= _MOST_BITS and min(shape, default=0) > 0 and fits):
        raise ValueError(f"integers of {bits} bits for a weight of {shape}")
    if packed.dtype != torch.uint8 or packed.shape != (-(-count * bits // 8),):
        raise ValueError(f"{packed.numel()} bytes for {count} integers of {bits} bits")
    planes = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    integers = np.packbits(np.pad(planes, ((0, 0), (_MOST_BITS - bits, 0))), axis=1)
    weight: Tensor = torch.from_numpy(integers).float().reshape(shape) - (2 ** (bits - 1) - 1)
    return weight.mul_(step)
