"""Who trains: one process alone, or a team of them, each a rank with its own device.

The loop asks its team what is this rank's: which images, which part of the network, which answers.
`ALONE` has all of everything, and costs nothing. `alexnet.parallel` is the other implementation.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor, nn

from alexnet.config import Settings
from alexnet.storage.checkpoint import Saved

Accelerate = Callable[[nn.Sequential], nn.Module]
"""Makes a faster module that computes what a network does, with the same parameters."""

Result = TypeVar("Result")


class Team(Protocol):
    """What the loop needs of the processes that train together. All ranks call all of it alike."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes the run directory and reports."""

    def from_main(self, work: Callable[[], Result]) -> Result:
        """Do `work` on rank 0 and return its result, or raise its error, on every rank."""

    def agree(self, number: int) -> int:
        """Return the largest `number` of any rank: a signal is one for all."""

    def localize(self, model: nn.Sequential, settings: Settings) -> nn.Sequential:
        """Cut this rank's part out of a network; its parameters keep their names."""

    def network(self, model: nn.Sequential, accelerate: Accelerate | None) -> nn.Module:
        """Return what computes: the part `model`, its gradients summed over the ranks."""

    def share(self, images: int) -> slice:
        """Return which rows of a batch of so many `images` this rank reads."""

    def begin(self, images: int) -> None:
        """Say how many images the batch has, over all ranks, that the network now gets."""

    def answered(self, images: int) -> slice:
        """Return the rows of a batch for which the network gives this rank the logits."""

    def total(self, loss: Tensor) -> Tensor:
        """Add up the parts of a batch's loss that the answers of the ranks have in it."""

    def collect(self, rows: Tensor, images: int) -> Tensor:
        """Put together what each rank has for its answers: (images, ...)."""

    def gradient_norm(self, model: nn.Sequential) -> Tensor:
        """Return the length of the whole network's gradient."""

    def whole_squares(self, squares: Tensor, names: list[str]) -> Tensor:
        """Turn squared lengths of this rank's tensors `names`, in rows, into those of all of it."""

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the ranks' parts of a checkpoint's tensors together, on rank 0."""

    def restored(self, load: Callable[[], Saved]) -> Saved:
        """Load a checkpoint on rank 0 and return this rank's part of it."""


class Alone:
    """A team of one."""

    is_main = True

    def from_main(self, work: Callable[[], Result]) -> Result:
        """Do `work`."""
        return work()

    def agree(self, number: int) -> int:
        """Return `number`."""
        return number

    def localize(self, model: nn.Sequential, settings: Settings) -> nn.Sequential:  # noqa: ARG002
        """Return `model` as it is."""
        return model

    def network(self, model: nn.Sequential, accelerate: Accelerate | None) -> nn.Module:
        """Return `model`, accelerated if that is asked for."""
        return accelerate(model) if accelerate else model

    def share(self, images: int) -> slice:
        """Return all rows."""
        return slice(0, images)

    def begin(self, images: int) -> None:
        """Need not know."""

    def answered(self, images: int) -> slice:
        """Return all rows."""
        return slice(0, images)

    def total(self, loss: Tensor) -> Tensor:
        """Return the loss, which is that of all images."""
        return loss

    def collect(self, rows: Tensor, images: int) -> Tensor:  # noqa: ARG002
        """Return all rows, which are here."""
        return rows

    def gradient_norm(self, model: nn.Sequential) -> Tensor:
        """Return the length of the gradient."""
        return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    def whole_squares(self, squares: Tensor, names: list[str]) -> Tensor:  # noqa: ARG002
        """Return `squares`, which are of whole tensors."""
        return squares

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors, which are whole."""
        return tensors

    def restored(self, load: Callable[[], Saved]) -> Saved:
        """Load the checkpoint."""
        return load()


ALONE = Alone()
"""The team of a single process: the default everywhere."""
