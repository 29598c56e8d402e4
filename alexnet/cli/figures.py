"""`alexnet figures`: figures of a trained network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from alexnet.cli.console import print_json, print_note, progress, stdout
from alexnet.cli.options import Device, Json, Weights, option
from alexnet.storage.folders import check_evaluation

if TYPE_CHECKING:
    from alexnet.analysis.figures import FiguresReport

TrainedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="Packed data set.")]
Out = Annotated[
    Path | None, option("--out FOLDER", "Where to write the figures. Default: RUN/figures.")
]
Only = Annotated[
    list[str] | None,
    option(
        "--only NAME",
        "Draw this figure: curves, filters, predictions, neighbours, units, activations, "
        "saliency, confusion or rdm. Can be repeated.",
    ),
]
Layer = Annotated[
    str | None, option("--layer NAME", "Draw the figure units of this layer, such as conv3.")
]
Unit = Annotated[int | None, option("--unit N", "With --layer, this unit alone, from 0.")]
Format = Annotated[str, option("--format LIST", "File formats: svg, png or both.")]
Split = Annotated[
    str | None, option("--split NAME", "train, val or test. Default: test, or else val.")
]


def figures(  # noqa: PLR0913 - typer makes an option of each parameter
    run: TrainedRun,
    data: Data,
    *,
    out: Out = None,
    only: Only = None,
    layer: Layer = None,
    unit: Unit = None,
    formats: Format = "svg,png",
    split: Split = None,
    weights: Weights = "best",
    device: Device = "auto",
    json: Json = False,
) -> None:
    r"""Draw figures of a trained network.

    curves       loss and error by epoch (the paper's figure 1)
    filters      the first layer's filters, by tower (figure 3)
    predictions  eight images with their most probable classes (figure 4)
    neighbours   training images nearest in the last hidden layer (figure 4)
    units        what excites units of each layer
    activations  the maps of one image
    saliency     where the evidence is: occlusion and Grad-CAM
    confusion    images by true and by predicted class
    rdm          how much the classes differ to each layer

    Needs: pip install 'alexnet\[figures]'

    Examples:

      alexnet figures runs/photos data/photos
      alexnet figures runs/photos data/photos --only filters --format svg
      alexnet figures runs/photos data/photos --layer conv3 --unit 17
    """
    check_evaluation([run], data)
    from alexnet.analysis.figures import draw_figures

    report = draw_figures(
        run,
        data,
        out,
        only=only or (),
        layer=layer,
        unit=unit,
        formats=formats.replace(" ", "").split(","),
        split=split,
        checkpoint=weights,
        device=device,
        progress=progress(),
    )
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())
    for name, reason in report.left_out.items():
        print_note(f"{name} is left out: {reason}")


def show(report: "FiguresReport", console: Console) -> None:
    """Print what each figure shows, and where it is."""
    for figure in report.figures:
        console.print(f"{figure.name}: {figure.caption}\n")
    kinds = sorted({Path(file).suffix for each in report.figures for file in each.files})
    console.print(f"in {report.out}, as {' and '.join(kinds)}", soft_wrap=True)
