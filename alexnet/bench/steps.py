"""The pieces of work that are timed: a training step, an answer, a matrix product, a copy."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.bench.nets import plain_alexnet, torchvision_alexnet
from alexnet.config import Settings
from alexnet.device import autocast
from alexnet.networks.registry import create_model
from alexnet.optim import PaperSGD, make_optimizer
from alexnet.transforms import Preprocessing, augment, sample_augment, take_view, views

Step = Callable[[], object]
Work = Literal["train", "infer", "matmul", "matmul_onednn", "copy"]
Net = Literal["alexnet", "alexnet_plain", "modules", "torchvision", "onnx"]
Mode = Literal["eager", "channels_last", "compiled"]

SIZE, CROP, CLASSES = 256, 224, 1000


@dataclass(frozen=True)
class Spec:
    """What to time, and how; plain values, so that it can be handed to another process."""

    work: Work
    net: Net = "alexnet"
    mode: Mode = "eager"
    batch: int = 1
    """Images in a step."""
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1
    keep: bool = True
    """Whether freed memory is kept (`alexnet.device.keep_memory`)."""
    augment: bool = True
    """Training: whether cropping, mirroring and colours are inside the timing."""
    side: int = 0
    """matmul: rows and columns; copy: bytes."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def build(spec: Spec) -> tuple[Step, str]:
    """Return a function that does the work once, and what there is to note about it."""
    torch.manual_seed(0)
    device = torch.device(spec.device)
    torch.backends.cudnn.benchmark = True  # as everybody does who measures: for all alike
    if spec.work in ("matmul", "matmul_onednn"):
        return _matmul(spec, device), ""
    if spec.work == "copy":
        return _copy(spec, device), ""
    if spec.net == "onnx":
        return _onnx(spec), ""
    net, note = _network(spec)
    net = net.to(device)
    if spec.mode != "eager":
        net.to(memory_format=_format(spec, device))  # type: ignore[call-overload]
    build_step = _training if spec.work == "train" else _inference
    return build_step(spec, device, net), note


def _format(spec: Spec, device: torch.device) -> torch.memory_format:
    """Compiled networks get channels last on a GPU, where everybody runs them so."""
    last = spec.mode == "channels_last" or device.type == "cuda"
    return torch.channels_last if last else torch.contiguous_format


def _network(spec: Spec) -> tuple[nn.Module, str]:
    match spec.net:
        case "modules":
            return plain_alexnet(CLASSES), ""
        case "torchvision":
            return torchvision_alexnet(CLASSES)
    return create_model("alexnet", CLASSES), ""


def _fast(spec: Spec, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what is called in the place of `net`: accelerated, compiled, or itself."""
    if spec.net == "alexnet":
        from alexnet.kernels import accelerate

        assert isinstance(net, nn.Sequential)  # noqa: S101 - it comes from create_model
        fast: Callable[[Tensor], Tensor] = accelerate(net)
        return fast
    return torch.compile(net, dynamic=False) if spec.mode == "compiled" else net


def preprocessing(device: torch.device) -> Preprocessing:
    """Return ImageNet-like preprocessing: a mean image, and colours as far apart as real ones."""
    mean = torch.rand(3, SIZE, SIZE) * 20 + 110
    vectors = ((0.6, 0.7, 0.4), (0.6, -0.1, -0.8), (0.5, -0.7, 0.5))
    return Preprocessing(SIZE, CROP, mean.to(device), (19.7, 37.1, 121.8), vectors)


def _training(spec: Spec, device: torch.device, net: nn.Module) -> Step:
    """Make the step: crop, mirror, colours; forward, loss, backward, update. Images are noise."""
    settings, prepared = Settings(batch_size=spec.batch), preprocessing(device)
    images = torch.randint(0, 256, (spec.batch, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, CLASSES, (spec.batch,), device=device)
    numbers, count = np.arange(spec.batch), iter(range(2**31))
    optimizer = _optimizer(spec, net, settings)
    if spec.net == "alexnet" and device.type == "cuda":
        return _captured(spec, net, optimizer, prepared, images)
    called = _fast(spec, net.train())
    ready = take_view(images, views(SIZE, CROP, 1)[0], prepared).contiguous()

    def inputs() -> Tensor:
        if not spec.augment:
            return ready
        return augment(
            images, sample_augment(settings, prepared, next(count), numbers), prepared, settings
        )

    def step() -> None:
        with autocast(device, spec.precision):
            logits = called(_laid_out(spec, inputs()))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _optimizer(spec: Spec, net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if spec.net.startswith("alexnet"):
        assert isinstance(net, nn.Sequential)  # noqa: S101 - it comes from create_model
        return make_optimizer(net, settings)
    return torch.optim.SGD(net.parameters(), settings.lr, 0.9, weight_decay=0.0005)


def _captured(
    spec: Spec,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    prepared: Preprocessing,
    images: Tensor,
) -> Step:
    """Make the step that `alexnet train` records and replays on a GPU."""
    from alexnet.kernels import accelerate
    from alexnet.kernels.cuda.captured_step import CapturedStep

    assert isinstance(net, nn.Sequential)  # noqa: S101 - it comes from create_model
    assert isinstance(optimizer, PaperSGD)  # noqa: S101 - the default of Settings
    settings = Settings(batch_size=spec.batch)
    dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
    make_step = CapturedStep(
        net, optimizer, prepared, settings, images.flatten(1), accelerate=accelerate, dtype=dtype
    )
    numbers, labels = np.arange(spec.batch), np.arange(spec.batch) % CLASSES
    count = iter(range(2**31))

    def step() -> None:
        seed = next(count)
        make_step(numbers, sample_augment(settings, prepared, seed, numbers), labels, seed)

    return step


def _inference(spec: Spec, device: torch.device, net: nn.Module) -> Step:
    """Make the answer to a batch that is there as the network takes it."""
    called = _fast(spec, net.eval())
    images = _laid_out(spec, torch.randn(spec.batch, 3, CROP, CROP, device=device) * 60)

    def step() -> None:
        with torch.inference_mode(), autocast(device, spec.precision):
            called(images)

    return step


def _laid_out(spec: Spec, images: Tensor) -> Tensor:
    """Lay images out in memory as the peers' users do."""
    if spec.mode == "eager":
        return images
    return images.contiguous(memory_format=_format(spec, images.device))


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


def _matmul(spec: Spec, device: torch.device) -> Step:
    kind = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
    a, b = (torch.randn(spec.side, spec.side, device=device, dtype=kind) for _ in range(2))
    if spec.work == "matmul_onednn":  # what compiled networks call; torch.mm is MKL's on a CPU
        linear = torch.ops.mkldnn._linear_pointwise
        return lambda: linear(a, b, None, "none", [], "")
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _copy(spec: Spec, device: torch.device) -> Step:
    source = torch.ones(spec.side, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
