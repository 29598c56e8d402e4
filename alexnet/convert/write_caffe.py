"""Writing a network for Caffe: deploy.prototxt, weights.caffemodel, mean.binaryproto.

What Caffe cannot express is refused with its reason; see `read_caffe.py` for the numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.summary import forward_shapes, input_shape
from alexnet.convert.read_caffe import (
    BLOB_DATA,
    BLOB_OLD_SHAPE,
    BLOB_SHAPE,
    LAYER_BLOBS,
    LAYER_BOTTOM,
    LAYER_NAME,
    LAYER_TOP,
    LAYER_TYPE,
    NET_LAYER,
    NET_NAME,
    SHAPE_DIM,
)
from alexnet.convert.wire import bytes_field, varint_field
from alexnet.errors import UsageError
from alexnet.networks.layers import LocalResponseNorm


def write_caffe(name: str, model: nn.Sequential, mean: NDArray[np.float32], folder: Path) -> None:
    """Write deploy.prototxt, weights.caffemodel and mean.binaryproto into `folder`.

    `mean` is (size, size, 3) RGB; `model`, which takes RGB images, is written as one for BGR.
    Raises `UsageError` for a network that has no equal in Caffe.
    """
    rows = _caffe_rows(model)
    (folder / "deploy.prototxt").write_text(_prototxt(name, rows), encoding="utf-8")
    with (folder / "weights.caffemodel").open("wb") as file:
        _write_caffemodel(file, name, rows)
    bgr = mean.transpose(2, 0, 1)[::-1]
    (folder / "mean.binaryproto").write_bytes(_old_blob_bytes(np.ascontiguousarray(bgr)))


@dataclass
class _Row:
    """A layer of Caffe's: its name, type, parameters as text, and blobs."""

    name: str
    kind: str
    text: str = ""
    blobs: list[Tensor] = field(default_factory=list)


def _caffe_rows(model: nn.Sequential) -> list[_Row]:
    """Translate each row; raise `UsageError` that names the first that has no equal."""
    shape: tuple[int, ...] = input_shape(model)
    rows = [_Row("data", "Input", _input_text(shape))]
    for name, row, output in forward_shapes(model, input_shape(model))[1:]:
        if type(row) not in _WRITERS:
            raise UsageError(f"Caffe has no layer like {name} ({type(row).__name__})")
        rows.append(_WRITERS[type(row)](row, name, shape, output))
        shape = output
    first = next(row for row in rows if row.blobs)
    first.blobs[0] = first.blobs[0].flip(1)  # it sees the colours: BGR
    return [*rows, _Row("prob", "Softmax")]


def _input_text(shape: tuple[int, ...]) -> str:
    dims = " ".join(f"dim: {size}" for size in (10, *shape))  # 10 images, as BVLC's files have it
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
            f"{name} has k = {row.k:g} and {row.towers} towers; only k = 1 over all channels means "
            f"the same to every reader of Caffe's files (OpenCV takes any k for 1)"
        )
    alpha = row.alpha * row.size  # Caffe divides by the size
    text = f"local_size: {row.size} alpha: {alpha:.9g} beta: {row.beta:.9g}"
    return _Row(name, "LRN", f"lrn_param {{ {text} }}")


def _pool(row: nn.MaxPool2d, name: str, shape: tuple[int, ...], output: tuple[int, ...]) -> _Row:
    kernel, stride = int(row.kernel_size), int(row.stride)  # type: ignore[arg-type] # ours are
    side = math.ceil((shape[1] - kernel) / stride) + 1  # Caffe rounds up
    if row.padding or side != output[1]:
        raise UsageError(f"{name} gives {output[1]} x {output[2]}, in Caffe {side} x {side}")
    text = f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: {stride} }}"
    return _Row(name, "Pooling", text)


_WRITERS: dict[type[nn.Module], Callable[[Any, str, Any, Any], _Row]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _fully_connected,
    LocalResponseNorm: _norm,
    nn.MaxPool2d: _pool,
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
    """Write a blob with its shape in the four fields of old, as Caffe's own mean images have it."""
    shape = (1, *array.shape)
    sizes = zip(BLOB_OLD_SHAPE, shape, strict=True)
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return b"".join(varint_field(*size) for size in sizes) + bytes_field(BLOB_DATA, data)
