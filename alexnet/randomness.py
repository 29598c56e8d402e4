"""Randomness without state: every random number is a function of the seed and of its purpose.

The order of an epoch follows from (seed, epoch), the augmentation of an image from (seed, epoch,
image), the dropout of a step from (seed, step). So nothing has to be saved or restored, and the
number of workers, devices or interruptions changes nothing.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """Return the order in which `epoch` visits the images 0 ... images - 1."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(images)


def uniforms(seed: int, epoch: int, images: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Draw `count` numbers from [0, 1) for each of `images`: (len(images), count)."""
    key = _mix(_mix(np.full(1, seed, np.uint64)) + np.uint64(epoch))
    each = _mix(key + images.astype(np.uint64))
    numbers = _mix(each[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn pairs of uniform numbers (N, 2 k) into standard normals (N, k): Box and Muller."""
    first, second = uniform[:, ::2], uniform[:, 1::2]
    radius: NDArray[np.float64] = np.sqrt(-2 * np.log(1 - first))
    return radius * np.cos(2 * np.pi * second)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generator for one step: a whole number below 2**63."""
    mixed = _mix(_mix(np.full(1, seed, np.uint64)) ^ np.uint64(step))
    return int(mixed[0] >> np.uint64(1))


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit numbers: the output function of SplitMix64 (Steele et al. 2014)."""
    numbers = numbers + _GOLDEN
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
