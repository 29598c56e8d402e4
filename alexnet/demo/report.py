"""Write one HTML page about a trained run: errors, curves, predictions, confusions, settings.

The page makes no requests and runs no script, so it can be mailed, printed or published anywhere.
This module computes the values that the template `report.html.jinja` lays out.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.config import Settings
from alexnet.demo.charts import Chart, line_chart
from alexnet.errors import StorageError
from alexnet.evaluate import Evaluation
from alexnet.images import Pixels
from alexnet.predict import Prediction
from alexnet.storage.atomic import expanded
from alexnet.storage.run import Run

FILTERS_ACROSS = 12
FILTER_ENLARGEMENT = 8


@dataclass(frozen=True)
class Sample:
    """A picture, its true class and the prediction of the network."""

    truth: str
    prediction: Prediction

    @property
    def is_right(self) -> bool:
        """Whether the most probable class is the true class."""
        return self.prediction.predictions[0][0] == self.truth


@dataclass(frozen=True)
class Story:
    """The texts of the page that are not in the run."""

    title: str
    sentence: str
    command: str


def write_report(
    path: str | Path,
    run: Run,
    evaluations: Sequence[Evaluation],
    samples: Sequence[Sample],
    story: Story,
) -> Path:
    """Write the page about a trained run to `path`; return `path`.

    `evaluations` give the errors, one for each number of views, all of one split. The confusion
    matrix is that of the first. Raises `StorageError` if the page cannot be written.
    """
    path = expanded(path)
    page = render_report(run, evaluations, samples, story)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report {path}: {error.strerror}") from None
    return path


def render_report(
    run: Run, evaluations: Sequence[Evaluation], samples: Sequence[Sample], story: Story
) -> str:
    """Return the page as HTML; see `write_report`."""
    model = run.load_model()
    epochs = [row for row in run.metrics() if row.get("kind") == "epoch"]
    weights = model.get_parameter("conv1.weight").detach()
    template = template_environment().from_string(
        resources.files("alexnet.demo").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    return template.render(
        story=story,
        model=run.model_name,
        titles=run.titles,
        names=dict(zip(run.classes, run.titles, strict=True)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=epochs[-1]["seconds"] if epochs else None,
        evaluations=evaluations,
        epochs=epochs,
        charts=learning_curves(epochs),
        filter_count=len(weights),
        filters=png_address(filter_sheet(weights.cpu().numpy())),
        samples=[(sample, png_address(read_picture(sample))) for sample in samples],
        confusion=confusion_rows(evaluations[0].confusion, run.titles),
        settings=settings_rows(run.settings),
        facts=facts(run),
    )


def template_environment() -> jinja2.Environment:
    """Return the template's environment: all values are escaped, a missing value is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "duration": duration}
    return environment


def percent(fraction: float) -> str:
    """Format a fraction: 0.0625 is "6.25 %", 0.1 is "10 %"."""
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + " %"


def duration(seconds: float) -> str:
    """Format a time: "48 s", "1 min 52 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def learning_curves(epochs: Sequence[dict[str, Any]]) -> list[Chart]:
    """Lay out loss and error by epoch; leave out what was not measured."""
    if not epochs:
        return []
    numbers = [row["epoch"] for row in epochs]

    def column(name: str) -> list[float | None]:
        return [row[name] for row in epochs]

    losses = {"training": column("train_loss"), "validation": column("val_loss")}
    errors = {"top-1": column("top1_error"), "top-5": column("top5_error")}
    charts = [
        line_chart("Loss", "nats per image", numbers, losses, lambda value: f"{value:.3g}"),
        line_chart("Validation error", "share of images", numbers, errors, percent),
    ]
    return [chart for chart in charts if chart.curves]


def filter_sheet(weights: NDArray[np.float32]) -> Pixels:
    """Arrange filters (N, 3, height, width) in one enlarged RGBA picture with transparent gaps.

    Grey is 0. The largest weight of each filter is 0 or 255 in its channel.
    """
    count, _, height, width = weights.shape
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    shades = 127.5 + 127.5 * weights / np.where(largest > 0, largest, 1)
    tiles = np.rint(shades).astype(np.uint8).transpose(0, 2, 3, 1)
    rows = -(-count // FILTERS_ACROSS)
    sheet = np.zeros((rows * (height + 1) - 1, FILTERS_ACROSS * (width + 1) - 1, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top = number // FILTERS_ACROSS * (height + 1)
        left = number % FILTERS_ACROSS * (width + 1)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet.repeat(FILTER_ENLARGEMENT, axis=0).repeat(FILTER_ENLARGEMENT, axis=1)


def read_picture(sample: Sample) -> Pixels:
    """Read the picture of a sample: (height, width, 3)."""
    with Image.open(sample.prediction.image) as image:
        return np.asarray(image.convert("RGB"))


def png_address(pixels: Pixels) -> str:
    """Return a picture as a data address (data:image/png;base64,...)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Cell:
    """A count of the confusion matrix, its share of the row, and whether it is on the diagonal."""

    count: int
    share: float
    is_right: bool


def confusion_rows(
    confusion: Sequence[Sequence[int]], titles: Sequence[str]
) -> list[tuple[str, list[Cell]]]:
    """Return each true class with its row of cells."""
    rows = []
    for row, (title, counts) in enumerate(zip(titles, confusion, strict=True)):
        images = sum(counts) or 1
        cells = [Cell(count, count / images, row == column) for column, count in enumerate(counts)]
        rows.append((title, cells))
    return rows


def settings_rows(settings: Settings) -> list[tuple[str, str, str]]:
    """List name and value of each setting, and the paper's value if it differs."""
    paper = Settings().as_json()
    return [
        (name, write_value(value), "" if value == paper[name] else write_value(paper[name]))
        for name, value in settings.as_json().items()
    ]


def write_value(value: object) -> str:
    """Format the value of a setting as the user would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def facts(run: Run) -> list[tuple[str, str]]:
    """List what else is needed to repeat the run."""
    versions = ", ".join(f"{name} {number}" for name, number in run.info["versions"].items())
    entries = {
        "Software": versions,
        "Device": run.info.get("hardware", "not recorded"),
        "Images": f"{run.preprocessing.size} x {run.preprocessing.size} pixels, "
        f"of which the network sees {run.preprocessing.crop} x {run.preprocessing.crop}",
        "Data set": f"SHA-256 {run.info['data']['fingerprint']}",
        "Made": run.info["created"],
    }
    return list(entries.items())
