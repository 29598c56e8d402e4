"""The random numbers of `alexnet.kernels.cuda.dropout`, computed again in NumPy."""

from collections import OrderedDict

import numpy as np
import test_kernels_cuda  # noqa: F401 - before Triton
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.kernels.cuda.dropout import BLOCK


def philox(key: int, counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Compute Philox4x32-10 (Salmon et al. 2011) of counters (4, N) and a key of 64 bits."""
    a, b, c, d = counters.astype(np.uint64)
    low, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (
            (second >> low) ^ b ^ np.uint64(keys[0]), second & mask,
            (first >> low) ^ d ^ np.uint64(keys[1]), first & mask,
        )  # fmt: skip
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack([a, b, c, d]).astype(np.uint32)


def uniforms(seed: int, layer: int, count: int) -> Tensor:
    """Return the numbers in [0, 1) that decide on `count` values of a layer."""
    programs = -(-count // (4 * BLOCK))
    numbers = np.arange(programs * BLOCK, dtype=np.uint32)
    zeros = np.zeros_like(numbers)
    bits = philox(seed, np.stack([numbers, zeros + np.uint32(layer), zeros, zeros]))
    signed = bits.reshape(4, programs, BLOCK).swapaxes(0, 1).reshape(-1)[:count].view(np.int32)
    positive = np.where(signed < 0, -signed - 1, signed)  # Triton's 31 bits
    return torch.from_numpy((positive * np.float32(4.6566127342e-10)).astype(np.float32))


class ReferenceDropout(nn.Module):
    """nn.Dropout with those numbers; the seed is the last one of torch.manual_seed."""

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p, self.layer = p, layer

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = uniforms(torch.initial_seed(), self.layer, x.numel()).view(x.shape) >= self.p
        return x * kept.to(x) / (1 - self.p)


def with_reference_dropout(model: nn.Sequential) -> nn.Sequential:
    """Return a network of the same rows with that dropout."""
    layers = [name for name, row in model.named_children() if isinstance(row, nn.Dropout)]
    rows = OrderedDict(model.named_children())
    for number, name in enumerate(layers):
        row = rows[name]
        assert isinstance(row, nn.Dropout)
        rows[name] = ReferenceDropout(row.p, number)
    return nn.Sequential(rows)
