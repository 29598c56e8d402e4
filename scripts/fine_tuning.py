"""Compare training from ImageNet's convolutions with training from scratch, on few photographs.

    python scripts/fine_tuning.py OUT.json DATA:IMAGES ... [--epochs 10] [--seeds 0 1 2]
        [--work FOLDER] [--mirror FILE]

DATA is a packed data set of side 256, of which IMAGES are used for training, evenly from its
classes. Both arms train for the same epochs and are tested after the last one. Repeated, the
command continues.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from alexnet import Dataset, Settings, evaluate_run, imagenet_convolutions, recipe, train_model
from alexnet.bench.report import save_json
from alexnet.kernels import accelerate
from alexnet.progress import SILENT
from alexnet.reproduce.part import pack_part
from alexnet.storage.atomic import write_text
from alexnet.storage.environment import commit, cpu_name, versions

ARMS = {
    "imagenet": recipe("fine_tune"),
    "scratch": dataclasses.replace(recipe("small"), model="alexnet"),
}
"""From ImageNet's convolutions, and from random weights."""
TEST_IMAGES = 2000


def measure(data: Path, run: Path, settings: Settings, init: Path | None) -> dict[str, Any]:
    """Train, or continue, and return the error on test images and the seconds of training."""
    done = run / "errors.json"
    if not done.is_file():
        report = train_model(data, run, settings, init=init, resume=True, accelerate=accelerate)
        test = evaluate_run(run, data, split="test", checkpoint="last", accelerate=accelerate)
        write_text(done, json.dumps({"error": test.top1_error, "seconds": report.seconds}))
        shutil.rmtree(run / "checkpoints")  # a gigabyte or two for each training
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def compare(data: Path, images: int, work: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train both arms on `images` of a data set with every seed."""
    part = pack_part(data, work / "data", images, TEST_IMAGES, SILENT)
    packed = Dataset(part)
    arms = {}
    for name, settings in ARMS.items():
        init = imagenet_convolutions(given.mirror) if name == "imagenet" else None
        found = []
        for seed in given.seeds:
            chosen = dataclasses.replace(settings, epochs=given.epochs, seed=seed)
            run = work / "runs" / f"{data.name}-{settings.model}-{images}-{given.epochs}-{seed}"
            found.append(measure(part, run, chosen, init))
            print(data.name, name, seed, found[-1], flush=True)
        means = {key: statistics.mean(each[key] for each in found) for key in found[0]}
        arms[name] = {"seeds": found, "mean": means}
    return {
        "classes": len(packed.classes),
        "images": {split: len(packed.split(split)) for split in packed.split_names},
        "arms": arms,
    }


def main() -> None:
    """Compare the arms on every data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="+", help="DATA:IMAGES")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--mirror", help="a file with the convolutions")
    given = parser.parse_args()
    compared = {}
    for each in given.data:
        path, _, images = each.rpartition(":")
        compared[Path(path).name] = compare(Path(path), int(images), given.work, given)
    result = {
        "command": "python scripts/fine_tuning.py results/fine_tuning/result.json "
        + " ".join(f"data/{Path(each).name}" for each in given.data)
        + f" --epochs {given.epochs} --seeds "
        + " ".join(map(str, given.seeds)),
        "epochs": given.epochs,
        "seeds": given.seeds,
        "commit": commit(),
        "hardware": cpu_name(),
        "versions": versions(),
        "data": compared,
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
