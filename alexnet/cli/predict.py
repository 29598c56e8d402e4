"""`alexnet predict`: the most probable classes of image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from alexnet.errors import DataError
from alexnet.storage.folders import SHIPPED, SHIPPED_RUN, check_run, named_run

if TYPE_CHECKING:
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


def predict(
    images: Images,
    *,
    run: TrainedRun = SHIPPED_RUN,
    top: Top = 5,
    views: Views = "1",
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
    """
    run = named_run(run)
    check_run(run)
    from alexnet.predict import predict_images
    from alexnet.storage.run import Run

    if run == SHIPPED_RUN:
        print_note(shipped_note(Run.open(run)))
    bad, shown = list[DataError](), progress()
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
    if json:
        name = SHIPPED if run == SHIPPED_RUN else str(run)
        print_json([prediction.as_json() | {"run": name} for prediction in predictions])
    else:
        show(predictions, class_labels(Run.open(run)), stdout())
    for error in bad:
        print_error(str(error))
    return DataError.exit_code if bad else 0


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


def show(predictions: "list[Prediction]", labels: dict[str, str], console: Console) -> None:
    """Print each image's path, and below it a bar for each class."""
    for number, prediction in enumerate(predictions):
        console.print(("\n" if number else "") + one_line(prediction.image), soft_wrap=True)
        for name, probability in prediction.predictions:
            drawn = bar(probability, BAR_WIDTH, console)
            line = f"{percent(probability):>9}  {drawn:<{BAR_WIDTH}}  {labels[name]}"
            console.print(line, soft_wrap=True)
