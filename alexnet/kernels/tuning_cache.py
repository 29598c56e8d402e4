"""Choices that were measured on this machine, kept in a JSON file in the cache folder.

The name of a choice says all that the speed depends on; `rounded` and `computed_type` help.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.errors import StorageError
from alexnet.storage.atomic import atomic_write
from alexnet.storage.untrusted import parse_json


class TuningCache:
    """Values by name in a JSON file; in memory only where the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = self._read()

    def get(self, name: str) -> Any:
        """Return the value cached under `name`, or None."""
        return self.values.get(name)

    def put(self, name: str, value: Any) -> None:
        """Cache a plain JSON value under `name`, and keep what other processes have added."""
        self.values = self._read() | self.values | {name: value}
        with suppress(StorageError), atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            values = parse_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def rounded(size: int) -> int:
    """Round a size up to a power of two: sizes in between have the same fastest form."""
    return 1 << (size - 1).bit_length() if size else 0


def computed_type(x: Tensor) -> torch.dtype:
    """Return the type in which layers compute with `x`: that of autocast where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
