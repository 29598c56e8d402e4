"""`alexnet import`: from weights of other frameworks to a run directory."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import one_line, print_json, progress, stdout
from alexnet.cli.options import NETWORKS, OUTPUT, Json, option

if TYPE_CHECKING:
    from alexnet.convert import ImportReport

IMAGES = "Images"

Weights = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Weights: a .pth, .pt2, .safetensors, .caffemodel or .onnx file; a folder of "
        "export --format caffe; or torchvision, to download.",
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to create.")]
Network = Annotated[
    str | None,
    option("--model NAME", f"{NETWORKS} Needed if the file does not determine it."),
]
Classes = Annotated[
    Path | None,
    option(
        "--classes FILE",
        "Class names: a packed data set, a text file with one class per line such as "
        "synset_words.txt, or a JSON file (a list, index to name, or name to index). Default: "
        "numbers.",
    ),
]
Mean = Annotated[
    str | None,
    option(
        "--mean FILE|R,G,B",
        "Mean to subtract from the images: a .binaryproto or .npy file, or three numbers.",
        IMAGES,
    ),
]
Preprocessing = Annotated[
    Literal["alexnet", "caffe", "torchvision"] | None,
    option(
        "--preprocessing NAME",
        "Input that the weights expect: caffe (BGR, 0-255), torchvision (RGB, 0-1, divided by "
        "standard deviations) or alexnet (RGB, 0-255). Needed if the file does not determine it.",
        IMAGES,
    ),
]
Size = Annotated[
    int | None,
    option(
        "--size N",
        "Side of the images before the crop. Default for crops of 224 and 227: 256.",
        IMAGES,
    ),
]
Mirror = Annotated[
    str | None, option("--mirror URL", "Download from this address instead.", OUTPUT)
]


def import_(  # noqa: PLR0913 - typer makes an option of each parameter
    file: Weights,
    out: Out,
    *,
    model: Network = None,
    classes: Classes = None,
    mean: Mean = None,
    preprocessing: Preprocessing = None,
    size: Size = None,
    mirror: Mirror = None,
    json: Json = False,
) -> None:
    """Make a run directory from weights of other frameworks.

    The network is rewritten for the input that all networks of this package
    take, so that the other commands work as with any run. No code in the
    file is executed.

    Examples:

      alexnet import torchvision runs/torchvision
      alexnet import net.caffemodel runs/caffe --classes synset_words.txt
      alexnet import net.onnx runs/mine --model caffenet --mean 123,117,104
    """
    from alexnet.convert import import_weights

    report = import_weights(
        file,
        out,
        model=model,
        classes=classes,
        mean=mean,
        preprocessing=preprocessing,
        size=size,
        mirror=mirror,
        progress=progress(),
    )
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def show(report: "ImportReport", console: Console) -> None:
    """Print how the file was read and the command that can follow."""
    folder = shlex.quote(report.run)
    mean = ", ".join(f"{value:.4g}" for value in report.mean)
    square = "both sides" if report.resize == "warp" else "the shorter side"
    console.print(
        f"{report.format}: {one_line(report.model)}, {report.classes:,} classes, "
        f"{report.parameters:,} parameters\n"
        f"images ({report.preprocessing}): {square} to {report.size}, centre "
        f"{report.crop} x {report.crop}, less {mean}\n"
        f"run: {report.run}\n"
        f"next: alexnet predict IMAGE... --run {folder}",
        soft_wrap=True,
    )
