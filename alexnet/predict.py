"""From image files to class probabilities, preprocessed as in training and evaluation.

A photograph is turned as its EXIF tag says where the images of the training were.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.device import DeviceName, pick_device
from alexnet.errors import DataError, UsageError
from alexnet.evaluate import Accelerate, answer_batches
from alexnet.images.files import find_files, load_files, raise_error, separate_errors
from alexnet.loader import read_ahead
from alexnet.notebook import ShownAsBars
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.folders import SHIPPED_RUN
from alexnet.storage.run import Run

PREDICTION_BATCH = 32
"""Images predicted at a time."""
WORTH_ACCELERATING = 64
"""Fewer images do not repay the second that loading compiled kernels takes on a CPU."""


@dataclass(frozen=True, repr=False)
class Prediction(ShownAsBars):
    """The most probable classes of one image."""

    image: str
    predictions: tuple[tuple[str, float], ...]
    """Pairs of class and probability, the most probable first."""
    titles: tuple[str, ...]
    """The display names of these classes."""

    def as_json(self) -> dict[str, Any]:
        """Return one element of what `alexnet predict --json` prints."""
        rows = [(*pair, title) for pair, title in zip(self.predictions, self.titles, strict=True)]
        named = [{"class": name, "probability": p, "title": title} for name, p, title in rows]
        return {"image": self.image, "predictions": named}


def predict_images(  # noqa: PLR0913 - each is a decision of its own
    paths: str | Path | Iterable[str | Path],
    run: str | Path = SHIPPED_RUN,
    *,
    top: int = 5,
    views: int = 1,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    on_bad: Callable[[DataError], None] = raise_error,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> list[Prediction]:
    """Predict the `top` most probable classes of each image; a folder stands for its files.

    Without `run` the net that comes with the package answers: `Run.shipped`.
    `views` is 1, the centre, or 10, the mean over the paper's ten. A file that is not a readable
    image is passed to `on_bad`, as an error that names it, and left out unless `on_bad` raises.
    `accelerate` makes the faster form of the network, used for many images; None uses it as it is.
    Raises `DataError` if there are no files, `CheckpointError` for a run without weights.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1, not {top}")
    files = find_files([paths] if isinstance(paths, str | Path) else paths)
    opened, target = Run.open(run), pick_device(device)
    network = opened.load_model(target, checkpoint)
    is_worth_it = len(files) >= WORTH_ACCELERATING
    model = accelerate(network) if accelerate and is_worth_it else network
    preprocessing = opened.preprocessing.to(target)
    names: list[str] = []
    batches = [files[i : i + PREDICTION_BATCH] for i in range(0, len(files), PREDICTION_BATCH)]
    read = partial(load_files, preprocessing.size, preprocessing.resize, preprocessing.orientation)
    with progress.task("predict", len(files), "images") as advance:

        def readable() -> Iterator[NDArray[np.uint8]]:
            """Yield the images of each batch that can be read, and list their names."""
            for loaded in read_ahead(read, batches):
                readable_names, images = separate_errors(loaded, on_bad)
                names.extend(readable_names)
                if images:
                    yield np.stack(images)
                advance(len(loaded))

        answers = answer_batches(
            model,
            readable(),
            preprocessing,
            view_count=views,
            precision=opened.settings.precision,
            note=progress.note,
        )
        rows = [row for scores in answers for row in scores.exp().numpy()]
    return [best_classes(name, row, opened, top) for name, row in zip(names, rows, strict=True)]


def best_classes(image: str, probabilities: NDArray[np.float64], run: Run, top: int) -> Prediction:
    """Name the `top` largest of `probabilities` (classes,), the largest first; ties in order."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    pairs = tuple((run.classes[index], float(probabilities[index])) for index in order)
    return Prediction(image, pairs, tuple(run.titles[index] for index in order))
