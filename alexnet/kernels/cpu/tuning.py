"""The fastest form of a layer on this CPU, found by measuring and kept in a file.

Which library multiplies fastest depends on the processor's maker, and which order of the weights on
the batch. At the first use of a layer of a new size its few forms are timed on the given values,
for a few seconds in all. Later processes read the choices from `cpus.json` in the cache folder: a
form differs from another in the last bits. Where the file is missing each process measures anew, so
that two equal trainings may then differ by rounding.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn

from alexnet.compiled import cache_folder
from alexnet.kernels.conv_forms import ConvAlgorithm
from alexnet.kernels.convolutions import can_rearrange, run_step
from alexnet.kernels.tuning_cache import TuningCache, computed_type, rounded
from alexnet.storage.environment import cpu_facts, cpu_name

Forms = Mapping[str, Callable[[], object]]
"""Ways of computing the same, by name. The first is used unless another is clearly faster."""

ROUNDS, SECONDS = 4, 0.2
"""All forms are timed in turn in so many rounds at least, and for so long. The shortest time of
each counts, so that other programs do not disturb the choice."""
QUICK = 2e-4
"""Seconds; what takes less is not worth the choice."""
CLEARLY = 0.9
"""Share of the first form's time from which another one is faster by more than noise."""
MEASURED_IMAGES = 16
"""Convolutions are measured on no more images: for a larger batch all forms take longer alike."""

ALGORITHMS = {
    "grouped": ConvAlgorithm(),
    "split": ConvAlgorithm.uniform("split"),
    "filled": ConvAlgorithm.uniform("filled"),
    "space to depth": ConvAlgorithm(space_to_depth=True),
}


@cache
def cpu_cache() -> TuningCache:
    """Return the choices for the processors of this machine."""
    return TuningCache(cache_folder() / "cpus.json")


@cache
def processor() -> str:
    """Name the processor and the software that affects its results."""
    facts = cpu_facts()
    model = "/".join(facts.get(fact, "?") for fact in ("cpu family", "model", "stepping"))
    return f"{cpu_name()}, model {model}, torch {torch.__version__}"


def fastest(name: str, forms: Forms) -> str:
    """Return the name of the fastest form of what `name` describes: the kept one, or measure."""
    key = f"{processor()}, {torch.get_num_threads()} threads: {name}"
    choice = cpu_cache().get(key)
    if choice not in forms:
        kept = TuningCache(cpu_cache().path)  # another process may have measured
        choice = kept.get(key) if kept.get(key) in forms else measure(forms)
        first = TuningCache(cpu_cache().path).get(key)  # or meanwhile: the first one decides
        choice = first if first in forms else choice
        cpu_cache().put(key, choice)
    return str(choice)


def measure(forms: Forms, clock: Callable[[], float] = time.perf_counter) -> str:
    """Time all forms in turn; return the name of the fastest."""

    def seconds(run: Callable[[], object]) -> float:
        began = clock()
        run()
        return clock() - began

    first, start, rounds = next(iter(forms)), clock(), 0
    forms[first]()  # warms up
    if len(forms) == 1 or seconds(forms[first]) < QUICK:
        return first
    best = {name: min(seconds(run), seconds(run)) for name, run in forms.items()}
    while rounds < ROUNDS or clock() < start + SECONDS:
        best = {name: min(best[name], seconds(run)) for name, run in forms.items()}
        rounds += 1
    best[first] *= CLEARLY
    return min(best, key=best.__getitem__)


def conv_algorithm(x: Tensor, conv: nn.Conv2d) -> ConvAlgorithm:
    """Return the fastest algorithm of a training step's convolution on `x` (N, C, H, W)."""
    names = candidates(x, conv)
    learns = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if len(names) > 1 and len(x) and learns:
        images = x[:MEASURED_IMAGES]
        forms = {name: partial(run_step, images, conv, ALGORITHMS[name]) for name in names}
        return ALGORITHMS[fastest(f"training {describe_conv(images, conv)}", forms)]
    return ALGORITHMS[names[0]]


def candidates(x: Tensor, conv: nn.Conv2d) -> tuple[str, ...]:
    """List the algorithms of a convolution of `x`, by the names of `ALGORITHMS`."""
    if conv.groups > 1:
        return "grouped", "split", "filled"
    return ("grouped", "space to depth") if can_rearrange(x, conv) else ("grouped",)


def describe_conv(x: Tensor, conv: nn.Conv2d) -> str:
    """Name what affects the speed of a convolution; the batch size is rounded."""
    sizes = f"{tuple(x.shape[1:])} by {tuple(conv.weight.shape)}"
    how = f"stride {conv.stride[0]}, padding {conv.padding}, {conv.groups} groups"
    return f"{rounded(len(x))} x {sizes}, {how}, {computed_type(x)}"
