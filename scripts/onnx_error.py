"""Evaluate a run and its ONNX export on a whole split, and compare them image by image.

    alexnet export RUN net.onnx --with-preprocessing
    python scripts/onnx_error.py RUN net.onnx DATA OUT.json [--split test]

The file takes the stored 8-bit images as they are: crop, mean and softmax are in it, and ONNX
Runtime is all that computes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from alexnet import Dataset, Run
from alexnet.device import cpu_name
from alexnet.evaluate import log_probabilities
from alexnet.storage.metrics_log import ranks
from alexnet.storage.run import versions

BATCH = 32


def main() -> None:
    """Let both answer all images and write what each got wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    run, split = Run.open(given.run), Dataset(given.data).split(given.split)
    model = run.load_model()
    session = onnxruntime.InferenceSession(given.file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ours, theirs = [], []
    for start in range(0, len(split), BATCH):
        images = split.read(np.arange(start, min(start + BATCH, len(split))))
        ours.append(log_probabilities(model, images, run.preprocessing).exp())
        theirs.append(torch.from_numpy(session.run(None, {name: images})[0]).double())
    labels = torch.from_numpy(np.array(split.labels))
    run_ranks, file_ranks = (ranks(torch.cat(scores), labels) for scores in (ours, theirs))
    result = {
        "command": "python scripts/onnx_error.py RUN net.onnx DATA OUT.json",
        "model": run.model_name,
        "split": given.split,
        "images": len(split),
        "wrong": {
            "run_top1": int((run_ranks >= 1).sum()),
            "file_top1": int((file_ranks >= 1).sum()),
            "run_top5": int((run_ranks >= 5).sum()),
            "file_top5": int((file_ranks >= 5).sum()),
        },
        "images_whose_rank_differs": int((run_ranks != file_ranks).sum()),
        "largest_probability_difference": (torch.cat(ours) - torch.cat(theirs)).abs().max().item(),
        "hardware": cpu_name(),
        "versions": versions() | {"onnxruntime": onnxruntime.__version__},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
