"""The team of several processes: what each rank has of the images, the network, the answers."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet.config import Settings
from alexnet.errors import AlexnetError, WorkerError
from alexnet.parallel.comm_stats import CommStats
from alexnet.parallel.exchange import Batch, Gather, Link
from alexnet.parallel.sharding import Local, shard_images, shard_towers, shard_units
from alexnet.storage.checkpoint import Saved
from alexnet.train.processes import ALONE, Accelerate

Mode = Literal["towers", "data", "hybrid"]

Result = TypeVar("Result")


class DistributedProcesses:
    """This process's place among those that `torch.distributed` has connected.

    `data` links the ranks between which a batch's images are divided, and over which gradients of
    whole weights are summed; `parts` those between which layers are divided. In "data" the latter
    is this rank alone; in "towers" they are the rows and columns of a grid of N / 2 by 2 ranks; in
    "hybrid" both are all ranks, one for the convolutions, one for the layers behind them.
    """

    def __init__(self, mode: Mode, device: torch.device, timeout: Any) -> None:
        self.mode, self.device = mode, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_main = self.rank == 0
        self.traffic = CommStats(timed=device.type == "cpu")
        self.batch = Batch()
        self.local = Local(nn.Sequential(), frozenset())
        everyone, pair = [list(range(self.size))], self.size // 2
        columns = [list(range(tower, self.size, 2)) for tower in range(2)]
        pairs = [[2 * place, 2 * place + 1] for place in range(pair)]
        self.data = self._link(columns if mode == "towers" else everyone, timeout)
        self.parts = self._link({"towers": pairs, "hybrid": everyone}.get(mode), timeout)
        # Words between the programs go from memory to memory, so that no GPU is waited for.
        self.words = dist.new_group(backend="gloo", timeout=timeout)

    def _link(self, groups: list[list[int]] | None, timeout: Any) -> Link:
        """Make all groups, as each rank must, and return the one that this rank is in."""
        link = Link(None, 0, 1, self.traffic)
        for ranks in groups or []:
            group = dist.new_group(ranks, timeout=timeout)
            if self.rank in ranks:
                link = Link(group, ranks.index(self.rank), len(ranks), self.traffic)
        return link

    # What rank 0 does for all.

    def from_main(self, work: Callable[[], Result]) -> Result:
        """Do `work` on rank 0 and return its result, or raise its error, on every rank."""
        told: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_main:
            try:
                told[0] = work()
            except Exception as error:  # noqa: BLE001 - raised again below, when all know of it
                failure = error
                known = isinstance(error, AlexnetError)
                told[1] = error if known else WorkerError(f"rank 0: {error!r}")
        dist.broadcast_object_list(told, src=0, group=self.words)
        if told[1] is not None:
            raise failure or told[1]
        result: Result = told[0]
        return result

    def agree(self, number: int) -> int:
        """Return the largest `number` of any rank."""
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.words)
        return int(largest)

    # The images and the network.

    def localize(self, model: nn.Sequential, settings: Settings) -> nn.Sequential:  # noqa: ARG002
        """Cut this rank's part out of a network."""
        if self.mode == "towers":
            self.local = shard_towers(model, self.batch, self.data, self.parts)
        elif self.mode == "hybrid":
            self.local = shard_units(model, self.batch, self.data, self.parts)
        else:
            self.local = shard_images(model, self.batch, self.data)
        return self.local.model

    def network(self, model: nn.Sequential, accelerate: Accelerate | None) -> nn.Module:
        """Return what computes, its gradients summed where ranks share weights.

        The parts of a divided network compute as they are: `accelerate` is for whole ones.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        if self.mode == "hybrid":
            front = next(place for place, row in enumerate(model) if isinstance(row, Gather))
            rows = list(model.named_children())
            convolutions, rest = (
                nn.Sequential(OrderedDict(part)) for part in (rows[:front], rows[front:])
            )
            computes = ALONE.network(convolutions, accelerate)
            return nn.Sequential(self._summed(computes, names), rest)
        divided = self.mode == "towers"
        return self._summed(ALONE.network(model, None if divided else accelerate), names)

    def _summed(self, module: nn.Module, names: dict[int, str]) -> nn.Module:
        """Let the gradients of `module` be summed over `data`, beside the backward pass."""
        if self.data.size == 1 or not any(True for _ in module.parameters()):
            return module
        wrapped = DistributedDataParallel(module, process_group=self.data.group)
        wrapped.register_comm_hook(names, self._sum)
        return wrapped

    def _sum(
        self,
        names: dict[int, str],
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """Begin to sum one bucket of gradients; the losses are parts already, so not their mean."""
        share = 2 * (self.data.size - 1) / self.data.size
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            size = share * gradient.numel() * gradient.element_size()
            self.traffic.count(names[id(parameter)].partition(".")[0], "weights", size)
        began = self.traffic.start()
        work = dist.all_reduce(bucket.buffer(), group=self.data.group, async_op=True)

        def arrived(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            self.traffic.arrive(began)
            return future.value()[0]

        done: torch.futures.Future[Tensor] = work.get_future().then(arrived)
        return done

    def share(self, images: int) -> slice:
        """Return which rows of a batch of so many `images` this rank reads."""
        return self.data.part(images)

    def begin(self, images: int) -> None:
        """Note how many images the batch has that the network now gets."""
        self.batch.images = images

    def answered(self, images: int) -> slice:
        """Return the rows of a batch for which the network gives this rank the logits."""
        return slice(0, images) if self._answers_all else self.share(images)

    @property
    def _answers_all(self) -> bool:
        return self.mode == "hybrid" or self.data.size == 1

    # What the ranks have together.

    def total(self, loss: Tensor) -> Tensor:
        """Add up the parts of a batch's loss."""
        if self._answers_all:
            return loss
        total = loss.clone()
        dist.all_reduce(total, group=self.data.group)
        return total

    def collect(self, rows: Tensor, images: int) -> Tensor:
        """Put together what each rank has for its answers: (images, ...)."""
        if self._answers_all:
            return rows
        return self.data.gather(rows.to(self.device), images, 0).to(rows.device)

    def whole_squares(self, squares: Tensor, names: list[str]) -> Tensor:
        """Turn the squared lengths of this rank's tensors into those of the whole ones.

        `squares` has a row for each of `names`, with any number of columns.
        """
        if self.parts.size == 1:
            return squares
        cut = torch.tensor([name in self.local.cut for name in names], device=squares.device)
        cut = cut.view(-1, *[1] * (squares.ndim - 1))
        sums = torch.where(cut, squares, 0.0)
        dist.all_reduce(sums, group=self.parts.group)
        return torch.where(cut, sums, squares)

    def gradient_norm(self, model: nn.Sequential) -> Tensor:
        """Return the length of the whole network's gradient. The backward pass is over."""
        self.traffic.end_step()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        squares = torch.stack(torch._foreach_norm(list(gradients.values()))).square()
        return self.whole_squares(squares, list(gradients)).sum().sqrt()

    # Checkpoints.

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the ranks' parts of a checkpoint's tensors together, on rank 0."""
        if self.parts.size == 1 or (self.data.rank > 0 and self.mode == "towers"):
            return tensors if self.is_main else {}
        whole = {}
        for name, tensor in tensors.items():
            gathered = self._whole(tensor) if self._is_cut(name, tensor) else tensor
            if self.is_main:
                whole[name] = gathered.cpu()
        return whole

    def _whole(self, part: Tensor) -> Tensor:
        length = torch.tensor(len(part), device=self.device)
        dist.all_reduce(length, group=self.parts.group)
        return self.parts.gather(part, int(length), 0)

    def _is_cut(self, name: str, tensor: Tensor) -> bool:
        """Tell whether a tensor of a checkpoint, such as model.fc6.weight, is divided."""
        kind, _, rest = name.partition(".")
        own = rest if kind == "model" else rest.rpartition(".")[0]
        return own in self.local.cut and tensor.ndim > 0

    def restored(self, load: Callable[[], Saved]) -> Saved:
        """Load a checkpoint on rank 0 and return this rank's part of it."""
        read: list[Saved] = []

        def load_here() -> tuple[Saved, dict[str, tuple[torch.Size, torch.dtype]]]:
            read.append(load())
            kinds = {name: (each.shape, each.dtype) for name, each in read[0].tensors.items()}
            return replace(read[0], tensors={}), kinds

        saved, kinds = self.from_main(load_here)
        tensors = {}
        for name, (shape, dtype) in kinds.items():
            whole = read[0].tensors[name] if read else torch.empty(shape, dtype=dtype)
            dist.broadcast(whole, src=0, group=self.words)
            cut = self._is_cut(name, whole)
            tensors[name] = whole[self.parts.part(len(whole))].clone() if cut else whole
        return replace(saved, tensors=tensors)

    # What it took.

    def report(self) -> list[dict[str, Any]]:
        """Return what each rank sent in a step, and its peak of memory, on every rank."""
        reports: list[Any] = [None] * self.size
        own = {"rank": self.rank, **self.traffic.as_json(self.device)}
        dist.all_gather_object(reports, own, group=self.words)
        return reports
