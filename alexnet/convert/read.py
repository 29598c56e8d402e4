"""Reading a file with weights. Its content tells the format, never its name.

Sizes in a file are compared with the size of the file before memory is allocated.
"""

import mmap
from pathlib import Path

from safetensors import safe_open

from alexnet.convert.caffe import is_caffemodel, read_caffemodel
from alexnet.convert.read_onnx import is_onnx, read_onnx
from alexnet.convert.read_torch import read_torch, read_zip
from alexnet.convert.state_dict import clean_names
from alexnet.convert.weights_file import WeightsFile
from alexnet.convert.wire import Message, WireError
from alexnet.errors import CheckpointError
from alexnet.images.foreign import name_placeholder

MAX_HEADER = 64 << 20
"""Bytes of JSON at the start of a safetensors file. Ours have 1 MB, most of it the mean image."""
FORMATS = "PyTorch (.pth, .pt, .pt2), safetensors, Caffe (.caffemodel), ONNX, NumPy (.npz)"


def read_weights(path: Path) -> WeightsFile:
    """Read a file in any of the formats. Raises `CheckpointError` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
        if not start:
            raise CheckpointError("is empty")
        if placeholder := name_placeholder(start):
            raise CheckpointError(f"is {placeholder}")
        if start[6:9] == b"\0\0{":  # the length of the JSON, and the JSON
            return _read_safetensors(path, int.from_bytes(start[:8], "little"))
        if start.startswith(b"PK\x03\x04"):
            return read_zip(path)
        if start.startswith(b"\x80"):  # a pickle: a file of PyTorch before 1.6
            return read_torch(path)
        return _read_message(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - a broken file can fail anywhere in a reader
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read: {first_line or repr(error)}") from None


def _read_safetensors(path: Path, header: int) -> WeightsFile:
    if header > min(MAX_HEADER, path.stat().st_size - 8):
        raise CheckpointError(f"claims a header of {header:,} bytes")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    return WeightsFile("safetensors", clean_names(tensors), metadata=metadata)


def _read_message(path: Path) -> WeightsFile:
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        message = Message.parse(data)
    except WireError:
        raise CheckpointError(f"is in none of these formats: {FORMATS}") from None
    if is_onnx(message):
        return read_onnx(message)
    if is_caffemodel(message):
        return read_caffemodel(message)
    raise CheckpointError(f"is in none of these formats: {FORMATS}")
