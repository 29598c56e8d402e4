"""`alexnet bench train` and `infer`: this package's network against the same one of plain modules.

Each table is for one batch size, with the device's own limits measured in the same rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from alexnet.analysis.summary import summarize
from alexnet.bench.arms import Arm, Pace, measure, start_spec
from alexnet.bench.steps import CLASSES, Spec, Work
from alexnet.bench.tables import Table
from alexnet.progress import Progress

IMAGENET_IMAGES, EPOCHS = 1_281_167, 90
"""What a training of 2012 went through (paper, sections 2 and 5)."""

LIMITS = {"cpu": (1536, 2**28), "cuda": (8192, 2**30)}
"""Side of the matrices, and bytes, that the limits are measured with."""

INSIDE = {
    "train": "forward, loss, backward, update (SGD with momentum), dropout",
    "infer": "forward",
}


@dataclass(frozen=True)
class Where:
    """The conditions that all of a table's rows share."""

    device: str
    precision: str
    threads: int
    augment: bool = True
    compiled: bool = True
    """Whether the peers are also measured under torch.compile."""
    processes: bool = True
    """Whether each way of a CPU has a process of its own."""
    only: tuple[str, ...] = ()
    """Keys of the ways to measure; all of them if empty."""


def network_tables(
    work: Work, batches: Sequence[int], where: Where, pace: Pace, progress: Progress
) -> list[Table]:
    """Measure training steps ("train") or answers ("infer"), a table for each batch size."""
    return [_table(work, batch, where, pace, progress) for batch in batches]


def _table(work: Work, batch: int, where: Where, pace: Pace, progress: Progress) -> Table:
    arms = _arms(work, batch, where)
    limits = _limits(where)
    rows = measure(f"{work}, batch {batch}", [*arms, *limits], pace, progress)
    inside = INSIDE[work]
    if work == "train" and where.augment:
        inside = f"crop, mirror, colours; {inside}"
    torch.compiler.reset()
    facts = {}
    if work == "train" and rows[0].rate:
        facts["imagenet_90_epochs_hours"] = IMAGENET_IMAGES * EPOCHS / rows[0].rate / 3600
    return Table(
        key=f"{work}_batch_{batch}",
        title=f"{'training' if work == 'train' else 'inference'}, batch {batch}",
        unit="images/s",
        rows=rows[: len(arms)],
        inside=inside,
        limits=rows[len(arms) :],
        facts=facts,
        notes=[
            f"90 epochs of ImageNet at that rate: {days(hours)}, in 2012 5 to 6 days"
            for hours in facts.values()
        ],
    )


def days(hours: float) -> str:
    """Write a long time as "3.2 days", "5.1 hours" or "21 minutes"."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 2:
        return f"{hours:.1f} hours"
    minutes = round(hours * 60)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"


def _arms(work: Work, batch: int, where: Where) -> list[Arm]:
    """List the ways to compare, ours first; those that nothing can run here are left out."""
    ours = Spec(
        work,
        batch=batch,
        device=where.device,
        precision=where.precision,
        threads=where.threads,
        augment=where.augment,
    )
    modules, torchvision = replace(ours, net="modules"), replace(ours, net="torchvision")
    ways: list[tuple[str, str, Spec]] = [
        ("ours", "alexnet", ours),
        ("ours_plain", "alexnet --plain", replace(ours, net="alexnet_plain")),
        ("modules", "PyTorch modules", modules),
    ]
    if where.device == "cpu":
        as_found = replace(modules, keep=False)
        ways.append(("modules_as_found", "PyTorch modules, memory not kept", as_found))
    last = replace(torchvision, mode="channels_last")
    ways += [
        ("modules_compiled", "PyTorch modules, compiled", replace(modules, mode="compiled")),
        ("torchvision", "torchvision's net", torchvision),
        ("torchvision_last", "torchvision's net, channels last", last),
        ("torchvision_compiled", "torchvision's net, compiled", replace(last, mode="compiled")),
    ]
    if work == "infer" and where.device == "cpu":
        ways.append(("onnxruntime", "ONNX Runtime, our export", replace(ours, net="onnx")))
    return [
        Arm(
            key,
            name,
            start_spec(spec, processes=where.processes),
            units=batch,
            operations=operations(work, torchvision=spec.net == "torchvision"),
        )
        for key, name, spec in ways
        if (where.compiled or spec.mode != "compiled") and (not where.only or key in where.only)
    ]


def _limits(where: Where) -> list[Arm]:
    """Measure what the device can do at best: a large matrix product, a copy of memory."""
    side, size = LIMITS["cpu" if where.device == "cpu" else "cuda"]
    base = Spec("matmul", device=where.device, precision=where.precision, threads=where.threads)
    ways: list[tuple[Work, str, int, float]] = [
        ("copy", "copy", size, 2.0 * size),
        ("matmul", "matrix product (torch.mm)", side, 2.0 * side**3),
    ]
    if where.device == "cpu":
        ways.append(("matmul_onednn", "matrix product (oneDNN)", side, 2.0 * side**3))
    return [
        Arm(
            work,
            name,
            start_spec(replace(base, work=work, side=each), processes=where.processes),
            units=units,
        )
        for work, name, each, units in ways
    ]


@cache
def operations(work: Work, *, torchvision: bool) -> float:
    """Count one image's floating-point operations, two for each multiply-add.

    A training step multiplies three times as much as an answer: forward, for the gradient of the
    weights, and for that of the inputs, which the first layer does not need.
    """
    if torchvision:
        macs = [row.macs for row in summarize("one_weird_trick", CLASSES).layers]
    else:
        macs = [row.macs for row in summarize("alexnet", CLASSES).layers]
    first = next(count for count in macs if count)
    return 2.0 * (sum(macs) if work == "infer" else 3 * sum(macs) - first)
