"""The processes that train one network together: here, a single one."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.evaluate import Accelerate, Evaluation, evaluate_split
from alexnet.progress import Progress
from alexnet.storage.checkpoint_format import Saved
from alexnet.transforms import Preprocessing

Result = TypeVar("Result")


class Processes:
    """One process that trains alone.

    `alexnet.parallel.DistributedProcesses` overrides what several processes do together. All of
    them call every method in the same order.
    """

    is_main = True
    """Whether this process writes the run directory and reports: the first of all."""

    step: Callable[..., tuple[Tensor, Tensor]] | None = None
    """What several processes do in place of `alexnet.train.loop.train_step`."""

    def broadcast(self, work: Callable[[], Result]) -> Result:
        """Do `work` on the main process; return its result, or raise its error, on all."""
        return work()

    def all_reduce_max(self, number: int) -> int:
        """Return the largest `number` of any process."""
        return number

    def shard(self, model: nn.Sequential, settings: Settings) -> nn.Sequential:  # noqa: ARG002
        """Return this process's part of a network; its parameters keep their names."""
        return model

    def network(self, model: nn.Sequential, accelerate: Accelerate | None) -> nn.Module:
        """Return the module that computes `model`; gradients are summed over the processes."""
        return accelerate(model) if accelerate else model

    def input_rows(self, images: int) -> slice:
        """Return the rows of a batch of `images` images that this process reads."""
        return slice(0, images)

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
        """Evaluate the network in training, as `evaluate_split` does."""
        return evaluate_split(
            [(network, preprocessing)],
            split,
            classes,
            precision=precision,
            progress=progress,
            on_batch=on_batch,
        )

    def sum_squares(self, squares: Tensor, names: list[str]) -> Tensor:  # noqa: ARG002
        """Turn squared norms (len(names), ...) of this process's tensors into those of whole ones.

        `names` are those of the tensors.
        """
        return squares

    def gather_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole tensors of a checkpoint on the main process."""
        return tensors

    def load_sharded(self, load: Callable[[], Saved]) -> Saved:
        """Load a checkpoint on the main process and return this process's part of it."""
        return load()
