"""The fastest form of each pass of a convolution on a GPU, found by measuring and kept in a file.

Grouped convolutions are slow on some GPUs and fast on others, and so are convolutions of three
channels. At the first run on a new device the forms of each pass that is needed are timed: forward,
the gradient of the input and that of the weights. A form that fails, or that does not compute what
PyTorch's convolution does, is left out. Later processes read the choice from the file: another form
would change the last bits of the result.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alexnet.compiled import cache_folder
from alexnet.kernels.conv_forms import ConvAlgorithm, Form
from alexnet.kernels.cuda.conv_candidates import (
    PASSES,
    Passes,
    Results,
    agree,
    describe,
    layouts,
    needed_passes,
    run_layout,
)
from alexnet.kernels.tuning_cache import TuningCache

LOG = logging.getLogger(__name__)
WARM_UP, TRIES = 3, 5
PLAIN: Sequence[Form] = ("grouped",)

Option = TypeVar("Option")
Timer = Callable[[Callable[[], object]], float]
"""Returns the seconds that a function takes."""


@cache
def gpu_cache() -> TuningCache:
    """Return the cache for the GPUs of this machine."""
    return TuningCache(cache_folder() / "gpus.json")


class Autotuner:
    """Returns the fastest algorithm of a convolution, measured once for each size.

    Nothing can be measured while a CUDA graph is captured: PyTorch's forms are used then, unless
    the cache has the choice.
    """

    def __init__(self, choices: TuningCache, device: str, timer: Timer) -> None:
        self.choices, self.device, self.timer = choices, device, timer

    def __call__(self, x: Tensor, conv: nn.Conv2d) -> ConvAlgorithm:
        """Choose the algorithm for `x` (N, C, H, W)."""
        if x.numel() == 0:
            return ConvAlgorithm()
        name, needed = f"{self.device}: {describe(x, conv)}", needed_passes(x, conv)
        layout = self.choose(
            f"{name}, layout for {' and '.join(needed)}",
            layouts(x, conv),
            partial(run_layout, x, conv),
        )
        passes = Passes(x, conv, layout)
        forms: list[Form] = []
        for each in PASSES:
            options = passes.forms(each) if each in needed else PLAIN
            run = partial(passes.run, each)
            forms.append(self.choose(f"{name}, {layout}, {each}", options, run))
        return ConvAlgorithm(*forms, space_to_depth=layout == "space to depth")

    def choose(
        self, name: str, options: Sequence[Option], run: Callable[[Option], Results]
    ) -> Option:
        """Return the fastest of `options`: the one kept under `name`, or measured and kept."""
        if len(options) == 1:
            return options[0]
        kept = self.choices.get(name)
        for option in options:
            if str(option) == kept:
                return option
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return options[0]
        seconds = self.measure(name, options, run)
        if not seconds:
            return options[0]  # its error is raised where it is used
        fastest = min(seconds, key=lambda pair: pair[1])[0]
        self.choices.put(name, str(fastest))
        return fastest

    def measure(
        self, name: str, options: Sequence[Option], run: Callable[[Option], Results]
    ) -> list[tuple[Option, float]]:
        """Return the options that compute what the first one computes, and their seconds."""
        LOG.info("measuring %s", name)
        seconds: list[tuple[Option, float]] = []
        expected: Results | None = None
        for option in options:
            try:
                results = run(option)
                expected = results if expected is None else expected
                if not agree(results, expected):
                    LOG.warning("%s: %s computes something else: left out", name, option)
                    continue
                seconds.append((option, self.timer(partial(run, option))))
                LOG.info("%s: %.3f ms", option, 1000 * seconds[-1][1])
            except Exception as error:  # noqa: BLE001 - a compiler, a driver or a library
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                LOG.info("%s is left out: %s", option, reason)
        return seconds


@cache
def autotuner(device: torch.device) -> Autotuner:
    """Return the autotuner of a CUDA device."""
    return Autotuner(gpu_cache(), identify(device), seconds_on_gpu)


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
