"""The steps of a training on a GPU, each one launch."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet import randomness
from alexnet.device import dtype_of
from alexnet.kernels.cuda.captured_step import CapturedStep, obstacle
from alexnet.optim import PaperSGD
from alexnet.train.image_cache import DeviceBatch
from alexnet.train.processes import Accelerate
from alexnet.train.state import Job, Steps
from alexnet.transforms import sample_augment


def record(job: Job, accelerate: Accelerate) -> Steps | None:
    """Return what makes the steps of `job`; None, and a note, where they cannot be recorded.

    `accelerate` makes the fast form of the copy of the network that computes.
    """
    reason = obstacle(job.model, job.optimizer, job.settings)
    if reason:
        job.progress.note(f"steps are made one operation after the other: {reason}")
        return None
    return RecordedSteps(job, accelerate)


class RecordedSteps:
    """Steps that are recorded once and then replayed, on images wherever they are kept."""

    def __init__(self, job: Job, accelerate: Accelerate) -> None:
        assert isinstance(job.optimizer, PaperSGD)  # noqa: S101 - `obstacle` says so
        self.job = job
        self.store = job.images.batch_buffer(job.settings.batch_size)
        for parameter in job.model.parameters():
            if parameter.ndim == 4:  # as convolutions on a GPU read them
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.step = CapturedStep(
            job.model,
            job.optimizer,
            job.preprocessing,
            job.settings_now,
            self.store,
            pixel_format=job.images.plan.pixel_format,
            accelerate=accelerate,
            dtype=dtype_of(job.device, job.settings.precision),
            tell=job.progress.note,
        )

    def compute(self, indices: NDArray[np.int64], arrived: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Make the whole step, the update included."""
        job, position, settings = self.job, self.job.position, self.job.settings_now
        self.step.change(settings)
        if arrived.rows is not self.store:
            self.store[: len(arrived.rows)].copy_(arrived.rows)
        draws = sample_augment(
            settings, job.preprocessing, position.epoch, indices, position.images
        )
        seed = randomness.step_seed(settings.seed, position.step + 1)
        return self.step(arrived.at, draws, job.train.labels[indices], seed)

    def update(self, norm: Tensor) -> None:
        """Do nothing: the step is made."""
