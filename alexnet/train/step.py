"""One update of the network: forward, loss, backward, update rule, by PyTorch's operations.

A network that can record whole steps for its device (`Capturable`) makes them in its own way.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import randomness
from alexnet.device import autocast
from alexnet.train.image_cache import DeviceBatch
from alexnet.train.state import Job, Steps
from alexnet.transforms import augment, sample_augment


@runtime_checkable
class Capturable(Protocol):
    """What an accelerated network may be, too."""

    def record(self, job: Job) -> Steps | None:
        """Return what makes whole steps of `job`, which stands where it begins; None: cannot."""


def open_steps(job: Job) -> Steps:
    """Return what makes the steps of `job`, whose weights and optimiser are those to begin with."""
    recorded = job.network.record(job) if isinstance(job.network, Capturable) else None
    return recorded or PlainSteps(job)


class PlainSteps:
    """Steps by PyTorch's own operations, alone or in a team."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def compute(self, indices: NDArray[np.int64], arrived: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Compute the gradient."""
        job, position = self.job, self.job.position
        torch.manual_seed(randomness.step_seed(job.settings_now.seed, position.step + 1))
        loss = share_of_loss(job, indices, job.images.unpack(arrived))
        job.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return job.team.total(loss.detach()), job.team.gradient_norm(job.model)

    def update(self, norm: Tensor) -> None:
        """Change the weights."""
        job = self.job
        if clip := job.settings_now.clip_norm:
            nn.utils.clip_grads_with_norm_(job.model.parameters(), clip, norm)
        job.optimizer.step()


def share_of_loss(job: Job, indices: NDArray[np.int64], images: Tensor) -> Tensor:
    """Return this rank's part of the mean loss over the batch `indices`.

    `images` (B, S, S, 3) uint8 are the rank's share of the batch.
    """
    position, settings, team = job.position, job.settings_now, job.team
    rows, answered = team.share(len(indices)), team.answered(len(indices))
    first = position.images + rows.start
    draws = sample_augment(settings, job.preprocessing, position.epoch, indices[rows], first)
    inputs = augment(images, draws, job.preprocessing, settings)
    labels = torch.from_numpy(job.train.labels[indices[answered]]).to(job.device)
    team.begin(len(indices))
    with autocast(job.device, settings.precision):
        logits = job.network(inputs).float()
    smoothing = settings.label_smoothing
    if len(labels) == len(indices):
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    total = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    return total / len(indices)
