"""Prepare the same photographs as class folders and as ImageNet's archives, and compare.

    python scripts/check_imagenet_layout.py SOURCE WORK RESULT.json

SOURCE is a folder or tar of class folders with a validation split. The script writes to WORK the
archives of make_imagenet_layout.py, and for each store ("raw", "jpeg") a data set from either. It
compares counts, labels, every pixel, the mean image and the colours; they must be equal.
"""

import argparse
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from make_imagenet_layout import make_imagenet_layout

from alexnet import Dataset, prepare_dataset
from alexnet.prepare import PrepareReport

SIZE = 64
SPLITS = ("train", "val")


def compare(archives: Dataset, folders: Dataset, origins: dict[str, str]) -> dict[str, Any]:
    """Match the images of two data sets by their origin; return the counts of what differs."""
    found: dict[str, Any] = {"images": 0, "labels_that_differ": 0, "pixels_that_differ": 0}
    for name in SPLITS:
        one, other = archives.split(name), folders.split(name)
        indices = {other.name(i): i for i in range(len(other))}
        matched = np.array([indices.pop(origins[one.name(i)]) for i in range(len(one))])
        if indices:
            raise SystemExit(f"{name}: {len(indices)} images are in the class folders only")
        found["images"] += len(one)
        found["labels_that_differ"] += int((one.labels != other.labels[matched]).sum())
        for start in range(0, len(one), 256):
            some = np.arange(start, min(start + 256, len(one)))
            differ = one.read(some) != other.read(matched[some])
            found["pixels_that_differ"] += int(differ.any(axis=-1).sum())
    found["titles_equal_class_folders"] = archives.titles == folders.classes
    found["mean_image_equal"] = bool((archives.mean_image == folders.mean_image).all())
    found["colors_equal"] = bool(
        (archives.color_std == folders.color_std).all()
        and (archives.color_vectors == folders.color_vectors).all()
    )
    return found


def counts(report: PrepareReport) -> dict[str, Any]:
    """Return what a report counted."""
    return {
        "images": {split: facts["images"] for split, facts in report.splits.items()},
        "per_class": {split: facts["per_class"] for split, facts in report.splits.items()},
        "rejects": report.rejects,
        "bytes": report.bytes,
    }


def main() -> None:
    """Read the command line, prepare both sources for both stores, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a folder or tar of class folders")
    parser.add_argument("work", type=Path, help="a folder for archives and data sets")
    parser.add_argument("result", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    make_imagenet_layout(arguments.source, arguments.work / "imagenet")
    origins = json.loads((arguments.work / "imagenet/origins.json").read_text())
    stores = {}
    for store in ("raw", "jpeg"):
        reports, opened = {}, {}
        for route, path in (
            ("class_folders", arguments.source),
            ("imagenet_archives", arguments.work / "imagenet"),
        ):
            out = arguments.work / f"{route}-{store}"
            reports[route] = prepare_dataset(path, out, size=SIZE, store=store)
            opened[route] = Dataset(out)
            opened[route].verify()
        stores[store] = {
            **{route: counts(report) for route, report in reports.items()},
            "compared": compare(opened["imagenet_archives"], opened["class_folders"], origins),
        }
    result = {
        "size": SIZE,
        "classes": opened["class_folders"].classes,
        "stores": stores,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("alexnet", "numpy", "pillow", "scipy")},
        "hardware": "2 CPU cores",
    }
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
