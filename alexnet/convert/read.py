"""Reading a file with weights. Its content tells the format, never its name.

No pickle is executed: PyTorch's files are read by its loader for plain tensors, which refuses all
else. Sizes in a file are compared with the size of the file before memory is allocated.
"""

import mmap
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from alexnet.convert.caffe import is_caffemodel, read_caffemodel
from alexnet.convert.read_onnx import is_onnx, read_onnx
from alexnet.convert.weights_file import WeightsFile
from alexnet.convert.wire import Message, WireError
from alexnet.errors import CheckpointError

MAX_HEADER = 64 << 20
"""Bytes of JSON at the start of a safetensors file. Ours have 1 MB, most of it the mean image."""
FORMATS = "PyTorch (.pth, .pt), safetensors, Caffe (.caffemodel), ONNX"


def read_weights(path: Path) -> WeightsFile:
    """Read a file in any of the formats. Raises `CheckpointError` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if not start:
            raise CheckpointError("is empty")
        if start[6:9] == b"\0\0{":  # the length of the JSON, and the JSON
            return _read_safetensors(path, int.from_bytes(start[:8], "little"))
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if start.startswith(b"\x80"):  # a pickle: a file of PyTorch before 1.6
            return _read_torch(path)
        return _read_message(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - a broken file can fail anywhere in a reader
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read: {first_line or repr(error)}") from None


def _read_zip(path: Path) -> WeightsFile:
    """Read a file of torch.save after checking that it is uncompressed and of its real size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("is a compressed archive, not a file of torch.save")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError("claims to hold more than its own size")
    return _read_torch(path)


def _read_torch(path: Path) -> WeightsFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old storages; the user cannot act on them
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # its text recommends running the pickle
            raise CheckpointError(
                "cannot be read: it is damaged or holds other things than tensors; nothing was run"
            ) from None
    # Checkpoints of training scripts also hold other things.
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not weights by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{name} claims more numbers than the file holds")
    return WeightsFile("PyTorch file", _without_module(tensors))


def _read_safetensors(path: Path, header: int) -> WeightsFile:
    if header > min(MAX_HEADER, path.stat().st_size - 8):
        raise CheckpointError(f"claims a header of {header:,} bytes")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    return WeightsFile("safetensors", _without_module(tensors), metadata=metadata)


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


def _without_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove "module." from the names, which PyTorch's DataParallel adds."""
    return {name.replace("module.", ""): tensor for name, tensor in tensors.items()}
