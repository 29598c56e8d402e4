"""`alexnet import`: weights from elsewhere to a run directory."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import one_line, print_json, progress, stdout
from alexnet.cli.options import OUTPUT, Json
from alexnet.networks import NAMES

if TYPE_CHECKING:
    from alexnet.convert import ImportReport

IMAGES = "Images"


def import_(  # noqa: PLR0913 - typer makes an option of each parameter
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Weights: .pth, .safetensors, .caffemodel or .onnx; or torchvision, to download.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to make.")],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Network that the weights are of, where the file leaves it open: "
            f"{', '.join(NAMES)}.",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the classes: a packed data set, a text with a line for each such as "
            "synset_words.txt, or JSON; without it, numbers.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|R,G,B",
            help="What is subtracted from the images: a .binaryproto or .npy, or three numbers.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    preprocessing: Annotated[
        Literal["alexnet", "caffe", "torchvision"] | None,
        typer.Option(
            metavar="NAME",
            help="Whose images the weights are for, where the file leaves it open: caffe (BGR, "
            "0-255), torchvision (RGB, 0-1, divided by deviations) or alexnet (RGB, 0-255).",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Side of the images that the network's input is cut from; 256 for 224 and 227.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where to download from instead.", rich_help_panel=OUTPUT),
    ] = None,
    json: Json = False,
) -> None:
    """Make a run directory from weights of others.

    The network is rewritten to take images as all networks here do, so that
    the other commands need not be told where it came from. Nothing in the file
    is executed.

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
    """Print how the file was understood and what can be done next."""
    folder = shlex.quote(report.run)
    mean = ", ".join(f"{value:.4g}" for value in report.mean)
    square = "both sides" if report.resize == "warp" else "the short side"
    console.print(
        f"{report.format}: {one_line(report.model)}, {report.classes:,} classes, "
        f"{report.parameters:,} parameters\n"
        f"images ({report.preprocessing}): {square} to {report.size}, centre "
        f"{report.crop} x {report.crop}, less {mean}\n"
        f"run: {report.run}\n"
        f"next: alexnet predict IMAGE... --run {folder}",
        soft_wrap=True,
    )
