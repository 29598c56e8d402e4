"""The export formats: writing each file, and opening it again to compare its answers.

Where possible another engine than the network's own opens the file: ONNX Runtime, the program that
torch.export made, OpenCV 4 for Caffe's files where it is installed.
"""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet.convert.caffe import DEPLOY, WEIGHTS, write_caffe
from alexnet.convert.card import Card
from alexnet.convert.compare import Engine, centre, engine_of
from alexnet.convert.origins import ORIGINS, convert_first_layer
from alexnet.convert.read import read_weights
from alexnet.errors import UsageError
from alexnet.networks.initialization import weight_layers
from alexnet.storage.checkpoint_format import Position, Saved, load_weights
from alexnet.transforms import Preprocessing


@dataclass(frozen=True)
class Format:
    """How a file of one format is written, and opened to be compared with the network."""

    write: Callable[[nn.Sequential, Card, Path], None]
    open: Callable[[Path, nn.Sequential, Preprocessing], tuple[str, Engine]]
    """Returns the engine and its name. It takes only the table from the network."""
    ending: str
    """Of the file's name; "" for a folder."""
    needs: tuple[str, ...] = ()
    """Packages that are not installed with alexnet alone."""


def require_packages(packages: tuple[str, ...]) -> None:
    """Raise `UsageError`, which says how to install `packages`, where one is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing: pip install 'alexnet[export]'")


# ONNX, see write_onnx.py.


def write_onnx_file(
    model: nn.Sequential, card: Card, path: Path, *, with_preprocessing: bool = False
) -> None:
    """Write the network, or all from stored images to probabilities `with_preprocessing`."""
    from alexnet.convert.write_onnx import write_onnx

    write_onnx(model, card, path, with_preprocessing=with_preprocessing)


def open_onnx(
    path: Path, _model: nn.Sequential, preprocessing: Preprocessing
) -> tuple[str, Engine]:
    """Open an ONNX file, with or without preprocessing, with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]

    def answer(images: NDArray[np.uint8]) -> Tensor:
        stored = given.type == "tensor(uint8)"
        x = images if stored else centre(images, preprocessing).numpy()
        return torch.from_numpy(session.run(None, {given.name: x})[0])

    return f"ONNX Runtime {onnxruntime.__version__}", answer


# torch.export.


def write_torch_export(model: nn.Sequential, card: Card, path: Path) -> None:
    """Write the network as a torch.export program for batches of any size."""
    example = torch.zeros((2, 3, card.preprocessing.crop, card.preprocessing.crop))
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"card.json": json.dumps(card.as_texts())})
    path.write_bytes(content.getbuffer())


def open_torch_export(
    path: Path, _model: nn.Sequential, preprocessing: Preprocessing
) -> tuple[str, Engine]:
    """Load the program."""
    program = torch.export.load(io.BytesIO(path.read_bytes()))
    return f"torch.export {torch.__version__}", engine_of(program.module(), preprocessing)


# safetensors.


def write_safetensors(model: nn.Sequential, card: Card, path: Path) -> None:
    """Write the state dict, with the card as the file's metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata=card.as_texts())


def open_safetensors(
    path: Path, model: nn.Sequential, preprocessing: Preprocessing
) -> tuple[str, Engine]:
    """Read the file into a network with the same table."""
    weights = read_weights(path).weights
    return "the file read again", engine_of(with_weights(model, weights, path), preprocessing)


def with_weights(model: nn.Sequential, weights: dict[str, Tensor], path: Path) -> nn.Sequential:
    """Return a copy of `model` with other weights."""
    twin = copy.deepcopy(model)
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    load_weights(twin, Saved(tensors, Position(), path))
    return twin


# Caffe, see caffe.py.


def write_caffe_folder(model: nn.Sequential, card: Card, path: Path) -> None:
    """Write a folder with the network, its weights, the mean image and the classes."""
    path.mkdir()
    mean = card.preprocessing.mean_image.permute(1, 2, 0).numpy()
    write_caffe(card.model, model, mean, path, card.as_texts())
    names = list(zip(card.classes, card.titles, strict=True))
    (path / "classes.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")


def open_caffe_folder(
    path: Path, model: nn.Sequential, preprocessing: Preprocessing
) -> tuple[str, Engine]:
    """Open the folder with OpenCV 4; where it is missing, read the weights again."""
    opencv = import_module("cv2") if find_spec("cv2") else None
    if opencv is None or not hasattr(opencv.dnn, "readNetFromCaffe"):
        weights = read_weights(path / WEIGHTS).weights
        first = f"{weight_layers(model)[0][0]}.weight"
        weights[first] = convert_first_layer(weights[first], ORIGINS["caffe"])
        engine = engine_of(with_weights(model, weights, path / WEIGHTS), preprocessing)
        return "the weights read again", engine
    net = opencv.dnn.readNetFromCaffe(str(path / DEPLOY), str(path / WEIGHTS))
    last = list(dict(model.named_children()))[-1]

    def answer(images: NDArray[np.uint8]) -> Tensor:
        net.setInput(centre(images, preprocessing).flip(1).contiguous().numpy())
        return torch.from_numpy(net.forward(last).copy())

    return f"OpenCV {opencv.__version__}", answer


ONNX_PACKAGES = ("onnx", "onnxruntime")
FORMATS = {
    "onnx": Format(write_onnx_file, open_onnx, ".onnx", ONNX_PACKAGES),
    "torch-export": Format(write_torch_export, open_torch_export, ".pt2"),
    "safetensors": Format(write_safetensors, open_safetensors, ".safetensors"),
    "caffe": Format(write_caffe_folder, open_caffe_folder, ""),
}
ONNX_WITH_PREPROCESSING = Format(
    partial(write_onnx_file, with_preprocessing=True), open_onnx, ".onnx", ONNX_PACKAGES
)
