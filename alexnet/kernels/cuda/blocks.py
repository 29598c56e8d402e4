"""The blocks between convolutions on CUDA devices: which of them run as one, and how.

A block is cut into stages, each one kernel forward and one backward (`cuda_norm`), or a
normalisation within maps (`cuda_maps`). Between two stages the values are stored; that happens in
two of the networks' blocks only: the pool before normalisation (caffenet), a quarter of the values,
and 2012's two normalisations in a row.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from alexnet.kernels.blocks import ChannelNorm, MapNorm, MaxPool, Relu, Step
from alexnet.kernels.cuda import norm_kernels as cuda_norm
from alexnet.kernels.cuda.norm_kernels import Stage, run_stage
from alexnet.kernels.cuda.spatial_norm import run_map_norm
from alexnet.networks.layers import LocalResponseNorm, SpatialResponseNorm

LARGEST_POOL = 15
"""A window's places have to fit into a byte."""


def supports(block: Sequence[Step]) -> bool:
    """Tell whether every step of `block` has a kernel here; a ReLU alone needs none."""
    more = any(not isinstance(step, Relu) for step in block)
    return more and all(_has_kernel(step) for step in block)


def run_block(x: Tensor, block: Sequence[Step]) -> Tensor:
    """Apply `block` to `x` (N, C, H, W), differentiably; the result has the memory format of `x`.

    Channels that do not divide into towers of whole groups of four go through PyTorch's own layers.
    """
    if any(x.shape[1] % (width * cuda_norm.GROUP.value) for width in _towers(block)):
        return plain_block(x, block)
    y = x
    for stage in stages(block):
        y = run_map_norm(y, stage) if isinstance(stage, MapNorm) else run_stage(y, stage)
    return y.contiguous() if x.is_contiguous() else y


def plain_block(x: Tensor, block: Sequence[Step]) -> Tensor:
    """Compute what `run_block` should, with the layers of the tables."""
    for step in block:
        x = plain_layer(step)(x)
    return x


def plain_layer(step: Step) -> nn.Module:
    """Return the layer that `step` stands for."""
    if isinstance(step, ChannelNorm):
        size, alpha, beta, k = step.size, step.alpha, step.beta, step.k
        return LocalResponseNorm(size, alpha, beta, k, towers=step.towers)
    if isinstance(step, MapNorm):
        return SpatialResponseNorm(step.size, step.alpha, step.beta)
    if isinstance(step, MaxPool):
        return nn.MaxPool2d(step.size, step.stride, ceil_mode=step.ceil_mode)
    return nn.ReLU()


def stages(block: Sequence[Step]) -> list[Stage | MapNorm]:
    """Cut `block` into the fewest stages, from its beginning."""
    found: list[Stage | MapNorm] = []
    for step in block:
        last = found[-1] if found else None
        longer = _append(last, step) if isinstance(last, Stage) else None
        if longer is not None:
            found[-1] = longer
        else:
            found.append(step if isinstance(step, MapNorm) else _begin(step))
    return found


def _begin(step: Relu | ChannelNorm | MaxPool) -> Stage:
    if isinstance(step, Relu):
        return Stage(relu=True)
    return Stage(norm=step) if isinstance(step, ChannelNorm) else Stage(pool=step)


def _append(stage: Stage, step: Step) -> Stage | None:
    """Add `step` at the end of `stage`; None if its kernel has no place for it there."""
    if isinstance(step, ChannelNorm) and not (stage.norm or stage.pool):
        return stage._replace(norm=step)
    if isinstance(step, MaxPool) and not stage.pool:
        return stage._replace(pool=step)
    if isinstance(step, Relu) and stage.pool and not stage.relu_after:
        return stage._replace(relu_after=True)
    return None


def _has_kernel(step: Step) -> bool:
    if isinstance(step, ChannelNorm):
        return step.size == cuda_norm.WINDOW
    return not isinstance(step, MaxPool) or step.size <= LARGEST_POOL


def _towers(block: Sequence[Step]) -> list[int]:
    return [step.towers for step in block if isinstance(step, ChannelNorm)] or [1]
