"""A run in Python: it predicts with weights that stay in memory, and shows itself."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import nn

from alexnet.analysis.features import taps
from alexnet.analysis.index import Index, Neighbour, open_index
from alexnet.device import DeviceName, pick_device
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate, answer_batches
from alexnet.images import Pixels
from alexnet.images.files import find_files
from alexnet.loader import read_ahead
from alexnet.notebook import facts
from alexnet.predict import PREDICTION_BATCH, WORTH_ACCELERATING, Prediction, best_classes
from alexnet.progress import SILENT, Progress
from alexnet.python.inputs import KINDS, ImageLike, Preprocess, name_of, read_pixels
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.folders import SHIPPED_RUN
from alexnet.storage.run import Run as StoredRun
from alexnet.transforms import Preprocessing, center_view


class Run(StoredRun):
    """A run directory: a trained or imported network with its classes; open it with `Run.open`.

    `classes` are the names in the order of the network's outputs and `titles` their display names,
    `settings` those of the training, `info` is run.json, `preprocess` makes the network's input.
    """

    def __init__(self, path: Path, info: dict[str, Any], preprocessing: Preprocessing) -> None:
        super().__init__(path, info, preprocessing)
        self.preprocess = Preprocess(preprocessing)
        self._networks: dict[tuple[str, torch.device], nn.Sequential] = {}
        self._indexes: dict[tuple[str, str | Path | None], Index] = {}

    @classmethod
    def pretrained(
        cls, name: str, *, mirror: str | Path | None = None, progress: Progress = SILENT
    ) -> "Run":
        """Open the run of published weights for the network called `name`.

        "cifar10_11": those that come with the package (`Run.shipped`). "one_weird_trick":
        torchvision's, for ImageNet; the first use downloads 244 MB to the user's cache folder, from
        `mirror` if given: another address, or a file. Its first layer is converted to this
        package's preprocessing. Raises `UsageError` for other names.
        """
        from alexnet.convert.published import NETWORK, imagenet_network

        if name == SHIPPED_RUN.name:
            return cls.shipped()
        if name == NETWORK:
            return cls.open(imagenet_network(mirror, progress=progress))
        raise UsageError(
            f"there are no weights for {name}, only for {SHIPPED_RUN.name} and {NETWORK}; for "
            f"weights of your own: alexnet import --help"
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        images: ImageLike,
        *,
        top: int = 5,
        views: int = 1,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
        accelerate: Accelerate | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: Sequence[ImageLike] | Iterator[ImageLike],
        *,
        top: int = 5,
        views: int = 1,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
        accelerate: Accelerate | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike] | Iterator[ImageLike],
        *,
        top: int = 5,
        views: int = 1,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
        accelerate: Accelerate | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict the `top` most probable classes of one image, or of each of several.

        An image is a path, the bytes of a file, an image of Pillow, or an array or tensor of
        pixels: (H, W), (H, W, C) or (C, H, W) with 1, 3 (RGB) or 4 channels, uint8 from 0 to 255 or
        floats from 0 to 1. A folder in a list stands for its files. The answers are those of
        `alexnet predict`, for many images with `accelerate=alexnet.accelerate`. `views` is 1 or 10.
        Weights are read once: to see those of a training that goes on, open the run again.
        Raises `DataError` for an image that cannot be read, `UsageError` for an array that could
        mean two things.
        """
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        sources = _sources(images)
        target = pick_device(device)
        network = self._network(checkpoint, target)
        is_worth_it = len(sources) >= WORTH_ACCELERATING
        answers = answer_batches(
            accelerate(network) if accelerate and is_worth_it else network,
            self._pixels(sources),
            self.preprocessing.to(target),
            view_count=views,
            precision=self.settings.precision,
        )
        rows = [row for scores in answers for row in scores.exp().numpy()]
        named = zip(map(name_of, sources), rows, strict=True)
        predictions = [best_classes(name, row, self, top) for name, row in named]
        return predictions[0] if isinstance(images, KINDS) else predictions

    @overload
    def nearest(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        images: ImageLike,
        count: int = 5,
        *,
        data: str | Path | None = None,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
    ) -> list[Neighbour]: ...

    @overload
    def nearest(
        self,
        images: Sequence[ImageLike] | Iterator[ImageLike],
        count: int = 5,
        *,
        data: str | Path | None = None,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
    ) -> list[list[Neighbour]]: ...

    def nearest(
        self,
        images: ImageLike | Sequence[ImageLike] | Iterator[ImageLike],
        count: int = 5,
        *,
        data: str | Path | None = None,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
    ) -> list[Neighbour] | list[list[Neighbour]]:
        """Name the `count` training images nearest to one image, or to each of several.

        They are those of the run's index (`alexnet.index_images`), which is read once. `images` are
        what `predict` takes, of which the centre is seen. `data` says where the data set of the
        index is now, if it has moved. Raises `CheckpointError` without an index or for one of other
        weights, `DataError` without its data set, and what `predict` raises.
        """
        if count < 1:
            raise UsageError(f"count must be at least 1, not {count}")
        sources, target = _sources(images), pick_device(device)
        if (checkpoint, data) not in self._indexes:
            self._indexes[checkpoint, data] = open_index(self, data, checkpoint=checkpoint)
        index, network = self._indexes[checkpoint, data], self._network(checkpoint, target)
        own, found = self.preprocessing.to(target), list[list[Neighbour]]()
        for pixels in self._pixels(sources):
            with torch.inference_mode():
                inputs = center_view(torch.from_numpy(pixels).to(target), own)
                outputs = taps(network, inputs, [index.layer])[index.layer]
            found += index.nearest(self, outputs, count)
        return found[0] if isinstance(images, KINDS) else found

    def _network(self, checkpoint: CheckpointName, device: torch.device) -> nn.Sequential:
        """Return the trained network, loaded at the first call."""
        key = (checkpoint, device)
        if key not in self._networks:
            self._networks[key] = self.load_model(device, checkpoint)
        return self._networks[key]

    def _pixels(self, images: list[ImageLike]) -> Iterator[Pixels]:
        """Yield batches of as many images as `alexnet predict` answers at a time."""
        starts = range(0, len(images), PREDICTION_BATCH)

        def read(start: int) -> Pixels:
            batch = images[start : start + PREDICTION_BATCH]
            return np.stack([read_pixels(image, self.preprocessing) for image in batch])

        # Pillow may read an image's file only now; two threads must not do that at once.
        is_lazy = any(isinstance(image, Image.Image) for image in images)
        return map(read, starts) if is_lazy else read_ahead(read, starts)

    def curves(self) -> list[dict[str, Any]]:
        """Return the row of metrics.jsonl of each epoch: losses, errors, learning rate, speed."""
        return [row for row in self.metrics() if row.get("kind") == "epoch"]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        from alexnet.python.curves import curves_html

        rows = self.curves()
        return facts(f"Run {self.path}", self._facts()) + (curves_html(rows) if rows else "")

    def _facts(self) -> dict[str, str]:
        rows = self.curves()
        errors = [row["top1_error"] for row in rows if row["top1_error"] is not None]
        values = {"network": f"{self.model_name}, {len(self.classes):,} classes"}
        if rows:
            values["trained"] = f"{len(rows)} of {self.settings.epochs} epochs"
        if errors:
            values["validation"] = f"lowest top-1 error {min(errors):.2%}"
        return values


def _sources(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """List the images that a question is about. Raises `UsageError` for a folder by itself."""
    if isinstance(images, str | Path) and Path(images).expanduser().is_dir():
        raise UsageError(f"{images} is a folder: put it in a list for all its files")
    return [images] if isinstance(images, KINDS) else list(_files_and_images(images))


def _files_and_images(images: Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yield each image, and each file of a folder."""
    for image in images:
        if isinstance(image, str | Path) and Path(image).expanduser().is_dir():
            yield from find_files([image])
        else:
            yield image
