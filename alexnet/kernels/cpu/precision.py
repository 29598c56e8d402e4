"""Whether a training step on a CPU is faster in bfloat16: found by measuring, and kept."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.cpu.tuning import fastest
from alexnet.kernels.tuning_cache import rounded
from alexnet.storage.environment import cpu_facts

FLAGS = {"avx512_bf16", "amx_bf16"}
"""Processors with one of these, as Linux names them, have instructions that multiply bfloat16."""
MEASURED_IMAGES = 32
"""Steps are measured on no more images: larger batches gain more from faster products."""


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 in one instruction."""
    return not FLAGS.isdisjoint(cpu_facts().get("flags", "").split())


def fastest_precision(network: nn.Module, shape: tuple[int, ...], batch: int) -> str:
    """Return "bfloat16" where a step of `network` is clearly faster in it, else "float32".

    `shape` is that of an image, `batch` the number of images in a step. Weights, gradients, buffers
    and the state of random numbers are afterwards as they were.
    """
    if not has_bfloat16():
        return "float32"
    torch_state, buffers = torch.get_rng_state(), [each.clone() for each in network.buffers()]
    images = torch.zeros(min(batch, MEASURED_IMAGES), *shape).normal_(std=60.0)
    forms = {
        "float32": _step(network, images, torch.float32),
        "bfloat16": _step(network, images, torch.bfloat16),
    }
    rows = hashlib.sha256(repr(network).encode()).hexdigest()[:12]
    try:
        return fastest(f"training step of network {rows} on {rounded(len(images))} images", forms)
    finally:
        torch.set_rng_state(torch_state)
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _step(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return the work of a step without the update, the same in every precision."""
    parameters = [each for each in network.parameters() if each.requires_grad]
    labels = torch.zeros(len(images), dtype=torch.long)

    def step() -> object:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = network(images)
        return torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters)

    return step
