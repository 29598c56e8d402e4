"""The cross entropy of a batch and its gradient, in one Triton kernel."""

# Kernels take their tensors, sizes and constants one by one.

import torch
import triton
import triton.language as tl
from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the loss of each image (N,), float32, and the gradient of their mean (N, classes).

    As torch.nn.functional.cross_entropy, computed in float32 from `logits` (N, classes) of any
    float type; the gradient has their type. labels: (N,) int64.
    """
    logits = logits.detach().contiguous()
    losses = torch.empty(len(logits), device=logits.device)
    gradient = torch.empty_like(logits)
    classes = logits.shape[1]
    _kernel[(len(logits),)](
        logits, labels, losses, gradient, classes, len(logits), label_smoothing,
        block=triton.next_power_of_2(classes),
    )  # fmt: skip
    return losses, gradient


@triton.jit
def _kernel(logits, labels, losses, gradient, classes, images, smoothing, block: tl.constexpr):
    """Compute one image's loss and gradient."""
    image = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    live = at < classes
    x = tl.load(logits + image * classes + at, mask=live, other=float("-inf")).to(tl.float32)
    x = tl.where(live, x - tl.max(x), 0)
    exponentials = tl.where(live, tl.exp(x), 0)
    total = tl.sum(exponentials)
    target = tl.where(at == tl.load(labels + image), 1 - smoothing, 0.0) + smoothing / classes
    loss = tl.sum(tl.where(live, target * (tl.log(total) - x), 0))
    tl.store(losses + image, loss)
    slope = tl.div_rn(tl.div_rn(exponentials, total) - target, images.to(tl.float32))
    tl.store(gradient + image * classes + at, slope.to(gradient.dtype.element_ty), mask=live)
