"""What ranks exchange inside of a network, with gradients: rows of it that compute nothing else."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.networks.layers import LocalResponseNorm, at_least_float32, channel_window_sum
from alexnet.parallel.comm_stats import CommStats


def parts(total: int, count: int) -> list[int]:
    """Divide `total` into `count` sizes that differ by 1 at most, the larger first."""
    whole, more = divmod(total, count)
    return [whole + (number < more) for number in range(count)]


def part_of(total: int, count: int, number: int) -> slice:
    """Return part `number` of `total` things divided into `count`."""
    ends = [0, *accumulate(parts(total, count))]
    return slice(ends[number], ends[number + 1])


@dataclass
class Batch:
    """The batch that is under way, over all ranks."""

    images: int = 0


@dataclass(frozen=True)
class RankGroup:
    """A group of ranks that exchange tensors, and this rank's number in it."""

    group: dist.ProcessGroup | None
    rank: int
    size: int
    stats: CommStats

    @property
    def _sends_from_memory(self) -> bool:
        return dist.get_backend(self.group) == "gloo"

    def part(self, total: int) -> slice:
        """Return this rank's part of `total` things."""
        return part_of(total, self.size, self.rank)

    def gather(self, part: Tensor, total: int, dim: int) -> Tensor:
        """Put the parts of all ranks, `total` long together, one after the other along `dim`."""
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
        """Return what the other rank of two has in the place of `tensor`, of the same shape."""
        sent = self._to_send(tensor)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with self.stats.waiting():
            dist.all_gather(received, sent, self.group)
        return received[1 - self.rank].to(tensor.device)

    def _to_send(self, tensor: Tensor) -> Tensor:
        """Return `tensor` as the group can send it: gloo from memory only, not from a GPU."""
        return (tensor.cpu() if self._sends_from_memory else tensor).contiguous()


def _padded(part: Tensor, size: int, dim: int) -> Tensor:
    """Lengthen `part` with zeros to `size` along `dim`."""
    missing = size - part.shape[dim]
    if not missing:
        return part
    shape = list(part.shape)
    shape[dim] = missing
    return torch.cat([part, part.new_zeros(shape)], dim)


class Gather(nn.Module):
    """A row that makes whole what the ranks have parts of; each goes on with all of it.

    `total` values along `dim` are divided over the ranks: units or maps (dim 1), or, where it is
    None, the batch's images (dim 0). Each rank computes a part of what follows, so the gradient is
    the sum of what all ranks have for it. Behind the last row (`final`) every rank computes the
    whole loss, so it takes its part of the gradient that it has.
    """

    def __init__(
        self, group: RankGroup, layer: str, batch: Batch, total: int | None, *, final: bool = False
    ) -> None:
        super().__init__()
        self.group, self.layer, self.batch = group, layer, batch
        self.total, self.final = total, final

    def forward(self, part: Tensor) -> Tensor:
        """Turn (N, part, ...) into (N, total, ...), or (rows, ...) into (images, ...)."""
        self.group.stats.in_step = self.training
        dim, total = (0, self.batch.images) if self.total is None else (1, self.total)
        whole: Tensor = _Gathering.apply(part, self, total, dim)  # type: ignore[no-untyped-call]
        return whole

    def count(self, whole: Tensor, total: int, way: str) -> None:
        """Note what this rank sends: its part to all others, or theirs of a gradient."""
        if self.training:
            each = whole.numel() // total * parts(total, self.group.size)[0]
            size = each * whole.element_size() * (self.group.size - 1)
            self.group.stats.count(self.layer, way, size)

    def extra_repr(self) -> str:
        """Show what is exchanged in the printed table."""
        return f"{'images' if self.total is None else self.total}, ranks={self.group.size}"


class _Gathering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, row: Gather, total: int, dim: int) -> Tensor:
        ctx.row, ctx.total, ctx.dim = row, total, dim
        whole = row.group.gather(part, total, dim)
        row.count(whole, total, "forward")
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        group, dim = ctx.row.group, ctx.dim
        if ctx.row.final:
            own = group.part(ctx.total)
            return gradient.narrow(dim, own.start, own.stop - own.start), None, None, None
        ctx.row.count(gradient, ctx.total, "backward")
        return group.scatter_sum(gradient, dim), None, None, None


class BorderNorm(LocalResponseNorm):
    """The paper's normalisation on one of two towers, whose sums reach into the other's maps.

    Half of a window is `size // 2` maps; so many go each way at the border, and their gradients
    back.
    """

    def __init__(self, norm: LocalResponseNorm, group: RankGroup, layer: str) -> None:
        super().__init__(norm.size, norm.alpha, norm.beta, norm.k)
        self.group, self.layer = group, layer

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
    def forward(ctx: Any, own: Tensor, row: BorderNorm) -> Tensor:
        ctx.row = row
        if row.training:
            row.group.stats.count(row.layer, "forward", own.numel() * own.element_size())
        return row.group.swap(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        size = gradient.numel() * gradient.element_size()
        ctx.row.group.stats.count(ctx.row.layer, "backward", size)
        return ctx.row.group.swap(gradient), None


class SharedDropout(nn.Module):
    """Dropout that decides for the whole batch and all units, as one device would, on every rank.

    The generator is seeded alike everywhere, so all draw the same and take their part: `rows` of
    the batch's images (None: all), `units` of so many (None: all that come in).
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
        """Drop from `x` (N, units, ...) in training; evaluation draws nothing."""
        if not self.training:
            out: Tensor = self.layer(x)
            return out
        width = self.units[1] if self.units else x.shape[1]
        whole = x.new_ones(self.batch.images, width, *x.shape[2:])
        rows = self.rows.part(self.batch.images) if self.rows else slice(None)
        units = self.units[0].part(width) if self.units else slice(None)
        factors: Tensor = self.layer(whole)  # what it makes of ones is what it multiplies by
        return x * factors[rows, units]
