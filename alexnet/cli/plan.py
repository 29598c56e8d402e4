"""`alexnet plan`: estimate the time of a training step on several devices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from rich.console import Console

from alexnet.cli.console import counted, plain_table, print_json, stdout
from alexnet.cli.options import MACHINE, NETWORKS, OUTPUT, TRAINING, Json, check_model, flag, option

if TYPE_CHECKING:
    from alexnet.analysis.plan import ScalingPlan
    from alexnet.analysis.summary import Summary

VALUE_BYTES = {"float32": 4, "bfloat16": 2}

Network = Annotated[str, option("--model NAME", NETWORKS, TRAINING)]
BatchSizes = Annotated[
    list[int] | None,
    option(
        "--batch-size N",
        "Images per step, over all devices. Default: 1024. Can be repeated.",
        TRAINING,
    ),
]
Devices = Annotated[int, option("--devices N", "Number of devices.", MACHINE)]
Speed = Annotated[
    str,
    option("--speed SPEED", "Images per second of one device in training, or its FLOP/s.", MACHINE),
]
MeasuredAt = Annotated[
    int,
    option("--measured-at N", "Batch size at which the images per second were measured.", MACHINE),
]
Memory = Annotated[str, option("--memory RATE", "Memory bandwidth of a device.", MACHINE)]
Link = Annotated[
    str, option("--link RATE", "Bandwidth of a device's link, in each direction.", MACHINE)
]
Latency = Annotated[str, option("--latency TIME", "Shortest time of a message.", MACHINE)]
Activations = Annotated[
    Literal["float32", "bfloat16"],
    option("--activations", "Type in which activations are sent.", MACHINE),
]
Gradients = Annotated[
    Literal["float32", "bfloat16"],
    option("--gradients", "Type in which gradients of weights are sent.", MACHINE),
]
Overlap = Annotated[
    bool,
    option("--overlap/--no-overlap", "Send gradients during the backward pass.", MACHINE),
]
Layers = Annotated[bool, flag("--layers", "Show the bytes sent for each layer.", OUTPUT)]


def plan(  # noqa: PLR0913 - typer makes an option of each parameter
    *,
    model: Network = "alexnet",
    batch_size: BatchSizes = None,
    devices: Devices = 8,
    speed: Speed = "3000",
    measured_at: MeasuredAt = 256,
    memory: Memory = "700GB/s",
    link: Link = "10GB/s",
    latency: Latency = "10us",
    activations: Activations = "float32",
    gradients: Gradients = "float32",
    overlap: Overlap = True,
    layers: Layers = False,
    json: Json = False,
) -> None:
    """Plan training on several devices: a model, not a measurement.

    For a step in each mode: the time to compute, the bytes that each device
    sends and their time, the part hidden behind computing, and images per
    second. The defaults describe a GPU of 2016 on PCIe 3.0. docs/scaling.md
    explains the model and compares it with published trainings.

    Examples:

      alexnet plan --devices 8 --link 50GB/s
      alexnet plan --devices 2 --batch-size 128 --batch-size 1024 --layers
      alexnet plan --devices 512 --batch-size 65536 --link 56Gbit/s --json
      alexnet plan --speed 400TFLOP/s --memory 4TB/s --activations bfloat16
    """
    check_model(model)
    from alexnet.analysis.plan import RATES, TIMES, Machine, mac_seconds, plan_modes, read_quantity
    from alexnet.analysis.summary import summarize

    network = summarize(model)
    rate = "takes bytes or bits per second, such as 50GB/s or 100Gbit/s"
    memory_rate = read_quantity(memory, RATES, f"--memory {rate}")
    machine = Machine(
        mac_seconds=mac_seconds(network, speed, measured_at, memory_rate),
        memory=memory_rate,
        link=read_quantity(link, RATES, f"--link {rate}"),
        latency=read_quantity(latency, TIMES, "--latency takes a time such as 10us"),
        activation_bytes=VALUE_BYTES[activations],
        gradient_bytes=VALUE_BYTES[gradients],
        overlap=overlap,
    )
    found = [plan_modes(network, devices, size, machine) for size in batch_size or [1024]]
    if json:
        plans = [plan.as_json() for some in found for plan in some]
        print_json({"model": model, "parameters": network.parameters, "plans": plans})
    else:
        show(network, devices, found, layers=layers, console=stdout())


def show(
    network: "Summary",
    devices: int,
    found: "list[list[ScalingPlan]]",
    *,
    layers: bool,
    console: Console,
) -> None:
    """Print the plans for each batch size, and why other modes are not possible."""
    from alexnet.analysis.plan import MODES, obstacle

    for plans in found:
        title = f"{counted(devices, 'device')}, batches of {plans[0].batch_size:,} images"
        console.print(f"{network.model}, {title}; times in ms, sent in MB")
        show_times(plans, console)
        if layers and devices > 1:
            show_sent(network, plans, console)
    for mode in MODES:
        if reason := obstacle(network, mode, devices):
            console.print(f"{mode}: not possible, {reason}")
    console.print(
        "sent: by each device in a step; sending: the time it takes; hidden: the part of\n"
        "it that overlaps with computing; efficiency: speed / (devices x one device's)"
    )


def show_times(plans: "Sequence[ScalingPlan]", console: Console) -> None:
    """Print a line for each mode: times of a step, bytes sent, images per second."""
    numbers = ("compute", "update", "sent", "sending", "hidden", "step", "images/s", "efficiency")
    least = ("hidden", "sending", "update", "compute", "sent", "efficiency")
    table = plain_table("mode", *numbers, right=numbers, least=least)
    for plan in plans:
        sent = sum(plan.sent.values()) / 1e6
        before, after = (plan.compute, plan.update), (plan.communication, plan.hidden, plan.step)
        table.add_row(
            plan.mode,
            *(f"{seconds * 1e3:,.1f}" for seconds in before),
            f"{sent:,.1f}",
            *(f"{seconds * 1e3:,.1f}" for seconds in after),
            f"{plan.images_per_second:,.0f}",
            f"{plan.efficiency:.0%}",
        )
    console.print(table)
    console.print()


def show_sent(network: "Summary", plans: "Sequence[ScalingPlan]", console: Console) -> None:
    """Print a line for each layer: the bytes that a device sends for it in each mode."""
    parallel = plans[1:]
    modes = tuple(plan.mode for plan in parallel)
    table = plain_table("bytes sent", *modes, right=modes)
    for row in network.layers:
        if any(row.name in plan.sent for plan in parallel):
            table.add_row(row.name, *(f"{plan.sent.get(row.name, 0):,}" for plan in parallel))
    table.add_row("all", *(f"{sum(plan.sent.values()):,}" for plan in parallel))
    console.print(table)
    console.print()
