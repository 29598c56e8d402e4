"""Draw the pictures of docs/learn.md, from the demo's run and the drawings.

    OMP_NUM_THREADS=2 alexnet demo runs/demo
    python scripts/lesson_pictures.py runs/demo docs/pictures

With another number of threads sums are rounded differently, and the demo is not the recorded one.
The filters of ImageNet are torchvision's: a download, or the file of --mirror.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import alexnet
from alexnet.analysis.figures import style
from alexnet.analysis.figures.pictures import enlarged, sheet
from alexnet.analysis.figures.subject import Subject, open_subject
from alexnet.demo.drawings import draw_picture
from alexnet.images import Pixels
from alexnet.images.filter_pictures import filter_pictures
from alexnet.transforms import augment, sample_augment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("curves", "activations", "units", "saliency")
PIXELS_ACROSS = 1080


def main() -> None:
    """Draw all, or those named with --only."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("demo", type=Path, help="folder of alexnet demo")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--mirror", help="file with torchvision's weights")
    parser.add_argument("--only", action="append", help="name of a picture")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    subject = open_subject(options.demo / "run", options.demo / "data", split="test")
    own: dict[str, Callable[[], Figure]] = {
        "convolution": draw_convolution,
        "crops": lambda: draw_crops(subject),
        "filters": lambda: draw_filters(options.mirror),
    }
    wanted = options.only or [*own, *FIGURES]
    with style.look():
        for name in wanted:
            if name in own:
                own[name]().savefig(options.out / f"{name}.png", dpi=style.DOTS_PER_INCH)
    if figures := [name for name in wanted if name in FIGURES]:
        run, data = options.demo / "run", options.demo / "data"
        alexnet.draw_figures(run, data, options.out, only=figures, formats=["png"])
    for name in wanted:
        shrink(options.out / f"{name}.png")


def shrink(path: Path) -> None:
    """Replace a PNG file by a smaller WebP file."""
    with Image.open(path) as image:
        height = round(image.height * PIXELS_ACROSS / image.width)
        small = image.convert("RGB").resize((PIXELS_ACROSS, height), Image.Resampling.LANCZOS)
    small.save(path.with_suffix(".webp"), quality=70, method=6)
    path.unlink()


def draw_convolution() -> "Figure":
    """Draw the lesson's example: an umbrella, the response of one filter, ReLU, pooling."""
    grey = torch.from_numpy(draw_picture(0, "test", 999)).float().mean(2)
    edge = torch.tensor([[-1.0, 0, 1]] * 3)
    response = F.conv2d(grey[None, None], edge[None, None])[0, 0]
    rectified = response.relu()
    pooled = F.max_pool2d(rectified[None], 3, stride=2)[0]
    largest = float(response.abs().max())
    panels = {
        "picture, 64 x 64": (grey, 0.0, 255.0),
        "filter, 3 x 3": (edge, -1.0, 1.0),
        "response, 62 x 62": (response, -largest, largest),
        "after ReLU": (rectified, -largest, largest),
        "after pooling, 30 x 30": (pooled, -largest, largest),
    }
    figure = style.new_figure(1.75)
    grid = figure.subplots(1, len(panels))
    for axes, (title, (values, low, high)) in zip(grid, panels.items(), strict=True):
        style.show_picture(axes, shades(values, low, high), title)
    for row in range(3):
        for column, weight in enumerate(edge[row].int().tolist()):
            ink = "white" if weight < 0 else "black"
            grid[1].text(column, row, weight, color=ink, ha="center", va="center")
    grid[1].plot([-0.5, 2.5, 2.5, -0.5, -0.5], [-0.5, -0.5, 2.5, 2.5, -0.5], color=style.SOFT)
    return figure


def shades(values: Tensor, low: float, high: float) -> Pixels:
    """Turn numbers (H, W) into a grey picture, `low` black and `high` white."""
    scaled = ((values - low) / (high - low)).clamp(0, 1).mul(255).round().byte().numpy()
    pixels: Pixels = scaled[..., None].repeat(3, axis=2)
    return pixels


def draw_crops(subject: Subject) -> "Figure":
    """Draw one training picture, and what seven epochs of training see of it."""
    run, index = subject.run, np.array([46])
    settings, preprocessing = run.settings, run.preprocessing
    pixels = subject.train.read(index)
    seen = [
        augment(
            torch.from_numpy(pixels),
            sample_augment(settings, preprocessing, epoch, index),
            preprocessing,
            settings,
        )[0]
        + preprocessing.mean
        for epoch in range(7)
    ]
    tiles = [each.clamp(0, 255).round().byte().permute(1, 2, 0).numpy() for each in seen]
    figure = style.new_figure(1.15)
    titles = ["stored"] + [f"epoch {number}" for number in range(1, 8)]
    for axes, tile, title in zip(figure.subplots(1, 8), [pixels[0], *tiles], titles, strict=True):
        style.show_picture(axes, tile, title)
    return figure


def draw_filters(mirror: str | None) -> "Figure":
    """Draw filters of first layers: at the start, after CIFAR-10, after ImageNet."""
    torch.manual_seed(0)
    imagenet = alexnet.imagenet_convolutions(mirror)
    saved = load_file(next((imagenet / "checkpoints").glob("*.safetensors")))
    rows: dict[str, Tensor] = {
        "alexnet before training, 11 x 11": alexnet.create_model("alexnet").get_parameter(
            "conv1.weight"
        )[:32],
        "the net that comes with the package, trained on CIFAR-10, 5 x 5": alexnet.Run.shipped()
        .load_model()
        .get_parameter("conv1.weight"),
        "torchvision's AlexNet, trained on ImageNet, 11 x 11": saved["model.conv1.weight"],
    }
    figure = style.new_figure(5.6)
    grid = figure.subplots(len(rows), 1, height_ratios=[2, 4, 4])
    for axes, (title, weights) in zip(grid, rows.items(), strict=True):
        style.show_picture(axes, filter_sheet(weights), title, loc="left", fontsize=8)
    return figure


def filter_sheet(weights: Tensor) -> Pixels:
    """Arrange filters in rows of 16, of one size whatever their number of pixels."""
    pictures: Sequence[Pixels] | Pixels = filter_pictures(weights.detach().numpy())
    return sheet(enlarged(np.asarray(pictures), 110 // weights.shape[2]), 16, gap=10)


if __name__ == "__main__":
    main()
