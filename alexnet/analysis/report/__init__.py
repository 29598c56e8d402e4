"""One page about a trained run: `alexnet report`, and the demo's."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.analysis.figures.predictions import answers
from alexnet.analysis.figures.subject import Indices, Subject, evenly, open_subject
from alexnet.analysis.report.page import Story, duration, write_report
from alexnet.dataset import Split
from alexnet.device import DeviceName
from alexnet.evaluate import Accelerate, Evaluation, evaluate_run
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint_store import CheckpointName

IMAGES = 20
PER_CLASS = 2
"""Images of each class, where `IMAGES` are enough for all classes."""


@dataclass(frozen=True)
class RunReport:
    """What was written, and the errors in it."""

    report: str
    """The HTML page."""
    evaluations: list[Evaluation]
    """With one view and with ten."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        evaluations = [evaluation.as_json() for evaluation in self.evaluations]
        return {"report": self.report, "evaluations": evaluations}


def report_run(
    run: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> RunReport:
    """Evaluate a trained run on a packed data set, and write a page about it.

    The page is `out`, by default RUN/report.html. The images are those of `split`, by default test,
    or else val. Raises `DataError` for data that does not fit the run.
    """
    subject = open_subject(run, data, split=split, checkpoint=checkpoint, device=device)
    evaluations = [
        evaluate_run(
            run,
            data,
            views=views,
            split=subject.split.split_name,
            checkpoint=checkpoint,
            device=device,
            progress=progress,
            accelerate=accelerate,
        )
        for views in (1, 10)
    ]
    shown = answers(subject, sample_images(subject.split, len(subject.titles)))
    path = subject.run.path / "report.html" if out is None else Path(out)
    page = write_report(path, subject, evaluations, shown, describe(subject, data))
    return RunReport(str(page), evaluations)


def sample_images(split: Split, classes: int) -> Indices:
    """Choose images for the page: the first of each class, or evenly from all if many classes."""
    if classes * PER_CLASS > IMAGES:
        return evenly(len(split), IMAGES)
    found: list[int] = []
    for label in range(classes):
        found += (split.labels == label).nonzero()[0][:PER_CLASS].tolist()
    return np.array(found, np.int64)


def describe(subject: Subject, data: str | Path) -> Story:
    """Return the texts of the page about any run."""
    run = subject.run
    epochs = [row for row in run.metrics() if row.get("kind") == "epoch"]
    trained = ""
    if epochs:
        trained = (
            f" It was trained for {len(epochs)} epochs in {duration(epochs[-1]['seconds'])} on "
            f"{run.info.get('hardware', 'a device that was not recorded')}; shown are the weights "
            f"after epoch {subject.epochs}."
        )
    return Story(
        title=f"{run.path.resolve().name}: {run.model_name}",
        sentence=f"The network {run.model_name} tells {len(run.classes):,} classes of images apart."
        f"{trained} The page shows its answers to the {subject.split.split_name} images of "
        f"{subject.data.path.resolve().name}.",
        command=f"alexnet report {shlex.quote(str(run.path))} {shlex.quote(str(data))}",
    )
