"""The index of a run: what the last hidden layer makes of its training images, kept on disk.

    RUN/index/index.json     of which weights and images it is
    RUN/index/features.npy   (images, units) float32

With it, the training images nearest to another are found without computing all of them again.
"""

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.analysis.feature_files import growing_array
from alexnet.analysis.features import Tapped, layer_shapes, taps
from alexnet.analysis.figures.neighbours import keep_nearest
from alexnet.analysis.figures.subject import Indices, Subject, evenly, last_hidden, open_subject
from alexnet.dataset import Dataset, Split
from alexnet.device import DeviceName
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import renumbered
from alexnet.progress import SILENT, Progress
from alexnet.storage import fit
from alexnet.storage.atomic import atomic_write, check_writable, expanded, sha256_of, write_text
from alexnet.storage.checkpoint_store import CheckpointName, find
from alexnet.storage.environment import package_version
from alexnet.storage.folders import is_dataset
from alexnet.storage.locks import is_locked
from alexnet.storage.run import Run
from alexnet.storage.untrusted import map_array, parse_json

FOLDER, FACTS, FEATURES = "index", "index.json", "features.npy"
FORMAT, VERSION = "alexnet-index", 1
BLOCK = 4096
"""Images compared at a time: they are read from the disk."""


@dataclass(frozen=True)
class Neighbour:
    """A training image near to another image."""

    image: str
    """Its name in the source of the data set."""
    label: str
    title: str
    distance: float
    """Euclidean, of the outputs of the last hidden layer."""

    def as_json(self) -> dict[str, Any]:
        """Return what `alexnet predict --nearest --json` prints of it."""
        named = {"image": self.image, "class": self.label, "title": self.title}
        return {**named, "distance": self.distance}


@dataclass(frozen=True)
class Index:
    """What the last hidden layer makes of training images, in memory or on disk."""

    layer: str
    data: Path
    split: Split
    """The training images in the data set `data`, with the run's labels."""
    images: Indices
    """The number in `split` of each row of `features`."""
    features: NDArray[np.float32]
    """(images, units)"""

    def find(self, own: Tensor, count: int) -> tuple[Indices, NDArray[np.float32]]:
        """Return numbers in the split and distances of the images nearest to each row of `own`.

        `own` are the layer's outputs (N, ...), the result is (N, count), the nearest first.
        """
        own = own.flatten(1).float().cpu()
        places = torch.empty((len(own), 0), dtype=torch.int64)
        distances = torch.empty((len(own), 0))
        for start in range(0, len(self.images), BLOCK):
            block = torch.from_numpy(np.array(self.features[start : start + BLOCK]))
            # Without a matrix product: its rounding changes the order of images that are near.
            found = torch.cdist(own, block, compute_mode="donot_use_mm_for_euclid_dist")
            numbers = torch.arange(start, start + len(block))
            places, distances = keep_nearest((places, distances), (numbers, found), count)
        return self.images[places.numpy()], distances.numpy()

    def nearest(self, run: Run, own: Tensor, count: int) -> list[list[Neighbour]]:
        """Name the images that `find` finds for each row of `own`."""
        return [
            [self._name(run, *each) for each in zip(numbers, distances, strict=True)]
            for numbers, distances in zip(*(x.tolist() for x in self.find(own, count)), strict=True)
        ]

    def _name(self, run: Run, number: int, distance: float) -> Neighbour:
        label = int(self.split.labels[number])
        name = self.split.name(number)
        return Neighbour(name, run.classes[label], run.titles[label], distance)


@dataclass(frozen=True)
class IndexReport:
    """An index that was written."""

    index: str
    layer: str
    units: int
    images: int
    split: str
    data: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def index_images(
    data: str | Path,
    run: str | Path,
    *,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    progress: Progress = SILENT,
) -> IndexReport:
    """Write the index of a run: the last hidden layer's outputs for all training images of `data`.

    It replaces an earlier one once it is complete. Raises `DataError` for data that do not fit the
    run, `UsageError` while a training writes to the run, `StorageError` for a failed write.
    """
    if is_locked(expanded(run) / "lock"):
        raise UsageError(f"a training writes to {run}: index its images when it has ended")
    subject = open_subject(run, data, checkpoint=checkpoint, device=device, progress=progress)
    layer = last_hidden(subject.model)
    units, count = math.prod(layer_shapes(subject.model)[layer]), len(subject.train)
    folder = subject.run.path / FOLDER
    check_writable(subject.run.path, 4 * units * count)
    with atomic_write(folder) as new:
        new.mkdir()
        task = progress.task("index", count, "images")
        with task as advance, growing_array(new / FEATURES, (units,)) as append:
            for rows in _features(subject, layer, np.arange(count)):
                append(rows)
                advance(len(rows))
        facts = _facts(subject, checkpoint, layer, new / FEATURES)
        write_text(new / FACTS, json.dumps(facts, indent=2) + "\n")
        if folder.exists():  # a folder with files cannot be replaced
            folder.rename(new.with_name("old"))
    split, size = subject.train.split_name, (folder / FEATURES).stat().st_size
    return IndexReport(str(folder), layer, units, count, split, str(data), size)


def memory_index(subject: Subject, most: int) -> Index:
    """Compute an index of at most `most` training images, evenly from all, in memory."""
    layer, wanted = last_hidden(subject.model), evenly(len(subject.train), most)
    rows = np.concatenate(list(_features(subject, layer, wanted)))
    return Index(layer, subject.data.path, subject.train, wanted, rows)


def has_index(run: Path) -> bool:
    """Tell whether a run has an index, of whatever weights."""
    return (run / FOLDER / FACTS).is_file()


def open_index(
    run: Run, data: str | Path | None = None, *, checkpoint: CheckpointName = "best"
) -> Index:
    """Open the index of a run, checked against its SHA-256.

    `data` says where its data set is now, if that has moved. Raises `CheckpointError` if there is
    no index, if it is damaged or of other weights, `DataError` if its data set is not there.
    """
    folder = run.path / FOLDER
    if not has_index(run.path):
        again = index_command(run, data, checkpoint)
        raise CheckpointError(f"{run.path} has no index of training images; make it: {again}")
    try:
        facts = _read_facts(folder)
        features = _read_features(folder, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = index_command(run, data, checkpoint)
        raise CheckpointError(f"{folder} is damaged ({error}); make it again: {again}") from None
    again = index_command(run, data or facts["data"]["path"], checkpoint)
    if facts["weights"]["sha256"] != find(run.path, checkpoint)["sha256"]:
        raise CheckpointError(f"{folder} is of other weights than {checkpoint}; renew it: {again}")
    dataset = _dataset_of(facts, data, again)
    split = dataset.split(facts["split"])
    if len(split) != len(features):
        raise CheckpointError(f"{folder} is damaged (not {len(split):,} images); renew it: {again}")
    known, given = (run.path, run.classes), (dataset.path, dataset.classes)
    counts = np.bincount(split.labels, minlength=len(dataset.classes)).tolist()
    numbers = fit.class_numbers(known, given, counts, SILENT)
    rows = np.arange(len(split))
    own = renumbered(split, numbers)
    return Index(facts["layer"], dataset.path, own, rows, features)


def nearest_to_files(
    index: Index,
    run: Run,
    files: Sequence[str],
    count: int,
    *,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
) -> list[list[Neighbour]]:
    """Name the `count` training images nearest to each image file, read as by prediction."""
    tapped = Tapped(run, [index.layer], checkpoint=checkpoint, device=device)
    return [
        found
        for _, features in (tapped.read(files) if files else ())
        for found in index.nearest(run, torch.from_numpy(features[index.layer]), count)
    ]


def index_command(run: Run, data: str | Path | None, checkpoint: CheckpointName) -> str:
    """Write the command that makes the index of a run."""
    words = ["alexnet", "index", str(data or "DATA"), "--run", str(run.path)]
    return shlex.join([*words, *(["--weights", "last"] if checkpoint == "last" else [])])


def _features(subject: Subject, layer: str, wanted: Indices) -> Iterator[NDArray[np.float32]]:
    """Yield the outputs of a layer for training images, batch by batch: (batch, units)."""
    for _, inputs in subject.batches(subject.train, wanted):
        with torch.inference_mode():
            found = taps(subject.model, inputs, [layer])[layer]
        yield found.flatten(1).float().cpu().numpy()


def _facts(
    subject: Subject, checkpoint: CheckpointName, layer: str, features: Path
) -> dict[str, Any]:
    """Return what index.json says."""
    data, saved = subject.data, find(subject.run.path, checkpoint)
    return {
        "format": FORMAT,
        "version": VERSION,
        "weights": {"file": saved["file"], "sha256": saved["sha256"]},
        "data": {"path": str(data.path.resolve()), "fingerprint": data.fingerprint},
        "split": subject.train.split_name,
        "layer": layer,
        "features": {"file": features.name, "sha256": sha256_of(features)},
        "alexnet": package_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read index.json. Raises `ValueError`, `KeyError` or `TypeError` if no `_facts` are in it."""
    facts: dict[str, Any] = parse_json((folder / FACTS).read_bytes())
    if (facts["format"], facts["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{facts['format']} version {facts['version']}")
    texts = [facts["layer"], facts["split"], *facts["data"].values(), *facts["weights"].values()]
    named = facts["data"]["path"], facts["data"]["fingerprint"], facts["weights"]["sha256"]
    if not all(isinstance(text, str) for text in (*texts, *named)):
        raise TypeError(f"{FACTS} has no texts where they belong")
    return facts


def _read_features(folder: Path, facts: dict[str, Any]) -> NDArray[np.float32]:
    """Map the features. Raises `ValueError`, `KeyError` or `TypeError` if they are not whole."""
    features = map_array(folder / FEATURES)
    if features.ndim != 2 or features.dtype != np.float32:
        raise ValueError(f"{FEATURES} is {features.dtype} of shape {features.shape}")
    if sha256_of(folder / FEATURES) != facts["features"]["sha256"]:
        raise ValueError(f"{FEATURES} has changed since it was written")
    return features


def _dataset_of(facts: dict[str, Any], data: str | Path | None, again: str) -> Dataset:
    """Open the data set of an index, where it was, or at `data`."""
    path = Path(data or facts["data"]["path"])
    if data is None and not is_dataset(path):
        raise DataError(f"the data set of the index is not at {path}, where it was: give --data")
    dataset = Dataset(path)
    if dataset.fingerprint != facts["data"]["fingerprint"]:
        raise DataError(f"{path} is another data set than that of the index; renew it: {again}")
    return dataset
