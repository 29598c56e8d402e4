"""Record a finished run as a result: its settings, its epochs, its errors on the test split.

    python scripts/record.py RUN DATA results/NAME --commit 2f24d12 \
        --hardware "AMD EPYC, 2 threads" --command "alexnet train DATA RUN"

Writes result.json and metrics.jsonl (the epochs) to the folder. Its README.md is written by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from alexnet import Dataset, Run, evaluate_run
from alexnet.bench.report import save_json


def errors(run: Path, data: Path) -> dict[str, Any]:
    """Evaluate the best checkpoint on the test split, with one view and with ten."""
    found = {}
    for name, views in (("one_view", 1), ("ten_views", 10)):
        result = evaluate_run(run, data, split="test", views=views)
        found[name] = {
            key: getattr(result, key) for key in ("images", "loss", "top1_error", "top5_error")
        }
    return found


def main() -> None:
    """Write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True, help="of the code that trained")
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--command", required=True, help="that trained, with short paths")
    given = parser.parse_args()
    run, data = Run.open(given.run), Dataset(given.data)
    epochs = [row for row in run.metrics() if row.get("kind") == "epoch"]
    result = {
        "command": given.command,
        "commit": given.commit,
        "hardware": given.hardware,
        "seeds": [run.settings.seed],
        "model": run.model_name,
        "settings": run.settings.as_json(),
        "versions": run.info["versions"],
        "images": {name: len(data.split(name)) for name in data.split_names},
        "epochs": len(epochs),
        "seconds": round(epochs[-1]["seconds"], 1),
        "lowest_val_top1_error": min(
            (row["top1_error"] for row in epochs if row["top1_error"] is not None), default=None
        ),
        "test": errors(given.run, given.data),
    }
    save_json(given.out / "result.json", result)
    lines = [json.dumps(row) + "\n" for row in epochs]
    (given.out / "metrics.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
