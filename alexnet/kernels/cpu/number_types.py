"""bfloat16 in numba's kernels, which have no such type.

Such values are the upper halves of float32 ones. Kernels see them as 16-bit whole numbers, compute
in float32, and convert where they read and write, in registers.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numba.np.numpy_support import as_dtype

NAN = 0x7FC0
"""The upper half of a float32 that is no number, as PyTorch writes it."""


def make_rows(count: int, size: int, like: Any) -> Any:
    """Make `count` rows of so many zeros, of the type in which values of `like` are computed."""
    raise NotImplementedError("for kernels only: numba compiles what is registered below")


def widen(value: Any) -> Any:
    """Return `value`, read from memory, in the type in which it is computed."""
    raise NotImplementedError("for kernels only: numba compiles what is registered below")


def narrow(value: Any, target: Any) -> Any:
    """Return the computed `value` as it is written to the array `target`: the nearest, or even."""
    raise NotImplementedError("for kernels only: numba compiles what is registered below")


# Not strict: numba else takes lambdas for other functions, as they have no annotations.


@overload(make_rows, strict=False)
def _make_rows(count: Any, size: Any, like: Any) -> Any:  # noqa: ARG001
    dtype = np.float32 if like.dtype == types.uint16 else as_dtype(like.dtype).type
    return lambda count, size, like: np.zeros((count, size), dtype)  # noqa: ARG005


@overload(widen, strict=False)
def _widen(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@overload(narrow, strict=False)
def _narrow(value: Any, target: Any) -> Any:  # noqa: ARG001
    if target.dtype == types.uint16:
        return round_to_bfloat16
    return lambda value, target: value  # noqa: ARG005


def round_to_bfloat16(value: Any, target: Any) -> Any:  # noqa: ARG001 - as `narrow` has it
    """Return the upper half of the float32 `value`, rounded to nearest, ties to even."""
    # Each sum is converted at once: numba gives it 64 bits, which are half as fast.
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    sum_ = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
    rounded = np.uint16(sum_ >> np.uint32(16))
    return rounded if value == value else np.uint16(NAN)  # noqa: PLR0124 - false for a NaN
