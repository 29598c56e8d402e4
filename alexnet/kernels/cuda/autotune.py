"""The fastest algorithm of each convolution on a GPU, found by measuring and cached in a file.

Grouped convolutions are slow on some GPUs and fast on others, and so are convolutions of three
channels. At the first run on a new device every algorithm is timed, forward and, in training,
backward. Later processes read the choice from the file: another algorithm would change the last
bits of the result.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.compiled import cache_folder
from alexnet.errors import StorageError
from alexnet.kernels.convolutions import ConvAlgorithm, convolve
from alexnet.storage.atomic import atomic_write
from alexnet.storage.untrusted import parse_json

GROUPED = (
    ConvAlgorithm(channels_last=True),
    ConvAlgorithm(channels_last=True, groups="split"),
    ConvAlgorithm(channels_last=True, groups="filled"),
)
STRIDED = (
    ConvAlgorithm(channels_last=True),
    ConvAlgorithm(channels_last=True, space_to_depth=True),
)
WARM_UP, TRIES = 3, 5

Timer = Callable[[Callable[[], object]], float]
"""Returns the seconds that a function takes."""


class TuningCache:
    """Values by name in a JSON file; in memory only where the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = self._read()

    def get(self, name: str) -> Any:
        """Return the value cached under `name`, or None."""
        return self.values.get(name)

    def put(self, name: str, value: Any) -> None:
        """Cache a plain JSON value under `name`, and keep what other processes have added."""
        self.values = self._read() | self.values | {name: value}
        with suppress(StorageError), atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            values = parse_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


@cache
def gpu_cache() -> TuningCache:
    """Return the cache for the GPUs of this machine."""
    return TuningCache(cache_folder() / "gpus.json")


class Autotuner:
    """Returns the fastest algorithm of a convolution, measured once for each size.

    Nothing can be measured while a CUDA graph is captured: the first algorithm is used then, unless
    the cache has the choice.
    """

    def __init__(self, choices: TuningCache, device: str, timer: Timer) -> None:
        self.choices, self.device, self.timer = choices, device, timer

    def __call__(self, x: Tensor, conv: nn.Conv2d) -> ConvAlgorithm:
        """Choose the algorithm for `x` (N, C, H, W)."""
        algorithms = candidates(conv)
        if len(algorithms) == 1 or x.shape[1] != conv.in_channels:
            return algorithms[-1]
        name = f"{self.device}: {describe(x, conv)}"
        choice = self.choices.get(name)
        if not isinstance(choice, int) or not 0 <= choice < len(algorithms):
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                return algorithms[0]
            seconds = [self.timer(workload(x, conv, algorithm)) for algorithm in algorithms]
            choice = seconds.index(min(seconds))
            self.choices.put(name, choice)
        return algorithms[choice]


@cache
def autotuner(device: torch.device) -> Autotuner:
    """Return the autotuner of a CUDA device."""
    return Autotuner(gpu_cache(), identify(device), seconds_on_gpu)


def candidates(conv: nn.Conv2d) -> Sequence[ConvAlgorithm]:
    """List the algorithms for a convolution on a GPU."""
    if conv.groups > 1:
        return GROUPED
    return STRIDED if conv.stride[0] > 1 else STRIDED[:1]


def describe(x: Tensor, conv: nn.Conv2d) -> str:
    """Name everything that affects the speed; the batch size is rounded up to a power of two."""
    mixed = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if mixed else x.dtype
    images = 1 << (len(x) - 1).bit_length() if len(x) else 0
    work = "forward and backward" if needs_gradient(x, conv) else "forward"
    deterministic = ", deterministic" if torch.backends.cudnn.deterministic else ""
    sizes = f"{tuple(x.shape[1:])} by {tuple(conv.weight.shape)}, stride {conv.stride[0]}"
    return f"{images} x {sizes}, {conv.groups} groups, {dtype}, {work}{deterministic}"


def needs_gradient(x: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether a step computes a gradient by the images or by the weights."""
    return torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)


def workload(x: Tensor, conv: nn.Conv2d, algorithm: ConvAlgorithm) -> Callable[[], object]:
    """Return the work to be timed: what a step does with this convolution and these images."""
    if not needs_gradient(x, conv):
        return lambda: convolve(x, conv, algorithm)
    inputs = x.detach().requires_grad_(x.requires_grad)
    needed = [tensor for tensor in (conv.weight, inputs) if tensor.requires_grad]

    def forward_and_backward() -> object:
        y = convolve(inputs, conv, algorithm)
        return torch.autograd.grad(y, needed, torch.ones_like(y))

    return forward_and_backward


def seconds_on_gpu(work: Callable[[], object]) -> float:
    """Return the shortest time that `work` took on the current CUDA device."""
    for _ in range(WARM_UP):
        work()
    seconds: list[float] = []
    for _ in range(TRIES):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        work()
        ended.record()
        ended.synchronize()
        seconds.append(began.elapsed_time(ended) / 1000)
    return min(seconds)


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of NVIDIA's driver, as Linux has it; "unknown" elsewhere.

    PyTorch has no public name for it.
    """
    with suppress(OSError):
        if found := re.search(r"\b\d+\.\d+(\.\d+)?\b", file.read_text(encoding="utf-8")):
            return found[0]
    return "unknown"


@cache
def identify(device: torch.device) -> str:
    """Name a GPU and all software that affects its results, our kernels included."""
    import triton

    kernels = Path(__file__).parents[1]  # this folder's kernels, and the algorithms above it
    sources = sorted([*kernels.glob("*.py"), *kernels.glob("cuda/*.py")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    parts: dict[str, Any] = {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": driver_version(),
        "triton": triton.__version__,
        "kernels": digest,
    }
    name = torch.cuda.get_device_name(device)
    return ", ".join([name, *(f"{part} {value}" for part, value in parts.items())])
