"""Evaluate a run and its ONNX export on a whole split; compare their answers image by image.

    alexnet export RUN net.onnx --with-preprocessing
    python scripts/onnx_error.py RUN net.onnx DATA OUT.json [--split test]

The file contains crop, mean and softmax, so it takes the stored 8-bit images. ONNX Runtime alone
computes its answers.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from alexnet import Dataset, Run
from alexnet.bench.report import save_json
from alexnet.evaluate import log_probabilities, ranks
from alexnet.storage.environment import cpu_name, versions

BATCH = 32


def main() -> None:
    """Compute the answers of both for all images and write the errors of each."""
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
    save_json(given.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
