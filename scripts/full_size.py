"""Open and read a packed data set as large as ImageNet, whose files are holes.

    python scripts/full_size.py OUT.json [--images 1281167] [--folder FOLDER]

Writes data sets of made-up content into sparse files (FOLDER must lie on a disk that has them:
little of their 252 GB is really written) and measures, in a process for each, how long opening
takes, what batches of random images take, and how much memory there is in use. Reading a hole
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

from alexnet.bench.conditions import commit
from alexnet.dataset import FORMAT, VERSION
from alexnet.device import cpu_name
from alexnet.images.decode import encode_jpeg
from alexnet.prepare.shards import IMAGES_PER_SHARD
from alexnet.storage.atomic import sha256_of
from alexnet.storage.run import versions

SIZE, CLASSES, BATCH, BATCHES = 256, 1000, 128, 20


def write_array(folder: Path, name: str, array: Any) -> dict[str, Any]:
    """Write a .npy file; return its entry in the manifest."""
    np.save(folder / name, array)
    return entry(folder / name)


def entry(path: Path, *, digest: bool = True) -> dict[str, Any]:
    """Describe a file as dataset.json does; without `digest` that is made up."""
    sha256 = sha256_of(path) if digest else "0" * 64
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256}


def write_shard(path: Path, images: int, jpeg: bytes, size: int) -> dict[str, Any]:
    """Write a shard with a hole where its images should be; a tar holds one image."""
    with path.open("wb") as out:
        if path.suffix == ".tar":
            out.write(jpeg)
            length = images * 30_000
        else:
            header = {"descr": "|u1", "fortran_order": False, "shape": (images, size, size, 3)}
            np.lib.format.write_array_header_1_0(out, header)
            length = out.tell() + images * size * size * 3
        out.truncate(length)
    return {**entry(path, digest=False), "images": images}  # holes: 252 GB of zeros


def write_dataset(folder: Path, images: int, store: str, size: int = SIZE) -> None:
    """Write a data set of `images` training images whose shards are sparse files."""
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    jpeg = encode_jpeg(coarse.repeat(size // 32, 0).repeat(size // 32, 1))
    starts = range(0, images, IMAGES_PER_SHARD)
    suffix = "npy" if store == "raw" else "tar"
    shards = [
        write_shard(
            folder / f"train-{number:05d}.{suffix}",
            min(IMAGES_PER_SHARD, images - start),
            jpeg,
            size,
        )
        for number, start in enumerate(starts)
    ]
    labels = np.sort(np.arange(images) % CLASSES)
    (folder / "train-names.txt").write_text('"made up"\n' * images)
    (folder / "rejects.jsonl").write_text("")
    train = {
        "images": images,
        "per_class": np.bincount(labels, minlength=CLASSES).tolist(),
        "labels": write_array(folder, "train-labels.npy", labels),
        "names": entry(folder / "train-names.txt"),
        "shards": shards,
    }
    if store == "jpeg":
        places = np.tile(np.array([[0, 0, len(jpeg)]]), (images, 1))
        places[:, 0] = np.arange(images) // IMAGES_PER_SHARD
        train["index"] = write_array(folder, "train-index.npy", places)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "size": size,
        "store": store,
        "classes": [f"{number:04d}" for number in range(CLASSES)],
        "titles": [f"{number:04d}" for number in range(CLASSES)],
        "splits": {"train": train},
        "mean_image": write_array(folder, "mean_image.npy", np.zeros((size, size, 3), np.float32)),
        "color_std": [1.0, 2.0, 3.0],
        "color_vectors": np.eye(3).tolist(),
        "rejects": {"count": 0, **entry(folder / "rejects.jsonl")},
        "ignored": 0,
        "provenance": {"options": {}},
        "fingerprint": "made up",
    }
    (folder / "dataset.json").write_text(json.dumps(info))


def measure(folder: Path) -> dict[str, float]:
    """Open the data set here and read batches of random images."""
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
                write_dataset(folder, given.images // share, store)
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
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
