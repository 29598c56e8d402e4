"""Measure what keeping freed memory does to training steps on a CPU, in pairs of processes.

python scripts/keep_memory.py OUT.json [--pairs 5] [--batch 64] [--threads 2]
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from alexnet.bench.report import save_json
from alexnet.bench.spec import Spec
from alexnet.bench.timing import Candidate, Rounds, measure
from alexnet.progress import SILENT
from alexnet.storage.environment import cpu_name, versions


def main() -> None:
    """Run the two ways in turn, each in a process of its own, and write rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    keep = Spec("train", net="reference", batch=given.batch, threads=given.threads, augment=False)
    plain = replace(keep, keep_memory=False)
    candidates = [
        Candidate.of("plain", "freed memory returned", plain, given.batch),
        Candidate.of("keep", "freed memory kept", keep, given.batch),
    ]
    rows = measure("keep_memory", candidates, Rounds(given.pairs, 6.0), SILENT)
    rates = {row.key: row.rates for row in rows}
    ratios = [keep / plain for plain, keep in zip(rates["plain"], rates["keep"], strict=True)]
    result = {
        "command": f"python scripts/keep_memory.py OUT.json --pairs {given.pairs} "
        f"--batch {given.batch} --threads {given.threads}",
        "what": "training steps of alexnet by PyTorch's layers (float32), no augmentation, in "
        "images/s",
        "hardware": cpu_name(),
        "versions": versions(),
        "images_per_second": rates,
        "ratios": ratios,
        "ratio_median": statistics.median(ratios),
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
