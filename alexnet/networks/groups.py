"""Weights of layers with groups: as those of a layer without, and back.

A layer with groups is one without groups whose weights between the groups are 0.
"""

import torch
from torch import Tensor


def empty_joined(weight: Tensor, groups: int) -> Tensor:
    """Return memory for `join_groups`, in the memory format of `weight`."""
    shape = (len(weight), weight.shape[1] * groups, *weight.shape[2:])
    is_last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout)


def join_groups(weight: Tensor, groups: int) -> Tensor:
    """Write weights (out, in / groups, ...) as those without groups (out, in, ...), 0 between."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    joined = empty_joined(weight, groups).zero_()
    for group, own in enumerate(weight.chunk(groups)):
        block = joined.narrow(0, group * outputs, outputs).narrow(1, group * inputs, inputs)
        block.copy_(own)
    return joined


def separate_groups(weight: Tensor, groups: int) -> Tensor:
    """Return the weights inside the groups: the inverse of `join_groups`."""
    rows = enumerate(weight.chunk(groups))
    return torch.cat([row.chunk(groups, 1)[group] for group, row in rows])
