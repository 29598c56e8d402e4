"""How large the measurements on a GPU are, and how small their rehearsal on a CPU is."""

from dataclasses import dataclass

import torch

from alexnet.bench.network_tables import Setup
from alexnet.bench.spec import SIZE
from alexnet.bench.timing import Rounds
from alexnet.networks.registry import input_shape

OURS = ("ours", "ours_plain")
"""Rows of the tables that a rehearsal has: the peers are for the paper's network only."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    setup: Setup
    rounds: Rounds
    largest_batch: int
    """A measurement at a larger batch is made at this one."""
    most_images: int
    """A measurement of more images is made of so many."""
    size: int
    """Side of the stored images in pixels, but for the networks of CIFAR-10."""
    blocks: tuple[str, ...]
    profiled_steps: int
    """At most; an epoch may be shorter."""
    loss_steps: int
    tests: tuple[str, ...]
    """Options of pytest."""
    cifar10_epochs: int

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(self.setup.device)

    @property
    def is_rehearsal(self) -> bool:
        """Whether the aim is to see that everything works, on a CPU."""
        return self.device.type == "cpu"

    def batch(self, size: int) -> int:
        """Return the batch size of a measurement at `size`."""
        return min(size, self.largest_batch)

    def side(self, model: str) -> int:
        """Return the side of the stored images for a network."""
        return 32 if input_shape(model)[1] <= 32 else self.size

    def images(self, count: int) -> int:
        """Return the number of images of a measurement of `count`."""
        return min(count, self.most_images)


GPU = Scale(
    setup=Setup("cuda", "bfloat16", torch.get_num_threads()),
    rounds=Rounds(seconds=0.3, warm_up=3),
    largest_batch=1024,
    most_images=131_072,
    size=SIZE,
    blocks=("block_1", "block_2", "block_5"),
    profiled_steps=200,
    loss_steps=200,
    tests=("-n", "8"),
    cifar10_epochs=520,
)
REHEARSAL = Scale(
    setup=Setup(
        "cpu",
        "bfloat16",
        torch.get_num_threads(),
        own_process=False,
        only=OURS,
        model="alexnet_small",
        captured=True,
    ),
    rounds=Rounds(1, 0.0, 1),
    largest_batch=2,
    most_images=32,
    size=64,
    blocks=("block_5",),
    profiled_steps=4,
    loss_steps=2,
    tests=("-k", "driver or describe"),
    cifar10_epochs=2,
)
"""A small network on a CPU, its CUDA kernels in Triton's interpreter."""
