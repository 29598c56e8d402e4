"""Train three networks in the same way, with several seeds; compare their errors on the test split.

    python scripts/three_networks.py DATA RUNS OUT.json [--epochs 6] [--seeds 0 1 2]

DATA is a packed data set of side 256. RUNS receives a run directory for each network and seed. Run
the same command again to continue after an interruption. In the end `caffenet` is trained for a
third of the epochs, once from the first seed's `alexnet` and once from its own initial weights.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from alexnet import Dataset, Settings, evaluate_run, recipe, train_model
from alexnet.bench.report import save_json
from alexnet.storage.environment import cpu_name, versions

MODELS = ("alexnet", "alexnet_2012", "caffenet")


def measure(
    data: Path, run: Path, settings: Settings, init: Path | None = None
) -> dict[str, float]:
    """Train a network, or continue, and return its errors with one view and with ten."""
    report = train_model(data, run, settings, resume=True, init=init)
    evaluations = {count: evaluate_run(run, data, split="test", views=count) for count in (1, 10)}
    return {
        "val_top1_error": report.top1_error or 0.0,
        "images_per_second": report.images_per_second,
        "loss": evaluations[1].loss,
        "top1_error": evaluations[1].top1_error,
        "top5_error": evaluations[1].top5_error,
        "top1_error_10_views": evaluations[10].top1_error,
        "top5_error_10_views": evaluations[10].top5_error,
    }


def summarize(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return the seeds' figures with their mean and sample standard deviation."""
    names = ("top1_error", "top5_error", "top1_error_10_views")
    columns = {name: [row[name] for row in rows] for name in names}
    return {
        "seeds": rows,
        "mean": {name: statistics.mean(column) for name, column in columns.items()},
        "deviation": {
            name: statistics.stdev(column) if len(column) > 1 else None
            for name, column in columns.items()
        },
    }


def main() -> None:
    """Train every network with every seed, then fine-tune, and write all errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    given = parser.parse_args()
    base = dataclasses.replace(recipe("small"), epochs=given.epochs, precision=given.precision)
    rows: dict[str, list[dict[str, float]]] = {model: [] for model in MODELS}
    for seed in given.seeds:
        for model in MODELS:
            settings = dataclasses.replace(base, model=model, seed=seed)
            rows[model].append(measure(given.data, given.runs / f"{model}-{seed}", settings))
            print(model, seed, rows[model][-1], flush=True)
    first = given.seeds[0]
    short = dataclasses.replace(base, model="caffenet", seed=first, epochs=given.epochs // 3)
    start = given.runs / f"alexnet-{first}"
    tuned = {
        "from_alexnet": measure(given.data, given.runs / "caffenet-tuned", short, start),
        "from_nothing": measure(given.data, given.runs / "caffenet-short", short),
    }
    data = Dataset(given.data)
    result = {
        "command": f"python scripts/three_networks.py DATA RUNS OUT.json --epochs {given.epochs} "
        f"--seeds {' '.join(map(str, given.seeds))} --precision {given.precision}",
        "images": {name: len(data.split(name)) for name in data.split_names},
        "epochs": given.epochs,
        "seeds": given.seeds,
        "hardware": cpu_name(),
        "versions": versions(),
        "models": {model: summarize(measured) for model, measured in rows.items()},
        "fine_tuning": {"epochs": short.epochs, **tuned},
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
