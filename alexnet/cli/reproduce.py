"""`alexnet reproduce`: the paper's experiments, run again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from alexnet.cli.console import plain_table, print_json, progress, stdout
from alexnet.cli.options import MACHINE, Device, Json, Plain, flag, option
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from alexnet.reproduce.plan import Experiment

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Experiments, or all; --list shows them."),
]
Data = Annotated[
    list[Path] | None,
    option(
        "--data DATA",
        "Packed data set. Can be repeated: each experiment takes the one with the smallest images "
        "that are large enough.",
    ),
]
Out = Annotated[Path, option("--out FOLDER", "Receives trainings and results.")]
BudgetOption = Annotated[
    Literal["quick", "full"],
    option("--budget NAME", "quick: minutes to hours of a CPU on a part of the data; full: a GPU."),
]
Seeds = Annotated[int | None, option("--seeds N", "Trainings of each arm; 3 unless given.", min=1)]
Jobs = Annotated[
    int,
    option("--jobs N", "Trainings at a time. 0: one per core, or 4 on a GPU.", MACHINE, min=0),
]
Mirror = Annotated[
    str | None,
    option(
        "--mirror FILE|URL",
        "Take ImageNet's convolutions, which transfer needs, from here; see alexnet train --init.",
    ),
]
List = Annotated[bool, flag("--list", "Show the experiments, and run none.")]
Page = Annotated[
    bool, flag("--page", "Write FOLDER/index.html anew from the results there, and run none.")
]


def reproduce(  # noqa: PLR0913 - typer makes an option of each parameter
    names: Names = None,
    *,
    data: Data = None,
    out: Out = Path("runs/reproduce"),
    budget: BudgetOption = "quick",
    seeds: Seeds = None,
    jobs: Jobs = 0,
    mirror: Mirror = None,
    device: Device = "auto",
    plain: Plain = False,
    list_: List = False,
    page: Page = False,
    json: Json = False,
) -> None:
    """Run the paper's experiments again, on your data.

    Trains the same network with and without one thing, with several seeds and
    each at its own best learning rate, and says whether the paper's claim
    holds: agrees, disagrees, or cannot tell. The same command continues where it
    was stopped. FOLDER/index.html shows all results that are there.

    Examples:

      alexnet reproduce --list
      alexnet reproduce relu lrn --data data/cifar10
      alexnet reproduce transfer --data data/caltech101
      alexnet reproduce all --data data/cifar10 --data data/imagenette64
        --data data/caltech101
      alexnet reproduce --page --out runs/reproduce
    """
    from alexnet.reproduce.experiments import EXPERIMENTS, experiment

    if list_:
        show_list(list(EXPERIMENTS.values()), as_json=json)
        return
    if page:
        show_page(out, as_json=json)
        return
    wanted = list(EXPERIMENTS) if names == ["all"] else names or []
    if not wanted:
        raise UsageError(f"name an experiment, or all: {', '.join(EXPERIMENTS)}")
    plans = [experiment(name) for name in wanted]
    from alexnet.reproduce import Machine
    from alexnet.reproduce import reproduce as run
    from alexnet.reproduce.running import stop_workers

    machine, found = Machine(device, jobs, plain), []
    sources = [fitting(plan, data or [], budget) for plan in plans]
    init = None
    if any(plan.has_draws for plan in plans):
        from alexnet.convert import imagenet_convolutions

        init = imagenet_convolutions(mirror, progress=progress())
    elif mirror:
        raise UsageError("--mirror is for transfer, which alone needs ImageNet's convolutions")
    try:
        for plan, source in zip(plans, sources, strict=True):
            found.append(
                run(plan.name, source, out, budget=budget, seeds=seeds, machine=machine, init=init,
                    progress=progress())
            )  # fmt: skip
            if not json:
                show(found[-1], stdout())
    except BaseException:
        stop_workers()
        raise
    if json:
        print_json(found)
    else:
        show_page(out, as_json=False)


def show_page(out: Path, *, as_json: bool) -> None:
    """Write the page of all results in a folder, and say where it is."""
    from alexnet.reproduce.page import write_page

    path = write_page(out)
    if as_json:
        print_json({"page": str(path)})
    else:
        stdout().print(f"page: {path}", soft_wrap=True)


def fitting(plan: "Experiment", data: list[Path], budget: Literal["quick", "full"]) -> Path:
    """Return the data set with the smallest images that are large enough for an experiment.

    Of several the one with the fewest classes is taken; for draws from few images of many classes
    the one with the most.
    """
    from alexnet.dataset import Dataset

    needed = plan.side_for(budget)
    known = [Dataset(path) for path in data]
    order = -1 if plan.has_draws else 1
    sizes = sorted((each.size, order * len(each.classes), str(each.path)) for each in known)
    for size, _, path in sizes:
        if size >= needed:
            return Path(path)
    have = ", ".join(f"{path} has {size} x {size}" for size, _, path in sizes)
    have = have or "no --data is given"
    raise UsageError(f"{plan.name} needs images of {needed} x {needed} or more: {have}")


def show_list(plans: "list[Experiment]", *, as_json: bool) -> None:
    """Print the experiments, with what they need and how many trainings they take."""
    rows = [
        {
            "name": plan.name,
            "question": plan.question,
            "claims": list(plan.claims),
            "side": plan.side,
            "arms": [arm.name for arm in plan.arms],
            "published": [each.published for each in plan.comparisons],
        }
        for plan in plans
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table("experiment", "images from", "question", right=("images from",))
    table.columns[2].no_wrap = False
    for plan in plans:
        table.add_row(plan.name, f"{plan.side} px", plan.question)
    stdout().print(table)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was found: a row for each arm, and a line for each comparison."""
    images = result["data"]["images"]
    console.print(f"{result['experiment']}: {result['question']}", soft_wrap=True)
    console.print(
        f"{images['train']:,} training images, {images['test']:,} test images, "
        f"{result['settings']['epochs']} epochs, {result['seeds']} seeds, {result['hardware']}\n",
        soft_wrap=True,
    )
    asked = dict.fromkeys(each["figure"] for each in result["comparisons"])
    titles = ARM | {name: name.replace("_", " ") for name in asked if name in FURTHER}
    seeds = [seed for arm in result["arms"].values() for seed in arm["seeds"]]
    figures = {key: titles[key] for key in titles if any(seed[key] is not None for seed in seeds)}
    columns = ("rate", *figures.values())
    table = plain_table("arm", *columns, right=columns)
    for name, arm in result["arms"].items():
        table.add_row(
            name,
            f"{arm['rate']:g}" if arm["rate"] else "-",
            *(spread(arm["seeds"], key) for key in figures),
        )
    console.print(table)
    console.print()
    show_networks(result["arms"], console)
    for each in result["comparisons"]:
        console.print(sentence(each), soft_wrap=True)
    console.print()


def show_networks(arms: dict[str, Any], console: Console) -> None:
    """Print the size and time of each arm's network, where they differ in size."""
    networks = {name: arm["network"] for name, arm in arms.items() if arm["network"]}
    if len({each["macs"] for each in networks.values()}) < 2:
        return
    columns = ("parameters", "multiply-adds", "seconds an epoch")
    table = plain_table("arm", "network", *columns, right=columns)
    for name, each in networks.items():
        seconds = each["seconds_per_epoch"]
        table.add_row(
            name, each["model"], f"{each['parameters']:,}", f"{each['macs']:,}",
            f"{seconds:.1f}" if seconds else "-",
        )  # fmt: skip
    console.print(table)
    console.print()


ARM = {
    "test_error": "test error",
    "test_error_10_views": "ten views",
    "train_error": "train error",
    "epochs_to_25": "epochs to 25 %",
}
"""What is shown of each arm, with the column's title."""
FURTHER = ("class_error", "likeness")
"""What is shown where a comparison is of it."""


def spread(seeds: list[dict[str, Any]], key: str) -> str:
    """Write the mean over the seeds ± their standard deviation, or that nothing was measured."""
    from alexnet.reproduce.wording import spread_text

    values = [seed[key] for seed in seeds]
    return (
        "-"
        if all(value is None for value in values)
        else spread_text(key, values, unit=key != "epochs_to_25")
    )


def sentence(each: dict[str, Any]) -> str:
    """Say in one line what a comparison showed."""
    from alexnet.reproduce.wording import compared_text, difference_text

    found, published, names = each["difference"], each["published"], compared_text(each)
    shown = difference_text(each["figure"], found) if found else "the first did not get there"
    reference = f"; published: {published}" if published else ""
    return f"{each['outcome']:>11}: {names}: {shown}{reference}"
