"""Measure what each part of the recipe "small" contributes, by removing one at a time.

    python scripts/small_recipe.py DATA OUT.json [--epochs 16] [--seeds 0 1]

DATA is a packed data set of side 64. alexnet_small is trained on it once for each part and seed.
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from alexnet import Dataset, Settings, recipe, train_model
from alexnet.bench.report import save_json
from alexnet.storage.environment import cpu_name, versions

PARTS: dict[str, dict[str, Any]] = {
    "complete": {},
    "the network's own initial weights": {"init": "model"},
    "conv1 at the full rate": {"layer_lr": {}},
    "SGD, lr 0.01, instead of AdamW": {"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.0005},
    "batches of 128": {"batch_size": 128},
    "crops of the network's input size": {"min_crop_scale": 0.0},
    "no label smoothing": {"label_smoothing": 0.0},
}


def variants(epochs: int) -> dict[str, Settings]:
    """Return the settings to compare by name, the paper's last."""
    small, paper = (
        dataclasses.replace(recipe(name), model="alexnet_small", epochs=epochs)
        for name in ("small", "paper")
    )
    return {name: dataclasses.replace(small, **changes) for name, changes in PARTS.items()} | {
        "recipe paper": paper
    }


def main() -> None:
    """Train every variant with every seed and write the validation errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    measured = []
    for name, settings in variants(given.epochs).items():
        errors = []
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as folder:
                seeded = dataclasses.replace(settings, seed=seed)
                report = train_model(given.data, Path(folder) / "run", seeded)
                errors.append(report.top1_error or 0.0)
        measured.append({"arm": name, "top1_errors": errors, "mean": statistics.mean(errors)})
        print(name, errors, flush=True)
    data = Dataset(given.data)
    result = {
        "command": f"python scripts/small_recipe.py DATA OUT.json --epochs {given.epochs} --seeds "
        + " ".join(map(str, given.seeds)),
        "images": {name: len(data.split(name)) for name in data.split_names},
        "classes": list(data.classes),
        "epochs": given.epochs,
        "seeds": given.seeds,
        "hardware": cpu_name(),
        "versions": versions(),
        "arms": measured,
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
