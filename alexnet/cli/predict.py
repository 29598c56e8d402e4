"""`alexnet predict`: the most probable classes of image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from alexnet.cli.console import (
    bar,
    class_label,
    one_line,
    percent,
    print_error,
    print_json,
    print_note,
    progress,
    stdout,
)
from alexnet.cli.options import Device, Json, Plain, Views, Weights, accelerator, option
from alexnet.errors import DataError, UsageError
from alexnet.storage.folders import SHIPPED, SHIPPED_RUN, check_run, named_run

if TYPE_CHECKING:
    from alexnet.analysis.index import Index, Neighbour
    from alexnet.predict import Prediction
    from alexnet.storage.run import Run

BAR_WIDTH = 24

Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
]
TrainedRun = Annotated[
    Path,
    option(
        "--run RUN",
        "Run directory of alexnet train or import. Default: shipped, the net that comes with "
        "alexnet, for the ten classes of CIFAR-10.",
        show_default=False,
    ),
]
Top = Annotated[int, option("--top N", "Number of classes to show for each image.")]
Nearest = Annotated[
    int | None,
    option(
        "--nearest K",
        "Name the K training images nearest to each image in the last hidden layer. Needs the "
        "index of the run: alexnet index.",
        min=1,
    ),
]
Data = Annotated[
    Path | None,
    option("--data DATA", "With --nearest, where the data set of the index is, if it moved."),
]


def predict(  # noqa: PLR0913 - typer makes an option of each parameter
    images: Images,
    *,
    run: TrainedRun = SHIPPED_RUN,
    top: Top = 5,
    views: Views = "1",
    nearest: Nearest = None,
    data: Data = None,
    weights: Weights = "best",
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> int:
    """Predict the most probable classes of images.

    Folders are searched at any depth. A file that cannot be read as an image
    is reported on stderr and makes the exit code 3; the others are predicted.

    Without --run the net that comes with alexnet answers. It tells the ten
    classes of CIFAR-10 apart and takes anything else for one of them.

    Examples:

      alexnet predict cat.jpg
      alexnet predict cat.jpg dog.png --run runs/photos
      alexnet predict photos/ --run runs/photos --top 1 --json
      alexnet predict cat.jpg --run runs/photos --nearest 5
    """
    run = named_run(run)
    check_run(run)
    check_nearest(run, nearest, data)
    from alexnet.analysis.index import nearest_to_files, open_index
    from alexnet.predict import predict_images
    from alexnet.storage.run import Run

    opened = Run.open(run)
    if run == SHIPPED_RUN:
        print_note(shipped_note(opened))
    bad, shown = list[DataError](), progress()
    index = open_index(opened, data, checkpoint=weights) if nearest else None
    predictions = predict_images(
        images,
        run,
        top=top,
        views=int(views),
        checkpoint=weights,
        device=device,
        on_bad=bad.append,
        progress=shown,
        accelerate=accelerator(plain, shown),
    )
    near: list[list[Neighbour]] = []
    if index and nearest:
        files = [prediction.image for prediction in predictions]
        near = nearest_to_files(index, opened, files, nearest, checkpoint=weights, device=device)
    if json:
        name = SHIPPED if run == SHIPPED_RUN else str(run)
        print_json(as_json(predictions, name, near))
    else:
        show(predictions, class_labels(opened), stdout(), near, heading_of(index))
    for error in bad:
        print_error(str(error))
    return DataError.exit_code if bad else 0


def check_nearest(run: Path, nearest: int | None, data: Path | None) -> None:
    """Raise `UsageError` for options that do not go together."""
    if nearest and run == SHIPPED_RUN:
        raise UsageError("--nearest needs a run of your own, with an index: name it with --run")
    if data and not nearest:
        raise UsageError("--data says where the data set of the index is: add --nearest")


def heading_of(index: "Index | None") -> str:
    """Say what the nearest images are the nearest of."""
    return f"nearest of {len(index.images):,} training images in {index.layer}" if index else ""


def shipped_note(run: "Run") -> str:
    """Say what the net that comes with the package can tell apart."""
    return (
        f"the net that comes with alexnet answers, as without --run; it takes every picture for "
        f"one of its {len(run.classes)} classes: {', '.join(run.classes)}"
    )


def class_labels(run: "Run") -> dict[str, str]:
    """Return the label of each class, by its name in the data."""
    names = zip(run.classes, run.titles, strict=True)
    return {name: class_label(name, display_name) for name, display_name in names}


def as_json(
    predictions: "list[Prediction]", run: str, near: "list[list[Neighbour]]"
) -> list[dict[str, Any]]:
    """Return what --json prints of each image."""
    rows = [prediction.as_json() | {"run": run} for prediction in predictions]
    for row, found in zip(rows, near, strict=False):
        row["nearest"] = [each.as_json() for each in found]
    return rows


def show(
    predictions: "list[Prediction]",
    labels: dict[str, str],
    console: Console,
    near: "list[list[Neighbour]]",
    heading: str,
) -> None:
    """Print each image's path, below it a bar for each class, and the nearest images, if any."""
    for number, prediction in enumerate(predictions):
        console.print(("\n" if number else "") + one_line(prediction.image), soft_wrap=True)
        for name, probability in prediction.predictions:
            drawn = bar(probability, BAR_WIDTH, console)
            line = f"{percent(probability):>9}  {drawn:<{BAR_WIDTH}}  {labels[name]}"
            console.print(line, soft_wrap=True)
        if near:
            console.print(f"  {heading}, by distance:", soft_wrap=True)
        for each in near[number] if near else ():
            line = f"{each.distance:>9.2f}  {one_line(each.image)}  {labels[each.label]}"
            console.print(line, soft_wrap=True)
