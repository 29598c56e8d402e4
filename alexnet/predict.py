"""From image files to the probabilities of classes, preprocessed as in training and evaluation.

Unlike `prepare`, which keeps to the protocol of the literature, this turns a photograph as its EXIF
tag says.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.device import pick_device
from alexnet.errors import DataError, UsageError
from alexnet.evaluate import log_probabilities
from alexnet.images.decode import ImageError, Pixels, Resize, load_square
from alexnet.loader import read_ahead
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint import CheckpointName
from alexnet.storage.run import Run
from alexnet.train.processes import ALONE, Accelerate

PREDICTION_BATCH = 32
WORTH_ACCELERATING = 64
"""Images from which the second that it takes to load compiled kernels is won back on a CPU."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image."""

    image: str
    predictions: tuple[tuple[str, float], ...]
    """Pairs of class and probability, the most probable first."""

    def as_json(self) -> dict[str, Any]:
        """Return one element of what `alexnet predict --json` prints."""
        pairs = [{"class": name, "probability": value} for name, value in self.predictions]
        return {"image": self.image, "predictions": pairs}


def raise_error(error: Exception) -> None:
    """Stop at the first bad file."""
    raise error


def predict_images(  # noqa: PLR0913 - each is a decision of its own
    paths: str | Path | Iterable[str | Path],
    run: str | Path,
    *,
    top: int = 5,
    views: int = 1,
    which: CheckpointName = "best",
    device: str = "auto",
    on_bad: Callable[[DataError], None] = raise_error,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> list[Prediction]:
    """Predict the `top` most probable classes of each image; a folder stands for all files in it.

    `views` is 1, the centre, or 10, the mean over the paper's ten. A file that is not a readable
    image goes to `on_bad`, as an error that names it, and is left out unless `on_bad` raises.
    `accelerate` makes the faster form of the network that computes, where there are many images;
    None takes it as it is.
    Raises `DataError` where there are no files, `CheckpointError` for a run without weights.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1, not {top}")
    files = find_files([paths] if isinstance(paths, str | Path) else paths)
    opened, place = Run.open(run), pick_device(device)
    network = opened.load_model(place, which)
    model = ALONE.network(network, accelerate if len(files) >= WORTH_ACCELERATING else None)
    preprocessing = opened.preprocessing.to(place)
    predictions: list[Prediction] = []
    batches = [
        files[start : start + PREDICTION_BATCH] for start in range(0, len(files), PREDICTION_BATCH)
    ]
    read = partial(load_files, size=preprocessing.size, resize=preprocessing.resize)
    with progress.task("predict", len(files), "images") as advance:
        for loaded in read_ahead(read, batches):
            names, images = keep_good(loaded, on_bad)
            if names:
                scores = log_probabilities(
                    model,
                    np.stack(images),
                    preprocessing,
                    view_count=views,
                    precision=opened.settings.precision,
                )
                best = [best_classes(row, opened.classes, top) for row in scores.exp().numpy()]
                predictions += map(Prediction, names, best)
            advance(len(loaded))
    return predictions


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """List the files that `paths` stand for: themselves, or what folders hold at any depth, sorted.

    Hidden files and folders are passed over. Raises `DataError` where nothing is left.
    """
    places = [Path(path) for path in paths]
    files = [file for place in places for file in (walk(place) if place.is_dir() else [place])]
    if not files:
        raise DataError(f"there is no file in {', '.join(map(str, places)) or 'an empty list'}")
    return files


def walk(folder: Path) -> list[Path]:
    """List the files below `folder` by name, without hidden ones; links to folders stay closed."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def load_files(
    paths: list[Path], size: int, resize: Resize = "short"
) -> list[tuple[str, Pixels | DataError]]:
    """Read each image as `load_file` does and put its name beside it."""
    return [(str(path), load_file(path, size, resize)) for path in paths]


def load_file(path: Path, size: int, resize: Resize = "short") -> Pixels | DataError:
    """Read one image as (size, size, 3) uint8, or return the error that names the file."""
    try:
        return load_square(path.read_bytes(), size, orient=True, resize=resize)
    except OSError as error:
        return DataError(f"{path}: {error.strerror}")
    except ImageError as error:
        return DataError(f"{path}: {error}")


def keep_good(
    loaded: list[tuple[str, Pixels | DataError]], on_bad: Callable[[DataError], None]
) -> tuple[list[str], list[Pixels]]:
    """Separate images from errors, which go to `on_bad`; return the names and pixels."""
    names, images = [], []
    for name, image in loaded:
        if isinstance(image, DataError):
            on_bad(image)
        else:
            names.append(name)
            images.append(image)
    return names, images


def best_classes(
    probabilities: NDArray[np.float64], classes: list[str], top: int
) -> tuple[tuple[str, float], ...]:
    """Pair the `top` largest of `probabilities` (classes,) with their classes, largest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple((classes[index], float(probabilities[index])) for index in order)
