"""The software and hardware that a result came from."""

import importlib
import platform
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNKNOWN = "unknown"


@cache
def package_version() -> str:
    """Return this package's version, also where it runs from its source without being installed.

    Without an installation it is read from pyproject.toml beside the package; a copy without that
    file has the version "unknown".
    """
    try:
        return version("alexnet")
    except PackageNotFoundError:
        pass
    try:
        file = Path(__file__).parents[2] / "pyproject.toml"
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return UNKNOWN
    return str(project["version"]) if project.get("name") == "alexnet" else UNKNOWN


def versions() -> dict[str, str]:
    """Return the versions of the software that produced a result."""
    import numpy as np
    import torch

    return {
        "alexnet": package_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": sys.platform,
    }


def commit() -> str:
    """Return the commit of the checkout that this code is in, "-dirty" where the code has changes.

    New results do not count as changes.
    """
    package = importlib.import_module("alexnet")
    folder = Path(str(package.__file__)).parents[1]
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{name}-dirty" if changes else name


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def describe_device(device: "torch.device") -> str:
    """Describe `device`: "NVIDIA H200", or "AMD EPYC, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_name() -> str:
    """Read the processor's name where the system has it, else return "CPU"."""
    return cpu_facts().get("model name") or platform.processor() or "CPU"


def cpu_facts() -> dict[str, str]:
    """Return what Linux says of the first processor, such as its "flags"; elsewhere nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
