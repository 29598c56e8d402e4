"""Layers that exchange activations and their gradients between ranks."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.networks.layers import LocalResponseNorm, at_least_float32, channel_window_sum
from alexnet.parallel.comm_stats import CommStats


def parts(total: int, count: int) -> list[int]:
    """Divide `total` into `count` sizes that differ by 1 at most, the larger first."""
    whole, more = divmod(total, count)
    return [whole + (number < more) for number in range(count)]


def part_of(total: int, count: int, number: int) -> slice:
    """Return part `number` of `total` items divided into `count`."""
    ends = [0, *accumulate(parts(total, count))]
    return slice(ends[number], ends[number + 1])


@dataclass
class Batch:
    """The current batch."""

    images: int = 0
    """Over all ranks."""


@dataclass(frozen=True)
class RankGroup:
    """A group of ranks that exchange tensors; this one is number `rank` of it."""

    group: dist.ProcessGroup | None
    rank: int
    size: int
    stats: CommStats

    def part(self, total: int) -> slice:
        """Return this rank's part of `total` items."""
        return part_of(total, self.size, self.rank)

    def gather(self, part: Tensor, total: int, dim: int) -> Tensor:
        """Concatenate the parts of all ranks along `dim`; together they have `total` items."""
        sizes = parts(total, self.size)
        sent = self._to_send(_padded(part, sizes[0], dim))
        received = [torch.empty_like(sent) for _ in sizes]
        with self.stats.waiting():
            dist.all_gather(received, sent, self.group)
        pieces = [each.narrow(dim, 0, size) for each, size in zip(received, sizes, strict=True)]
        return torch.cat(pieces, dim).to(part.device)

    def scatter_sum(self, whole: Tensor, dim: int) -> Tensor:
        """Add up the tensors `whole` of all ranks and return this rank's part along `dim`.

        Each rank adds in the order of the ranks.
        """
        sizes = parts(whole.shape[dim], self.size)
        pieces = [_padded(each, sizes[0], dim) for each in torch.split(whole, sizes, dim)]
        sent = self._to_send(torch.stack(pieces))
        received = torch.empty_like(sent)
        with self.stats.waiting():
            dist.all_to_all_single(received, sent, group=self.group)
        return received.sum(0).narrow(dim, 0, sizes[self.rank]).to(whole.device)

    def swap(self, tensor: Tensor) -> Tensor:
        """Exchange `tensor` with the other rank of two; return its tensor, of the same shape."""
        sent = self._to_send(tensor)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with self.stats.waiting():
            dist.all_gather(received, sent, self.group)
        return received[1 - self.rank].to(tensor.device)

    def _to_send(self, tensor: Tensor) -> Tensor:
        """Return `tensor` as the group can send it: gloo sends from host memory only."""
        on_host = dist.get_backend(self.group) == "gloo"
        return (tensor.cpu() if on_host else tensor).contiguous()


def _padded(part: Tensor, size: int, dim: int) -> Tensor:
    """Lengthen `part` with zeros to `size` along `dim`."""
    missing = size - part.shape[dim]
    if not missing:
        return part
    return F.pad(part, [0, 0] * (part.ndim - dim - 1) + [0, missing])


class Gather(nn.Module):
    """A layer that gathers the ranks' parts of its input, so that each rank has all of it.

    The ranks divide `total` units or maps (dim 1) or, if it is None, the batch's images (dim 0).
    Each rank computes a part of the layers that follow, so the gradient is the sum over all ranks.
    After the last layer (`final`) every rank computes the whole loss and has the whole gradient, of
    which it takes its part.
    """

    def __init__(
        self, group: RankGroup, name: str, batch: Batch, total: int | None, *, final: bool = False
    ) -> None:
        super().__init__()
        self.group, self.name, self.batch = group, name, batch
        self.total, self.final = total, final

    def forward(self, part: Tensor) -> Tensor:
        """Turn (N, part, ...) into (N, total, ...), or (rows, ...) into (images, ...)."""
        self.group.stats.in_step = self.training
        dim, total = (0, self.batch.images) if self.total is None else (1, self.total)
        whole: Tensor = _Gathering.apply(part, self, total, dim)  # type: ignore[no-untyped-call]
        return whole

    def count(self, whole: Tensor, total: int, kind: str) -> None:
        """Count what this rank sends: a part of `whole` to each other rank."""
        if self.training:
            each = whole.numel() // total * parts(total, self.group.size)[0]
            size = each * whole.element_size() * (self.group.size - 1)
            self.group.stats.count(self.name, kind, size)

    def extra_repr(self) -> str:
        """Return what a printed network shows of this layer."""
        return f"{'images' if self.total is None else self.total}, ranks={self.group.size}"


class _Gathering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, layer: Gather, total: int, dim: int) -> Tensor:
        ctx.layer, ctx.total, ctx.dim = layer, total, dim
        whole = layer.group.gather(part, total, dim)
        layer.count(whole, total, "forward")
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        group, dim = ctx.layer.group, ctx.dim
        if ctx.layer.final:
            own = group.part(ctx.total)
            return gradient.narrow(dim, own.start, own.stop - own.start), None, None, None
        ctx.layer.count(gradient, ctx.total, "backward")
        return group.scatter_sum(gradient, dim), None, None, None


class BorderNorm(LocalResponseNorm):
    """Local response normalisation on one of two towers; its sums include maps of the other.

    The towers exchange the `size // 2` maps on each side of their border, half of the window, and
    in the backward pass their gradients.
    """

    def __init__(self, norm: LocalResponseNorm, group: RankGroup, name: str) -> None:
        super().__init__(norm.size, norm.alpha, norm.beta, norm.k)
        self.group, self.name = group, name

    def forward(self, x: Tensor) -> Tensor:
        """Normalise this tower's maps (N, C, H, W)."""
        self.group.stats.in_step = self.training
        reach, first = self.size // 2, self.group.rank == 0
        own = x[:, -reach:] if first else x[:, :reach]
        other: Tensor = _Swapping.apply(own, self)  # type: ignore[no-untyped-call]
        wide = at_least_float32(torch.cat([x, other] if first else [other, x], dim=1))
        sums = channel_window_sum(wide * wide, self.size)
        start = 0 if first else reach
        scale = self.k + self.alpha * sums.narrow(1, start, x.shape[1])
        return (at_least_float32(x) * scale.pow(-self.beta)).to(x.dtype)


class _Swapping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, layer: BorderNorm) -> Tensor:
        ctx.layer = layer
        if layer.training:
            layer.group.stats.count(layer.name, "forward", own.numel() * own.element_size())
        return layer.group.swap(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        size = gradient.numel() * gradient.element_size()
        ctx.layer.group.stats.count(ctx.layer.name, "backward", size)
        return ctx.layer.group.swap(gradient), None


class SharedDropout(nn.Module):
    """Dropout that draws the same mask as one device would, for the whole batch and all units.

    All ranks seed the generator alike and apply their part of the mask: the group `rows` divides
    the images (None: all), the group in `units` so many units (None: all of the input).
    """

    def __init__(
        self,
        layer: nn.Module,
        batch: Batch,
        *,
        rows: RankGroup | None,
        units: tuple[RankGroup, int] | None,
    ) -> None:
        super().__init__()
        self.layer, self.batch, self.rows, self.units = layer, batch, rows, units

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to `x` (N, units, ...) in training only."""
        if not self.training:
            out: Tensor = self.layer(x)
            return out
        width = self.units[1] if self.units else x.shape[1]
        whole = x.new_ones(self.batch.images, width, *x.shape[2:])
        rows = self.rows.part(self.batch.images) if self.rows else slice(None)
        units = self.units[0].part(width) if self.units else slice(None)
        factors: Tensor = self.layer(whole)  # of ones: the factors themselves
        return x * factors[rows, units]
