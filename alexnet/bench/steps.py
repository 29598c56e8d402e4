"""Steps that are timed: a training step, the answer to a batch, and the parts of `parts.py`.

On a CUDA GPU all images of a training are in its memory. Our training step is the one of
`alexnet train`, captured in a CUDA graph. Inference has weights and images of the precision's type
on a GPU; elsewhere weights stay float32 under autocast. Steps of this form ran on an H200 when they
were part of scripts/bench_gpu.py: ours in training and inference, the reference network eager, and
compiled. In this module they have run on CPUs only.
"""

import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.bench import parts
from alexnet.bench.peers import modules_alexnet, torchvision_alexnet
from alexnet.bench.spec import CLASSES, CROP, SIZE, LossStep, Spec, Step
from alexnet.config import Settings
from alexnet.device import autocast
from alexnet.networks.registry import create_model, input_shape
from alexnet.optim import make_optimizer
from alexnet.transforms import (
    AugmentParams,
    Preprocessing,
    augment,
    center_view,
    sample_augment,
)

STORED = {"cuda": 4096}
"""Training images in the device's memory, at least; elsewhere as many as a batch has."""


def build(spec: Spec) -> tuple[Step, str]:
    """Return a function that does the work once, and a note on it."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # for all candidates alike
    if spec.work not in ("train", "infer"):
        return parts.build(spec), ""
    if spec.net == "onnx":
        return _onnx(spec), ""
    net, note = new_network(spec)
    net = on_device(spec, net)
    if spec.work == "infer":
        return _inference(spec, net), note
    settings = Settings(batch_size=spec.batch)
    captured = partial(captured_step, together=True)
    make_step = captured if spec.captured else training_step
    return make_step(spec, settings, net, TrainingData(spec, settings)), note


def new_network(spec: Spec, classes: int = CLASSES) -> tuple[nn.Module, str]:
    """Build the network on the CPU; return it with a note on where it comes from."""
    match spec.net:
        case "modules":
            return modules_alexnet(classes), ""
        case "torchvision":
            return torchvision_alexnet(classes)
    return create_model(spec.model, classes), ""


def on_device(spec: Spec, net: nn.Module) -> nn.Module:
    """Move a network to the device, in the memory format of `spec`."""
    net = net.to(spec.torch_device)
    if spec.mode != "eager":
        net.to(memory_format=spec.memory_format)  # type: ignore[call-overload]
    return net


def preprocessing(device: torch.device, size: int = SIZE, crop: int = CROP) -> Preprocessing:
    """Return ImageNet-like preprocessing: a mean image, and colours as far apart as real ones."""
    mean = torch.rand(3, size, size) * 20 + 110
    vectors = ((0.6, 0.7, 0.4), (0.6, -0.1, -0.8), (0.5, -0.7, 0.5))
    return Preprocessing(size, crop, mean.to(device), (19.7, 37.1, 121.8), vectors)


# Training.


class Batch(NamedTuple):
    """What a training step is made of."""

    step: int
    indices: NDArray[np.int64]
    params: AugmentParams
    labels: NDArray[np.int64]


class TrainingData:
    """Images of noise on the device, with random labels, and batches of them."""

    def __init__(self, spec: Spec, settings: Settings) -> None:
        self.spec, self.settings, self.step = spec, settings, 0
        crop = input_shape(spec.model)[1]
        size = next(size for size in (32, 64, SIZE) if size >= crop)
        device = spec.torch_device
        self.preprocessing = preprocessing(device, size, crop)
        count = max(spec.batch, STORED.get(device.type, 0))
        shape = (count, size, size, 3)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        self.labels = np.random.default_rng(0).integers(0, CLASSES, count)

    @cached_property
    def ready(self) -> Tensor:
        """The network's input without augmentation: (B, 3, crop, crop) float32."""
        return center_view(self.images[: self.spec.batch], self.preprocessing).contiguous()

    def next(self) -> Batch:
        """Choose the next step's images and their augmentation by the seed."""
        self.step += 1
        indices = np.arange(self.spec.batch)
        if len(indices) < len(self.images):
            generator = np.random.default_rng([self.settings.seed, self.step])
            indices = generator.integers(0, len(self.images), len(indices))
        params = sample_augment(self.settings, self.preprocessing, self.step, indices)
        return Batch(self.step, indices, params, self.labels[indices])

    def inputs(self, batch: Batch) -> Tensor:
        """Return the network's input for a batch: (B, 3, crop, crop) float32."""
        if not self.spec.augment:
            return self.ready
        images = self.images
        if len(batch.indices) < len(images):
            images = images[torch.from_numpy(batch.indices).to(images.device)]
        return augment(images, batch.params, self.preprocessing, self.settings)


def training_step(spec: Spec, settings: Settings, net: nn.Module, data: TrainingData) -> LossStep:
    """Make a step by PyTorch's operations: augment, forward, loss, backward, update."""
    device = spec.torch_device
    optimizer = _optimizer(spec, net, settings)
    called = _callable(spec, net.train())

    def step() -> Tensor:
        batch = data.next()
        inputs, labels = data.inputs(batch), torch.from_numpy(batch.labels).to(device)
        torch.manual_seed(batch.step)
        with autocast(device, spec.precision):
            logits = called(_laid_out(spec, inputs))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def captured_step(
    spec: Spec, settings: Settings, net: nn.Module, data: TrainingData, *, together: bool = False
) -> LossStep:
    """Make the step that `alexnet train` captures and replays on a GPU.

    The next step overwrites its loss. With `together` short steps wait for others, as there, and
    the loss returned is that of an earlier one.
    """
    from alexnet.kernels import accelerate
    from alexnet.kernels.cuda.capture import MOST_TOGETHER, CapturedStep  # needs Triton

    model = _rows(net)
    optimizer = make_optimizer(model, settings)
    make_step = CapturedStep(
        model,
        optimizer,
        data.preprocessing,
        settings,
        data.images.flatten(1),
        accelerate=accelerate,
        dtype=spec.dtype,
        most_together=MOST_TOGETHER if together else 1,
    )

    def step() -> Tensor:
        batch = data.next()
        make_step(batch.indices, batch.params, batch.labels, batch.step)
        return make_step.results[0, 0]

    return step


def _optimizer(spec: Spec, net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Give our networks the paper's rule, peers PyTorch's SGD; on a GPU the fused one if eager."""
    fused = spec.on_cuda and spec.mode != "eager"
    if spec.net in ("alexnet", "reference") and not fused:
        return make_optimizer(_rows(net), settings)
    return torch.optim.SGD(
        net.parameters(), settings.lr, 0.9, weight_decay=0.0005, fused=fused or None
    )


def _callable(spec: Spec, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes `net`: accelerated, compiled, or itself."""
    if spec.net == "alexnet":
        from alexnet.kernels import accelerate

        return accelerate(_rows(net))
    return torch.compile(net, dynamic=False) if spec.mode == "compiled" else net


def _rows(net: nn.Module) -> nn.Sequential:
    assert isinstance(net, nn.Sequential)  # noqa: S101 - it comes from create_model
    return net


def _laid_out(spec: Spec, images: Tensor) -> Tensor:
    """Lay images out in memory as the users of such a network do."""
    return images if spec.mode == "eager" else images.contiguous(memory_format=spec.memory_format)


# Inference.


def _inference(spec: Spec, net: nn.Module) -> Step:
    """Make the answer to a batch that is on the device as the network's input."""
    device, crop = spec.torch_device, input_shape(spec.model)[1]
    dtype = spec.dtype if spec.on_cuda else torch.float32
    called = _callable(spec, net.eval().to(dtype))
    images = torch.randn(spec.batch, 3, crop, crop, device=device, dtype=dtype) * 60
    images = _laid_out(spec, images)

    def step() -> None:
        with (
            torch.inference_mode(),
            autocast(device, "float32" if spec.on_cuda else spec.precision),
        ):
            called(images)

    return _graph(step) if spec.captured and spec.on_cuda else step


def _graph(step: Step) -> Step:
    """Capture `step` in a CUDA graph and return its replay. It has run on an H200."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _onnx(spec: Spec) -> Step:
    """Answer by ONNX Runtime, from the file that `alexnet export` writes."""
    import onnxruntime

    from alexnet.convert.card import Card
    from alexnet.convert.write_onnx import write_onnx

    classes = tuple(map(str, range(CLASSES)))
    card = Card("alexnet", {}, classes, classes, preprocessing(torch.device("cpu")), "")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        write_onnx(create_model("alexnet").eval(), card, path, with_preprocessing=False)
        engine = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(0, 60, (spec.batch, 3, CROP, CROP))
    given = {"input": images.astype(np.float32)}
    return lambda: engine.run(None, given)
