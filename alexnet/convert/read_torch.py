"""Reading PyTorch's files: of torch.save, and programs of torch.export.

No pickle is executed: torch.save's files are read by PyTorch's loader for plain tensors, which
refuses all else. Of a program only the weights are read, which are plain numbers in a zip archive.
"""

import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.convert.read_numpy import read_npz
from alexnet.convert.state_dict import clean_names, find_state_dict
from alexnet.convert.weights_file import WeightsFile
from alexnet.errors import CheckpointError
from alexnet.storage.untrusted import parse_json

PROGRAM_WEIGHTS = "data/weights/model_weights_config.json"
PROGRAM_CARD = "extra/card.json"
PROGRAM_TYPES = {5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8"}
"""The types of tensors that are read, by ScalarType in torch/_export/serde/schema.py."""

_WAY_OUT = "save the weights alone where it was made: torch.save(model.state_dict(), FILE)"


def read_zip(path: Path) -> WeightsFile:
    """Read a zip archive of PyTorch or NumPy, if it is uncompressed and of its real size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise CheckpointError(f"is a program of TorchScript: {_WAY_OUT}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError("is a compressed archive, not a file of torch.save or np.savez")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError("claims to hold more than its own size")
        if entries and all(entry.filename.endswith(".npy") for entry in entries):
            return read_npz(archive)
        for entry in entries:
            if entry.filename.endswith(f"/{PROGRAM_WEIGHTS}"):
                return _read_program(archive, entry.filename.removesuffix(PROGRAM_WEIGHTS))
    return read_torch(path)


def read_torch(path: Path) -> WeightsFile:
    """Read a file of torch.save, of any version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old storages; the user cannot act on them
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its text recommends running the pickle
            raise CheckpointError(f"cannot be read: {_explain(str(error))}") from None
    tensors = find_state_dict(content)
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{name} claims more numbers than the file holds")
    return WeightsFile("PyTorch file", tensors)


def _explain(error: str) -> str:
    """Say which object the loader refused, and the way out."""
    match = re.search(r"GLOBAL ([\w.]{1,80})", error)
    if match is None:
        return "it is damaged or holds other things than tensors; nothing was run"
    numpy = " (of a NumPy number or array)" if match[1].startswith("numpy.") else ""
    return (
        f"it needs {match[1]}{numpy}, but only tensors, texts and plain numbers are read; nothing "
        f"was run; {_WAY_OUT}"
    )


def _read_program(archive: zipfile.ZipFile, root: str) -> WeightsFile:
    """Read the weights of a torch.export program, and the card that `alexnet export` adds."""
    config = parse_json(archive.read(f"{root}{PROGRAM_WEIGHTS}"))["config"]
    tensors = {name: _program_tensor(archive, root, name, config[name]) for name in config}
    texts = {}
    if f"{root}{PROGRAM_CARD}" in archive.namelist():
        texts = {
            str(k): str(v) for k, v in parse_json(archive.read(f"{root}{PROGRAM_CARD}")).items()
        }
    return WeightsFile("torch.export program", clean_names(tensors), metadata=texts)


def _program_tensor(archive: zipfile.ZipFile, root: str, name: str, entry: Any) -> Tensor:
    meta = entry["tensor_meta"]
    shape = [size["as_int"] for size in meta["sizes"]]
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    strides = [stride["as_int"] for stride in meta["strides"]]
    dtype = PROGRAM_TYPES.get(meta["dtype"])
    if dtype is None or entry["use_pickle"] or strides != steps or meta["storage_offset"]["as_int"]:
        raise CheckpointError(f"stores {name} in another way than as plain floating-point numbers")
    values = np.frombuffer(archive.read(f"{root}data/weights/{entry['path_name']}"), dtype)
    if min(shape, default=1) < 1 or math.prod(shape) != len(values):
        sizes = " x ".join(map(str, shape[:8]))
        raise CheckpointError(f"{name} of shape {sizes} holds {len(values):,} numbers")
    return torch.from_numpy(values.reshape(shape).copy())
