"""Train the same network in several ways, and compare their curves and speed with one process's.

    python scripts/compare_runs.py DATA OUT.json --ways other_seed towers data hybrid
    python scripts/compare_runs.py DATA OUT.json --ways other_seed plain

Each training is a command of its own, on CPUs: in a parallel mode with two ranks, which talk
through gloo; with PyTorch's own layers (plain); or with another seed, which shows how far curves
are apart that are not meant to agree. One process has all threads that the ranks have together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alexnet import Dataset
from alexnet.device import cpu_name
from alexnet.storage.metrics_log import read_metrics
from alexnet.storage.run import versions

WAYS = {"one": [], "other_seed": ["--seed", "1"], "plain": ["--plain"]} | {
    mode: ["--parallel", mode, "--processes", "2", "--report-communication"]
    for mode in ("towers", "data", "hybrid")
}
"""What each adds to the command."""


def train(way: str, given: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Train in one way; return its losses by step, its speed and what its ranks sent."""
    command = [sys.executable, "-m", "alexnet", "train", str(given.data), str(run), "--json"]
    command += ["--model", given.model, "--epochs", str(given.epochs), "--device", "cpu"]
    command += ["--set", f"batch_size={given.batch_size}", "--set", "log_steps=1"]
    done = subprocess.run(command + WAYS[way], check=True, stdout=subprocess.PIPE)
    report = json.loads(done.stdout)
    rows = read_metrics(run / "metrics.jsonl")
    steps = [row for row in rows if row.get("kind") != "epoch"]
    return {
        "images_per_second": [row["images_per_second"] for row in rows if row not in steps],
        "losses": [row["train_loss"] for row in steps],
        "top1_error": report["top1_error"],
        "val_loss": report["val_loss"],
        "communication": report.get("communication"),
    }


def compare(alone: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Say how far two curves are apart, and how the speeds compare."""
    pairs = list(zip(alone["losses"], other["losses"], strict=True))
    apart = [abs(a - b) / a for a, b in pairs]
    speeds = [run["images_per_second"][-1] for run in (alone, other)]
    return {
        "first_step": apart[0],
        "largest": max(apart),
        "mean": sum(apart) / len(apart),
        "speed": speeds[1] / speeds[0],
    }


def main() -> None:
    """Train in every way and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="alexnet_small")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ways", nargs="+", required=True, choices=[*WAYS][1:])
    given = parser.parse_args()
    runs = {}
    for way in ["one", *given.ways]:
        with tempfile.TemporaryDirectory() as folder:
            runs[way] = train(way, given, Path(folder) / "run")
        print(way, runs[way]["images_per_second"], runs[way]["top1_error"], flush=True)
    data = Dataset(given.data)
    result = {
        "command": f"python scripts/compare_runs.py DATA OUT.json --model {given.model} --epochs "
        f"{given.epochs} --batch-size {given.batch_size} --ways {' '.join(given.ways)}",
        "images": {name: len(data.split(name)) for name in data.split_names},
        "seeds": [0],
        "hardware": cpu_name(),
        "versions": versions(),
        "against_one": {way: compare(runs["one"], runs[way]) for way in given.ways},
        "runs": runs,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
