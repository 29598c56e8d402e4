"""Features learned once serve elsewhere: few images of each class, a linear classifier on a tap.

`draws` has the protocol. Donahue et al. (DeCAF, 2014) and Zeiler and Fergus (2014) report what
networks like this one reach on Caltech-101. What is measured is the mean of the classes' errors.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import randomness
from alexnet.analysis.features import taps
from alexnet.dataset import Dataset, Split
from alexnet.device import DeviceName, pick_device
from alexnet.errors import UsageError
from alexnet.images import Pixels
from alexnet.networks.initialization import he_initialize, weight_layers
from alexnet.progress import Progress
from alexnet.recipes import recipe
from alexnet.reproduce.draws import draw_all
from alexnet.reproduce.plan import Arm, Budget, Comparison, Experiment, TapWeights
from alexnet.reproduce.ridge import fit_ridge
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import atomic_write
from alexnet.storage.checkpoint_format import MODEL, transfer_weights
from alexnet.storage.run import Run
from alexnet.train.initial_weights import new_layers
from alexnet.transforms import Preprocessing, center_view

TAPS = ("pool1", "pool2", "relu3", "relu4", "pool5")
GRIDS = (6, 3, 1)
"""To which sides maps are averaged; the first is pool5's own."""
BATCH = 32


def tap_arm(tap: str, weights: TapWeights, images: int) -> Arm:
    """Return the arm that classifies the outputs of the row `tap`."""
    which = "" if weights == "imagenet" else f" of {weights} weights"
    return Arm(f"{tap}{which}, {images} images", {}, tap, images, weights)


def scratch_arm(images: int) -> Arm:
    """Return the arm that trains a network from random weights."""
    return Arm(f"from scratch, {images} images", images=images)


def arms(images: int) -> tuple[Arm, ...]:
    """List the arms that learn from so many images of each class."""
    learned = [tap_arm(tap, "imagenet", images) for tap in TAPS]
    return (*learned, *(tap_arm(tap, "random", images) for tap in TAPS), scratch_arm(images))


TRANSFER = Experiment(
    name="transfer",
    question="Do features learned on ImageNet serve for other classes with few images?",
    claims=(),
    settings=replace(recipe("small"), model="alexnet_small"),
    side=256,
    arms=(*arms(15), *arms(30)),
    comparisons=(
        Comparison(
            "pool5, 30 images",
            "from scratch, 30 images",
            "13.5 % against 53.5 % (Zeiler and Fergus 2014); 13.1 % (DeCAF)",
            "class_error",
        ),
        Comparison(
            "pool5, 15 images",
            "from scratch, 15 images",
            "16.2 % against 77.2 % (Zeiler and Fergus 2014)",
            "class_error",
        ),
        Comparison("pool5, 30 images", "pool5 of random weights, 30 images", "", "class_error"),
        Comparison("pool5, 30 images", "pool1, 30 images", "", "class_error"),
    ),
    budgets={
        "quick": Budget(epochs=16, rates=(1.0, 3.0), drawn_side=64),
        "full": Budget(epochs=100, changes={"model": "alexnet"}, drawn_side=256),
    },
)


@dataclass(frozen=True)
class Material:
    """What the arms learn from."""

    draws: Mapping[tuple[int, int], Path]
    """Packed data sets, by images of each class and seed."""
    features: Mapping[TapWeights | None, Path]
    """Folders of features of the whole data set, a file for each tap."""


def prepare_material(
    plan: Experiment,
    cost: Budget,
    data: Path,
    out: Path,
    init: str | Path | None,
    device: DeviceName,
    progress: Progress,
) -> Material:
    """Draw the images and compute the features, in folders of `out`; what is there is kept.

    `init` is the run with ImageNet's convolutions. Raises `UsageError` if there is none.
    """
    if init is None:
        raise UsageError(
            f"{plan.name} needs ImageNet's convolutions: init=alexnet.imagenet_convolutions()"
        )
    counts = sorted({arm.images for arm in plan.arms})
    draws = draw_all(counts, cost.seeds, cost.drawn_side, data, out, progress)
    dataset, run = Dataset(data), Run.open(init)
    folders: dict[TapWeights | None, Path] = {
        "imagenet": out / f"{dataset.fingerprint[:8]}-{run.path.name}",
        "random": out / f"{dataset.fingerprint[:8]}-random",
    }
    for weights, folder in folders.items():
        if not folder.is_dir():
            model = random_network(run, dataset) if weights == "random" else learned_network(run)
            write_features(model, run.preprocessing, dataset, folder, device, progress)
    return Material(draws, folders)


def learned_network(run: Run) -> nn.Sequential:
    """Build the network of a run, with the weights of the layers that the run has."""
    model = run.new_model()
    saved = checkpoint_store.load(run.path, "best", prefix=MODEL)
    lacking = new_layers(run, run, [name for name, _ in weight_layers(model)])
    transfer_weights(model, saved, lacking)
    return model


def random_network(run: Run, dataset: Dataset) -> nn.Sequential:
    """Build the same network with random weights that preserve the signal's size (`he`)."""
    torch.manual_seed(randomness.step_seed(0, 0))
    model = run.new_model()
    he_initialize(model, pixel_std=math.hypot(*dataset.color_std) / math.sqrt(3))
    return model


def write_features(
    model: nn.Sequential,
    preprocessing: Preprocessing,
    dataset: Dataset,
    folder: Path,
    device: DeviceName,
    progress: Progress,
) -> None:
    """Write the outputs at `TAPS` for the centre of every image, averaged to 6 x 6.

    TAP.npy is (images, channels * 36) float16; each image's values have length 1. The images of all
    splits follow each other. Each pass of a batch serves all taps.
    """
    chosen = pick_device(device)
    model, rules = model.eval().to(chosen), preprocessing.to(chosen)
    splits = [dataset.split(name) for name in dataset.split_names]
    total, done = sum(map(len, splits)), 0
    with (
        atomic_write(folder) as temporary,
        progress.task(f"features {folder.name}", total, "images") as advance,
    ):
        temporary.mkdir()
        files: dict[str, np.memmap[Any, Any]] = {}
        for batch in batches(splits):
            for tap, found in batch_features(model, torch.from_numpy(batch), rules).items():
                if tap not in files:
                    shape, path = (total, found.shape[1]), temporary / f"{tap}.npy"
                    files[tap] = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                files[tap][done : done + len(batch)] = found.cpu().numpy()
            done += len(batch)
            advance(len(batch))
        for file in files.values():
            file.flush()


def batches(splits: list[Split]) -> Iterator[Pixels]:
    """Yield the images of all splits in order."""
    for split in splits:
        for start in range(0, len(split), BATCH):
            yield split.read(range(start, min(start + BATCH, len(split))))


@torch.inference_mode()
def batch_features(model: nn.Sequential, pixels: Tensor, rules: Preprocessing) -> dict[str, Tensor]:
    """Return what `write_features` stores for images (N, S, S, 3) uint8."""
    inputs = center_view(pixels.to(rules.mean_image.device), rules)
    found = {}
    for tap, maps in taps(model, inputs, TAPS).items():
        found[tap] = F.normalize(F.adaptive_avg_pool2d(maps, GRIDS[0]).flatten(1)).half()
    return found


def pyramid(values: Tensor) -> Tensor:
    """Return what the classifier sees of stored features: square roots of averages in three grids.

    Each grid has the same weight (a spatial pyramid, Lazebnik et al. 2006). Square roots of values
    that are not negative keep a few large ones from outweighing the others.
    """
    maps = values.reshape(len(values), -1, GRIDS[0], GRIDS[0])
    roots = [F.adaptive_avg_pool2d(maps, grid).flatten(1).sqrt() for grid in GRIDS]
    return torch.cat([F.normalize(each) for each in roots], 1) / math.sqrt(len(GRIDS))


def measure_tap(data: Path, features: Path, tap: str) -> dict[str, Any]:
    """Fit a linear classifier on a draw's training images; return its errors.

    The images that are held out for networks are training images here: leaving each one out in turn
    chooses the penalty.
    """
    dataset = Dataset(data)
    values = np.load(features / f"{tap}.npy", mmap_mode="r")

    def read(*names: str) -> tuple[Tensor, Tensor]:
        splits = [dataset.split(name) for name in names]
        rows = [int(split.name(index)) for split in splits for index in range(len(split))]
        labels = np.concatenate([split.labels for split in splits])
        found = torch.from_numpy(values[rows].astype(np.float32))
        return pyramid(found), torch.from_numpy(labels)

    known, labels = read("train", "val")
    fitted = fit_ridge(known, labels, len(dataset.classes))
    tests, test_labels = read("test")
    wrong = fitted.answers(tests).argmax(1) != test_labels
    trained = float((fitted.answers(known).argmax(1) != labels).float().mean())
    tested = float(wrong.float().mean())
    by_class = [float(wrong[test_labels == label].float().mean()) for label in set(labels.tolist())]
    return {
        "val_error": fitted.left_out_error,
        "test_error": tested,
        "test_error_10_views": None,
        "class_error": sum(by_class) / len(by_class),
        "train_error": trained,
        "overfitting": tested - trained,
        "epochs_to_25": None,
        "epochs": [],
        "penalty": fitted.penalty,
    }
