"""`alexnet predict`: classes with probabilities for files and folders."""

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
    progress,
    stdout,
)
from alexnet.cli.options import Device, Json, Plain, Views, Weights, accelerator
from alexnet.errors import DataError

if TYPE_CHECKING:
    from alexnet.predict import Prediction

BAR_WIDTH = 24


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
    ],
    *,
    run: Annotated[
        Path,
        typer.Option(metavar="RUN", help="Run directory, made by alexnet train."),
    ],
    top: Annotated[int, typer.Option(metavar="N", help="Classes to show for each image.")] = 5,
    views: Views = "1",
    weights: Weights = "best",
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> int:
    """Predict the most probable classes of images.

    Folders are searched at any depth. A file that is not an image is named
    on stderr; the others are still predicted, and the exit code is then 3.

    Examples:

      alexnet predict cat.jpg dog.png --run runs/photos
      alexnet predict photos/ --run runs/photos --top 1 --json
    """
    from alexnet.predict import predict_images
    from alexnet.storage.run import Run

    bad: list[DataError] = []
    predictions = predict_images(
        images,
        run,
        top=top,
        views=int(views),
        which=weights,
        device=device,
        on_bad=bad.append,
        progress=progress(),
        accelerate=accelerator(plain),
    )
    if json:
        print_json([prediction.as_json() for prediction in predictions])
    else:
        opened = Run.open(run)
        labels = {
            name: class_label(name, title)
            for name, title in zip(opened.classes, opened.titles, strict=True)
        }
        show(predictions, labels, stdout())
    for error in bad:
        print_error(str(error))
    return DataError.exit_code if bad else 0


def show(predictions: "list[Prediction]", labels: dict[str, str], console: Console) -> None:
    """Print the name of each image and below it a bar for each class."""
    for number, prediction in enumerate(predictions):
        console.print(("\n" if number else "") + one_line(prediction.image), soft_wrap=True)
        for name, probability in prediction.predictions:
            drawn = bar(probability, BAR_WIDTH, console)
            line = f"{percent(probability):>9}  {drawn:<{BAR_WIDTH}}  {labels[name]}"
            console.print(line, soft_wrap=True)
