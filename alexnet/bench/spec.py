"""What a benchmark times: a step, described by plain values."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Step = Callable[[], object]
LossStep = Callable[[], Tensor]
"""Makes one update and returns its loss."""
Work = Literal["train", "infer", "block", "convolution", "matmul", "matmul_onednn", "copy"]
Net = Literal["alexnet", "reference", "modules", "torchvision", "onnx"]
Mode = Literal["eager", "channels_last", "compiled"]

SIZE, CROP, CLASSES = 256, 224, 1000
"""Of stored images and of the network's input, in pixels; and of ImageNet."""


@dataclass(frozen=True)
class Spec:
    """What to time, and how; plain values, so that another process can build it."""

    work: Work
    net: Net = "alexnet"
    """alexnet: accelerated; reference: PyTorch's operations only; the others are peers."""
    mode: Mode = "eager"
    model: str = "alexnet"
    """Name of our network; only alexnet can be compared with peers."""
    layer: str = ""
    """The block or convolution (`parts.py`)."""
    algorithm: str = ""
    """Of the convolution."""
    batch: int = 1
    """Images in a step."""
    side: int = 0
    """matmul: rows and columns; copy: bytes."""
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1
    own_process: bool = True
    """Whether a step on a CPU is timed in a process of its own."""
    keep_memory: bool = True
    """Whether that process keeps freed memory (`alexnet.device.keep_memory`)."""
    augment: bool = True
    """Training: whether cropping, mirroring and colours are inside the timing."""
    backward: bool = True
    """Block: whether the backward pass is."""
    captured: bool = False
    """Whether the step is that for a CUDA graph; on a CPU Triton's interpreter runs its kernels."""
    engine: Literal["cpu", "cuda"] = "cpu"
    """Our kernels of a block."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def torch_device(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the arithmetic."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.torch_device.type == "cuda"

    @property
    def memory_format(self) -> torch.memory_format:
        """How images and weights lie in memory: compiled networks are channels-last on a GPU."""
        compiled = self.mode == "compiled" and self.on_cuda
        last = self.mode == "channels_last" or compiled
        return torch.channels_last if last else torch.contiguous_format
