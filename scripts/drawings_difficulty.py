"""Measure the accuracy of methods that only compare pixels on the embedded drawings.

    python scripts/drawings_difficulty.py results/drawings/result.json

The methods are a linear classifier (multinomial logistic regression) and nearest neighbours on the
pixels, and the nearest class mean of the mean colour, for several seeds of the data set. The
validation split selects the regularisation and the number of neighbours; the accuracies are those
of the test split. Takes ten minutes on two cores; needs scikit-learn (pip install "alexnet[dev]").
"""

import argparse
import json
import platform
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import PIL
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from alexnet.demo.drawings import CLASSES, COUNTS, VERSION, draw_picture
from alexnet.storage.environment import cpu_name

INVERSE_PENALTIES = (1e-4, 1e-2)
NEIGHBOURS = (1, 5, 15)
STEPS = 100


class Split(NamedTuple):
    """Pictures as rows of numbers from 0 to 1, and their classes."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def mean_colors(self) -> NDArray[np.float32]:
        """The mean red, green and blue of each picture."""
        colors: NDArray[np.float32] = self.pixels.reshape(len(self.pixels), -1, 3).mean(axis=1)
        return colors


def draw_split(seed: int, split: str, count: int) -> Split:
    """Draw the first `count` pictures of a split."""
    with ProcessPoolExecutor() as pool:
        draw = partial(draw_picture, seed, split)
        pixels = np.stack(list(pool.map(draw, range(count), chunksize=100))).reshape(count, -1)
    return Split((pixels / 255).astype(np.float32), np.arange(count) % len(CLASSES))


def choose(
    candidates: Mapping[Any, Any], train: Split, val: Split, test: Split
) -> dict[str, float]:
    """Fit each candidate; return the accuracies of the one that is best on `val`."""
    fitted = {value: model.fit(*train) for value, model in candidates.items()}
    best = max(fitted, key=lambda value: float(fitted[value].score(*val)))
    splits = {"train": train, "val": val, "test": test}
    scores = {name: round(float(fitted[best].score(*split)), 4) for name, split in splits.items()}
    return {"chosen": best, **scores}


def measure(seed: int, counts: dict[str, int]) -> dict[str, Any]:
    """Return the accuracies of all methods on the data set of one seed."""
    train, val, test = (draw_split(seed, split, count) for split, count in counts.items())
    linear = {c: LogisticRegression(C=c, max_iter=STEPS) for c in INVERSE_PENALTIES}
    neighbours = {k: KNeighborsClassifier(k, algorithm="brute") for k in NEIGHBOURS}
    by_color = NearestCentroid().fit(train.mean_colors, train.labels)
    return {
        "seed": seed,
        "linear": choose(linear, train, val, test),
        "nearest_neighbour": choose(neighbours, train, val, test),
        "mean_color": {"test": float(by_color.score(test.mean_colors, test.labels))},
    }


def summarize_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation of each method's test accuracy over the seeds."""
    summary = {}
    for method in ("linear", "nearest_neighbour", "mean_color"):
        scores = [run[method]["test"] for run in runs]
        spread = stdev(scores) if len(scores) > 1 else 0.0
        summary[method] = {"mean": round(mean(scores), 4), "std": round(spread, 4)}
    return summary


def main() -> None:
    """Measure all seeds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # more steps only fit the training pictures
    runs = []
    for seed in options.seeds:
        runs.append(measure(seed, dict(COUNTS)))
        print(json.dumps(runs[-1]), flush=True)
    result = {
        "what": "test accuracy of pixel methods on the embedded drawings; chance is 0.1",
        "command": " ".join(["python", *sys.argv]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": cpu_name(),
        "drawings_version": VERSION,
        "counts": dict(COUNTS),
        "accuracy": summarize_runs(runs),
        "runs": runs,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
