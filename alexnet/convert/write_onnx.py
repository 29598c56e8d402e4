"""Writing a network as an ONNX graph: a node for each row of its table, with the row's name.

The graph is made from the table, not traced. So normalisation is one `LRN` node, and every
intermediate result is available by its row's name. A row for which ONNX has no operator becomes
several nodes, such as "snorm2/square"; the last one has the row's name.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import nn

from alexnet.analysis.summary import image_shape
from alexnet.convert.card import Card
from alexnet.errors import UsageError
from alexnet.networks.branches import Branches, Concatenation, Sum
from alexnet.networks.cifar10 import LocallyConnected2d
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout, SpatialResponseNorm
from alexnet.transforms import Preprocessing

OPSET, IR_VERSION = 17, 8
"""Versions of 2022, which have all operators used here and which most engines read."""


def write_onnx(model: nn.Sequential, card: Card, path: Path, *, with_preprocessing: bool) -> None:
    """Write `model`, in evaluation mode, as an ONNX file for batches of any size.

    It maps "input" (batch, 3, crop, crop) float, RGB 0-255 less the mean, to the logits of the last
    row; `with_preprocessing` it maps "images" (batch, size, size, 3) uint8 RGB to "probabilities".
    Raises `UsageError` for an unknown type of row.
    """
    graph = _Graph()
    if with_preprocessing:
        size = card.preprocessing.size
        given = _value("images", TensorProto.UINT8, size, size, 3)
        x = _preprocess(graph, card.preprocessing)
    else:
        given, x = _value("input", TensorProto.FLOAT, *image_shape(model)), "input"
    x = _add_rows(graph, "", model, x)
    if with_preprocessing:
        x = graph.node("Softmax", "probabilities", x, axis=1)
    answer = _value(x, TensorProto.FLOAT, len(card.classes))
    proto = helper.make_model(
        helper.make_graph(graph.nodes, card.model, [given], [answer], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="alexnet",
    )
    helper.set_model_props(proto, card.as_texts())
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _add_rows(graph: "_Graph", prefix: str, model: nn.Module, x: str) -> str:
    """Add the rows of a network, or of a branch; return the name of the last one's output."""
    for name, row in model.named_children():
        if type(row) not in _ROWS:
            raise UsageError(f"{prefix}{name} ({type(row).__name__}) cannot be exported to ONNX")
        x = _ROWS[type(row)](graph, prefix + name, row, x)
    return x


class _Graph:
    """The nodes and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output, which is the node's name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant from a tensor or an array."""
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.array(value)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, name: str, value: float) -> str:
        """Add a constant that is a single number."""
        return self.constant(name, np.array(value, np.float32))

    def weights(self, name: str, row: nn.Module) -> list[str]:
        """Add a row's weight and, if it has one, its bias with their names in the state dict."""
        parts = row.named_parameters(recurse=False)
        return [self.constant(f"{name}.{part}", values.float()) for part, values in parts]


def _value(name: str, kind: int, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])


def _preprocess(graph: _Graph, preprocessing: Preprocessing) -> str:
    """Add what `take_view` does with the centre of an image; the result is the row "input"."""
    start = (preprocessing.size - preprocessing.crop) // 2
    end = start + preprocessing.crop
    bounds = [
        graph.constant(f"crop/{word}", np.array(value, np.int64))
        for word, value in (("starts", [start] * 2), ("ends", [end] * 2), ("axes", [1, 2]))
    ]
    crop = graph.node("Slice", "crop", "images", *bounds)
    planes = graph.node("Transpose", "planes", crop, perm=[0, 3, 1, 2])
    floats = graph.node("Cast", "floats", planes, to=TensorProto.FLOAT)
    return graph.node("Sub", "input", floats, graph.constant("mean", preprocessing.mean))


# The rows: each function adds one row to the graph and returns the name of its output.


def _input(_graph: _Graph, _name: str, _row: Input, x: str) -> str:
    return x


def _pad(graph: _Graph, name: str, row: nn.ZeroPad2d, x: str) -> str:
    left, right, top, bottom = row.padding
    pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    return graph.node("Pad", name, x, graph.constant(f"{name}/pads", pads))


def _convolution(graph: _Graph, name: str, row: nn.Conv2d, x: str) -> str:
    vertical, horizontal = (int(side) for side in row.padding)
    return graph.node(
        "Conv",
        name,
        x,
        *graph.weights(name, row),
        kernel_shape=row.kernel_size,
        strides=row.stride,
        pads=[vertical, horizontal] * 2,
        group=row.groups,
    )


def _local_response_norm(graph: _Graph, name: str, row: LocalResponseNorm, x: str) -> str:
    # ONNX divides alpha by the size.
    values = {"size": row.size, "alpha": row.alpha * row.size, "beta": row.beta, "bias": row.k}
    if row.towers == 1:
        return graph.node("LRN", name, x, **values)
    towers = [f"{name}/tower{number}" for number in range(1, row.towers + 1)]
    graph.nodes.append(helper.make_node("Split", [x], towers, f"{name}/towers", axis=1))
    normed = [graph.node("LRN", f"{tower}/norm", tower, **values) for tower in towers]
    return graph.node("Concat", name, *normed, axis=1)


def _spatial_response_norm(graph: _Graph, name: str, row: SpatialResponseNorm, x: str) -> str:
    square = graph.node("Mul", f"{name}/square", x, x)
    mean = graph.node(
        "AveragePool",
        f"{name}/mean",
        square,
        kernel_shape=[row.size] * 2,
        pads=[row.size // 2] * 4,
        count_include_pad=1,
    )
    alpha = graph.number(f"{name}/alpha", row.alpha * row.size**2)
    scaled = graph.node("Mul", f"{name}/scaled", mean, alpha)
    base = graph.node("Add", f"{name}/base", scaled, graph.number(f"{name}/one", 1))
    power = graph.node("Pow", f"{name}/power", base, graph.number(f"{name}/beta", -row.beta))
    return graph.node("Mul", name, x, power)


def _batch_norm(graph: _Graph, name: str, row: nn.BatchNorm2d, x: str) -> str:
    one, zero = np.ones(row.num_features, np.float32), np.zeros(row.num_features, np.float32)
    values = (
        graph.constant(f"{name}/scale", row.weight if row.affine else one),
        graph.constant(f"{name}/shift", row.bias if row.affine else zero),
        graph.constant(f"{name}.running_mean", row.running_mean),
        graph.constant(f"{name}.running_var", row.running_var),
    )
    return graph.node("BatchNormalization", name, x, *values, epsilon=row.eps)


def _pool(graph: _Graph, name: str, row: nn.MaxPool2d | nn.AvgPool2d, x: str) -> str:
    operator = "MaxPool" if isinstance(row, nn.MaxPool2d) else "AveragePool"
    sizes = {
        "kernel_shape": [row.kernel_size] * 2,
        "strides": [row.stride] * 2,
        "pads": [row.padding] * 4,
    }
    return graph.node(operator, name, x, **sizes, ceil_mode=int(row.ceil_mode))


def _fully_connected(graph: _Graph, name: str, row: nn.Linear, x: str) -> str:
    return graph.node("Gemm", name, x, *graph.weights(name, row), transB=1)


def _grouped(graph: _Graph, name: str, row: GroupedLinear, x: str) -> str:
    """Add a convolution of a 1 x 1 map, which has groups in ONNX."""
    weight, bias = graph.weights(name, row)
    axes = graph.constant(f"{name}/axes", np.array([2, 3], np.int64))
    maps = graph.node("Unsqueeze", f"{name}/maps", x, axes)
    kernels = graph.node("Unsqueeze", f"{name}/kernels", weight, axes)
    units = graph.node("Conv", f"{name}/units", maps, kernels, bias, group=row.groups)
    return graph.node("Flatten", name, units, axis=1)


def _local(graph: _Graph, name: str, row: LocallyConnected2d, x: str) -> str:
    """Add the layer's own steps; a convolution with one-hot kernels extracts the patches."""
    side, area = row.output_size, row.kernel_size**2
    shape = (row.in_channels * area, 1, row.kernel_size, row.kernel_size)
    one_hot = np.tile(np.eye(area, dtype=np.float32), (row.in_channels, 1)).reshape(shape)
    weight, bias = graph.weights(name, row)
    kernels = graph.constant(f"{name}/one_hot", one_hot)
    pads = [row.padding] * 4
    cut = graph.node("Conv", f"{name}/cut", x, kernels, group=row.in_channels, pads=pads)
    rows = graph.constant(f"{name}/rows", np.array([0, shape[0], side**2], np.int64))
    patches = graph.node("Reshape", f"{name}/patches", cut, rows)
    by_position = graph.node("Transpose", f"{name}/by_position", patches, perm=[2, 1, 0])
    products = graph.node("MatMul", f"{name}/products", weight, by_position)
    by_image = graph.node("Transpose", f"{name}/by_image", products, perm=[2, 1, 0])
    sizes = graph.constant(f"{name}/sizes", np.array([0, row.out_channels, side, side], np.int64))
    maps = graph.node("Reshape", f"{name}/maps", by_image, sizes)
    return graph.node("Add", name, maps, bias)


def _branches(graph: _Graph, name: str, row: Branches, x: str) -> str:
    """Add each branch, then what joins them."""
    ends = [_add_rows(graph, f"{name}.{branch}.", rows, x) for branch, rows in row.named_children()]
    if isinstance(row, Sum):
        return graph.node("Sum", name, *ends)
    return graph.node("Concat", name, *ends, axis=1)


def _operator(operator: str, **attributes: Any) -> "_Writer":
    """Make the function for rows without weights or constants."""

    def write(graph: _Graph, name: str, _row: nn.Module, x: str) -> str:
        return graph.node(operator, name, x, **attributes)

    return write


def _paper_dropout(graph: _Graph, name: str, row: PaperDropout, x: str) -> str:
    return graph.node("Mul", name, x, graph.number(f"{name}/keep", 1 - row.p))


_Writer = Callable[[_Graph, str, Any, str], str]
_ROWS: dict[type[nn.Module], _Writer] = {
    Input: _input,
    nn.ZeroPad2d: _pad,
    nn.Conv2d: _convolution,
    LocalResponseNorm: _local_response_norm,
    SpatialResponseNorm: _spatial_response_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _operator("Relu"),
    nn.Tanh: _operator("Tanh"),
    nn.Sigmoid: _operator("Sigmoid"),
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    LocallyConnected2d: _local,
    nn.Flatten: _operator("Flatten", axis=1),
    nn.Linear: _fully_connected,
    GroupedLinear: _grouped,
    nn.Dropout: _operator("Dropout"),  # does nothing at inference
    PaperDropout: _paper_dropout,
    Sum: _branches,
    Concatenation: _branches,
}


# Quantisation.


def quantize(source: Path, path: Path) -> None:
    """Write `source` with its fully connected layers in 8-bit integers to `path`, for CPUs.

    They hold 96 % of the weights, so the file has about a quarter of the size. Inputs of layers are
    scaled at run time ("dynamic"), which needs no calibration images. The integers are unsigned,
    with a scale for each unit: CPUs without VNNI add products of signed ones in 16 bits, which
    overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    metadata = list(model.metadata_props)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a preparation that these graphs do not need
    try:
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QUInt8,
            per_channel=True,
        )
    finally:
        logger.setLevel(level)
    quantized = onnx.load(path)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(metadata)
    onnx.save(quantized, path)
