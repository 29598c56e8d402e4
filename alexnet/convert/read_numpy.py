"""Reading NumPy's archives (.npz): arrays by name, as np.savez writes them."""

import io
import zipfile

import numpy as np
import torch
from torch import Tensor

from alexnet.convert.state_dict import clean_names
from alexnet.convert.weights_file import WeightsFile
from alexnet.errors import CheckpointError
from alexnet.storage.untrusted import read_array_header

FORMAT = "NumPy archive"


def read_npz(archive: zipfile.ZipFile) -> WeightsFile:
    """Read the arrays of an uncompressed archive.

    Raises `CheckpointError` for others than floating-point numbers, `ValueError` for damage.
    """
    tensors = {
        entry.filename.removesuffix(".npy"): _read_array(archive.read(entry), entry.filename)
        for entry in archive.infolist()
    }
    return WeightsFile(FORMAT, clean_names(tensors))


def _read_array(data: bytes, name: str) -> Tensor:
    header = read_array_header(io.BytesIO(data))
    if header.dtype.kind != "f":
        raise CheckpointError(f"stores {name} as {header.dtype}, not as floating-point numbers")
    if len(data) != header.offset + header.bytes:
        raise ValueError(f"{name}: {len(data) - header.offset:,} bytes for shape {header.shape}")
    values = np.frombuffer(data, header.dtype, offset=header.offset)
    array = values.reshape(header.shape, order="F" if header.is_fortran else "C")
    return torch.from_numpy(np.array(array, header.dtype.newbyteorder("="), order="C"))
