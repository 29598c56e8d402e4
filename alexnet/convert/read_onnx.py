"""Reading the weights of an ONNX file's convolutions and fully connected layers.

This needs no ONNX library. Field numbers are those of onnx.proto in onnx/onnx.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.convert.card import MODEL_KEY
from alexnet.convert.weights_file import Kind, WeightsFile
from alexnet.convert.wire import BYTES, VARINT, Message, WireError

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_METADATA = 1, 7, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE = 1, 3, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT = 1, 2, 3
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW, TENSOR_LOCATION = (
    1, 2, 4, 8, 9, 14,
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "Conv": "conv",
    "Gemm": "fc",
    "Relu": "relu",
    "LRN": "norm",
    "MaxPool": "pool",
}
LAYERS = ("conv", "fc")
TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""The types of weights that are read, by TensorProto.DataType."""


def is_onnx(message: Message) -> bool:
    """Check whether a message is a ModelProto."""
    return message.has(MODEL_IR_VERSION, VARINT) and message.has(MODEL_GRAPH, BYTES)


def read_onnx(message: Message) -> WeightsFile:
    """Read a ModelProto. Raises `WireError` for an inconsistent one."""
    metadata = {
        entry.text(ENTRY_KEY): entry.text(ENTRY_VALUE) for entry in message.messages(MODEL_METADATA)
    }
    graph = message.message(MODEL_GRAPH)
    tensors = {tensor.text(TENSOR_NAME): tensor for tensor in graph.messages(GRAPH_INITIALIZER)}
    operators = [node.text(NODE_OP) for node in graph.messages(GRAPH_NODE)]
    kinds = [KINDS[operator] for operator in operators if operator in KINDS]
    layers = [row for row, operator in enumerate(operators) if KINDS.get(operator) in LAYERS]
    sigmoid = "Sigmoid" in operators[max(layers, default=0) :]
    if MODEL_KEY in metadata:  # written by us: the tensors have the names of the state dict
        if any(name.endswith("_quantized") for name in tensors):
            raise WireError("its weights have 8 bits: import the file exported without --int8")
        arrays = ((name, _array(tensor)) for name, tensor in tensors.items() if "." in name)
    else:
        nodes = graph.messages(GRAPH_NODE)
        arrays = (found for node in nodes for found in _layer_weights(node, tensors))
    weights = {name: torch.from_numpy(array) for name, array in arrays}
    return WeightsFile("ONNX", weights, tuple(kinds), metadata, ordered=True, sigmoid=sigmoid)


def _layer_weights(
    node: Message, tensors: dict[str, Message]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the weight and bias of a node, if it has them, named after the node."""
    inputs, kind = node.texts(NODE_INPUT), KINDS.get(node.text(NODE_OP))
    if kind not in LAYERS:
        return
    layer = node.text(NODE_NAME) or (inputs[1] if len(inputs) > 1 else "")
    for part, name in zip(("weight", "bias"), inputs[1:], strict=False):
        # Each tensor is used once: many nodes with the same one would fill the memory with copies.
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise WireError(f"{layer}: its {part} {name} is not in the file, or used before")
        array = _array(tensor)
        if kind == "fc" and part == "weight" and not _gemm_is_transposed(node):
            array = np.ascontiguousarray(array.T)
        yield f"{layer}.{part}", array


def _gemm_is_transposed(node: Message) -> bool:
    """Check whether a Gemm's matrix is (out, in); raise `WireError` for one that also scales."""
    transposed = False
    for attribute in node.messages(NODE_ATTRIBUTE):
        name = attribute.text(ATTRIBUTE_NAME)
        if name in ("alpha", "beta") and attribute.float32(ATTRIBUTE_FLOAT) not in (None, 1.0):
            raise WireError(f"a Gemm has {name} = {attribute.float32(ATTRIBUTE_FLOAT)}, not 1")
        if name == "transB":
            transposed = bool(attribute.integer(ATTRIBUTE_INT, 0))
    return transposed


def _array(tensor: Message) -> NDArray[np.float32]:
    name, shape = tensor.text(TENSOR_NAME), tensor.integers(TENSOR_DIMS)
    if tensor.integer(TENSOR_LOCATION, 0):
        raise WireError(f"{name} is stored in another file: save the model as one file")
    dtype = TYPES.get(tensor.integer(TENSOR_TYPE, 0))
    if dtype is None:
        raise WireError(f"{name} is not stored as floating-point numbers")
    values = tensor.numbers(TENSOR_RAW, dtype)
    if not len(values) and dtype == "<f4":
        values = tensor.numbers(TENSOR_FLOATS, dtype)
    if len(shape) > 8 or min(shape, default=1) < 1 or math.prod(shape) != len(values):
        sizes = " x ".join(map(str, shape[:8]))
        raise WireError(f"{name} of shape {sizes} holds {len(values):,} numbers")
    return values.reshape(shape).astype(np.float32)
