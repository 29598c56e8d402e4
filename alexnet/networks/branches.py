"""Rows that run side by side on the same maps."""

from typing import cast

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """Several named branches that read the same maps, (N, C, H, W); subclasses join what they give.

    The names are part of the state dict's keys: `inception3a.three.conv.weight`.
    """

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)


class Sum(Branches):
    """Adds the maps of its branches, which have one shape (He et al. 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, of the shape of each."""
        total, *others = [branch(x) for branch in self.children()]
        for other in others:
            total = total + other
        return cast("Tensor", total)


class Concatenation(Branches):
    """Puts the maps of its branches one after the other, along the channels (GoogLeNet)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return all maps, (N, sum of channels, H, W)."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)
