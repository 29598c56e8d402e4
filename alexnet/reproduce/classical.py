"""Computer vision before networks: a linear classifier on pixels, on HOG, on visual words.

HOG: histograms of gradients (Dalal, Triggs 2005). Visual words: SIFT descriptors (Lowe 2004) on a
grid, each assigned to the nearest of 512 words, counted in the image and in its quarters (Csurka et
al. 2004; Lazebnik et al. 2006). The classifier is a linear support vector machine, whose weight of
errors is chosen on validation images.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.dataset import Dataset, Split
from alexnet.errors import UsageError
from alexnet.images import Pixels

Array = NDArray[np.float32]
Describe = Callable[[Pixels], Array]
"""Maps images (N, S, S, 3) uint8 to features (N, ...)."""

BATCH = 500
ERROR_WEIGHTS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""The constants C that are tried."""
WORDS, SAMPLED = 512, 100_000
"""Visual words, and the descriptors from which they are made."""
MOST_IMAGES = 20_000
"""The products of all pairs of training images are in memory: 1.6 GB for so many."""
CELLS = 8
"""Cells along a side for HOG, and grid points between descriptors' centres for SIFT."""
PIXELS_SIDE = 32
"""Larger images are reduced to this side before their pixels are classified."""


def measure_classifier(data: Path, kind: str, seed: int) -> dict[str, Any]:
    """Train the classifier `kind` on a packed data set; return its errors.

    Raises `UsageError` if OpenCV is missing, and for too many images.
    """
    dataset = Dataset(data)
    train, val, test = (dataset.split(name) for name in ("train", "val", "test"))
    if len(train) > MOST_IMAGES:
        raise UsageError(f"{data} has {len(train):,} training images, at most {MOST_IMAGES:,} here")
    describe = prepare_description(kind, train, seed)
    features = [np.concatenate(list(map(describe, batches(each)))) for each in (train, val, test)]
    return fit(features, [each.labels for each in (train, val, test)], seed)


def fit(features: list[Array], labels: list[NDArray[np.int64]], seed: int) -> dict[str, Any]:
    """Choose the weight of errors on the validation images; return the errors of all three."""
    from sklearn.svm import SVC

    train, *_ = features = standardized(features)
    # With products of images instead of features, ten weights cost little more than one.
    products = [each @ train.T for each in features]
    best: dict[str, Any] = {"val_error": 2.0}
    for weight in ERROR_WEIGHTS:
        machine = SVC(C=weight, kernel="precomputed", random_state=seed)
        machine.fit(products[0], labels[0])
        errors = [1 - float(machine.score(x, y)) for x, y in zip(products, labels, strict=True)]
        if errors[1] < best["val_error"]:
            best = dict(zip(("train_error", "val_error", "test_error"), errors, strict=True))
            best["error_weight"] = weight
    best |= {"overfitting": best["test_error"] - best["train_error"]}
    return {**best, "test_error_10_views": best["test_error"], "epochs_to_25": None, "epochs": []}


def standardized(features: list[Array]) -> list[Array]:
    """Give each feature mean 0 and deviation 1 on the training images, and images length 1."""
    mean, deviation = features[0].mean(0), features[0].std(0) + 1e-6
    width = np.sqrt(features[0].shape[1])
    return [(each - mean) / deviation / width for each in features]


def batches(split: Split) -> Iterator[Pixels]:
    """Yield all images of a split in order."""
    for start in range(0, len(split), BATCH):
        yield split.read(range(start, min(start + BATCH, len(split))))


def prepare_description(kind: str, train: Split, seed: int) -> Describe:
    """Return the function that describes images; visual words are made from `train`."""
    if kind == "words":
        return partial(describe_words, centers=make_words(train, seed))
    return {"pixels": describe_pixels, "hog": describe_hog}[kind]


def describe_pixels(images: Pixels) -> Array:
    """Return the pixels of the images, reduced to 32 x 32 where they are larger."""
    cv2 = opencv()

    if images.shape[1] > PIXELS_SIDE:
        size = (PIXELS_SIDE, PIXELS_SIDE)
        images = np.stack(
            [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        )
    return images.reshape(len(images), -1).astype(np.float32)


def describe_hog(images: Pixels) -> Array:
    """Return histograms of nine directions in 8 x 8 cells, each normalised in four blocks."""
    cv2 = opencv()

    side = images.shape[1] // CELLS * CELLS
    cell = side // CELLS
    descriptor = cv2.HOGDescriptor(
        (side, side), (2 * cell, 2 * cell), (cell, cell), (cell, cell), 9
    )
    cut = np.ascontiguousarray(images[:, :side, :side])
    return np.stack([descriptor.compute(image).ravel() for image in cut])


def make_words(train: Split, seed: int) -> Array:
    """Cluster descriptors of training images into words: (WORDS, 128)."""
    from sklearn.cluster import MiniBatchKMeans

    per_image = max(1, SAMPLED // len(train))
    generator = np.random.default_rng(seed)
    sample: list[Array] = []
    for images in batches(train):
        for image in images:
            found = sift(image)
            sample.append(found[generator.permutation(len(found))[:per_image]])
    clusters = MiniBatchKMeans(WORDS, batch_size=4096, n_init=1, random_state=seed)
    return np.asarray(clusters.fit(np.concatenate(sample)).cluster_centers_, np.float32)


def describe_words(images: Pixels, centers: Array) -> Array:
    """Return the square roots of the shares of each word in the image and in its quarters."""
    return np.stack([_count_words(image, centers) for image in images])


def _count_words(image: Pixels, centers: Array) -> Array:
    found = sift(image)
    # |d - c|^2 = |d|^2 - 2 d c + |c|^2, of which |d|^2 is equal for all words.
    words = (np.square(centers).sum(1) - 2 * found @ centers.T).argmin(1)
    quarter = np.array([2 * (y >= 0.5) + (x >= 0.5) for _, y, x in GRID])
    parts = [words, *(words[quarter == part] for part in range(4))]
    counts = [np.bincount(part, minlength=len(centers)) for part in parts]
    shares = np.concatenate([count / count.sum() for count in counts])
    return np.asarray(np.sqrt(shares), np.float32)


def opencv() -> Any:
    """Import OpenCV, whose types are incomplete; raise `UsageError` if it is missing."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        raise UsageError("OpenCV is missing: pip install 'alexnet[reproduce]'") from None


PLACES = ((np.arange(2 * CELLS) + 0.5) / (2 * CELLS)).tolist()
GRID = [(size, y, x) for size in (1 / 8, 1 / 4) for y in PLACES for x in PLACES]
"""Where descriptors are computed: their size and centre, as shares of the image's side."""


def sift(image: Pixels) -> Array:
    """Return the SIFT descriptors at `GRID`, as square roots of shares: (N, 128)."""
    cv2 = opencv()

    grey, side = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), image.shape[0]
    points = [cv2.KeyPoint(x * side, y * side, size * side, 0) for size, y, x in GRID]
    _, found = cv2.SIFT_create().compute(grey, points)
    shares = found / np.maximum(found.sum(1, keepdims=True), 1e-6)
    return np.asarray(np.sqrt(shares), np.float32)
