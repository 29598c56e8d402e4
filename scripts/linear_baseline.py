"""Measure the errors of a linear classifier on pixels, and of always answering the largest class.

    python scripts/linear_baseline.py DATA OUT.json

DATA is a packed data set. The classifier is multinomial logistic regression; its penalty is chosen
on the validation split. With an L2 penalty its weights lie in the span of the training images. So
it is fitted, exactly, in coordinates of that span: as many as images, not as many as pixels.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from alexnet import Dataset
from alexnet.bench.report import save_json
from alexnet.storage.environment import cpu_name, versions

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def pixels(data: Dataset, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a split's images as rows of centred pixels of about unit size, and its labels."""
    part = data.split(split)
    images = part.read(np.arange(len(part))).astype(np.float32)
    rows = (images - np.asarray(data.mean_image)).reshape(len(images), -1)
    return rows / (64 * np.sqrt(rows.shape[1])), np.array(part.labels)


def span(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map from products with the training images to coordinates in their span.

    `products` are those of the training images with each other.
    """
    values, vectors = np.linalg.eigh(products.astype(np.float64))
    large = values > 1e-9 * values.max()
    coordinates: NDArray[np.float32] = (vectors[:, large] / np.sqrt(values[large])).astype(
        np.float32
    )
    return coordinates


def measure(data: Dataset) -> dict[str, Any]:
    """Fit for each penalty, choose on val, report on test."""
    train, train_labels = pixels(data, "train")
    products = train @ train.T
    to_span = span(products)
    coordinates = products @ to_span
    splits = {}
    for name in ("val", "test"):
        rows, labels = pixels(data, name)
        splits[name] = (rows @ train.T @ to_span, labels)
    errors = {}
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / penalty, max_iter=2000).fit(coordinates, train_labels)
        errors[penalty] = {
            name: float((model.predict(rows) != labels).mean())
            for name, (rows, labels) in splits.items()
        }
    chosen = min(errors, key=lambda penalty: errors[penalty]["val"])
    largest = np.bincount(train_labels).argmax()
    return {
        "penalty": chosen,
        "val_error": errors[chosen]["val"],
        "test_error": errors[chosen]["test"],
        "largest_class": data.classes[largest],
        "largest_class_test_error": float((splits["test"][1] != largest).mean()),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    data = Dataset(given.data)
    result = {
        "command": "python scripts/linear_baseline.py DATA OUT.json",
        "size": data.size,
        "images": {name: len(data.split(name)) for name in data.split_names},
        "hardware": cpu_name(),
        "versions": versions(),
        **measure(data),
    }
    save_json(given.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
