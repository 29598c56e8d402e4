"""Write one HTML page about a trained run: errors, curves, predictions, filters, settings.

The page makes no requests and runs no script, so it can be mailed, printed or published anywhere.
This module computes the values that the template `report.html.jinja` lays out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from alexnet.analysis.figures.filters import (
    by_tower,
    first_filters,
    in_words,
    learned,
)
from alexnet.analysis.figures.pictures import enlarged, png_address, sheet
from alexnet.analysis.figures.predictions import Answer
from alexnet.analysis.figures.subject import Subject, tower_count
from alexnet.analysis.report.charts import Chart, line_chart
from alexnet.analysis.report.evidence import find_evidence, find_excited
from alexnet.config import Settings
from alexnet.errors import StorageError
from alexnet.evaluate import Evaluation
from alexnet.images.filter_pictures import filter_pictures
from alexnet.storage.atomic import expanded
from alexnet.storage.run import Run

FILTERS_ACROSS = 12
FILTER_ENLARGEMENT = 8
MOST_CLASSES = 30
"""Of more classes the page shows the worst, in place of the whole confusion matrix."""


@dataclass(frozen=True)
class Story:
    """The texts of the page that are not in the run."""

    title: str
    sentence: str
    command: str


def write_report(
    path: str | Path,
    subject: Subject,
    evaluations: Sequence[Evaluation],
    answers: Sequence[Answer],
    story: Story,
) -> Path:
    """Write the page about a trained run to `path`; return `path`.

    `evaluations` give the errors, one for each number of views, all of one split. The confusion
    matrix is that of the first. `answers` are the predictions that are shown.
    Raises `StorageError` if the page cannot be written.
    """
    path = expanded(path)
    page = render_report(subject, evaluations, answers, story)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report {path}: {error.strerror}") from None
    return path


def render_report(
    subject: Subject, evaluations: Sequence[Evaluation], answers: Sequence[Answer], story: Story
) -> str:
    """Return the page as HTML; see `write_report`."""
    run = subject.run
    epochs = [row for row in run.metrics() if row.get("kind") == "epoch"]
    titles = first_names(run.titles)
    template = template_environment().get_template("analysis/report/report.html.jinja")
    return template.render(
        story=story,
        model=run.model_name,
        titles=titles,
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        seconds=epochs[-1]["seconds"] if epochs else None,
        evaluations=evaluations,
        epochs=epochs,
        charts=learning_curves(epochs),
        samples=[(answer, png_address(answer.picture)) for answer in answers],
        evidence=find_evidence(subject, answers),
        excited=find_excited(subject),
        confusion=confusion_rows(evaluations[0].confusion, titles),
        worst=worst_rows(evaluations[0], titles),
        settings=settings_rows(run.settings),
        facts=facts(run),
        **filters_shown(subject),
    )


def filters_shown(subject: Subject) -> dict[str, Any]:
    """Return the pictures of each tower's filters, and what they have learned in words."""
    towers = by_tower(first_filters(subject), tower_count(subject.model))
    tiles = [enlarged(filter_pictures(weights), FILTER_ENLARGEMENT) for weights in towers]
    return {
        "filter_count": sum(map(len, towers)),
        "filters": [png_address(sheet(each, FILTERS_ACROSS, gap=4)) for each in tiles],
        "filters_learned": in_words([learned(weights) for weights in towers]),
    }


def template_environment() -> jinja2.Environment:
    """Return the templates' environment: all values are escaped, a missing value is an error.

    Templates and style sheets are named by their path in this package.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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


@dataclass(frozen=True)
class Cell:
    """A count of the confusion matrix, its share of the row, and whether it is on the diagonal."""

    count: int
    share: float
    is_right: bool


def first_names(titles: Sequence[str]) -> list[str]:
    """Leave out the synonyms that ImageNet's names have after a comma: they fill the columns.

    Classes that would then have the same name, such as the two cranes, keep theirs.
    """
    short = [title.partition(",")[0] for title in titles]
    count = Counter(short)
    return [
        first if count[first] == 1 else whole for first, whole in zip(short, titles, strict=True)
    ]


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


def worst_rows(evaluation: Evaluation, titles: Sequence[str]) -> list[tuple[str, int, float, str]]:
    """List title, images, error and most frequent mistake of the worst classes, if many.

    Nothing where the whole confusion matrix can be shown.
    """
    if len(titles) <= MOST_CLASSES:
        return []
    rows = []
    for index, row in enumerate(evaluation.per_class):
        if row["images"]:
            wrong = [0 if i == index else n for i, n in enumerate(evaluation.confusion[index])]
            most = max(wrong)
            mistake = f"{titles[wrong.index(most)]} ({most})" if most else ""
            rows.append((titles[index], row["images"], row["top1_error"], mistake))
    return sorted(rows, key=lambda row: -row[2])[:MOST_CLASSES]


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
