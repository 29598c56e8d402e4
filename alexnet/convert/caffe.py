"""Caffe's files: networks with weights (.caffemodel) and mean images (.binaryproto).

Field numbers are those of caffe.proto in BVLC/caffe. Caffe's images are BGR: mean images are
converted to RGB here, weights in `origins.py`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.summary import forward_shapes, image_shape
from alexnet.convert.weights_file import Kind, WeightsFile
from alexnet.convert.wire import (
    BYTES,
    VARINT,
    Message,
    WireError,
    bytes_field,
    varint_field,
)
from alexnet.errors import UsageError
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm
from alexnet.storage.untrusted import parse_json

DEPLOY, WEIGHTS, MEAN = "deploy.prototxt", "weights.caffemodel", "mean.binaryproto"

# NetParameter, LayerParameter, and V1LayerParameter, which the files published in 2012-14 use.
NET_NAME, NET_LAYERS_V1, NET_LAYER = 1, 2, 100
NET_CARD = 20120
"""Not in caffe.proto, so that other readers skip it: the card (see `card.py`) as JSON."""
LAYER_NAME, LAYER_TYPE, LAYER_BOTTOM, LAYER_TOP, LAYER_BLOBS = 1, 2, 3, 4, 7
LAYER_LRN, LAYER_POOLING = 118, 121
V1_NAME, V1_TYPE, V1_BLOBS, V1_LRN, V1_POOLING = 4, 5, 6, 18, 19
LRN_REGION, WITHIN_CHANNEL = 4, 1
POOLING_METHOD, AVERAGE = 1, 1
# BlobProto and BlobShape.
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, SHAPE_DIM = (1, 2, 3, 4), 5, 7, 1

KINDS: dict[str | int, Kind] = {
    "Convolution": "conv",
    "InnerProduct": "fc",
    "ReLU": "relu",
    "LRN": "norm",
    "Pooling": "pool",
    # V1LayerParameter.LayerType
    4: "conv",
    14: "fc",
    18: "relu",
    15: "norm",
    17: "pool",
}
SIGMOIDS = ("Sigmoid", "SigmoidCrossEntropyLoss", 19, 27)
FORMAT = "Caffe model"


def is_caffemodel(message: Message) -> bool:
    """Check whether a message is a NetParameter with layers."""
    layers = message.has(NET_LAYER, BYTES) or message.has(NET_LAYERS_V1, BYTES)
    return layers and not message.has(NET_NAME, VARINT)  # an integer here means ONNX


def read_caffemodel(message: Message) -> WeightsFile:
    """Read a NetParameter: weights for BGR. Raises `WireError` for an inconsistent one."""
    weights: dict[str, Tensor] = {}
    kinds: list[Kind] = []
    sigmoid = False
    for layer in _layers(message):
        sigmoid = layer.type in SIGMOIDS or (sigmoid and not layer.blobs)
        if layer.kind:
            kinds.append(layer.kind)
        for part, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            # The first Caffe wrote all blobs with four dimensions: fc6 is 1 x 1 x 4096 x 9216.
            rank = 1 if part == "bias" else 4 if layer.kind == "conv" else 2
            weights[f"{layer.name}.{part}"] = torch.from_numpy(_without_ones(blob, rank).copy())
    card = dict(parse_json(message.text(NET_CARD) or "{}"))
    metadata = {str(key): str(value) for key, value in card.items()}
    return WeightsFile(FORMAT, weights, tuple(kinds), metadata, ordered=True, sigmoid=sigmoid)


def read_binaryproto(data: bytes) -> NDArray[np.float32]:
    """Read a mean image: (height, width, 3) float32 RGB. Raises `WireError`."""
    array = _without_ones(_blob(Message.parse(memoryview(data))), 3)
    if array.ndim != 3 or len(array) != 3:
        raise WireError(f"a mean image of shape {array.shape}, not (3, height, width)")
    return np.ascontiguousarray(array[::-1].transpose(1, 2, 0))


class _Layer(NamedTuple):
    """A layer of a NetParameter; `kind` is None where it is none of `KINDS`."""

    name: str
    type: str | int
    kind: Kind | None
    blobs: list[NDArray[np.float32]]


def _layers(message: Message) -> Iterator[_Layer]:
    for layer in message.messages(NET_LAYER):
        blobs = [_blob(blob) for blob in layer.messages(LAYER_BLOBS)]
        name, kind = layer.text(LAYER_NAME), layer.text(LAYER_TYPE)
        yield _Layer(name, kind, _kind(layer, kind, LAYER_LRN, LAYER_POOLING), blobs)
    for layer in message.messages(NET_LAYERS_V1):
        blobs = [_blob(blob) for blob in layer.messages(V1_BLOBS)]
        name, number = layer.text(V1_NAME), layer.integer(V1_TYPE, 0)
        yield _Layer(name, number, _kind(layer, number, V1_LRN, V1_POOLING), blobs)


def _kind(layer: Message, layer_type: str | int, lrn: int, pooling: int) -> Kind | None:
    """Return the kind of a layer whose parameters of norms and pools have these field numbers."""
    kind = KINDS.get(layer_type)
    if kind == "norm" and layer.message(lrn).integer(LRN_REGION, 0) == WITHIN_CHANNEL:
        return "snorm"
    if kind == "pool" and layer.message(pooling).integer(POOLING_METHOD, 0) == AVERAGE:
        return "avgpool"
    return kind


def _blob(message: Message) -> NDArray[np.float32]:
    shape = message.message(BLOB_SHAPE).integers(SHAPE_DIM)
    shape = shape or [message.integer(number, 1) for number in BLOB_OLD_SHAPE]
    values = message.numbers(BLOB_DATA, "<f4")
    if not shape or len(shape) > 8 or min(shape) < 1 or math.prod(shape) != len(values):
        sizes = " x ".join(map(str, shape[:8]))
        raise WireError(f"a blob of shape {sizes} holds {len(values):,} numbers")
    return values.reshape(shape).astype(np.float32, copy=False)


def _without_ones(array: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    """Remove leading dimensions of 1 until `rank` are left."""
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    return array


# Writing.


def write_caffe(
    name: str,
    model: nn.Sequential,
    mean: NDArray[np.float32],
    folder: Path,
    card: Mapping[str, str] | None = None,
) -> None:
    """Write the network, its weights and its mean image into `folder`.

    `mean` is (size, size, 3) RGB. `model` takes RGB images; the files are for BGR images. The
    texts of a card are stored with the weights.
    Raises `UsageError` for a network that Caffe cannot express.
    """
    rows = _caffe_rows(model)
    (folder / DEPLOY).write_text(_prototxt(name, rows), encoding="utf-8")
    with (folder / WEIGHTS).open("wb") as file:
        _write_caffemodel(file, name, rows)
        file.write(bytes_field(NET_CARD, json.dumps(card)) if card else b"")
    bgr = mean.transpose(2, 0, 1)[::-1]
    (folder / MEAN).write_bytes(_old_blob_bytes(np.ascontiguousarray(bgr)))


@dataclass
class _Row:
    """A layer of a Caffe network: name, type, parameters as text, and blobs."""

    name: str
    kind: str
    text: str = ""
    blobs: list[Tensor] = field(default_factory=list)


def _caffe_rows(model: nn.Sequential) -> list[_Row]:
    """Translate each row; raise `UsageError` for the first that Caffe does not have."""
    shape: tuple[int, ...] = image_shape(model)
    rows = [_Row("data", "Input", _input_text(shape))]
    for name, row, output in forward_shapes(model, image_shape(model))[1:]:
        if type(row) not in _WRITERS:
            raise UsageError(f"Caffe has no layer like {name} ({type(row).__name__})")
        rows.append(_WRITERS[type(row)](row, name, shape, output))
        shape = output
    first = next(row for row in rows if row.blobs)
    first.blobs[0] = first.blobs[0].flip(1)  # its inputs are the colours: BGR
    return [*rows, _Row("prob", "Softmax")]


def _input_text(shape: tuple[int, ...]) -> str:
    dims = " ".join(f"dim: {size}" for size in (10, *shape))  # 10 images, as in BVLC's files
    return f"input_param {{ shape {{ {dims} }} }}"


def _convolution(row: nn.Conv2d, name: str, _input: Any, _output: Any) -> _Row:
    text = (
        f"convolution_param {{ num_output: {row.out_channels} pad: {row.padding[0]} "
        f"kernel_size: {row.kernel_size[0]} stride: {row.stride[0]} group: {row.groups} }}"
    )
    return _Row(name, "Convolution", text, _blobs(row))


def _fully_connected(row: nn.Linear, name: str, _input: Any, _output: Any) -> _Row:
    text = f"inner_product_param {{ num_output: {row.out_features} }}"
    return _Row(name, "InnerProduct", text, _blobs(row))


def _norm(row: LocalResponseNorm, name: str, _input: Any, _output: Any) -> _Row:
    if row.k != 1 or row.towers != 1:
        raise UsageError(
            f"{name} has k = {row.k:g} and {row.towers} towers; Caffe's files can express only "
            f"k = 1 over all channels (OpenCV reads any k as 1)"
        )
    alpha = row.alpha * row.size  # Caffe divides by the size
    text = f"local_size: {row.size} alpha: {alpha:.9g} beta: {row.beta:.9g}"
    return _Row(name, "LRN", f"lrn_param {{ {text} }}")


def _spatial_norm(row: SpatialResponseNorm, name: str, _input: Any, _output: Any) -> _Row:
    alpha = row.alpha * row.size**2  # Caffe divides by the pixels of the window
    text = f"local_size: {row.size} alpha: {alpha:.9g} beta: {row.beta:.9g}"
    return _Row(name, "LRN", f"lrn_param {{ norm_region: WITHIN_CHANNEL {text} }}")


def _pool(
    row: nn.MaxPool2d | nn.AvgPool2d, name: str, shape: tuple[int, ...], output: tuple[int, ...]
) -> _Row:
    kernel, stride = int(row.kernel_size), int(row.stride)  # type: ignore[arg-type] # ours are
    side = math.ceil((shape[1] - kernel) / stride) + 1  # Caffe rounds up
    if row.padding or side != output[1]:
        raise UsageError(f"{name} gives {output[1]} x {output[2]}, in Caffe {side} x {side}")
    method = "MAX" if isinstance(row, nn.MaxPool2d) else "AVE"
    text = f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} }}"
    return _Row(name, "Pooling", text)


_WRITERS: dict[type[nn.Module], Callable[[Any, str, Any, Any], _Row]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _fully_connected,
    LocalResponseNorm: _norm,
    SpatialResponseNorm: _spatial_norm,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    nn.ReLU: lambda _row, name, _input, _output: _Row(name, "ReLU"),
    nn.Tanh: lambda _row, name, _input, _output: _Row(name, "TanH"),
    nn.Sigmoid: lambda _row, name, _input, _output: _Row(name, "Sigmoid"),
    nn.Flatten: lambda _row, name, _input, _output: _Row(name, "Flatten"),
    nn.Dropout: lambda row, name, _input, _output: _Row(
        name, "Dropout", f"dropout_param {{ dropout_ratio: {row.p:g} }}"
    ),
}


def _blobs(row: nn.Module) -> list[Tensor]:
    return [row.get_parameter(part).detach().cpu().float() for part in ("weight", "bias")]


def _prototxt(name: str, rows: list[_Row]) -> str:
    lines, before = [f'name: "{name}"'], ""
    for row in rows:
        bottom = f' bottom: "{before}"' if before else ""
        parts = [f'name: "{row.name}" type: "{row.kind}"{bottom} top: "{row.name}"', row.text]
        lines.append(f"layer {{ {' '.join(filter(None, parts))} }}")
        before = row.name
    return "\n".join(lines) + "\n"


def _write_caffemodel(file: BinaryIO, name: str, rows: list[_Row]) -> None:
    file.write(bytes_field(NET_NAME, name))
    before = ""
    for row in rows:
        layer = bytes_field(LAYER_NAME, row.name) + bytes_field(LAYER_TYPE, row.kind)
        layer += bytes_field(LAYER_BOTTOM, before) if before else b""
        layer += bytes_field(LAYER_TOP, row.name)
        layer += b"".join(bytes_field(LAYER_BLOBS, _blob_bytes(blob)) for blob in row.blobs)
        file.write(bytes_field(NET_LAYER, layer))
        before = row.name


def _blob_bytes(blob: Tensor) -> bytes:
    dims = b"".join(varint_field(SHAPE_DIM, size) for size in blob.shape)
    data = np.ascontiguousarray(blob.numpy(), "<f4").tobytes()
    return bytes_field(BLOB_DATA, data) + bytes_field(BLOB_SHAPE, dims)


def _old_blob_bytes(array: NDArray[np.float32]) -> bytes:
    """Write a blob with its shape in the four old fields, as in Caffe's own mean images."""
    shape = (1, *array.shape)
    sizes = zip(BLOB_OLD_SHAPE, shape, strict=True)
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return b"".join(varint_field(*size) for size in sizes) + bytes_field(BLOB_DATA, data)
