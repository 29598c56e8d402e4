"""`alexnet train`: from a packed data set to a run directory."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import typer
from rich.console import Console
from rich.table import Table

from alexnet.cli.console import (
    counted,
    duration,
    percent,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import (
    TRAINING,
    BatchSize,
    Cache,
    Changes,
    Device,
    Epochs,
    Json,
    LearningRate,
    Model,
    Optimizer,
    Plain,
    Recipe,
    Seed,
    WeightDecay,
    accelerator,
    check_model,
    flag,
    option,
)
from alexnet.config import Settings
from alexnet.errors import UsageError
from alexnet.progress import SILENT, Progress
from alexnet.recipes import recipe as named_recipe
from alexnet.settings_text import override
from alexnet.storage.folders import check_training, is_run

if TYPE_CHECKING:
    from alexnet.evaluate import Accelerate
    from alexnet.parallel import RankResult, TrainingSpec
    from alexnet.train import TrainReport

PARALLEL = "Several devices"
IMAGENET = "imagenet"

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Packed data set.")]
NewRun = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory to create.")]
Resume = Annotated[bool, flag("--resume", "Continue from the last checkpoint.", TRAINING)]
Init = Annotated[
    Path | None,
    option(
        "--init RUN|imagenet",
        "Start from the weights of this run, with its mean image. If the classes differ, the last "
        "layer is initialised anew. imagenet: from the convolutions that torchvision trained on "
        "ImageNet (a download of 244 MB), with the recipe fine_tune.",
        TRAINING,
    ),
]
Mirror = Annotated[
    str | None,
    option(
        "--mirror FILE|URL",
        "For --init imagenet: take them from this file or address instead.",
        TRAINING,
    ),
]
Freeze = Annotated[
    str, option("--freeze LAYERS", "Layers that are not trained, such as conv1,conv2.", TRAINING)
]
Parallel = Annotated[
    Literal["towers", "data", "hybrid"] | None,
    option(
        "--parallel MODE",
        "Train with several processes. towers: two as in the paper, each with half of every "
        "layer; data: each with a part of the batch; hybrid: as data for convolutions, with the "
        "units of fully connected layers divided.",
        PARALLEL,
    ),
]
ProcessCount = Annotated[
    int | None,
    option(
        "--processes N",
        "Processes to start on this machine. Default: one per GPU. For several machines use "
        "torchrun.",
        PARALLEL,
        min=1,
    ),
]
MaxRestarts = Annotated[
    int,
    option(
        "--max-restarts N",
        "How often to restart all processes from the last checkpoint when one fails.",
        PARALLEL,
        min=0,
    ),
]
Timeout = Annotated[
    float,
    option(
        "--timeout SECONDS",
        "How long a process waits for another before it gives up.",
        PARALLEL,
        min=0.1,
    ),
]
Port = Annotated[
    int,
    option(
        "--master-port N",
        "TCP port where the processes meet; 0: any free one.",
        PARALLEL,
        min=0,
        max=65535,
    ),
]
ReportCommunication = Annotated[
    bool,
    flag(
        "--report-communication",
        "Show the bytes that each process sends per step, by layer, and its peak memory.",
        PARALLEL,
    ),
]


class Options(TypedDict):
    """The options that mean the same for one process and for several."""

    device: str
    resume: bool
    init: Path | None
    cache: Literal["auto", "device", "host", "none"]
    accelerate: "Accelerate | None"


def train(  # noqa: PLR0913 - typer makes an option of each parameter
    data: Data,
    run: NewRun,
    *,
    recipe: Recipe = None,
    model: Model = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    weight_decay: WeightDecay = None,
    optimizer: Optimizer = None,
    seed: Seed = None,
    changes: Changes = None,
    resume: Resume = False,
    init: Init = None,
    mirror: Mirror = None,
    freeze: Freeze = "",
    parallel: Parallel = None,
    processes: ProcessCount = None,
    max_restarts: MaxRestarts = 3,
    timeout: Timeout = 300.0,
    port: Port = 0,
    report_communication: ReportCommunication = False,
    device: Device = "auto",
    cache: Cache = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Train a network on a packed data set.

    RUN receives weights, settings, class names, preprocessing and metrics:
    all that the other commands need. Ctrl-C saves and stops; the same
    command with --resume continues and ends with the same result.

    Examples:

      alexnet train data/photos runs/photos
      alexnet train data/imagenet runs/paper --recipe paper --device cuda
      alexnet train data/photos runs/fast --epochs 5 --lr 0.001
      alexnet train data/photos runs/photos --resume
      alexnet train data/photos runs/photos --init imagenet
      alexnet train data/birds runs/birds --init runs/photos --freeze conv1,conv2
      alexnet train data/imagenet runs/paper --recipe paper --parallel towers
    """
    check_training(data, run)
    named = {"model": model, "epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
    named |= {"weight_decay": weight_decay, "optimizer": optimizer}
    is_fine_tuning = init is not None and is_imagenet(init)
    default = "fine_tune" if is_fine_tuning else "small"
    start = initial_settings(run, recipe, resume=resume, default=default)
    settings = change_settings(start, changes, freeze, **named)
    shown = progress()
    init = published_weights(init, mirror, run, shown, resume=resume)
    accelerate = accelerator(plain, SILENT if parallel else shown)  # processes cannot send a note
    options = Options(device=device, resume=resume, init=init, cache=cache, accelerate=accelerate)
    if parallel:
        from alexnet.parallel import TrainingSpec

        spec = TrainingSpec(
            parallel, data, run, settings, **options, progress=progress, timeout=timeout
        )
        result = train_in_parallel(spec, processes, max_restarts, port)
        show_rank(result, data, report_communication, json)
        return
    if processes or report_communication:
        raise UsageError("--processes and --report-communication need --parallel MODE")
    from alexnet.train import train_model

    show_result(train_model(data, run, settings, **options, progress=shown), data, (), json)


def is_imagenet(init: Path) -> bool:
    """Tell whether --init names ImageNet's weights, not a folder called like it."""
    return str(init).lower() == IMAGENET and not is_run(init)


def published_weights(
    init: Path | None, mirror: str | None, run: Path, shown: Progress, *, resume: bool
) -> Path | None:
    """Return the run directory that --init means; fetch ImageNet's convolutions where it does."""
    if init is None or not is_imagenet(init):
        if mirror:
            raise UsageError("--mirror needs --init imagenet")
        return init
    if resume and is_run(run):
        from alexnet.storage.run import Run

        begun_with = Path(Run.open(run).info.get("init", ""))
        return begun_with if begun_with.name.startswith(f"{IMAGENET}-") else init
    from alexnet.convert import imagenet_convolutions

    return imagenet_convolutions(mirror, progress=shown)


def initial_settings(
    run: Path, recipe: str | None, *, resume: bool, default: str = "small"
) -> Settings:
    """Return the settings of the run to resume, or those of a recipe."""
    if resume and recipe is None and is_run(run):
        from alexnet.storage.run import Run

        return Run.open(run).settings
    return named_recipe(recipe or default)


def change_settings(
    settings: Settings, changes: list[str] | None = None, freeze: str = "", **named: Any
) -> Settings:
    """Return `settings` changed by the options `named`, then by --set, which overrides them."""
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    settings = override(settings, [*given, *(changes or [])])
    if settings.model != "auto":
        check_model(settings.model)
    frozen = dict.fromkeys(freeze.split(","), 0.0) if freeze else {}
    return replace(settings, layer_lr={**settings.layer_lr, **frozen})


def train_in_parallel(
    spec: "TrainingSpec", processes: int | None, max_restarts: int, port: int
) -> "RankResult":
    """Train as one of the processes that torchrun started, or start the processes."""
    from alexnet.parallel import launch, started_by_torchrun, train_rank

    if not started_by_torchrun():
        return launch(spec, processes, max_restarts=max_restarts, port=port)
    if processes:
        raise UsageError("torchrun has started the processes already: leave out --processes")
    return train_rank(spec)


def show_rank(result: "RankResult", data: Path, report_communication: bool, json: bool) -> None:
    """Print the result on rank 0; on another rank, exit with the code of its error."""
    if result.rank == 0:
        sent = result.communication if report_communication else ()
        show_result(result.result(), data, sent, json)
    elif result.exit_code:
        raise typer.Exit(result.exit_code)  # rank 0 prints the error


def show_result(
    report: "TrainReport", data: Path, sent: tuple[dict[str, Any], ...], json: bool
) -> None:
    """Print the result, and what each process has `sent` if that was asked for."""
    if json:
        print_json(report.as_json() | ({"communication": list(sent)} if sent else {}))
        return
    show(report, data, stdout())
    if sent:
        show_communication(sent, stdout())


def show(report: "TrainReport", data: Path, console: Console) -> None:
    """Print speed, errors and the commands that can follow."""
    done = f"{report.model}: {counted(report.epochs, 'epoch')}, {counted(report.steps, 'step')}"
    speed = f"{duration(report.seconds)}, {report.images_per_second:,.0f} images/s, {report.device}"
    waited = f"waiting for images {report.waited_for_images:.0%} of the time"
    lines = [f"{done} in {speed}", f"limited by {report.limit}, {waited}"]
    if report.top1_error is not None and report.top5_error is not None:
        lowest = report.best_top1_error
        lines.append(
            f"validation: top-1 error {percent(report.top1_error)}"
            + (f" (lowest {percent(lowest)})" if lowest is not None else "")
            + f", top-5 error {percent(report.top5_error)}, loss {report.val_loss:.4f}"
        )
    if report.warning:
        lines.append(f"warning: {report.warning}")
    folder = shlex.quote(report.run)
    follow = [f"alexnet predict IMAGE... --run {folder}"]
    if (split := split_to_evaluate(data)) is not None:
        follow.insert(0, f"alexnet evaluate {folder} {shlex.quote(str(data))} --views 10{split}")
    lines += [f"run: {report.run}", "next: " + "\n      ".join(follow)]
    console.print("\n".join(lines), soft_wrap=True)


def split_to_evaluate(data: Path) -> str | None:
    """Return the option for a split that was not trained on; None if there is none."""
    from alexnet.dataset import Dataset

    splits = Dataset(data).split_names
    return "" if "val" in splits else " --split test" if "test" in splits else None


def show_communication(sent: tuple[dict[str, Any], ...], console: Console) -> None:
    """Print the bytes that rank 0 sends in a step, by layer, and the totals of each rank."""
    directions = ("forward", "backward", "weights")
    table = plain_table("bytes sent", *directions, right=directions)
    for layer, sizes in sent[0]["bytes"].items():
        cells = (f"{sizes[each]:,}" if each in sizes else "" for each in directions)
        table.add_row(layer, *cells)
    console.print(f"\nrank 0 of {len(sent)}, in each of {sent[0]['steps']:,} steps:\n")
    console.print(table)
    console.print()
    console.print(rank_table(sent))


def rank_table(sent: tuple[dict[str, Any], ...]) -> Table:
    """Lay out a row for each rank: bytes sent per step, times, peak memory."""
    columns = ("sent per step", "communication", "waiting", "overlap", "peak memory")
    least = ("overlap", "waiting", "communication")
    table = plain_table("rank", *columns, right=columns, least=least)
    for each in sent:
        times = (each["seconds_under_way"], each["seconds_waited"])
        overlap = each["overlap"]
        table.add_row(
            str(each["rank"]),
            f"{each['total_bytes'] / 1e6:,.2f} MB",
            *("" if value is None else f"{1000 * value:,.1f} ms" for value in times),
            "" if overlap is None else percent(overlap),
            f"{each['peak_memory_bytes'] / 1e9:,.2f} GB",
        )
    return table
