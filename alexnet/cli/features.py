"""`alexnet features`: what the layers of a network give for images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from alexnet.cli.console import counted, plain_table, print_error, print_json, progress, stdout
from alexnet.cli.options import Device, Json, Weights
from alexnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from alexnet.analysis.feature_files import FeatureReport


def features(
    images: Annotated[
        Path | None, typer.Argument(metavar="IMAGES", help="An image file, or a folder of them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="File to write: .npy or .parquet.")
    ] = None,
    *,
    run: Annotated[Path, typer.Option(metavar="RUN", help="Run directory.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A row of the network, such as fc7; can be repeated."),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", metavar="", help="Show the rows and their sizes, and stop.")
    ] = False,
    weights: Weights = "best",
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Write what layers of a network give for images.

    OUT.npy is an array with a row for each image, whose names stand in
    OUT-images.txt; with several layers there is one array for each.
    OUT.parquet is a table of names and layers.

    conv5 is a layer before its activation, relu5 the same after it.

    Examples:

      alexnet features --run runs/photos --list
      alexnet features photos/ fc7.npy --run runs/photos --layer fc7
      alexnet features photos/ x.npy --run runs/photos --layer conv5 --layer fc6
    """
    from alexnet.analysis.feature_files import write_features
    from alexnet.analysis.features import Tapped, layer_shapes
    from alexnet.storage.run import Run

    if show_list:
        show_layers(layer_shapes(Run.open(run).new_model()), stdout(), as_json=json)
        return 0
    if images is None or out is None or not layer:
        raise UsageError("features takes IMAGES, OUT and at least one --layer; --list shows them")
    bad: list[DataError] = []
    tapped = Tapped(run, layer, which=weights, device=device)
    report = write_features(images, out, tapped, on_bad=bad.append, progress=progress())
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())
    for error in bad:
        print_error(str(error))
    return DataError.exit_code if bad else 0


def show_layers(
    shapes: dict[str, tuple[int, ...]], console: Console, *, as_json: bool = False
) -> None:
    """Print the names of the rows with the sizes of what they give."""
    if as_json:
        print_json(shapes)
        return
    table = plain_table("layer", "output", "numbers", right=("output", "numbers"))
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        table.add_row(name, "x".join(map(str, shape)), f"{count:,}")
    console.print(table)


def show(report: "FeatureReport", console: Console) -> None:
    """Print what is in the files."""
    console.print(counted(report.images, "image"))
    for name, shape in report.layers.items():
        console.print(f"{name}: {' x '.join(map(str, shape))}")
    console.print(f"in {', '.join(report.files)}", soft_wrap=True)
