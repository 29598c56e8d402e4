"""Under what conditions something was measured."""

import importlib
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alexnet.device import describe_device
from alexnet.storage.run import versions

PEERS = ("numba", "triton", "onnxruntime", "pillow", "simplejpeg", "torchvision")


def conditions(device: torch.device) -> dict[str, Any]:
    """Return hardware, threads, versions and the commit of the code, as plain JSON values."""
    return {
        "commit": commit(),
        "hardware": describe_device(device),
        "threads": torch.get_num_threads(),
        "load": load(),
        "versions": {**versions(), **{name: _version(name) for name in PEERS}},
    }


def commit() -> str:
    """Return the commit of the checkout that this code is in, "-dirty" after changes of code.

    Results that were written meanwhile are none.
    """
    package = importlib.import_module("alexnet")
    folder = Path(str(package.__file__)).parents[1]
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changes else name


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def load() -> float | None:
    """Return how many processes wanted a core in the last minute: more than ours spoil it all."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
