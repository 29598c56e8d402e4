"""Processes that run functions as ranks, started once per test module."""

import dataclasses
import gc
import multiprocessing
import os
import signal
import socket
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from network_makers import pictures, shrunk
from step_makers import after_step
from torch import nn
from torch.nn import functional as F

from alexnet import evaluate, train
from alexnet.config import Settings
from alexnet.dataset import Dataset, Split
from alexnet.errors import AlexnetError
from alexnet.evaluate import Evaluation
from alexnet.networks.layers import Input
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.networks.registry import create_model
from alexnet.parallel import TrainingSpec, join, launching, train_rank
from alexnet.parallel import processes as several_processes
from alexnet.parallel.processes import DistributedProcesses
from alexnet.progress import SILENT
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.run import Run
from alexnet.train import loop
from alexnet.train.processes import Processes
from alexnet.train.state import Indices, TrainState


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(pipe: Connection) -> None:
    """Run the functions that come through the pipe, until None comes."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while (task := pipe.recv()) is not None:
        work, arguments, environment = task
        os.environ.update(environment)
        try:
            pipe.send((work(*arguments), None))
        except BaseException as error:  # noqa: BLE001 - sent to the test
            pipe.send((None, (error, traceback.format_exc())))


def start(work: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Start `work(pipe, *arguments)` in a process; return it and the other end of the pipe."""
    # A server imports torch once; the processes are forked from it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parallel_makers", "torch._dynamo"])
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    return process, ours


def rank_environments(ranks: int) -> list[dict[str, str]]:
    """Return the environment variables of each rank, with a free port."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    common |= {"TORCHELASTIC_RESTART_COUNT": "0"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


class Pool:
    """Processes that act as ranks 0, 1, ... as a test needs them."""

    def __init__(self, size: int) -> None:
        self._processes, self._pipes = zip(*(start(serve) for _ in range(size)), strict=True)

    def run(self, ranks: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call `work(*arguments)` on `ranks` processes; return the result of each."""
        for pipe, environment in zip(self._pipes, rank_environments(ranks), strict=False):
            pipe.send((work, arguments, environment))
        answers = [pipe.recv() for pipe in self._pipes[:ranks]]
        failures = [failure for _, failure in answers if failure]
        if failures:
            error, trace = failures[0]
            raise error from RuntimeError(f"in a rank:\n{trace}")
        return [result for result, _ in answers]

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join(10)


@contextmanager
def pool_of(size: int) -> Iterator[Pool]:
    """Give a pool for the duration of the context."""
    pool = Pool(size)
    try:
        yield pool
    finally:
        pool.close()


# Work for the ranks.


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a batch and a number of steps."""

    network: str
    images: int = 3
    steps: int = 1
    dtype: torch.dtype = torch.float64
    dropout: bool = True
    full: bool = False
    """Whether the network has its full width; else it has an eighth of it."""

    def build(self) -> nn.Sequential:
        """Build the network, the same each time."""
        torch.manual_seed(3)
        model = create_model(self.network, 5) if self.full else shrunk(self.network, 8, 5)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout | PaperDropout) and not self.dropout:
                layer.p = 0.0
        return model.to(self.dtype).train()

    def batch(self, step: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw images and labels, other ones for each step."""
        torch.manual_seed(100 + step)
        images = pictures(self.images, side)[torch.randperm(self.images)]
        return images.to(self.dtype), torch.randint(5, (self.images,))


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """The result of a case; on rank 0 with whole tensors."""

    losses: list[float]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    norm: float
    report: list[dict[str, Any]]


def make_steps(processes: Processes, case: Case) -> CaseResult:
    """Make the steps of `case` as the training loop does, with SGD."""
    whole = case.build()
    assert isinstance(whole[0], Input)
    side = whole[0].shape[1]
    model = processes.shard(whole, Settings())
    network = processes.network(model, None)
    several = processes if isinstance(processes, DistributedProcesses) else None
    losses, norm, n = [], torch.zeros(()), case.images
    for number in range(case.steps):
        images, labels = case.batch(number, side)
        torch.manual_seed(number)
        if several:
            several.batch.images = n
        logits = network(images[processes.input_rows(n)])
        rows = several.output_rows(n) if several else slice(0, n)
        loss = F.cross_entropy(logits, labels[rows], reduction="sum") / n
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = several.gradient_norm(model) if several else norm_of_gradient(model)
        part = loss.detach()
        losses.append(float(several._sum_loss(part) if several else part))
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=1e-3)
    learnt = dict(model.named_parameters())
    gradients = {f"model.{name}": p.grad for name, p in learnt.items() if p.grad is not None}
    weights = {f"model.{name}": p.detach() for name, p in learnt.items()}
    report = several.report() if several else []
    gathered = processes.gather_state(gradients)
    return CaseResult(losses, gathered, processes.gather_state(weights), float(norm), report)


def norm_of_gradient(model: nn.Module) -> torch.Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def steps_alone(case: Case) -> CaseResult:
    """Make the steps of `case` in this process."""
    return make_steps(Processes(), case)


def steps_as_rank(mode: str, case: Case) -> CaseResult:
    """Make the steps of `case` as one of several ranks."""
    with join(mode, device="cpu", timeout=60) as processes:
        return make_steps(processes, case)


@contextmanager
def double_precision() -> Iterator[None]:
    """Let `train_model` compute in float64, so that rounding changes no result.

    In float32 a last digit can send a gradient another way through a max-pool; the compared runs
    then diverge.
    """
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        modules = ((loop, "augment"), (several_processes, "augment"), (evaluate, "take_view"))
        for module, name in modules:
            original = getattr(module, name)
            patch.setattr(module, name, lambda *args, do=original: do(*args).double())
        yield
    torch.set_default_dtype(torch.float32)


def train_alone(data: Path, run: Path, settings: Settings) -> None:
    """Train in this process."""
    with double_precision():
        train.train_model(data, run, settings, device="cpu", resume=True)


def train_as_rank(mode: str, data: Path, run: Path, settings: Settings, stop: int = 0) -> str:
    """Train as a rank; return "done" or the error. The last rank gets SIGINT in step `stop`."""
    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)

    def kill(state: TrainState, step: int, indices: Indices) -> None:
        if step == stop and last:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with (
            double_precision(),
            pytest.MonkeyPatch.context() as patch,
            join(mode, device="cpu", timeout=60) as processes,
        ):
            patch.setattr(train, "make_step", after_step(kill))
            train.train_model(data, run, settings, device="cpu", resume=True, processes=processes)
    except AlexnetError as error:
        return f"{error.exit_code}: {error}"
    return "done"


def processes_are_gone(spec: TrainingSpec) -> bool:
    """Train as a rank; tell whether its `Processes` are released at the end."""
    joined: list[weakref.ref[Processes]] = []

    @contextmanager
    def noted(*arguments: Any, **options: Any) -> Iterator[Processes]:
        with join(*arguments, **options) as processes:
            joined.append(weakref.ref(processes))
            yield processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "join", noted)
        gc.disable()  # it could run at any time
        try:
            train_rank(spec)
            return joined[0]() is None
        finally:
            gc.enable()


def evaluate_as_rank(mode: str, run: Path, data: Path, images: int) -> Evaluation:
    """Evaluate the first `images` of the validation split as one of several ranks."""
    opened, split = Run.open(run), first_of(data, images)
    with double_precision(), join(mode, device="cpu", timeout=60) as processes:
        whole = create_model(opened.model_name, len(opened.classes))
        model = processes.shard(whole, opened.settings)
        saved = processes.load_sharded(lambda: checkpoint_store.load(run, "last"))
        checkpoint_format.load_weights(model, saved)
        return processes.evaluate(
            processes.network(model, None),
            opened.preprocessing,
            split,
            opened.classes,
            precision="auto",
            progress=SILENT,
            on_batch=lambda: None,
        )


def first_of(data: Path, images: int) -> Split:
    """Open the validation split of `data`, cut to its first `images`."""
    split = Dataset(data).split("val")
    split.labels = split.labels[:images]
    return split


# Ranks that fail.


class Failing(nn.Module):
    """A network that fails on rank 1 in one step; `accelerate` puts it into each rank."""

    def __init__(
        self, model: nn.Sequential, fail: Callable[[], None], at: int, always: bool
    ) -> None:
        super().__init__()
        self.model, self.fail, self.at, self.always = model, fail, at, always
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if os.environ["RANK"] == "1" and self.steps == self.at and (first or self.always):
            self.fail()
        out: torch.Tensor = self.model(x)
        return out


def raise_an_error() -> None:
    """Fail like a bug."""
    raise ZeroDivisionError("as planned")


def be_killed() -> None:
    """Fail as if memory ran out."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Fail as if the connection were lost: do not respond."""
    os.kill(os.getpid(), signal.SIGSTOP)


def rank_that_hangs(model: nn.Sequential) -> nn.Module:
    """Let rank 1 stop in its seventh step."""
    return Failing(model, hang, 7, True)


def rank_as_started(pipe: Connection, spec: TrainingSpec, environment: dict[str, str]) -> None:
    """Train as a rank started by torchrun; send its error."""
    os.environ.update(environment)
    try:
        pipe.send(train_rank(spec).error)
    except AlexnetError as error:
        pipe.send(f"{error.exit_code}: {error}")


def rank_that_raises(model: nn.Sequential) -> nn.Module:
    """Let rank 1 raise in its seventh step, once."""
    return Failing(model, raise_an_error, 7, False)


def rank_that_dies(model: nn.Sequential) -> nn.Module:
    """Let rank 1 be killed in its seventh step, once."""
    return Failing(model, be_killed, 7, False)


def rank_that_always_raises(model: nn.Sequential) -> nn.Module:
    """Let rank 1 raise in the first step of every start."""
    return Failing(model, raise_an_error, 1, True)
