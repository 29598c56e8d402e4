"""Where the numbers are computed: the choice of device, its description, and mixed precision."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import UsageError

PRECISIONS = ("auto", "float32", "bfloat16")

# Names of glibc's malloc.h, for `keep_memory`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def available_devices() -> list[str]:
    """List the devices of this machine, the fastest kind first: "cuda:0", ..., "mps", "cpu"."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [f"cuda:{index}" for index in range(count)]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: "auto", "cpu", "cuda", "cuda:1" or "mps".

    "auto" is CUDA where there is one, else MPS, else the CPU. Raises `UsageError` for another name
    and for a device that this machine lacks.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in available:
        raise UsageError(f"there is no device {name!r} here; there are: {', '.join(available)}")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """Name `device` for a person: "NVIDIA H200", or "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_name() -> str:
    """Read the processor's name where the system tells it, else return "CPU"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def dtype_of(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the type in which a network computes at `precision`.

    "auto" is bfloat16 on CUDA devices that compute in it, float32 elsewhere: on CPUs bfloat16 is
    seldom faster. Raises `UsageError` for another name.
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


@contextmanager
def repeatable(device: torch.device, wanted: bool) -> Iterator[None]:
    """Let a CUDA device compute the same bits each time if that is `wanted`, else fastest.

    cuDNN then takes algorithms without atomic additions, or tries all and takes the fastest; cuBLAS
    gets a workspace of fixed size. Nothing changes on other devices, whose results repeat anyway.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at its first product
    cudnn.deterministic, cudnn.benchmark = wanted, not wanted
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back after every layer.

    By default each large tensor is mapped afresh, and the kernel clears its pages one by one: two
    fifths of a training step of AlexNet on a CPU (results/keep_memory). Without glibc this does
    nothing.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ctypes.c_int(M_MMAP_MAX), ctypes.c_int(0))
        libc.mallopt(ctypes.c_int(M_TRIM_THRESHOLD), ctypes.c_int(2**31 - 1))
