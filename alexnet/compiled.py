"""Compiling functions with numba, and the folder in which compiled code is stored.

A function is compiled at its first call for each set of argument types. The compiled function runs
without Python's global lock.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_KERNEL: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""Fused multiply-adds are allowed; infinities and NaNs pass through as in PyTorch."""


def cache_folder() -> Path:
    """Return the folder for compiled code: below the user's cache folder on this system."""
    home = Path.home()
    variable = {"win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    default = {"win32": home / "AppData/Local", "darwin": home / "Library/Caches"}
    base = os.environ.get(variable) or default.get(sys.platform, home / ".cache")
    return Path(base) / "alexnet" / "kernels"


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a loop over whole numbers."""
    return _compile_and_cache(function)


def compiled_kernel(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a kernel over floating-point numbers."""
    return _compile_and_cache(function, **_KERNEL)


def kernel_part(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function for the kernels that call it; it is stored as part of them."""
    return _compile(function, **_KERNEL)


def _compile_and_cache(function: Callable[P, T], **options: Any) -> Callable[P, T]:
    """Compile, and store the result in NUMBA_CACHE_DIR or the cache folder for later processes."""
    import numba  # takes half a second: only where something is compiled

    config: Any = numba.config
    configured = config.CACHE_DIR
    try:
        config.CACHE_DIR = configured or str(cache_folder())
        result = _compile(function, cache=True, **options)
    except RuntimeError:  # no folder can be written: each process compiles anew
        return _compile(function, **options)
    finally:
        config.CACHE_DIR = configured
    _tolerate_damage(result)
    return result


def _tolerate_damage(function: Any) -> None:
    """Compile anew where the stored code of a function cannot be read, or nothing can be stored.

    A damaged file or a full disk would else be an error of the first call (numba issue 10434).
    """
    try:
        cache = function._cache  # numba has no public name for it
        load, save = cache.load_overload, cache.save_overload
    except AttributeError:  # another version of numba: damage is an error there
        return

    def load_or_clear(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # noqa: BLE001 - damage can fail anywhere in pickle
            with suppress(Exception):
                cache.flush()
            return None

    def save_if_possible(*arguments: Any) -> None:
        with suppress(Exception):
            save(*arguments)

    cache.load_overload, cache.save_overload = load_or_clear, save_if_possible


def _compile(function: Callable[P, T], **options: Any) -> Callable[P, T]:
    import numba

    result: Callable[P, T] = numba.njit(nogil=True, **options)(function)
    return result
