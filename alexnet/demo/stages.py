"""Run every stage on the embedded drawings, and write a page about the result."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet.analysis.figures.predictions import answers
from alexnet.analysis.figures.subject import open_subject
from alexnet.analysis.report import sample_images
from alexnet.analysis.report.page import Story, duration, write_report
from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.demo.drawings import Drawings
from alexnet.device import DeviceName
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate, Evaluation, evaluate_run
from alexnet.predict import Prediction, predict_images
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT, Progress
from alexnet.recipes import recipe
from alexnet.storage.atomic import expanded
from alexnet.storage.run import Run
from alexnet.train import TrainReport, train_model

SIZE = 64
EPOCHS = 10


@dataclass(frozen=True)
class DemoReport:
    """The results of the demo and the paths of its files."""

    out: str
    report: str
    """The HTML page."""
    data: str
    run: str
    train: TrainReport
    evaluations: list[Evaluation]
    """The test split with one view and with ten."""
    predictions: list[Prediction]
    truths: list[str]
    """The true class of each predicted picture."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **vars(self),
            "train": self.train.as_json(),
            "evaluations": [evaluation.as_json() for evaluation in self.evaluations],
            "predictions": [prediction.as_json() for prediction in self.predictions],
        }


def run_demo(
    out: str | Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: DeviceName = "auto",
    drawings: Drawings | None = None,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> DemoReport:
    """Prepare the drawings, train, evaluate, predict, and write OUT/report.html.

    OUT/data is reused, and a stopped training in OUT/run continues. `seed` is that of the training;
    `drawings` are the embedded ones by default; `accelerate` returns an accelerated network, None
    uses the network as it is. Raises `UsageError` if OUT holds other data or a run with other
    settings.
    """
    out = expanded(out)
    data, run = out / "data", out / "run"
    settings = demo_settings(EPOCHS if epochs is None else epochs, seed)
    refuse_other_run(run, settings)
    if (out / "report.html").exists() and not Run.exists(run):
        raise UsageError(f"{out}/report.html is not of a demo; choose another folder")
    options: Any = {"device": device, "progress": progress, "accelerate": accelerate}

    dataset = prepare_drawings(data, drawings or Drawings(), progress)
    trained = train_model(data, run, settings, resume=True, **options)
    evaluations = [
        evaluate_run(run, data, views=views, split="test", **options) for views in (1, 10)
    ]
    pictures = write_pictures(dataset, out / "pictures")
    predictions = predict_images(list(pictures), run, **options)

    subject = open_subject(run, data, split="test", device=device)
    shown = answers(subject, sample_images(subject.split, len(dataset.classes)))
    command = f"alexnet demo {shlex.quote(str(out))} --epochs {settings.epochs} --seed {seed}"
    hardware = subject.run.info.get("hardware", trained.device)
    story = describe(dataset, hardware, trained.seconds, command)
    page = write_report(out / "report.html", subject, evaluations, shown, story)
    return DemoReport(
        out=str(out),
        report=str(page),
        data=str(data),
        run=str(run),
        train=trained,
        evaluations=evaluations,
        predictions=predictions,
        truths=list(pictures.values()),
    )


def demo_settings(epochs: int, seed: int) -> Settings:
    """Return the recipe "small", adapted to a few epochs."""
    # In float32 on every machine, so that the figures of the documents come out again.
    small = replace(
        recipe("small"), model="alexnet_small", epochs=epochs, seed=seed, precision="float32"
    )
    return replace(small, lr=0.001, min_crop_scale=0.8, dropout=0.2)


def refuse_other_run(run: Path, settings: Settings) -> None:
    """Raise `UsageError` if `run` has other settings; the number of epochs may differ."""
    if Run.exists(run) and replace(Run.open(run).settings, epochs=settings.epochs) != settings:
        raise UsageError(
            f"{run} is a training with other settings; remove it or choose another folder"
        )


def prepare_drawings(path: Path, drawings: Drawings, progress: Progress) -> Dataset:
    """Open the packed drawings in `path`; prepare them first if `path` does not exist."""
    if not path.exists():
        prepare_dataset(drawings, path, size=SIZE, progress=progress)
        return Dataset(path)
    dataset = Dataset(path)
    counts = {name: len(dataset.split(name)) for name in dataset.split_names}
    source = dataset.info["provenance"]["source"]
    if (source, counts) != (drawings.location, dict(drawings.counts)):
        raise UsageError(
            f"{path} holds other data than the demo's; remove it or choose another folder"
        )
    progress.note(f"using the drawings in {path}")
    return dataset


def write_pictures(dataset: Dataset, folder: Path) -> dict[Path, str]:
    """Write the first test pictures of each class as PNG files; return the class of each path."""
    folder.mkdir(parents=True, exist_ok=True)
    test = dataset.split("test")
    written = {}
    for index in sample_images(test, len(dataset.classes)).tolist():
        name = dataset.classes[test.labels[index]]
        path = folder / f"{name}-{index:04d}.png"
        Image.fromarray(test.read([index])[0]).save(path)
        written[path] = name
    return written


def describe(dataset: Dataset, hardware: str, seconds: float, command: str) -> Story:
    """Return the texts of the page, for a reader who does not know the demo."""
    images = len(dataset.split("train"))
    return Story(
        title="A small AlexNet, trained on drawings",
        sentence="This neural network is a smaller version of AlexNet, which won the ImageNet "
        f"contest of 2012. It learned to recognise {len(dataset.classes)} drawn objects from "
        f"{images:,} examples in {duration(seconds)} on {hardware}. The page shows "
        "its answers to images that it had not seen in training.",
        command=command,
    )
