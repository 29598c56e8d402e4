"""Tables of the network's speed: training and inference, and the parts of a step.

`alexnet bench train` and `infer` compare our network with the same of PyTorch's modules, and with
others. Each table is for one batch size, with the device's own limits measured in the same rounds.
On an H200 the steps of the rows "ours" (training, inference) and "ours_plain" (training) have run,
each alone; rows in turn, blocks and convolutions have run on CPUs only.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch

from alexnet.analysis.summary import summarize
from alexnet.bench.report import Table
from alexnet.bench.spec import CLASSES, Spec, Work
from alexnet.bench.timing import Candidate, Rounds, measure
from alexnet.kernels.conv_forms import TILES
from alexnet.kernels.cpu.precision import has_bfloat16
from alexnet.progress import Progress

IMAGENET_IMAGES, EPOCHS = 1_281_167, 90
"""What the training of 2012 consisted of (P 2, 5)."""

LIMITS = {"cpu": (1536, 2**28), "cuda": (8192, 2**30)}
"""Side of the matrices, and bytes, that the limits are measured with."""

INSIDE = {
    "train": "forward, loss, backward, update (SGD with momentum), dropout",
    "infer": "forward",
}


@dataclass(frozen=True)
class Setup:
    """The conditions that all rows of a table share."""

    device: str
    precision: str
    threads: int
    augment: bool = True
    compiled: bool = True
    """Whether the peers are also measured under torch.compile."""
    own_process: bool = True
    """Whether each candidate on a CPU has a process of its own."""
    only: tuple[str, ...] = ()
    """Keys of the rows to measure; all of them if empty."""
    model: str = "alexnet"
    """Name of our network; a smaller one cannot be compared with peers."""
    limits: bool = True
    """Whether the device's limits are measured in the same rounds."""
    captured: bool = False
    """Whether our training step runs as on a GPU in Triton's interpreter, on a CPU."""

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return torch.device(self.device).type == "cuda"

    def spec(self, work: Work, batch: int = 1) -> Spec:
        """Return the specification of our own step."""
        return Spec(
            work,
            mode="channels_last" if self.on_cuda else "eager",
            model=self.model,
            batch=batch,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            own_process=self.own_process,
            augment=self.augment,
            captured=self.on_cuda or self.captured,
        )


def network_table(
    work: Work, batch: int, setup: Setup, rounds: Rounds, progress: Progress
) -> Table:
    """Measure training steps ("train") or answers ("infer") of batches of one size."""
    candidates = _candidates(work, batch, setup)
    limits = limit_candidates(setup) if setup.limits else []
    rows = measure(f"{work}, batch {batch}", [*candidates, *limits], rounds, progress)
    torch.compiler.reset()
    if setup.on_cuda:
        torch.cuda.empty_cache()
    inside = INSIDE[work]
    if work == "train" and setup.augment:
        inside = f"crop, mirror, colours; {inside}"
    facts = {}
    if work == "train" and rows[0].rate:
        facts["imagenet_90_epochs_hours"] = IMAGENET_IMAGES * EPOCHS / rows[0].rate / 3600
    return Table(
        key=f"{work}_batch_{batch}",
        title=f"{'training' if work == 'train' else 'inference'}, batch {batch}",
        unit="images/s",
        rows=rows[: len(candidates)],
        inside=inside,
        limits=rows[len(candidates) :],
        facts=facts,
        notes=[
            f"90 epochs of ImageNet at that rate: {days(hours)}, in 2012 5 to 6 days"
            for hours in facts.values()
        ],
    )


def _candidates(work: Work, batch: int, setup: Setup) -> list[Candidate]:
    """List the candidates, ours first."""
    return [
        Candidate.of(key, name, spec, batch, operations(work, _table_name(spec)))
        for key, name, spec in _specs(work, batch, setup)
        if (setup.compiled or spec.mode != "compiled") and (not setup.only or key in setup.only)
    ]


def _specs(work: Work, batch: int, setup: Setup) -> list[tuple[str, str, Spec]]:
    """List key, name and specification of all candidates that this device can run."""
    ours = setup.spec(work, batch)
    modules = replace(ours, net="modules", mode="eager", captured=False)
    reference, torchvision = replace(modules, net="reference"), replace(modules, net="torchvision")
    last = replace(torchvision, mode="channels_last")
    specs: list[tuple[str, str, Spec]] = [
        ("ours", "alexnet", ours),
        ("ours_plain", "alexnet --plain", reference),
    ]
    if setup.on_cuda:
        uncaptured = replace(ours, captured=False)
        specs.append(("ours_uncaptured", "alexnet, no CUDA graph", uncaptured))
    specs.append(("modules", "PyTorch modules", modules))
    if setup.on_cuda:
        modules_last = replace(modules, mode="channels_last")
        specs.append(("modules_last", "PyTorch modules, channels last", modules_last))
    if setup.device == "cpu":
        as_found = replace(modules, keep_memory=False)
        specs.append(("modules_as_found", "PyTorch modules, memory not kept", as_found))
    specs += [
        ("modules_compiled", "PyTorch modules, compiled", replace(modules, mode="compiled")),
        ("torchvision", "torchvision's net", torchvision),
        ("torchvision_last", "torchvision's net, channels last", last),
        ("torchvision_compiled", "torchvision's net, compiled", replace(last, mode="compiled")),
    ]
    if setup.device == "cpu" and setup.precision == "float32" and has_bfloat16():
        specs += _in_bfloat16(ours, modules, last)
    if work == "infer" and setup.device == "cpu":
        specs.append(("onnxruntime", "ONNX Runtime, our export", replace(modules, net="onnx")))
    return specs


def _in_bfloat16(ours: Spec, modules: Spec, torchvision: Spec) -> list[tuple[str, str, Spec]]:
    """List the candidates in bfloat16, on a CPU: a table has those in float32 beside them."""
    names = {
        "ours": "alexnet",
        "modules": "PyTorch modules",
        "torchvision_last": "torchvision's net",
    }
    return [
        (f"{key}_bfloat16", f"{name}, bfloat16", replace(spec, precision="bfloat16"))
        for (key, name), spec in zip(names.items(), (ours, modules, torchvision), strict=True)
    ]


def limit_candidates(setup: Setup) -> list[Candidate]:
    """List what the device can do at best: a large matrix product, a copy of memory."""
    side, size = LIMITS["cpu" if setup.device == "cpu" else "cuda"]
    limits: list[tuple[Work, str, int, float]] = [
        ("copy", "copy", size, 2.0 * size),
        ("matmul", "matrix product (torch.mm)", side, 2.0 * side**3),
    ]
    if setup.device == "cpu":
        limits.append(("matmul_onednn", "matrix product (oneDNN)", side, 2.0 * side**3))
    return [
        Candidate.of(work, name, replace(setup.spec(work), side=length), units)
        for work, name, length, units in limits
    ]


def days(hours: float) -> str:
    """Write a long time as "3.2 days", "5.1 hours" or "21 minutes"."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 2:
        return f"{hours:.1f} hours"
    minutes = round(hours * 60)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"


def _table_name(spec: Spec) -> str:
    """Return the name of the network table with the layers of `spec`."""
    return "one_weird_trick" if spec.net == "torchvision" else spec.model


@cache
def operations(work: Work, network: str = "alexnet") -> float:
    """Count one image's floating-point operations, two for each multiply-add.

    A training step has three products for each of inference: forward, for the gradient of the
    weights, and for that of the inputs, which the first layer does not need.
    """
    macs = [row.macs for row in summarize(network, CLASSES).layers]
    first = next(count for count in macs if count)
    return 2.0 * (sum(macs) if work == "infer" else 3 * sum(macs) - first)


# Parts of a step.


def block_table(
    name: str,
    batch: int,
    setup: Setup,
    rounds: Rounds,
    progress: Progress,
    *,
    backward: bool = True,
) -> Table:
    """Measure a block of `parts.BLOCKS`: our kernels and PyTorch's layers."""
    ours = replace(
        setup.spec("block", batch),
        layer=name,
        mode="channels_last",
        backward=backward,
        engine="cuda" if setup.captured or setup.on_cuda else "cpu",
    )
    modules = replace(ours, net="modules", mode="channels_last" if setup.on_cuda else "eager")
    candidates = [
        Candidate.of("ours", "alexnet", ours, batch),
        Candidate.of("modules", "PyTorch modules", modules, batch),
    ]
    if setup.device == "cpu" and setup.own_process:
        as_found = replace(modules, keep_memory=False)
        title = "PyTorch modules, memory not kept"
        candidates.append(Candidate.of("modules_as_found", title, as_found, batch))
    passes = "forward and backward" if backward else "forward"
    return Table(
        key=f"{name}_{'both' if backward else 'forward'}",
        title=f"{name}, batch {batch}",
        unit="images/s",
        rows=measure(f"{name}, {passes}", candidates, rounds, progress),
        inside=passes,
    )


def convolution_table(
    name: str, batch: int, setup: Setup, rounds: Rounds, progress: Progress
) -> Table:
    """Measure a convolution of the paper's network by every algorithm that it has.

    The first row is PyTorch's own way, with channels last.
    """
    other = ["space_to_depth"] if name == "conv1" else ["split", "filled"]
    other += [str(tile) for tile in TILES if setup.device != "cpu"]
    base = replace(setup.spec("convolution", batch), layer=name)
    candidates = [
        Candidate.of(algorithm, algorithm, replace(base, algorithm=algorithm), batch)
        for algorithm in ["grouped", "contiguous", *other]
    ]
    return Table(
        key=f"{name}_batch_{batch}",
        title=f"{name}, batch {batch}",
        unit="images/s",
        rows=measure(f"{name}, batch {batch}", candidates, rounds, progress),
        inside="forward, gradients of weights and of input (conv1: of weights)",
    )
