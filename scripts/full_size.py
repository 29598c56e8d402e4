"""Open and read a packed data set as large as ImageNet, whose files are sparse.

    python scripts/full_size.py OUT.json [--images 1281167] [--folder FOLDER]

Writes data sets of made-up content into sparse files (FOLDER must lie on a disk that has them:
little of their 252 GB is really written). It then measures, in a process for each, how long opening
takes, how fast batches of random images are read, and how much memory is in use. Reading a hole
takes no disk: what is measured is the reader.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.bench.made_up import write_dataset
from alexnet.bench.report import save_json
from alexnet.storage.environment import commit, cpu_name, versions

SIZE, BATCH, BATCHES = 256, 128, 20


def measure(folder: Path) -> dict[str, float]:
    """Open the data set in this process and read batches of random images."""
    from alexnet.dataset import Dataset

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    split = Dataset(folder).split("train")
    opened = time.perf_counter() - began
    order = np.random.default_rng(0).permutation(len(split))
    seconds = []
    for batch in range(BATCHES):
        began = time.perf_counter()
        split.read(order[batch * BATCH : (batch + 1) * BATCH])
        seconds.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": len(split),
        "open_seconds": round(opened, 4),
        "images_per_second": round(BATCH / float(np.median(seconds)), 1),
        "memory_mb": round((after - before) / 1024, 1),
    }


def main() -> None:
    """Measure a hundredth, a tenth and all of it, in both stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--folder", type=Path, help="where there is room for sparse files")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    measured: dict[str, dict[str, Any]] = {"raw": {}, "jpeg": {}}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for store, found in measured.items():
            for part, share in (("hundredth", 100), ("tenth", 10), ("all", 1)):
                folder = Path(name, f"{store}-{part}")
                write_dataset(folder, given.images // share, store, SIZE)
                command = [sys.executable, __file__, str(given.out), "--one", str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[part] = json.loads(done.stdout)
                print(store, part, found[part], flush=True)
    result = {
        "command": f"python scripts/full_size.py OUT.json --images {given.images}",
        "what": f"opening a packed data set and reading batches of {BATCH} random images of "
        f"{SIZE} x {SIZE}, one thread; files are sparse, a process for each",
        "commit": commit(),
        "hardware": cpu_name(),
        "versions": versions(),
        **measured,
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
