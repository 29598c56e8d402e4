"""Measure the CPU kernels against PyTorch's layers, forward and backward, in turn.

python scripts/cpu_kernels.py OUT.json [--batch 32] [--threads 2] [--rounds 7]

Each way has a process of its own. PyTorch's layers run once where freed memory is returned to the
system, as PyTorch comes, and once where it is kept (`alexnet.device.keep_memory`), as with ours.
"""

import argparse
from pathlib import Path

from alexnet.bench.network_tables import Setup, block_table
from alexnet.bench.report import save_json
from alexnet.bench.timing import Rounds
from alexnet.progress import SILENT
from alexnet.storage.environment import cpu_name, versions

BLOCKS = ("lrn_1", "block_1", "block_2", "block_5")
WAYS = {"torch": "modules_as_found", "torch-keep": "modules", "ours": "ours"}
"""Names in the result, and keys of the rows."""


def main() -> None:
    """Measure each block and write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    options = [f"--{name}={getattr(given, name)}" for name in ("batch", "threads", "rounds")]
    setup = Setup("cpu", "float32", given.threads)
    rounds = Rounds(given.rounds, 0.5)
    tables = {name: block_table(name, given.batch, setup, rounds, SILENT) for name in BLOCKS}
    seconds = {
        way: {name: given.batch / table.row(key).rate for name, table in tables.items()}
        for way, key in WAYS.items()
    }
    ours = seconds["ours"]
    result = {
        "command": " ".join(["python scripts/cpu_kernels.py OUT.json", *options]),
        "what": "forward and backward in float32, median seconds; ours channels-last",
        "hardware": cpu_name(),
        "versions": versions(),
        "seconds": seconds,
        "ratios": {
            way: {name: seconds[way][name] / ours[name] for name in BLOCKS}
            for way in ("torch", "torch-keep")
        },
        "norm_blocks_ratio": {
            way: sum(seconds[way][name] for name in ("block_1", "block_2"))
            / sum(ours[name] for name in ("block_1", "block_2"))
            for way in ("torch", "torch-keep")
        },
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
