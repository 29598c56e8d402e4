"""Signatures of single images, which show duplicates, flat, dark and truncated ones.

A signature has 24 bytes and three flags: the duplicates among all of ImageNet are found in 50 MB.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.images import Pixels

FLAT_DEVIATION = 2.0
"""Grey levels: an image is flat if all its channels have a smaller standard deviation."""
DARK_LEVEL = 63
"""Grey levels: an image is dark if nothing in it is brighter.

16-bit files of up to 14 bits become so if only their high bytes are read. Photographs at night have
brighter lights.
"""
CUT_FRACTION = 1 / 32
"""The fraction of an image's rows that end it in grey if it is called cut."""
NEAR_BITS = 6
"""Images whose gradient hashes differ in at most this many of 64 bits are compared by pixels."""
NEAR_LEVELS = 4.0
"""Grey levels: the largest mean difference of the cells of similar images, brightness removed."""
CELLS = 16
"""Cells along each side in that comparison."""
_GREY = 128  # JPEG decoders fill in this where data are missing

Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass
class Signatures:
    """Signatures of N images: `digests` (N, 2), `gradient_hashes` and three flags (N,).

    A dark image is not called flat too, nor a flat one cut.
    """

    digests: Words
    gradient_hashes: Words
    flat: Flags
    dark: Flags
    cut: Flags

    @classmethod
    def empty(cls, count: int) -> "Signatures":
        """Return empty signatures of `count` images."""
        digests, hashes = np.zeros((count, 2), np.uint64), np.zeros(count, np.uint64)
        return cls(digests, hashes, *(np.zeros(count, np.bool_) for _ in range(3)))

    def add(self, first: int, images: Pixels) -> None:
        """Compute the signatures of `images` (B, S, S, 3), the first of which has index `first`."""
        rows = slice(first, first + len(images))
        self.digests[rows] = pixel_digests(images)
        self.gradient_hashes[rows] = gradient_hashes(images)
        self.dark[rows] = is_dark(images)
        self.flat[rows] = is_flat(images) & ~self.dark[rows]
        self.cut[rows] = is_cut(images) & ~self.flat[rows]


def pixel_digests(images: Pixels) -> Words:
    """Return a 128-bit digest of the pixels of each image: (B, 2)."""
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for image in images
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def gradient_hashes(images: Pixels) -> Words:
    """Return a 64-bit difference hash of each image (B,): where 8 x 9 cells get brighter.

    Scaling, compression and brightening change few of its bits. Each bit compares a cell with its
    left neighbour.
    """
    cells = cell_means(images.mean(axis=3, dtype=np.float32)[..., None], 8, 9)[..., 0]
    bits = cells[:, :, 1:] > cells[:, :, :-1]
    return np.packbits(bits.reshape(len(images), 64), axis=1).view(np.uint64)[:, 0]


def cell_means(images: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.float32]:
    """Return the means over `rows` x `columns` cells of images (B, S, S, C)."""
    across, down = _edges(images.shape[2], columns), _edges(images.shape[1], rows)
    sums = np.add.reduceat(np.add.reduceat(images, down, 1, np.float32), across, 2, np.float32)
    heights, widths = _lengths(down, images.shape[1]), _lengths(across, images.shape[2])
    means: NDArray[np.float32] = sums / (heights[:, None, None] * widths[:, None])
    return means


def _edges(size: int, cells: int) -> NDArray[np.int64]:
    return np.arange(cells) * size // cells


def _lengths(edges: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    # With fewer pixels than cells, a cell is the one pixel at its edge.
    return np.diff(edges, append=size).clip(1).astype(np.float32)


def is_flat(images: Pixels) -> Flags:
    """Return which images are nearly of one colour: (B,)."""
    deviations = images.reshape(len(images), -1, 3).std(axis=1, dtype=np.float32)
    return np.asarray(deviations.max(axis=1) < FLAT_DEVIATION)


def is_dark(images: Pixels) -> Flags:
    """Return which images are nearly black everywhere: (B,)."""
    return np.asarray(images.max(axis=(1, 2, 3)) <= DARK_LEVEL, np.bool_)


def is_cut(images: Pixels) -> Flags:
    """Return which images end in rows of the grey that decoders fill in for missing data: (B,)."""
    rows = max(1, round(CUT_FRACTION * images.shape[1]))
    bottom = images[:, -rows:].astype(np.int16)
    return np.asarray((np.abs(bottom - _GREY) <= 1).all(axis=(1, 2, 3)), np.bool_)


def equal_groups(digests: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort images so that equal ones are neighbours; return the order and the groups' starts."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, np.flatnonzero(new)


def similar_pairs(signatures: Signatures, limit: int) -> NDArray[np.int64]:
    """Return up to `limit` pairs (P, 2) of different images with nearly equal gradient hashes.

    The pairs are neighbours after sorting the hashes, and after sorting them with their halves
    exchanged.
    """
    hashes, half = signatures.gradient_hashes, np.uint64(32)
    swapped = (hashes << half) | (hashes >> half)
    found = [_neighbours(key, signatures) for key in (hashes, swapped)]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.asarray(np.unique(pairs, axis=0)[:limit], np.int64)


def _neighbours(key: Words, signatures: Signatures) -> NDArray[np.int64]:
    order = np.argsort(key, kind="stable")
    pairs: NDArray[np.int64] = np.stack([order[:-1], order[1:]], axis=1)
    one, other = pairs.T
    near = np.bitwise_count(key[one] ^ key[other]) <= NEAR_BITS
    near &= (signatures.digests[one] != signatures.digests[other]).any(axis=1)
    near &= ~(signatures.flat[one] | signatures.flat[other])
    return np.asarray(pairs[near])


def are_similar(one: Pixels, other: Pixels) -> Flags:
    """Return which images (B, S, S, 3) have similar cells, brightness removed: (B,)."""
    cells = min(CELLS, one.shape[1])
    difference = cell_means(one, cells, cells) - cell_means(other, cells, cells)
    difference -= difference.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(np.abs(difference).mean(axis=(1, 2, 3)) <= NEAR_LEVELS)
