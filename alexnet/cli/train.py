"""`alexnet train`: packed data set in, run directory out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    Cache,
    Changes,
    Device,
    Epochs,
    Json,
    Model,
    Plain,
    Recipe,
    Seed,
    accelerator,
    change_settings,
)
from alexnet.config import Settings
from alexnet.errors import UsageError
from alexnet.recipes import recipe as named_recipe

if TYPE_CHECKING:
    from alexnet.parallel import RankResult, TrainingSpec
    from alexnet.train import TrainReport

PARALLEL = "Several devices"


def train(  # noqa: PLR0913 - typer makes an option of each parameter
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Packed data set.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory to make.")],
    *,
    recipe: Recipe = None,
    model: Model = None,
    epochs: Epochs = None,
    seed: Seed = None,
    changes: Changes = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            metavar="",
            help="Go on after the last checkpoint.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="RUN",
            help="Start from the weights of this run; with other classes the last layer is new.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    freeze: Annotated[
        str,
        typer.Option(
            "--freeze",
            metavar="LAYERS",
            help="Layers that do not learn: conv1,conv2.",
            rich_help_panel=TRAINING,
        ),
    ] = "",
    parallel: Annotated[
        Literal["towers", "data", "hybrid"] | None,
        typer.Option(
            "--parallel",
            metavar="MODE",
            help="Train with several processes. towers: the paper's two, half of every layer in "
            "each; data: a part of each batch; hybrid: data for convolutions, units of fully "
            "connected layers divided.",
            rich_help_panel=PARALLEL,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            help="How many of them to start here; one for each GPU by default. "
            "torchrun starts them on several machines.",
            rich_help_panel=PARALLEL,
        ),
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts",
            metavar="N",
            min=0,
            help="How often all start again, from the last checkpoint, when one fails.",
            rich_help_panel=PARALLEL,
        ),
    ] = 3,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            help="How long one waits for another before it counts as lost.",
            rich_help_panel=PARALLEL,
        ),
    ] = 300.0,
    port: Annotated[
        int,
        typer.Option(
            "--master-port",
            metavar="N",
            min=0,
            max=65535,
            help="Where they meet; 0: any port that is free.",
            rich_help_panel=PARALLEL,
        ),
    ] = 0,
    report_communication: Annotated[
        bool,
        typer.Option(
            "--report-communication",
            metavar="",
            help="Show what each sends in a step, by layer, and its memory.",
            rich_help_panel=PARALLEL,
        ),
    ] = False,
    device: Device = "auto",
    cache: Cache = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Train a network on a packed data set.

    RUN receives weights, settings, class names, preprocessing and metrics,
    so that the other commands need nothing else. Ctrl-C saves and stops;
    the same command with --resume goes on to the same result.

    Examples:

      alexnet train data/photos runs/photos
      alexnet train data/imagenet runs/paper --recipe paper --device cuda
      alexnet train data/photos runs/fast --epochs 5 --set lr=0.001
      alexnet train data/photos runs/photos --resume
      alexnet train data/birds runs/birds --init runs/photos --freeze conv1,conv2
      alexnet train data/imagenet runs/paper --recipe paper --parallel towers
    """
    settings = chosen_settings(run, recipe, resume, freeze, (model, epochs, seed, changes))
    if parallel is None:
        if processes or report_communication:
            raise UsageError("--processes and --report-communication need --parallel MODE")
        from alexnet.train import train_model

        report = train_model(
            data,
            run,
            settings,
            device=device,
            resume=resume,
            init=init,
            progress=progress(),
            accelerate=accelerator(plain),
            cache=cache,
        )
        print_report(report, data, None, json)
        return
    from alexnet.parallel import TrainingSpec

    call = TrainingSpec(
        mode=parallel,
        data=data,
        run=run,
        settings=settings,
        device=device,
        resume=resume,
        init=init,
        accelerate=accelerator(plain),
        progress=progress,
        timeout=timeout,
        cache=cache,
    )
    outcome = train_together(call, processes, max_restarts, port)
    sent = outcome.communication if report_communication else None
    if outcome.rank == 0:
        print_report(outcome.result(), data, sent, json)
    elif outcome.exit_code:
        raise typer.Exit(outcome.exit_code)  # rank 0 says why


def chosen_settings(
    run: Path,
    recipe: str | None,
    resume: bool,
    freeze: str,
    options: tuple[str | None, int | None, int | None, list[str] | None],
) -> Settings:
    """Return the settings that the options ask for: model, epochs, seed and --set in `options`."""
    from alexnet.storage.run import Run

    goes_on = resume and recipe is None and Run.exists(run)
    start = Run.open(run).settings if goes_on else named_recipe(recipe or "small")
    model, epochs, seed, changes = options
    settings = change_settings(start, model=model, epochs=epochs, seed=seed, changes=changes)
    if freeze:
        still = dict.fromkeys(freeze.split(","), 0.0)
        settings = replace(settings, layer_lr={**settings.layer_lr, **still})
    return settings


def train_together(
    call: "TrainingSpec", processes: int | None, max_restarts: int, port: int
) -> "RankResult":
    """Be one of the processes that torchrun has started, or start them."""
    from alexnet.parallel import launch, started_by_torchrun, train_rank

    if not started_by_torchrun():
        return launch(call, processes, max_restarts=max_restarts, port=port)
    if processes:
        raise UsageError("torchrun has started the processes already: leave out --processes")
    return train_rank(call)


def print_report(
    report: "TrainReport", data: Path, sent: "tuple[dict[str, Any], ...] | None", json: bool
) -> None:
    """Print what came out, and what the processes sent if that was asked for."""
    if json:
        print_json(report.as_json() | ({"communication": list(sent)} if sent else {}))
        return
    show(report, data, stdout())
    if sent:
        show_communication(sent, stdout())


def show(report: "TrainReport", data: Path, console: Console) -> None:
    """Print what came out and what can be done next."""
    done = f"{report.model}: {counted(report.epochs, 'epoch')}, {counted(report.steps, 'step')}"
    pace = f"{duration(report.seconds)}, {report.images_per_second:,.0f} images/s, {report.device}"
    waited = f"waiting for images {report.waited_for_images:.0%} of the time"
    lines = [f"{done} in {pace}", f"limited by {report.limit}, {waited}"]
    if report.top1_error is not None and report.top5_error is not None:
        lowest = report.best_top1_error
        lines.append(
            f"validation: top-1 error {percent(report.top1_error)}"
            + (f" (lowest {percent(lowest)})" if lowest is not None else "")
            + f", top-5 error {percent(report.top5_error)}, loss {report.val_loss:.4f}"
        )
    folder = shlex.quote(report.run)
    lines += [
        f"run: {report.run}",
        f"next: alexnet evaluate {folder} {shlex.quote(str(data))} --views 10",
        f"      alexnet predict IMAGE... --run {folder}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def show_communication(sent: tuple[dict[str, Any], ...], console: Console) -> None:
    """Print what rank 0 sends in a step, by layer, and what each rank took."""
    ways = ("forward", "backward", "weights")
    table = plain_table("bytes sent", *ways, right=ways)
    for layer, sizes in sent[0]["bytes"].items():
        table.add_row(layer, *(f"{sizes[way]:,}" if way in sizes else "" for way in ways))
    console.print(f"\nrank 0 of {len(sent)}, in each of {sent[0]['steps']:,} steps:\n")
    console.print(table)
    console.print()
    console.print(rank_table(sent))


def rank_table(sent: tuple[dict[str, Any], ...]) -> Table:
    """Lay out a row for each rank: bytes of a step, their time, peak of memory."""
    columns = ("sent in a step", "under way", "waited for", "overlap", "peak memory")
    table = plain_table("rank", *columns, right=columns)
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
