"""What single images say: equal and nearly equal ones, empty ones, cut ones.

Of each image 24 bytes are kept, so that the duplicates among all of ImageNet are found in 50 MB.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.images.decode import Pixels

FLAT_DEVIATION = 2.0
"""Grey levels: an image whose channels all deviate less from their mean shows nothing."""
NEAR_BITS = 6
"""Outlines that differ in at most so many of their 64 bits are looked at more closely."""
NEAR_LEVELS = 4.0
"""Grey levels: how much the parts of two nearly equal images may differ, brightness aside."""
PARTS = 16
_GREY = 128  # what JPEG decoders fill in where data are missing

Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass
class Marks:
    """What is kept of N images: `digests` (N, 2), `outlines` (N,), `flat` and `cut` (N,)."""

    digests: Words
    outlines: Words
    flat: Flags
    cut: Flags

    @classmethod
    def empty(cls, count: int) -> "Marks":
        """Return the marks of `count` images that have not been looked at."""
        digests, outlines = np.zeros((count, 2), np.uint64), np.zeros(count, np.uint64)
        return cls(digests, outlines, np.zeros(count, np.bool_), np.zeros(count, np.bool_))

    def look(self, first: int, images: Pixels) -> None:
        """Fill in the marks of `images` (B, S, S, 3), the first of which has number `first`."""
        rows = slice(first, first + len(images))
        self.digests[rows] = pixel_digests(images)
        self.outlines[rows] = outlines(images)
        self.flat[rows] = is_flat(images)
        self.cut[rows] = is_cut(images) & ~self.flat[rows]


def pixel_digests(images: Pixels) -> Words:
    """Return 128 bits for the exact pixels of each image: (B, 2)."""
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for image in images
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def outlines(images: Pixels) -> Words:
    """Return 64 bits for the rough look of each image (B,): where it grows brighter to the right.

    They stay the same, or nearly so, when an image is scaled, compressed or brightened.
    """
    parts = part_means(images.mean(axis=3, dtype=np.float32)[..., None], 8, 9)[..., 0]
    bits = parts[:, :, 1:] > parts[:, :, :-1]
    return np.packbits(bits.reshape(len(images), 64), axis=1).view(np.uint64)[:, 0]


def part_means(images: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.float32]:
    """Return the means over `rows` x `columns` parts of images (B, S, S, C)."""
    across, down = _edges(images.shape[2], columns), _edges(images.shape[1], rows)
    sums = np.add.reduceat(np.add.reduceat(images, down, 1, np.float32), across, 2, np.float32)
    heights, widths = _lengths(down, images.shape[1]), _lengths(across, images.shape[2])
    means: NDArray[np.float32] = sums / (heights[:, None, None] * widths[:, None])
    return means


def _edges(size: int, parts: int) -> NDArray[np.int64]:
    return np.arange(parts) * size // parts


def _lengths(edges: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    # Where there are fewer pixels than parts, a part is the one pixel at its edge.
    return np.diff(edges, append=size).clip(1).astype(np.float32)


def is_flat(images: Pixels) -> Flags:
    """Tell which images show next to nothing: (B,)."""
    deviations = images.reshape(len(images), -1, 3).std(axis=1, dtype=np.float32)
    return np.asarray(deviations.max(axis=1) < FLAT_DEVIATION)


def is_cut(images: Pixels) -> Flags:
    """Tell which images end in the grey that decoders fill in for missing data: (B,)."""
    bottom = images[:, -max(1, images.shape[1] // 8) :].astype(np.int16)
    return np.asarray((np.abs(bottom - _GREY) <= 1).all(axis=(1, 2, 3)), np.bool_)


def equal_groups(digests: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort images so that equal ones are neighbours; return the order and where groups begin."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, np.flatnonzero(new)


def similar_pairs(marks: Marks, most: int) -> NDArray[np.int64]:
    """Return up to `most` pairs (P, 2) of different images whose outlines nearly agree.

    Sorting brings together outlines that begin alike; doing it again with their halves exchanged
    brings together those that end alike.
    """
    swapped = (marks.outlines << np.uint64(32)) | (marks.outlines >> np.uint64(32))
    found = [_neighbours(key, marks) for key in (marks.outlines, swapped)]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.asarray(np.unique(pairs, axis=0)[:most], np.int64)


def _neighbours(key: Words, marks: Marks) -> NDArray[np.int64]:
    order = np.argsort(key, kind="stable")
    pairs: NDArray[np.int64] = np.stack([order[:-1], order[1:]], axis=1)
    one, other = pairs.T
    near = np.bitwise_count(key[one] ^ key[other]) <= NEAR_BITS
    near &= (marks.digests[one] != marks.digests[other]).any(axis=1)
    near &= ~(marks.flat[one] | marks.flat[other])
    return np.asarray(pairs[near])


def look_alike(one: Pixels, other: Pixels) -> Flags:
    """Compare images (B, S, S, 3) by their parts, whatever their brightness: (B,)."""
    parts = min(PARTS, one.shape[1])
    difference = part_means(one, parts, parts) - part_means(other, parts, parts)
    difference -= difference.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(np.abs(difference).mean(axis=(1, 2, 3)) <= NEAR_LEVELS)
