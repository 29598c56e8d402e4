"""A model of the time of a training step on N devices, from computation and communication.

The network's table determines what is sent. The times follow from that and four figures: the speed
of a device and of its memory, the bandwidth and the latency of the link. docs/scaling.md derives
the formulas and compares them with published trainings.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from alexnet.analysis.summary import Row, Summary
from alexnet.errors import UsageError

MODES = ("one", "data", "towers", "hybrid")
"""one: a single device; data: data parallel; towers: the paper's two towers on each pair of
devices, pairs data parallel; hybrid: convolutions data parallel, the units of fully connected
layers spread over all devices (Krizhevsky 2014)."""

UPDATE_BYTES = 20
"""Memory traffic of the update for each parameter: it reads gradient, weight and velocity and
writes weight and velocity, 4 bytes each."""

SIZES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
RATES = {
    **{f"{prefix}B/s": size for prefix, size in SIZES.items()},
    **{f"{prefix}bit/s": size / 8 for prefix, size in SIZES.items()},
}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
SPEEDS = {"": 1.0, "images/s": 1.0}
OPERATIONS = {f"{prefix}FLOP/s": size for prefix, size in SIZES.items()}


@dataclass(frozen=True)
class Machine:
    """Devices and the link between them.

    `mac_seconds` is the time of one multiply-add in training. `memory` and `link` are bytes per
    second of a device, the link's in each direction. `latency` is the least time of a message in
    seconds. `activation_bytes` is the size of a sent activation or its gradient, `gradient_bytes`
    that of a weight's gradient. Without `overlap` weights' gradients are sent after the backward
    pass.
    """

    mac_seconds: float
    memory: float
    link: float
    latency: float
    activation_bytes: int = 4
    gradient_bytes: int = 4
    overlap: bool = True

    def gathering(self, size: float, group: int) -> float:
        """Return the seconds of an all-gather: each of `group` devices sends `size` bytes."""
        return size / self.link + math.ceil(math.log2(group)) * self.latency if size else 0.0

    def summing(self, size: float, group: int) -> float:
        """Return the seconds of an all-reduce: parts are summed first, then gathered."""
        return 2 * self.gathering(size / 2, group)


@dataclass(frozen=True)
class Exchange:
    """The bytes that one device sends for one layer in one step.

    `forward` counts activations and `backward` their gradients, among the `units` devices over
    which the layer's units are spread; `gradients` counts its weights' gradients, among `copies`
    devices.
    """

    units: int = 1
    copies: int = 1
    forward: float = 0.0
    backward: float = 0.0
    gradients: float = 0.0

    @property
    def size(self) -> int:
        """Count all bytes."""
        return round(self.forward + self.backward + self.gradients)


@dataclass(frozen=True)
class ScalingPlan:
    """A training step in one mode; `compute` to `hidden` are in seconds.

    `sent` has the bytes that a device sends for each layer, `communication` the time of sending,
    `hidden` the part of it during computation. `efficiency` is the speed divided by that of as many
    devices without communication, each as fast as one device with the whole batch.
    """

    mode: str
    devices: int
    batch_size: int
    compute: float
    update: float
    communication: float
    hidden: float
    efficiency: float = 1.0
    sent: dict[str, int] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """Add up the seconds of the step."""
        return self.compute + self.update + self.communication - self.hidden

    @property
    def images_per_second(self) -> float:
        """Divide the batch by the time of its step."""
        return self.batch_size / self.step

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        totals = {"step": self.step, "images_per_second": self.images_per_second}
        return {**asdict(self), **totals, "sent_bytes": sum(self.sent.values())}


def read_quantity(text: str, units: Mapping[str, float], expected: str) -> float:
    """Read a number above 0 with one of `units`: "50GB/s" is 5e10 bytes per second.

    Raises `UsageError` that begins with `expected`: "--link takes a rate such as 50GB/s".
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*(\D*?)\s*", text)
    if not match or match[2] not in units or float(match[1]) <= 0:
        raise UsageError(f"{expected}, not {text!r}")
    return float(match[1]) * units[match[2]]


def training_macs(summary: Summary) -> int:
    """Count an image's multiply-adds in a training step: forward and backward.

    The first layer's input is the image, which needs no gradient.
    """
    return sum(row.macs + backward_macs(summary, row) for row in summary.layers)


def backward_macs(summary: Summary, row: Row) -> int:
    """Count an image's multiply-adds in the backward pass through `row`."""
    return row.macs if row.name == learning(summary)[0].name else 2 * row.macs


def learning(summary: Summary) -> list[Row]:
    """List the convolutions and fully connected layers."""
    return [row for row in summary.layers if row.macs]


def mac_seconds(summary: Summary, speed: str, measured_at: int, memory: float) -> float:
    """Return the seconds of a multiply-add on a device of the given `speed`.

    `speed` is FLOP/s, two for a multiply-add, or the images/s of training steps measured at a batch
    of `measured_at`, from which the update's memory traffic is subtracted. Raises `UsageError` for
    other texts and for more images/s than `memory` allows.
    """
    if measured_at < 1:
        raise UsageError(f"--measured-at must be at least 1, not {measured_at}")
    expected = "--speed takes images per second such as 3000, or 100TFLOP/s"
    value = read_quantity(speed, SPEEDS | OPERATIONS, expected)
    if speed.rstrip().endswith("FLOP/s"):
        return 2 / value
    computing = measured_at / value - UPDATE_BYTES * summary.parameters / memory
    if computing <= 0:
        raise UsageError(
            f"--speed {speed} at a batch of {measured_at} is more than --memory allows: the update "
            "of the weights alone takes longer; see --measured-at"
        )
    return computing / (measured_at * training_macs(summary))


def plan_modes(
    summary: Summary, devices: int, batch_size: int, machine: Machine
) -> list[ScalingPlan]:
    """Plan a step of `batch_size` images on all devices in each mode that the network allows.

    Raises `UsageError` for less than one device, or less than one image for each.
    """
    if devices < 1 or batch_size < devices:
        raise UsageError(
            f"a batch of {batch_size} cannot be spread over {devices} devices: "
            "each device needs at least one image"
        )
    one = plan_step(summary, "one", 1, batch_size, machine)
    usable = [mode for mode in MODES[1:] if devices > 1 and not obstacle(summary, mode, devices)]
    plans = [plan_step(summary, mode, devices, batch_size, machine) for mode in usable]
    return [one, *(replace(each, efficiency=one.step / each.step / devices) for each in plans)]


def obstacle(summary: Summary, mode: str, devices: int) -> str | None:
    """Return why a network cannot be trained in `mode`; None if it can."""
    if mode == "towers" and not any(row.groups == 2 for row in summary.layers):
        return f"{summary.model} does not have two towers"
    if mode == "towers" and devices % 2:
        return "towers need an even number of devices"
    return None


def plan_step(
    summary: Summary, mode: str, devices: int, batch_size: int, machine: Machine
) -> ScalingPlan:
    """Plan a step in one mode, without its efficiency."""
    exchanges = find_exchanges(summary, mode, devices, batch_size, machine)
    images = math.ceil(batch_size / devices)
    compute = images * training_macs(summary) * machine.mac_seconds
    communication, ended = pass_through(summary, exchanges, images, machine)
    waiting = max(0.0, ended - compute)
    parameters = sum(row.parameters / spread(mode, row, devices)[0] for row in summary.layers)
    return ScalingPlan(
        mode=mode,
        devices=devices,
        batch_size=batch_size,
        compute=compute,
        update=UPDATE_BYTES * parameters / machine.memory,
        communication=communication,
        hidden=max(0.0, communication - waiting),
        sent={layer: each.size for layer, each in exchanges.items()},
    )


def pass_through(
    summary: Summary, exchanges: Mapping[str, Exchange], images: int, machine: Machine
) -> tuple[float, float]:
    """Simulate forward and backward pass; return the seconds of all sending, and when it ends.

    Computation waits for activations. Weights' gradients queue for the link during the backward
    pass; activations go first.
    """
    now = link = activations = gradients = 0.0
    nothing = Exchange()
    for row in summary.layers:
        each = exchanges.get(row.name, nothing)
        sending = machine.gathering(each.forward, each.units)
        activations += sending
        now += images * row.macs * machine.mac_seconds + sending
    for row in reversed(summary.layers):
        each = exchanges.get(row.name, nothing)
        sending = machine.gathering(each.backward, each.units)
        activations += sending
        now += images * backward_macs(summary, row) * machine.mac_seconds + sending
        queued = machine.summing(each.gradients, each.copies)
        gradients += queued
        link = max(link + sending, now) + queued
    return activations + gradients, link if machine.overlap else now + gradients


def find_exchanges(
    summary: Summary, mode: str, devices: int, batch_size: int, machine: Machine
) -> dict[str, Exchange]:
    """Return what each device sends for each layer that sends something.

    Where a division leaves a remainder, this is the device with the largest part.
    """
    first, *_, last = (row.name for row in learning(summary))
    found, spread_before = {}, 1
    for before, row in pairwise(summary.layers):
        units, copies = spread(mode, row, devices)
        images = math.ceil(batch_size / copies)
        values = math.prod(before.output)
        inputs = outputs = 0
        if row.options.get("towers") == 1:  # windows reach channels of the other tower
            inputs = images * (int(row.options["size"]) // 2) * math.prod(row.output[1:])
        elif row.macs and row.name != first and spread_before == 1:
            inputs = math.ceil(images / units) * values
        elif row.macs and row.name != first and (mode == "hybrid" or row.groups in (None, 1)):
            inputs = images * math.ceil(values / units)
        if row.name == last:
            outputs = images * math.ceil(row.output[0] / units)
        others = (units - 1) * machine.activation_bytes
        weights = 2 * (copies - 1) / copies * row.parameters / units * machine.gradient_bytes
        each = Exchange(units, copies, others * (inputs + outputs), others * inputs, weights)
        if each.size:
            found[row.name] = each
        spread_before = units if row.macs else spread_before
    return found


def spread(mode: str, row: Row, devices: int) -> tuple[int, int]:
    """Return the number of devices over which a row's units are spread, and its copies."""
    if mode == "towers":
        return 2, devices // 2
    if mode == "hybrid" and row.type == "Fully Connected":
        return devices, 1
    return 1, devices
