"""Compute the mean image and the principal colours of many images from exact sums.

Sums of integers do not depend on the order, so the number of processes does not change the result.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.images import Pixels
from alexnet.images.resize import add_colors


@dataclass
class ColorSums:
    """Sums over images: their number, the values of each pixel, the products of the channels."""

    images: int
    values: NDArray[np.int64] | NDArray[np.uint32]  # (S, S, 3)
    products: NDArray[np.int64]  # (3, 3): sum over all pixels of r*r, r*g, ...

    @classmethod
    def empty(cls, size: int, *, few: bool = False) -> "ColorSums":
        """Return sums of no images; `few` takes less memory and allows up to 16 million images."""
        values = np.zeros((size, size, 3), np.uint32 if few else np.int64)
        return cls(0, values, np.zeros((3, 3), np.int64))

    def add(self, image: Pixels) -> None:
        """Add one image (S, S, 3)."""
        self.images += 1
        add_colors(image, self.values, self.products)

    def add_sums(self, other: "ColorSums") -> None:
        """Add the sums over other images."""
        self.images += other.images
        self.values += other.values
        self.products += other.products

    def mean_image(self) -> NDArray[np.float32]:
        """Return the mean of each pixel, (S, S, 3)."""
        return (self.values / self.images).astype(np.float32)

    def principal_colors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return standard deviations (3,), ascending, and unit vectors (3, 3), one per column.

        They belong to the RGB covariance over all pixels, in units of 0-255. What P 4.1 calls
        eigenvalues are these standard deviations in the code of 2012.
        """
        size = self.values.shape[0]
        pixels = self.images * size * size
        totals = [int(total) for total in self.values.sum(axis=(0, 1))]
        # Python integers: the difference of two large sums would lose digits in floats.
        covariance = [
            [
                (pixels * int(self.products[i, j]) - totals[i] * totals[j]) / pixels**2
                for j in range(3)
            ]
            for i in range(3)
        ]
        variances, vectors = np.linalg.eigh(np.array(covariance))
        # The sign of a vector is arbitrary; make its largest component positive.
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.where(vectors[largest, range(3)] < 0, -1.0, 1.0)
        return np.sqrt(variances.clip(0)), vectors
