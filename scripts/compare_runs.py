"""Train the same network in several ways; compare their losses and speed with one process's.

    python scripts/compare_runs.py DATA OUT.json --ways other_seed towers data hybrid
    python scripts/compare_runs.py DATA OUT.json --ways other_seed plain
    python scripts/compare_runs.py DATA OUT.json --ways other_seed bfloat16

Each training is a command of its own, on CPUs: in a parallel mode with two ranks, which
communicate through gloo; with PyTorch's own layers (plain); in bfloat16; or with another seed,
which shows the distance of curves that need not agree. All but one are in float32. One process has
all threads that the ranks have together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alexnet import Dataset
from alexnet.bench.report import save_json
from alexnet.storage.environment import cpu_name, versions
from alexnet.storage.metrics_log import read_metrics

WAYS = {
    "one": [],
    "other_seed": ["--seed", "1"],
    "plain": ["--plain"],
    "bfloat16": ["--set", "precision=bfloat16"],
} | {
    mode: ["--parallel", mode, "--processes", "2", "--report-communication"]
    for mode in ("towers", "data", "hybrid")
}
"""The options of each."""


def train(way: str, given: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Train in one way; return its losses by step, its speed and its ranks' communication."""
    command = [sys.executable, "-m", "alexnet", "train", str(given.data), str(run), "--json"]
    command += ["--model", given.model, "--epochs", str(given.epochs), "--device", "cpu"]
    command += ["--set", f"batch_size={given.batch_size}", "--set", "log_steps=1"]
    command += ["--set", "precision=float32"]  # a way may override it
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


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return the relative distances of two curves of losses, and the ratio of the speeds."""
    pairs = zip(one["losses"], other["losses"], strict=True)
    distances = [abs(a - b) / a for a, b in pairs]
    return {
        "first_step": distances[0],
        "largest": max(distances),
        "mean": sum(distances) / len(distances),
        "speed": other["images_per_second"][-1] / one["images_per_second"][-1],
    }


def main() -> None:
    """Train in every way and write the comparison."""
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
    save_json(given.out, result)


if __name__ == "__main__":
    main()
