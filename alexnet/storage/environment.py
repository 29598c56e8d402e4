"""The software and hardware that a result came from."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch


def versions() -> dict[str, str]:
    """Return the versions of the software that produced a result."""
    return {
        "alexnet": version("alexnet"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": sys.platform,
    }


def describe_device(device: torch.device) -> str:
    """Describe `device`: "NVIDIA H200", or "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_name() -> str:
    """Read the processor's name where the system has it, else return "CPU"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"
