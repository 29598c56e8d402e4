"""Runs, and weights in the files of others, for the tests of import and export."""

import copy
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from network_makers import shrunk
from numpy.typing import NDArray
from torch import nn

from alexnet.config import Settings
from alexnet.networks.initialization import he_initialize
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm
from alexnet.networks.registry import MODELS, create_model, input_shape
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

CLASSES = 6
SIZES = {224: 256, 227: 256, 56: 64, 32: 32, 24: 32}


def use_small(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the networks called `names` have an eighth of their kernels and units for a test."""
    for name in names:
        small = shrunk(name, num_classes=CLASSES).float()

        def build(classes: int, small: nn.Sequential = small) -> nn.Sequential:
            model = copy.deepcopy(small)
            model[-1] = nn.Linear(model[-1].in_features, classes)  # type: ignore[arg-type]
            return model

        monkeypatch.setitem(MODELS, name, build)


def lively(
    name: str, classes: int = CLASSES, ablate: dict[str, str] | None = None
) -> nn.Sequential:
    """Build a network whose weights keep the signal of 0-255 images at its size."""
    torch.manual_seed(len(name))
    model = create_model(name, classes, ablate=ablate)
    he_initialize(model, pixel_std=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_()
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(500, 2000)
    return model.eval()


def write_run(
    path: Path, model: nn.Sequential, name: str, ablate: dict[str, str] | None = None
) -> Run:
    """Make a run directory of a network, with a mean image that differs from pixel to pixel."""
    crop = input_shape(name)[1]
    side = SIZES[crop]
    mean = torch.rand((3, side, side), generator=torch.Generator().manual_seed(0)) * 30 + 100
    identity = tuple(tuple(float(i == j) for j in range(3)) for i in range(3))
    preprocessing = Preprocessing(side, crop, mean, (50.0, 20.0, 10.0), identity)
    classes = [f"n{index:08d}" for index in range(model[-1].out_features)]  # type: ignore[arg-type]
    titles = [f"thing {index}, named" for index in range(len(classes))]
    note = {"data": {"path": "made", "fingerprint": ""}}
    settings = Settings(model=name, ablate=ablate or {})
    run = Run.write(path, settings, classes, titles, preprocessing, note)
    checkpoint_store.save(path, model, torch.optim.SGD(model.parameters()), Position())
    return run


def pixels(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make smooth images that use the whole range: (count, size, size, 3)."""
    coarse = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) * 255
    fine = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255).round()
    return fine.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def centre(images: NDArray[np.uint8], crop: int) -> NDArray[np.float64]:
    """Cut out the centre of images: (N, 3, crop, crop) float64 RGB."""
    start = (images.shape[1] - crop) // 2
    cut = images[:, start : start + crop, start : start + crop]
    return cut.transpose(0, 3, 1, 2).astype(np.float64)


class OneWeirdTrick(nn.Module):
    """torchvision's alexnet as its documentation describes it, with its names."""

    def __init__(self, widths: Sequence[int], units: int, classes: int) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(e * 36, units), nn.ReLU(),
            nn.Dropout(), nn.Linear(units, units), nn.ReLU(),
            nn.Linear(units, classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images to logits."""
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def small_torchvision(classes: int = CLASSES) -> OneWeirdTrick:
    """Build the network above with an eighth of its kernels, as `use_small` makes ours."""
    torch.manual_seed(3)
    return OneWeirdTrick((8, 24, 48, 32, 32), 512, classes).eval()


# Caffe's messages, as the protobuf library writes them.

_FIELDS = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False),
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
    ],
    "LayerParameter": [
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("bottom", 3, "string", True),
        ("top", 4, "string", True),
        ("blobs", 7, "BlobProto", True),
        ("lrn_param", 118, "LRNParameter", False),
        ("pooling_param", 121, "PoolingParameter", False),
    ],
    "LRNParameter": [("norm_region", 4, "int32", False)],
    "PoolingParameter": [("pool", 1, "int32", False)],
    "V1LayerParameter": [
        ("bottom", 2, "string", True),
        ("top", 3, "string", True),
        ("name", 4, "string", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "BlobProto", True),
        ("lrn_param", 18, "LRNParameter", False),
        ("pooling_param", 19, "PoolingParameter", False),
    ],
    "NetParameter": [
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ],
}


def _messages() -> dict[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", package="caffe_test")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe_test.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
            field.options.packed = repeated and kind in ("float", "int64")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_test.{name}"))
        for name in _FIELDS
    }


CAFFE = _messages()
CAFFE_TYPES = {
    nn.Conv2d: ("Convolution", 4),
    nn.Linear: ("InnerProduct", 14),
    nn.ReLU: ("ReLU", 18),
    nn.MaxPool2d: ("Pooling", 17),
    nn.AvgPool2d: ("Pooling", 17),
    LocalResponseNorm: ("LRN", 15),
    SpatialResponseNorm: ("LRN", 15),
    nn.Dropout: ("Dropout", 6),
}


def caffemodel(model: nn.Sequential, *, version: int = 2, bgr: bool = True) -> bytes:
    """Write a network as Caffe does: of today (2), or of 2014 with four dimensions a blob (1)."""
    net = CAFFE["NetParameter"](name="made")
    first = True
    for name, row in model.named_children():
        kind = CAFFE_TYPES.get(type(row))
        if kind is None:
            continue
        layer = net.layer.add() if version == 2 else net.layers.add()
        layer.name, layer.type = name, kind[2 - version]
        if isinstance(row, SpatialResponseNorm):
            layer.lrn_param.norm_region = 1
        if isinstance(row, nn.AvgPool2d):
            layer.pooling_param.pool = 1
        for part, parameter in row.named_parameters():
            array = parameter.detach().numpy()
            if first and part == "weight" and bgr:
                array, first = array[:, ::-1], False
            blob = layer.blobs.add(data=array.ravel())
            if version == 2:
                blob.shape.dim.extend(array.shape)
            else:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
    return bytes(net.SerializeToString())


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over loopback and give its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
