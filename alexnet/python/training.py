"""Training in Python: a recipe by name, settings as keywords, progress, callbacks, curves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from alexnet import train
from alexnet.analysis.figures import style
from alexnet.analysis.figures.curves import draw_rows
from alexnet.cli.console import progress as terminal_progress
from alexnet.config import Override, Settings
from alexnet.dataset import Dataset
from alexnet.device import DeviceName
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate
from alexnet.notebook import facts
from alexnet.progress import SILENT, Progress
from alexnet.python.curves import curves_html
from alexnet.python.run import Run
from alexnet.recipes import recipe as named_recipe
from alexnet.settings_text import override
from alexnet.storage.metrics_log import Row
from alexnet.train.image_cache import Cache
from alexnet.train.processes import Processes
from alexnet.train.state import TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Changes(TypedDict, total=False):
    """Settings that `train_model` takes as keywords: all but `init`, which is a run there."""

    model: str
    ablate: dict[str, str]
    dropout: float
    label_smoothing: float
    optimizer: Literal["paper", "sgd", "adamw", "lars"]
    lr: float
    momentum: float
    weight_decay: float
    layer_decay: dict[str, float]
    layer_lr: dict[str, float]
    bias_lr: float
    bias_decay: bool
    trust_coefficient: float
    clip_norm: float
    epochs: int
    batch_size: int
    schedule: Literal["plateau", "steps", "cosine", "poly"]
    warmup_epochs: float
    patience_epochs: int
    max_drops: int
    drop_epochs: tuple[int, ...]
    overrides: tuple[Override, ...]
    flip: bool
    random_crop: bool
    min_crop_scale: float
    lighting: float
    lighting_rescale: bool
    crop_block: int
    seed: int
    precision: Literal["auto", "float32", "bfloat16"]
    deterministic: bool
    log_steps: int
    tensorboard: bool
    checkpoint_steps: int
    watchdog_seconds: int


@dataclass(frozen=True)
class TrainReport(train.TrainReport):
    """The result of a training, with its curves."""

    curves: list[Row] = field(default_factory=list, repr=False)
    """The line of metrics.jsonl of each epoch."""

    def plot(self) -> "Figure":
        """Draw loss and error by epoch; needs matplotlib: pip install 'alexnet[figures]'.

        `report.plot().savefig("curves.png")` writes them to a file.
        """
        style.check_library()
        with style.look():
            return draw_rows(self.curves)

    def _repr_html_(self) -> str:
        values = {"network": self.model, "epochs": self.epochs, "steps": self.steps}
        values |= {"images per second": f"{self.images_per_second:,.0f}", "device": self.device}
        if self.best_top1_error is not None:
            values["lowest top-1 error"] = f"{self.best_top1_error:.2%}"
        return facts(f"Training {self.run}", values) + curves_html(self.curves)


def train_model(  # noqa: PLR0913 - each is a decision of its own
    data: str | Path | Dataset,
    run: str | Path,
    settings: Settings | None = None,
    *,
    recipe: str | None = None,
    device: DeviceName = "auto",
    resume: bool = False,
    init: str | Path | None = None,
    progress: Progress | bool | None = True,
    on_step: Callable[[Row], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    accelerate: Accelerate | None = None,
    processes: Processes | None = None,
    cache: Cache = "auto",
    measure: Callable[[TrainState], Row] | None = None,
    **changes: Unpack[Changes],
) -> TrainReport:
    """Train a network on the packed data set `data`; write everything to the directory `run`.

    Start from the `settings`, or from those of the `recipe` ("small" by default; with `resume`
    those of the run), and change them by keywords: `epochs=5, lr=0.001`; help(alexnet.Settings)
    explains each. Progress is shown on stderr; `progress=False` shows nothing. `on_step` is called
    after every `log_steps` steps, `on_epoch` after each epoch, with the line that metrics.jsonl
    got: "epoch", "step", "lr", "train_loss", "images_per_second", "seconds", and after an epoch
    "val_loss", "top1_error" and "top5_error", which are None without a validation split.

    `resume` continues after the last checkpoint. `init` is another run that gives the initial
    weights. `accelerate=alexnet.accelerate` trains with compiled kernels, as the command does.
    `processes`, `cache` and `measure` are those of `alexnet.train.train_model`.
    Raises `UsageError` for a wrong setting, and for a `run` that holds a training unless `resume`
    is set; `DivergedError`, `StorageError` and `Interrupted` as `alexnet.train.train_model` does.
    """
    if settings and recipe:
        raise UsageError("settings and recipe were given: pass one of them")
    start = settings or (named_recipe(recipe) if recipe else None)
    if changes:
        path = Path(run).expanduser()
        of_run = Run.open(path).settings if resume and Run.exists(path) else named_recipe("small")
        start = override(start or of_run, **changes)
    report = train.train_model(
        data.path if isinstance(data, Dataset) else data,
        run,
        start,
        device=device,
        resume=resume,
        init=init,
        progress=_progress(progress),
        accelerate=accelerate,
        processes=processes,
        cache=cache,
        measure=measure,
        on_line=_by_kind(on_step, on_epoch),
    )
    return TrainReport(**vars(report), curves=Run.open(report.run).curves())


def _progress(wanted: Progress | bool | None) -> Progress:
    if isinstance(wanted, bool) or wanted is None:
        return terminal_progress() if wanted else SILENT
    return wanted


def _by_kind(
    on_step: Callable[[Row], None] | None, on_epoch: Callable[[Row], None] | None
) -> Callable[[Row], None]:
    """Return a function that passes each line of metrics.jsonl to the callback of its kind."""
    callbacks: dict[Any, Callable[[Row], None] | None] = {None: on_step, "epoch": on_epoch}

    def pass_on(row: Row) -> None:
        if callback := callbacks.get(row.get("kind")):
            callback(row)

    return pass_on
