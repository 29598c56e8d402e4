"""The form of each convolution that is fastest on the GPU at hand, found by measuring it there.

Groups have slow kernels on some GPUs and good ones on others, and so has a convolution of three
channels. Each is tried in every form when it is first run on a new device, forward and, in
training, backward. What was chosen is kept (`alexnet.kernels.tuning_cache`), so that the
next process does not choose another form, whose last bits differ.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.kernels.convolutions import ConvAlgorithm, convolve
from alexnet.kernels.tuning_cache import TuningCache, cache_folder

GROUPED = (
    ConvAlgorithm(channels_last=True),
    ConvAlgorithm(channels_last=True, groups="split"),
    ConvAlgorithm(channels_last=True, groups="filled"),
)
STRIDED = (ConvAlgorithm(channels_last=True), ConvAlgorithm(channels_last=True, unshuffle=True))
WARM_UP, TRIES = 3, 5

Seconds = Callable[[Callable[[], object]], float]
"""Measures how long some work takes."""


def candidates(conv: nn.Conv2d) -> Sequence[ConvAlgorithm]:
    """List the forms that a convolution has on a GPU."""
    if conv.groups > 1:
        return GROUPED
    return STRIDED if conv.stride[0] > 1 else STRIDED[:1]


class Autotuner:
    """Returns the fastest form of a convolution on such images, measured once for each size.

    While a step is being recorded nothing can be measured: a form that is not known yet is then the
    first.
    """

    def __init__(self, kept: TuningCache, device: str, seconds: Seconds) -> None:
        self.kept, self.device, self.seconds = kept, device, seconds

    def __call__(self, x: Tensor, conv: nn.Conv2d) -> ConvAlgorithm:
        """Choose for `x` (N, C, H, W)."""
        forms = candidates(conv)
        if len(forms) == 1 or x.shape[1] != conv.in_channels:
            return forms[-1]
        name = f"{self.device}: {describe(x, conv)}"
        chosen = self.kept.get(name)
        if not isinstance(chosen, int) or not 0 <= chosen < len(forms):
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                return forms[0]
            times = [self.seconds(work_of(x, conv, form)) for form in forms]
            chosen = times.index(min(times))
            self.kept.put(name, chosen)
        return forms[chosen]


def describe(x: Tensor, conv: nn.Conv2d) -> str:
    """Name all that decides how fast a convolution is; numbers of images by powers of two."""
    mixed = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if mixed else x.dtype
    images = 1 << (len(x) - 1).bit_length() if len(x) else 0
    work = "forward and backward" if torch.is_grad_enabled() else "forward"
    repeatable = ", deterministic" if torch.backends.cudnn.deterministic else ""
    sizes = f"{tuple(x.shape[1:])} by {tuple(conv.weight.shape)}, stride {conv.stride[0]}"
    return f"{images} x {sizes}, {conv.groups} groups, {dtype}, {work}{repeatable}"


def work_of(x: Tensor, conv: nn.Conv2d, form: ConvAlgorithm) -> Callable[[], object]:
    """Return what is measured: what the convolution does in a step, on the images at hand."""
    if not torch.is_grad_enabled():
        return lambda: convolve(x, conv, form)
    given = x.detach().requires_grad_(x.requires_grad)
    wanted = [conv.weight, given] if x.requires_grad else [conv.weight]

    def both() -> object:
        y = convolve(given, conv, form)
        return torch.autograd.grad(y, wanted, torch.ones_like(y))

    return both


def seconds_on_gpu(work: Callable[[], object]) -> float:
    """Return the shortest time that `work` took on the current CUDA device."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    for _ in range(TRIES):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1000)
    return min(times)


@cache
def kept_here() -> TuningCache:
    """Return what is kept of this machine's GPUs."""
    return TuningCache(cache_folder() / "gpus.json")


@cache
def identify(device: torch.device) -> str:
    """Name a GPU and all software that decides what it computes, our kernels among it."""
    import triton

    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    parts: dict[str, Any] = {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": torch._C._cuda_getDriverVersion(),  # type: ignore[attr-defined,unused-ignore]
        "triton": triton.__version__,
        "kernels": digest,
    }
    name = torch.cuda.get_device_name(device)
    return ", ".join([name, *(f"{part} {value}" for part, value in parts.items())])


@cache
def forms_on(device: torch.device) -> Autotuner:
    """Return what chooses the forms on a CUDA device."""
    return Autotuner(kept_here(), identify(device), seconds_on_gpu)
