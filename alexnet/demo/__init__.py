"""The demo: every stage from images to predictions, on drawings that the package makes.

`run_demo` is imported at its first use, so that the worker processes of `prepare`, which only draw,
start quickly and without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.demo.stages import DemoReport as DemoReport
    from alexnet.demo.stages import run_demo as run_demo

__all__ = ["DemoReport", "run_demo"]


def __getattr__(name: str) -> Any:
    """Import the two public names from their module."""
    if name in ("DemoReport", "run_demo"):
        return getattr(importlib.import_module("alexnet.demo.stages"), name)
    raise AttributeError(f"module 'alexnet.demo' has no attribute {name!r}")
