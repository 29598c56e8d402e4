"""Devices: choosing one, mixed precision, memory."""

import ctypes
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from alexnet.errors import UsageError

PRECISIONS = ("auto", "float32", "bfloat16")
DeviceName = str | torch.device

# Names of glibc's malloc.h, for `keep_memory`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def available_devices() -> list[str]:
    """List the devices of this machine, the fastest kind first: "cuda:0", ..., "mps", "cpu"."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [f"cuda:{index}" for index in range(count)]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def pick_device(name: DeviceName = "auto") -> torch.device:
    """Return the device called `name`: "auto", "cpu", "cuda", "cuda:1" or "mps"; or check a device.

    "auto" is CUDA where there is one, else MPS, else the CPU. Raises `UsageError` for another name
    and for a device that this machine lacks.
    """
    available, name = available_devices(), str(name)
    if name == "auto":
        return torch.device(available[0])
    wanted = {"cuda": "cuda:0", "mps:0": "mps"}.get(name, name)
    if wanted not in available:
        raise UsageError(f"there is no device {name!r} here; there are: {', '.join(available)}")
    return torch.device(wanted)


def dtype_of(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the type in which a network computes at `precision`.

    "auto" is bfloat16 on CUDA devices that compute in it, float32 elsewhere: on CPUs `train`
    decides by measuring, and answers stay float32. Raises `UsageError` for another name.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs at `precision` (see `dtype_of`).

    Weights stay float32.
    """
    dtype = dtype_of(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it after every layer.

    By default each large tensor is mapped anew, and the operating system clears its pages: two
    fifths of a training step of AlexNet on a CPU (results/keep_memory). Without glibc this does
    nothing.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ctypes.c_int(M_MMAP_MAX), ctypes.c_int(0))
        libc.mallopt(ctypes.c_int(M_TRIM_THRESHOLD), ctypes.c_int(2**31 - 1))
