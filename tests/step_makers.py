"""Acting after the steps of a training."""

from collections.abc import Callable

from torch import Tensor

from alexnet import train
from alexnet.train.losses import StepResult
from alexnet.train.processes import Processes
from alexnet.train.state import DeviceBatch, Indices, Step, TrainState


def after_step(act: Callable[[TrainState, int, Indices], object]) -> Callable[..., Step]:
    """Return a `make_step` whose steps end with `act(state, number of the step, indices)`."""
    original = train.make_step

    def make_step(state: TrainState, processes: Processes) -> Step:
        step = original(state, processes)

        def acting(indices: Indices, images: DeviceBatch) -> tuple[Tensor, Tensor] | StepResult:
            result = step(indices, images)
            act(state, state.position.step + 1, indices)
            return result

        return acting

    return make_step
