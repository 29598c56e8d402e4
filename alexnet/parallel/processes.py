"""Several processes that train one network: each has part of the images, layers and logits."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from alexnet import randomness
from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.device import autocast
from alexnet.errors import AlexnetError, WorkerError
from alexnet.evaluate import (
    EVALUATION_BATCH,
    Accelerate,
    Evaluation,
    count_errors,
    log_probabilities,
)
from alexnet.loader import read_ahead
from alexnet.parallel.comm_stats import CommStats
from alexnet.parallel.exchange import Batch, Gather, RankGroup
from alexnet.parallel.sharding import Shard, shard_images, shard_towers, shard_units
from alexnet.progress import Progress
from alexnet.storage.checkpoint_format import Saved
from alexnet.train.processes import Processes
from alexnet.train.state import DeviceBatch, Indices, TrainState
from alexnet.transforms import Preprocessing, augment, sample_augment

Mode = Literal["towers", "data", "hybrid"]

Result = TypeVar("Result")


class DistributedProcesses(Processes):
    """The processes that `torch.distributed` connects; this one is number `rank`.

    The ranks of the group `data` divide the images of a batch and sum gradients; those of `parts`
    divide layers. In mode "data" all ranks are in `data`, and each is alone in `parts`. In "towers"
    N ranks form a grid of N / 2 rows and 2 columns: `data` is a column, `parts` a row. In "hybrid"
    both are all ranks: `data` for the convolutions, `parts` for the layers after them.
    """

    def __init__(self, mode: Mode, device: torch.device, timeout: Any) -> None:
        self.mode, self.device = mode, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_main = self.rank == 0
        self.stats = CommStats(timed=device.type == "cpu")
        self.batch = Batch()
        self.local = Shard(nn.Sequential(), frozenset())
        everyone = [list(range(self.size))]
        columns = [list(range(tower, self.size, 2)) for tower in range(2)]
        pairs = [[2 * pair, 2 * pair + 1] for pair in range(self.size // 2)]
        self.data = self._group(columns if mode == "towers" else everyone, timeout)
        self.parts = self._group({"towers": pairs, "hybrid": everyone}.get(mode), timeout)
        # Objects are sent from host memory, so that no GPU is waited for.
        self.messages = dist.new_group(backend="gloo", timeout=timeout)

    def _group(self, groups: list[list[int]] | None, timeout: Any) -> RankGroup:
        """Make all groups, as each rank must; return the group of this rank."""
        mine = RankGroup(None, 0, 1, self.stats)
        for ranks in groups or []:
            group = dist.new_group(ranks, timeout=timeout)
            if self.rank in ranks:
                mine = RankGroup(group, ranks.index(self.rank), len(ranks), self.stats)
        return mine

    # Messages.

    def broadcast(self, work: Callable[[], Result]) -> Result:
        """Do `work` on rank 0; return its result, or raise its error, on every rank."""
        sent: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_main:
            try:
                sent[0] = work()
            except Exception as error:  # noqa: BLE001 - raised again below, on every rank
                failure = error
                known = isinstance(error, AlexnetError)
                sent[1] = error if known else WorkerError(f"rank 0: {error!r}")
        dist.broadcast_object_list(sent, src=0, group=self.messages)
        if sent[1] is not None:
            raise failure or sent[1]
        result: Result = sent[0]
        return result

    def all_reduce_max(self, number: int) -> int:
        """Return the largest `number` of any rank."""
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.messages)
        return int(largest)

    # The images and the network.

    def shard(self, model: nn.Sequential, settings: Settings) -> nn.Sequential:  # noqa: ARG002
        """Return this rank's part of a network."""
        if self.mode == "towers":
            self.local = shard_towers(model, self.batch, self.data, self.parts)
        elif self.mode == "hybrid":
            self.local = shard_units(model, self.batch, self.data, self.parts)
        else:
            self.local = shard_images(model, self.batch, self.data)
        return self.local.model

    def network(self, model: nn.Sequential, accelerate: Accelerate | None) -> nn.Module:
        """Return the module that computes `model` and sums gradients over the ranks.

        `accelerate` applies to whole layers only, not to parts of a divided network.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        if self.mode == "hybrid":
            front = next(number for number, row in enumerate(model) if isinstance(row, Gather))
            rows = list(model.named_children())
            convolutions, rest = (
                nn.Sequential(OrderedDict(part)) for part in (rows[:front], rows[front:])
            )
            computes = super().network(convolutions, accelerate)
            return nn.Sequential(self._summed(computes, names), rest)
        divided = self.mode == "towers"
        return self._summed(super().network(model, None if divided else accelerate), names)

    def _summed(self, module: nn.Module, names: dict[int, str]) -> nn.Module:
        """Return a module that sums its gradients over `data` during the backward pass."""
        if self.data.size == 1 or not any(each.requires_grad for each in module.parameters()):
            return module
        wrapped = DistributedDataParallel(module, process_group=self.data.group)
        wrapped.register_comm_hook(names, self._sum)
        return wrapped

    def _sum(
        self,
        names: dict[int, str],
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """Start to sum a bucket of gradients. Losses are parts of the mean, so no mean is taken."""
        share = 2 * (self.data.size - 1) / self.data.size
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            size = share * gradient.numel() * gradient.element_size()
            self.stats.count(names[id(parameter)].partition(".")[0], "weights", size)
        began = self.stats.start()
        work = dist.all_reduce(bucket.buffer(), group=self.data.group, async_op=True)

        def finish(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            self.stats.finish(began)
            return future.value()[0]

        done: torch.futures.Future[Tensor] = work.get_future().then(finish)
        return done

    def input_rows(self, images: int) -> slice:
        """Return the rows of a batch that this rank reads."""
        return self.data.part(images)

    def output_rows(self, images: int) -> slice:
        """Return the rows of a batch for which the network returns logits on this rank."""
        return slice(0, images) if self._returns_all else self.input_rows(images)

    @property
    def _returns_all(self) -> bool:
        return self.mode == "hybrid" or self.data.size == 1

    # A step and an evaluation.

    def step(
        self, state: TrainState, indices: Indices, images: DeviceBatch
    ) -> tuple[Tensor, Tensor]:
        """Update the weights as `train_step` of `alexnet.train.loop`, from part of a batch.

        `indices` (B,) are the whole batch's, `images` this rank's input rows.
        """
        settings, position, size = state.epoch_settings, state.position, len(indices)
        torch.manual_seed(randomness.step_seed(settings.seed, position.step + 1))  # for dropout
        rows = self.input_rows(size)
        params = sample_augment(
            settings,
            state.preprocessing,
            position.epoch,
            indices[rows],
            position.images + rows.start,
        )
        inputs = augment(images.pixels(), params, state.preprocessing, settings)
        labels = torch.from_numpy(state.train.labels[indices[self.output_rows(size)]])
        self.batch.images = size
        with autocast(state.device, settings.precision):
            logits = state.network(inputs).float()
        loss = self._loss(logits, labels.to(state.device), size, settings.label_smoothing)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        total, norm = self._sum_loss(loss.detach()), self.gradient_norm(state.model)
        if settings.clip_norm:
            nn.utils.clip_grads_with_norm_(state.model.parameters(), settings.clip_norm, norm)
        state.optimizer.step()
        return total, norm

    def _loss(self, logits: Tensor, labels: Tensor, size: int, smoothing: float) -> Tensor:
        """Return this rank's part of the mean loss over a batch of `size` images."""
        if len(labels) == size:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
        return total / size

    def _sum_loss(self, loss: Tensor) -> Tensor:
        """Add up the ranks' parts of a batch's loss."""
        if self._returns_all:
            return loss
        total = loss.clone()
        dist.all_reduce(total, group=self.data.group)
        return total

    def gradient_norm(self, model: nn.Sequential) -> Tensor:
        """Return the norm of the whole network's gradient, after the backward pass."""
        self.stats.end_step()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
        squares = torch.stack(norms).square()
        return self.sum_squares(squares, list(gradients)).sum().sqrt()

    def evaluate(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        split: Split,
        classes: list[str],
        *,
        precision: str,
        progress: Progress,
        on_batch: Callable[[], None],
    ) -> Evaluation:
        """Evaluate the network in training; the ranks divide the images of each batch."""
        was_training = network.training
        network.eval()
        numbers = np.arange(len(split))
        batches = np.split(numbers, range(EVALUATION_BATCH, len(split), EVALUATION_BATCH))
        mine = [batch[self.input_rows(len(batch))] for batch in batches]
        scores = []
        with progress.task(f"evaluate {split.split_name}", len(split), "images") as advance:
            for batch, images in zip(batches, read_ahead(split.read, mine), strict=True):
                self.batch.images = len(batch)
                rows = log_probabilities(network, images, preprocessing, precision=precision)
                scores.append(self.all_gather(rows, len(batch)))
                on_batch()
                advance(len(batch))
        network.train(was_training)
        return self.broadcast(lambda: count_errors(split, torch.cat(scores), classes, 1))

    def all_gather(self, rows: Tensor, images: int) -> Tensor:
        """Put the ranks' output rows of a batch together: (images, ...)."""
        if self._returns_all:
            return rows
        return self.data.gather(rows.to(self.device), images, 0).to(rows.device)

    def sum_squares(self, squares: Tensor, names: list[str]) -> Tensor:
        """Turn squared norms (len(names), ...) of this rank's tensors into those of whole ones."""
        if self.parts.size == 1:
            return squares
        flags = [name in self.local.divided for name in names]
        divided = torch.tensor(flags, device=squares.device)
        divided = divided.view(-1, *[1] * (squares.ndim - 1))
        sums = torch.where(divided, squares, 0.0)
        dist.all_reduce(sums, group=self.parts.group)
        return torch.where(divided, sums, squares)

    # Checkpoints.

    def gather_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole tensors of a checkpoint on rank 0."""
        if self.parts.size == 1 or (self.data.rank > 0 and self.mode == "towers"):
            return tensors if self.is_main else {}
        whole = {}
        for name, tensor in tensors.items():
            gathered = self._gather(tensor) if self._is_divided(name, tensor) else tensor
            if self.is_main:
                whole[name] = gathered.cpu()
        return whole

    def _gather(self, part: Tensor) -> Tensor:
        length = torch.tensor(len(part), device=self.device)
        dist.all_reduce(length, group=self.parts.group)
        return self.parts.gather(part, int(length), 0)

    def _is_divided(self, name: str, tensor: Tensor) -> bool:
        """Tell whether a checkpoint's tensor, such as model.fc6.weight, is divided."""
        kind, _, rest = name.partition(".")
        parameter = rest if kind == "model" else rest.rpartition(".")[0]
        return parameter in self.local.divided and tensor.ndim > 0

    def load_sharded(self, load: Callable[[], Saved]) -> Saved:
        """Load a checkpoint on rank 0 and return this rank's part of it."""
        read: list[Saved] = []

        def load_here() -> tuple[Saved, dict[str, tuple[torch.Size, torch.dtype]]]:
            read.append(load())
            kinds = {name: (each.shape, each.dtype) for name, each in read[0].tensors.items()}
            return replace(read[0], tensors={}), kinds

        saved, kinds = self.broadcast(load_here)
        tensors = {}
        for name, (shape, dtype) in kinds.items():
            whole = read[0].tensors[name] if read else torch.empty(shape, dtype=dtype)
            dist.broadcast(whole, src=0, group=self.messages)
            divided = self._is_divided(name, whole)
            tensors[name] = whole[self.parts.part(len(whole))].clone() if divided else whole
        return replace(saved, tensors=tensors)

    # Statistics.

    def report(self) -> list[dict[str, Any]]:
        """Return the communication statistics of each rank, on every rank."""
        reports: list[Any] = [None] * self.size
        own = {"rank": self.rank, **self.stats.as_json(self.device)}
        dist.all_gather_object(reports, own, group=self.messages)
        return reports
