"""What most tests share: one thread of arithmetic, a tiny data set, and a run trained on it."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from alexnet.config import Settings
from alexnet.images import Pixels
from alexnet.prepare import prepare_dataset
from alexnet.prepare.sources.base import Item, Listing
from alexnet.progress import Progress
from alexnet.train import train_model

# A shell in the background starts processes that ignore SIGINT, nohup such that ignore SIGHUP. A
# training in them ignores these signals too, as it should; the tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_DFL)

TINY = Settings(
    model="cifar10_11",
    epochs=2,
    batch_size=8,
    optimizer="adamw",
    lr=0.003,
    layer_lr={"conv1": 0.015},
    weight_decay=0.01,
    schedule="cosine",
    init="he",
    log_steps=2,
)


class Stripes:
    """A source of 32 x 32 images in three classes: stripes across, down and slanting."""

    kind, location = "stripes", ""
    counts: ClassVar = {"train": 13, "val": 5, "test": 5}
    classes = ("across", "down", "slanting")

    def listing(self, progress: Progress) -> Listing:
        items: Sequence[Item] = [
            Item(split, label, f"{split}/{label}/{number}", (part, kind, number))
            for part, (split, count) in enumerate(self.counts.items())
            for kind, label in enumerate(self.classes)
            for number in range(count)
        ]
        return Listing(items)

    def read(self, item: Item) -> Pixels:
        part, kind, number = item.at
        rng = np.random.default_rng([part, kind, number])
        row, column = np.mgrid[:32, :32]
        along = (row, column, row + column)[kind]
        wave = np.sin(along * rng.uniform(0.6, 1.2) + rng.uniform(0, 6))[..., None]
        image = 128 + 80 * wave * rng.uniform(0.2, 1, 3) + rng.normal(0, 10, (32, 32, 3))
        pixels: Pixels = np.clip(image, 0, 255).astype(np.uint8)
        return pixels


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep several test processes from fighting for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set: 39 training, 15 validation and 15 test images of side 32."""
    out = tmp_path_factory.mktemp("tiny") / "data"
    prepare_dataset(Stripes(), out, size=32, workers=1)
    return out


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on the tiny data set; tests must not write to it."""
    path = tmp_path_factory.mktemp("tiny") / "run"
    train_model(tiny_data, path, TINY, device="cpu")
    return path
