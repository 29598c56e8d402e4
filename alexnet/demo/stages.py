"""Every stage on the embedded drawings, one after the other, and a page about the result."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet.config import Settings
from alexnet.dataset import Dataset, Split
from alexnet.demo.drawings import Drawings
from alexnet.demo.report import Sample, Story, duration, write_report
from alexnet.errors import UsageError
from alexnet.evaluate import Evaluation, evaluate_run
from alexnet.predict import Prediction, predict_images
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT, Progress
from alexnet.recipes import recipe
from alexnet.storage.run import Run
from alexnet.train import TrainReport, train_model
from alexnet.train.processes import Accelerate

SIZE = 64
EPOCHS = 10
PICTURES_PER_CLASS = 2


@dataclass(frozen=True)
class DemoReport:
    """What the demo came to, and where everything lies."""

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
    device: str = "auto",
    drawings: Drawings | None = None,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
) -> DemoReport:
    """Make the drawings, train on them, evaluate, predict, and write OUT/report.html.

    OUT/data and OUT/run are used again where they are the same, and a training that was stopped is
    gone on with. `seed` is the training's; `drawings` are by default the embedded ones;
    `accelerate` makes the network's faster form, None takes it as it is. Raises `UsageError` where
    OUT holds other data or a run with another seed.
    """
    out = Path(out)
    data, run = out / "data", out / "run"
    settings = demo_settings(EPOCHS if epochs is None else epochs, seed)
    refuse_other_run(run, settings)
    dataset = make_data(data, drawings or Drawings(), progress)
    how: Any = {"device": device, "progress": progress, "accelerate": accelerate}
    trained = train_model(data, run, settings, resume=True, **how)
    evaluations = [evaluate_run(run, data, views=views, split="test", **how) for views in (1, 10)]
    pictures = write_pictures(dataset, out / "pictures")
    predictions = predict_images(list(pictures), run, **how)
    truths = list(pictures.values())
    samples = [Sample(*pair) for pair in zip(truths, predictions, strict=True)]
    command = f"alexnet demo {shlex.quote(str(out))} --epochs {settings.epochs} --seed {seed}"
    story = tell(dataset, trained, command)
    page = write_report(out / "report.html", Run.open(run), evaluations, samples, story)
    return DemoReport(
        out=str(out),
        report=str(page),
        data=str(data),
        run=str(run),
        train=trained,
        evaluations=evaluations,
        predictions=predictions,
        truths=truths,
    )


def demo_settings(epochs: int, seed: int) -> Settings:
    """Return the recipe "small" in a hurry: it sees each drawing a few times only."""
    small = replace(recipe("small"), model="alexnet_small", epochs=epochs, seed=seed)
    return replace(small, lr=0.001, min_crop_scale=0.8, dropout=0.2)


def refuse_other_run(run: Path, settings: Settings) -> None:
    """Raise `UsageError` if `run` is a training with other settings; more epochs may be added."""
    if Run.exists(run) and replace(Run.open(run).settings, epochs=settings.epochs) != settings:
        raise UsageError(
            f"{run} is a training with other settings; remove it or choose another place"
        )


def make_data(path: Path, drawings: Drawings, progress: Progress) -> Dataset:
    """Open the packed drawings at `path`, made now unless they are there already."""
    if not path.exists():
        prepare_dataset(drawings, path, size=SIZE, progress=progress)
        return Dataset(path)
    dataset = Dataset(path)
    counts = {name: len(dataset.split(name)) for name in dataset.split_names}
    source = dataset.info["provenance"]["source"]
    if (source, counts) != (drawings.location, dict(drawings.counts)):
        raise UsageError(f"{path} holds other data than the demo's; remove it or choose another")
    progress.note(f"using the drawings in {path}")
    return dataset


def write_pictures(dataset: Dataset, folder: Path) -> dict[Path, str]:
    """Write the first test pictures of each class as PNG files; return their paths and classes."""
    folder.mkdir(parents=True, exist_ok=True)
    test = dataset.split("test")
    written = {}
    for number, title in enumerate(dataset.classes):
        for index in first_of_class(test, number):
            path = folder / f"{title}-{index:04d}.png"
            Image.fromarray(test.read([index])[0]).save(path)
            written[path] = title
    return written


def first_of_class(split: Split, number: int) -> Sequence[int]:
    """Find the first images of a class."""
    places = (split.labels == number).nonzero()[0]
    return [int(place) for place in places[:PICTURES_PER_CLASS]]


def tell(dataset: Dataset, trained: TrainReport, command: str) -> Story:
    """Say in a sentence what happened, for somebody who has not seen any of it."""
    images = len(dataset.split("train"))
    return Story(
        title="A small AlexNet, trained on drawings",
        sentence="A neural network of the kind that won the ImageNet contest of 2012, scaled down "
        f"for small images, learned to tell {len(dataset.classes)} drawn things apart from "
        f"{images:,} examples in {duration(trained.seconds)} on {trained.device}. Below is what it "
        "makes of images that it never saw.",
        command=command,
    )
