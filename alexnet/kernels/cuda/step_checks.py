"""Comparisons of what only a captured training runs on a GPU: batch, dropout, loss, update rule.

Like those of `alexnet.kernels.cuda.self_check`; `alexnet.kernels.cuda.first_use` chooses them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from alexnet.config import Settings
from alexnet.images.yuv420 import from_yuv420, to_yuv420
from alexnet.kernels.cuda.batch import crop_table, prepare_batch
from alexnet.kernels.cuda.dropout import SeededDropout
from alexnet.kernels.cuda.loss import cross_entropy
from alexnet.kernels.cuda.self_check import (
    IMAGES,
    KERNEL_LIMITS,
    Comparison,
    random,
    relative_error,
)
from alexnet.kernels.cuda.update import FusedUpdate
from alexnet.optim import make_optimizer
from alexnet.train.state import PixelFormat
from alexnet.transforms import Preprocessing, augment, crop_matrices, sample_augment

OptimizerName = Literal["paper", "sgd", "adamw"]
SHARE_LIMIT = 0.02
"""How far the share of values that dropout keeps may be from what it should be."""


@dataclass(frozen=True)
class UpdateCheck:
    """Two steps of an update rule, with the mean loss and the norm of the gradient."""

    optimizer: OptimizerName

    def __str__(self) -> str:
        """Name it."""
        return f"the update rule {self.optimizer}"

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare the weights after them, and what the last one measured."""
        limit, losses = KERNEL_LIMITS[torch.float32], random(IMAGES, seed=9)
        reference, weight = self._new(torch.device("cpu"))
        optimizer, own = self._new(device)
        update, results = FusedUpdate(optimizer), torch.zeros(2, device=device)
        active = torch.ones(1, device=device)
        for seed in (1, 2):
            gradient = random(*weight.shape, seed=seed)
            weight.grad = gradient
            reference.step()
            rates = torch.from_numpy(update.next_rates()).to(device)
            update.step(
                [gradient.to(device)], losses.to(device), results, rates=rates, active=active
            )
        yield Comparison(str(self), relative_error(own, weight.detach().double()), limit)
        measured = torch.stack([losses.double().mean(), gradient.double().norm()])
        yield Comparison(f"the norm in {self}", relative_error(results, measured), limit)

    def _new(self, device: torch.device) -> tuple[Optimizer, Tensor]:
        """Make an optimiser of one weight that starts at the same values each time."""
        layer = nn.Linear(1000, 3, bias=False)
        layer.bias = nn.Parameter(torch.zeros(3), requires_grad=False)
        layer.weight = nn.Parameter(random(3, 1000).to(device))
        settings = Settings(optimizer=self.optimizer, lr=0.1, weight_decay=0.01)
        optimizer = make_optimizer(nn.Sequential(layer), settings)
        return optimizer, layer.weight


@dataclass(frozen=True)
class LossCheck:
    """The loss of some images and its gradient."""

    classes: int
    dtype: torch.dtype

    def __str__(self) -> str:
        """Name it."""
        return f"the loss over {self.classes} classes"

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare each image's loss, and the gradient of their mean."""
        logits = (random(IMAGES, self.classes) * 3).to(self.dtype)
        labels = torch.arange(IMAGES) % self.classes
        losses, gradient = cross_entropy(logits.to(device), labels.to(device), label_smoothing=0.1)
        exact = logits.double().requires_grad_()
        expected = F.cross_entropy(exact, labels, label_smoothing=0.1, reduction="none")
        (slope,) = torch.autograd.grad(expected.mean(), exact)
        limit = KERNEL_LIMITS[torch.float32]
        yield Comparison(str(self), relative_error(losses, expected.detach()), limit)
        error = relative_error(gradient, slope)
        yield Comparison(f"the gradient of {self}", error, KERNEL_LIMITS[self.dtype])


@dataclass(frozen=True)
class DropoutCheck:
    """Dropout of half of the values."""

    dtype: torch.dtype

    def __str__(self) -> str:
        """Name it."""
        return "dropout"

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare what is kept, how much that is, and that the gradient keeps the same."""
        layer = SeededDropout(0.5, 2.0, layer=1)
        layer.seed = torch.tensor([5], device=device)
        x = (random(IMAGES, 1024).abs() + 1).to(self.dtype).to(device).requires_grad_()
        y = layer(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
        kept = (y != 0).detach().double().cpu()
        limit = KERNEL_LIMITS[self.dtype]
        expected = 2 * x.detach().double().cpu() * kept
        yield Comparison(str(self), relative_error(y, expected), limit)
        yield Comparison(f"the share of {self}", abs(float(kept.mean()) - 0.5), SHARE_LIMIT)
        yield Comparison(f"the gradient of {self}", relative_error(gradient, 2 * kept), limit)


@dataclass(frozen=True)
class BatchCheck:
    """The preparation of a batch from images in one format."""

    pixel_format: PixelFormat
    scaled: bool = False
    """Whether crops have any size and are scaled."""

    def __str__(self) -> str:
        """Name the format."""
        how = f"{self.pixel_format}, scaled" if self.scaled else self.pixel_format
        return f"the preparation of a batch ({how})"

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Compare four crops of small images of noise."""
        size, crop, indices = 20, 15, np.arange(4)
        images = (random(4, size, size, 3) * 40 + 128).clamp(0, 255).byte()
        mean = random(3, size, size).abs() * 100
        colors = ((0.6, 0.7, 0.4), (0.6, 0.1, -0.8), (0.6, -0.7, 0.4))
        preprocessing = Preprocessing(size, crop, mean, (50.0, 10.0, 5.0), colors)
        settings = replace(Settings(), min_crop_scale=0.6 * self.scaled)
        params = sample_augment(settings, preprocessing, 1, indices)
        out = torch.empty(len(indices), 3, crop, crop, device=device)
        table = crop_table(params, indices, size, crop).to(device)
        matrices = torch.from_numpy(crop_matrices(params)).to(device) if self.scaled else None
        shift = torch.from_numpy(params.shift).to(device)
        rows, pixels = images.flatten(1), images
        if self.pixel_format == "yuv420":
            rows = to_yuv420(images)
            pixels = from_yuv420(rows, size)
        expected = augment(pixels, params, preprocessing, settings)
        prepare_batch(
            rows.to(device), table, shift, preprocessing.mean.to(device), out,
            size=size, pixel_format=self.pixel_format, matrices=matrices,
        )  # fmt: skip
        error = relative_error(out, expected.double())
        yield Comparison(str(self), error, KERNEL_LIMITS[torch.float32])
