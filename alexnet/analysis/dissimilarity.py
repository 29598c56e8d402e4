"""How much images differ to a row of a network, and how alike two rows see the same images.

All measures need only the inner products of the images' features: N x N numbers for N images,
whatever the length of the features. These are written to a temporary file batch by batch and
multiplied block by block, so memory holds `BLOCK_BYTES` a few times.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.features import Features, Tapped
from alexnet.errors import DataError, UsageError
from alexnet.images.files import raise_error
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import atomic_write, expanded

BLOCK_BYTES = 64 * 2**20
"""Size of a block of features as float64."""
ROUNDING = 1e-12
"""What is left of equal features after their mean was subtracted is this small a part of them."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Products:
    """The inner products of the features of N images."""

    gram: Matrix
    """(N, N): entry (i, j) is the inner product of the features of images i and j."""
    sums: Matrix
    """(N,): the sum of each image's features."""
    length: int
    """Features of an image."""

    def correlation_distances(self) -> Matrix:
        """Return 1 - Pearson's correlation of each pair, (N, N).

        It is NaN for images whose features are all equal: they have no correlation.
        """
        covariance = self.gram - np.outer(self.sums, self.sums) / self.length
        variance = np.diag(covariance)
        is_known = variance > ROUNDING * np.diag(self.gram)
        deviation = np.sqrt(np.where(is_known, variance, np.nan))
        distances: Matrix = 1 - np.clip(covariance / np.outer(deviation, deviation), -1, 1)
        np.fill_diagonal(distances, np.where(np.isnan(deviation), np.nan, 0))
        return distances

    def euclidean_distances(self) -> Matrix:
        """Return the Euclidean distance of each pair, (N, N)."""
        squares = np.diag(self.gram)
        distances: Matrix = np.sqrt(np.maximum(squares[:, None] + squares - 2 * self.gram, 0))
        np.fill_diagonal(distances, 0)
        return distances


def linear_cka(first: Products, second: Products) -> float:
    """Return the linear centred kernel alignment of two rows for the same images: 0 to 1.

    It is 1 for features that are equal up to rotation, scale and shift (Kornblith and others 2019).
    NaN where a row gives all images the same.
    """
    one, other = _centred(first.gram), _centred(second.gram)
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / size) if size else float("nan")


def _centred(gram: Matrix) -> Matrix:
    """Return the inner products of features less their mean over the images."""
    rows = gram.mean(axis=1, keepdims=True)
    centred: Matrix = gram - rows - rows.T + gram.mean()
    is_rounding = np.linalg.norm(centred) <= ROUNDING * np.linalg.norm(gram)
    return np.zeros_like(gram) if is_rounding else centred


def inner_products(features: NDArray[np.float32]) -> Products:
    """Multiply features (N, ...) block by block, in float64; they may be mapped from a file."""
    rows = features.reshape(len(features), -1)
    count, length = rows.shape
    step = max(1, BLOCK_BYTES // (8 * length))
    blocks = [slice(start, start + step) for start in range(0, count, step)]
    gram, sums = np.empty((count, count)), np.empty(count)
    for number, first in enumerate(blocks):
        block = rows[first].astype(np.float64)
        sums[first] = block.sum(axis=1)
        for second in blocks[number:]:
            product = block @ rows[second].astype(np.float64).T
            gram[first, second], gram[second, first] = product, product.T
    return Products((gram + gram.T) / 2, sums, length)  # products round differently in each half


def products_of(batches: Iterable[Features], layers: Sequence[str]) -> dict[str, Products]:
    """Return the inner products of the features of all images in `batches`, by layer."""
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(tempfile.TemporaryFile()) for name in dict.fromkeys(layers)
        }
        lengths: dict[str, int] = {}
        for batch in batches:
            for name, file in files.items():
                rows = batch[name].astype(np.float32, copy=False).reshape(len(batch[name]), -1)
                lengths[name] = rows.shape[1]
                file.write(rows.tobytes())
        return {name: inner_products(_mapped(files[name], lengths[name])) for name in lengths}


def _mapped(file: IO[bytes], length: int) -> NDArray[np.float32]:
    file.flush()
    return np.memmap(file, np.float32, "r").reshape(-1, length)


@dataclass(frozen=True)
class DissimilarityReport:
    """What was written."""

    images: int
    layers: tuple[str, ...]
    cka: list[list[float]]
    """Between the layers (rows) and those of the other run, or of the same (columns)."""
    file: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; None for a value that is not defined."""
        cka = [[None if np.isnan(value) else value for value in row] for row in self.cka]
        return {**vars(self), "layers": list(self.layers), "cka": cka}


def write_dissimilarities(
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    tapped: Tapped,
    other: Tapped | None = None,
    *,
    on_bad: Callable[[DataError], None] = raise_error,
    progress: Progress = SILENT,
) -> DissimilarityReport:
    """Write the dissimilarities of files, or of all files in folders, to `out`, a .npz file.

    Its arrays: `images` (N,), `layers` (L,), `correlation` and `euclidean` (L, N, N), and `cka`
    (L, L) between the layers of `tapped`, or between these and the same layers of `other`.
    `on_bad` gets the error of a file that is not an image. Raises `DataError` for fewer than two
    images.
    """
    path = expanded(out)
    if path.suffix != ".npz":
        raise UsageError(f"{out} is not a .npz file, which holds several arrays")
    paths = [images] if isinstance(images, str | Path) else list(images)
    names, found = _read(tapped, paths, on_bad, progress)
    columns = found
    if other is not None:
        others, columns = _read(other, paths, lambda _: None, progress)
        if others != names:
            raise DataError("the images changed between the reading for one run and for the other")
    layers = tuple(found)
    cka = [[linear_cka(found[a], columns[b]) for b in layers] for a in layers]
    arrays: dict[str, NDArray[Any]] = {
        "images": np.array([name.encode("utf-8", "backslashreplace").decode() for name in names]),
        "layers": np.array(layers),
        "correlation": np.stack([found[name].correlation_distances() for name in layers]),
        "euclidean": np.stack([found[name].euclidean_distances() for name in layers]),
        "cka": np.array(cka),
    }
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return DissimilarityReport(len(names), layers, cka, str(path))


def _read(
    tapped: Tapped,
    images: list[str | Path],
    on_bad: Callable[[DataError], None],
    progress: Progress,
) -> tuple[list[str], dict[str, Products]]:
    """Return the names of the images that can be read, and their inner products by layer."""
    names: list[str] = []

    def batches() -> Iterator[Features]:
        for read, features in tapped.read(images, on_bad=on_bad, progress=progress):
            names.extend(read)
            yield features

    found = products_of(batches(), tapped.layers)
    if len(names) < 2:
        raise DataError(f"dissimilarities need at least two images, not {len(names)}")
    return names, found
