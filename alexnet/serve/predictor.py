"""A run whose network stays in memory: images to probabilities, preprocessed as in training."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.device import DeviceName, pick_device
from alexnet.errors import AlexnetError
from alexnet.evaluate import Accelerate, log_probabilities
from alexnet.images import Pixels
from alexnet.images.decode import load_square
from alexnet.serve.limits import Refusal
from alexnet.storage.checkpoint_store import CheckpointName, read_manifest
from alexnet.storage.folders import SHIPPED, SHIPPED_RUN
from alexnet.storage.locks import is_locked
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, center_view

log = logging.getLogger(__name__)

WARM_UP = (1, 2, 4, 8)
"""Batches that an accelerated network answers before the first request."""


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, and what computes its answers faster."""

    model: nn.Sequential
    fast: nn.Module
    patient: nn.Module
    """Like `fast`, for the thread of long questions: no two threads may share what it keeps."""
    checkpoint: str
    """The name of the file, which no other weights ever have."""


class Predictor:
    """A run with its network. `name` is what requests call it.

    The weights are those of the start. Only while a training writes to the run, `refresh` takes
    newer ones; damaged ones are passed over, and the old ones answer.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
        accelerate: Accelerate | None = None,
    ) -> None:
        self.run, self.name = Run.open(path), name
        self.is_training = is_locked(self.run.path / "lock")
        self._accelerate = accelerate
        self.weights: CheckpointName = "last" if self.is_training else checkpoint
        self.device = pick_device(device)
        self.preprocessing: Preprocessing = self.run.preprocessing.to(self.device)
        self._loaded: Loaded | None = None
        if not self.is_training or read_manifest(self.run.path)["checkpoints"]:
            self._loaded = self._load()

    @property
    def is_ready(self) -> bool:
        """Whether there are weights; a training has none before its first checkpoint."""
        return self._loaded is not None

    @property
    def loaded(self) -> Loaded:
        """The network. Raises `Refusal` while there are no weights."""
        if self._loaded is None:
            raise Refusal(503, "the training has saved no weights yet; try again", retry_after="10")
        return self._loaded

    @property
    def checkpoint(self) -> str | None:
        """The file of the weights that answer, if there are any."""
        return self._loaded.checkpoint if self._loaded else None

    @property
    def command(self) -> str:
        """What names this run on the command line."""
        own = SHIPPED if self.run.path == SHIPPED_RUN else str(self.run.path)
        return f"--run {shlex.quote(own)}"

    def _load(self) -> Loaded:
        checkpoint = str(read_manifest(self.run.path)[self.weights])
        model = self.run.load_model(self.device, self.weights)
        fast, patient = (self._accelerate(model) if self._accelerate else model for _ in range(2))
        loaded = Loaded(model, fast, patient, checkpoint)
        size = self.preprocessing.size
        for count in WARM_UP if self._accelerate else ():
            for _ in range(3):  # weights are rearranged at the second, forms measured at the third
                self._answer(loaded, np.zeros((count, size, size, 3), np.uint8), 1)
        return loaded

    def refresh(self) -> bool:
        """Take newer weights while a training writes them; tell whether there were any."""
        if not self.is_training:
            return False
        self.is_training = is_locked(self.run.path / "lock")
        try:
            newest = read_manifest(self.run.path)[self.weights]
            if newest is None or (self._loaded and newest == self._loaded.checkpoint):
                return False
            self._loaded = self._load()
        except AlexnetError as error:
            log.warning("%s: the weights of before stay: %s", self.name, error)
            return False
        return True

    def decode(self, data: bytes) -> Pixels:
        """Decode an image file as prediction does: (size, size, 3). Raises `ImageError`."""
        own = self.preprocessing
        return load_square(data, own.size, resize=own.resize, orientation=own.orientation)

    def answer(self, images: Pixels, views: int) -> NDArray[np.float64]:
        """Return the probabilities (N, classes) of images (N, size, size, 3)."""
        return self._answer(self.loaded, images, views)

    def _answer(self, loaded: Loaded, images: Pixels, views: int) -> NDArray[np.float64]:
        count = len(images)
        if loaded.fast is not loaded.model:
            # It keeps weights in an order of their own for each size of batch: few sizes.
            size = 1 << (count - 1).bit_length()
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        scores = log_probabilities(
            loaded.fast,
            images,
            self.preprocessing,
            view_count=views,
            precision=self.run.settings.precision,
        )
        probabilities: NDArray[np.float64] = scores[:count].exp().numpy()
        return probabilities

    def inputs(self, image: Pixels) -> torch.Tensor:
        """Return the network's input for an image's centre: (1, 3, crop, crop)."""
        own = self.preprocessing
        pixels = torch.from_numpy(image[None]).to(own.mean_image.device)
        return center_view(pixels, own)

    def seen(self, image: Pixels) -> Pixels:
        """Cut out of an image (size, size, 3) what the network sees: (crop, crop, 3)."""
        crop = self.preprocessing.crop
        start = (self.preprocessing.size - crop) // 2
        return image[start : start + crop, start : start + crop]
