"""Measure the weights that Caffe trained on CIFAR-10 in 2014: import each file, count its errors.

    python scripts/caffe_cifar10.py FOLDER DATA results/caffe_cifar10/result.json

FOLDER holds cifar10_full_iter_N.caffemodel, of github.com/everpeace/caffe at 91cb3b5,
examples/cifar10. DATA is CIFAR-10's original pixels, prepared with --size 32 --val-fraction 0: its
mean image is that of all 50,000 training images, which Caffe subtracts.
"""

import argparse
import tempfile
from pathlib import Path

from alexnet import evaluate_run, import_weights
from alexnet.bench.report import save_json
from alexnet.storage.environment import versions

REFERENCE = {
    10_000: 0.7281,
    20_000: 0.7690,
    30_000: 0.7765,
    40_000: 0.7828,
    50_000: 0.7889,
    60_000: 0.7942,
}
"""Share of the test images that an independent program finds right, by Caffe's iterations."""


def measure(file: Path, data: Path) -> dict[str, int | float]:
    """Import a file and evaluate it on the test split, one whole view of each image."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        imported = import_weights(file, run, mean=data / "mean_image.npy", classes=data)
        found = evaluate_run(run, data, split="test", device="cpu")
    return {
        "parameters": imported.parameters,
        "images": found.images,
        "top1_error": found.top1_error,
        "top5_error": found.top5_error,
        "loss": found.loss,
        "right": round(1 - found.top1_error, 6),
    }


def main() -> None:
    """Measure all files and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True, help="of this package")
    given = parser.parse_args()
    rows = {}
    for file in given.folder.glob("cifar10_full_iter_*.caffemodel"):
        iterations = int(file.stem.rpartition("_")[2])
        row = measure(file, given.data) | {"reference": REFERENCE.get(iterations)}
        rows[iterations] = row
        print(iterations, row)
    result = {
        "command": "python scripts/caffe_cifar10.py FOLDER DATA results/caffe_cifar10/result.json",
        "commit": given.commit,
        "versions": versions(),
        "iterations": {str(each): rows[each] for each in sorted(rows)},
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
