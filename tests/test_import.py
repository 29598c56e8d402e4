"""Imported networks give the answers of the networks that the files were written from."""

import base64
import json
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY
from convert_makers import (
    CAFFE,
    CLASSES,
    OneWeirdTrick,
    caffemodel,
    centre,
    lively,
    pixels,
    served,
    small_torchvision,
    use_small,
    write_run,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from network_makers import relative_error
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from alexnet.cli import main
from alexnet.convert import download, export_run, import_weights
from alexnet.convert.caffe import write_caffe
from alexnet.convert.read import read_weights
from alexnet.errors import CheckpointError, StorageError, UsageError
from alexnet.evaluate import evaluate_run, log_probabilities
from alexnet.networks.registry import create_model
from alexnet.predict import predict_images
from alexnet.storage.run import Run, preprocessing_as_json
from alexnet.train import train_model

TOLERANCE = 1e-4


def answers(run: Path, images: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return the logarithms of an imported run's probabilities, from stored images."""
    opened = Run.open(run)
    return log_probabilities(opened.load_model(), images, opened.preprocessing)


def log_softmax(logits: torch.Tensor) -> np.ndarray[Any, Any]:
    return torch.log_softmax(logits.double(), dim=1).detach().numpy()


def torchvision_input(images: np.ndarray[Any, Any]) -> torch.Tensor:
    """Prepare images as torchvision's documentation says."""
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    return torch.from_numpy((centre(images, 224) / 255 - mean) / std).float()


def caffe_input(images: np.ndarray[Any, Any], mean: np.ndarray[Any, Any]) -> torch.Tensor:
    """Prepare images as Caffe does, `mean` being BGR: (N, 3, 227, 227) BGR."""
    return torch.from_numpy(centre(images, 227)[:, ::-1] - mean).float()


def bgr_network(model: nn.Sequential) -> nn.Sequential:
    """Return the network that takes BGR."""
    with torch.no_grad():
        first = model.get_submodule("conv1").get_parameter("weight")
        first.copy_(first.flip(1))
    return model


# Each format against the network that it was written from.


@pytest.mark.slow
def test_the_full_network_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = OneWeirdTrick((64, 192, 384, 256, 256), 4096, CLASSES).eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    report = import_weights(tmp_path / "alexnet.pth", tmp_path / "run")
    images = pixels(5, 256)
    expected = log_softmax(theirs(torchvision_input(images)))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert relative_error(answers(tmp_path / "run", images[:1]), expected[:1]) < TOLERANCE
    assert (report.model, report.format) == ("one_weird_trick", "PyTorch file")
    assert (report.preprocessing, report.resize) == ("torchvision", "short")
    assert (report.size, report.crop, report.classes) == (256, 224, CLASSES)
    np.testing.assert_allclose(report.mean, [123.675, 116.28, 103.53], rtol=1e-6)


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": x for name, x in state.items()}


SAVED: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "zip": torch.save,
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "checkpoint": lambda state, path: torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path
    ),
    "parallel": lambda state, path: torch.save(
        {name.replace("features.", "features.module."): x for name, x in state.items()}, path
    ),
    "compiled": lambda state, path: torch.save(prefixed("_orig_mod.", state), path),
    "compiled, parallel": lambda state, path: torch.save(
        {"model_state_dict": prefixed("module._orig_mod.", state)}, path
    ),
    "Lightning": lambda state, path: torch.save(
        {
            "state_dict": prefixed("model.", state),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
            "callbacks": {"EMA": {"best_model_score": torch.tensor(0.5)}},
        },
        path,
    ),
    "net": lambda state, path: torch.save({"net": state, "acc": 91.5, "epoch": 3}, path),
    "moving average": lambda state, path: torch.save(
        {"ema": {"n_averaged": torch.tensor(4), **prefixed("module.", state)}}, path
    ),
    "nested": lambda state, path: torch.save(
        {"checkpoint": {"last": prefixed("net.backbone.", state), "step": torch.tensor(3)}}, path
    ),
    "named optimizer": lambda state, path: torch.save(
        {
            "model": state,
            "optimizer": {"state": {"features.0.weight": {"exp_avg": state["classifier.6.bias"]}}},
        },
        path,
    ),
    "compiled safetensors": lambda state, path: save_file(prefixed("_orig_mod.", state), path),
    "half": lambda state, path: torch.save({name: x.half() for name, x in state.items()}, path),
    "safetensors": save_file,
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", SAVED)
def test_ways_to_save_a_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    use_small(monkeypatch, "one_weird_trick")
    theirs = small_torchvision()
    if how == "half":
        theirs.half().float()
    SAVED[how](theirs.state_dict(), tmp_path / "file")
    import_weights(tmp_path / "file", tmp_path / "run")
    images = pixels(3, 256)
    expected = log_softmax(theirs(torchvision_input(images)))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE


def two_networks(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"state_dict": {**prefixed("model.", state), **prefixed("teacher.", state)}}


UNCLEAR: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "two containers": (
        lambda state: {"state_dict": state, "ema": {"shadow": dict(state)}, "epoch": 1},
        r"2 sets of weights: state_dict \(16 tensors: features\.0\.weight 8x3x11.*ema\.shadow \(",
    ),
    "two networks": (two_networks, r"under 2 prefixes: model\. \(16 .*8x3x11x11.*teacher\. \(16"),
    "a name twice": (
        lambda state: {**state, **prefixed("_orig_mod.", state)},
        r"holds features\.0\.weight twice, with and without a prefix",
    ),
    "no weights": (
        lambda _: {"epoch": 3, "lr": 0.1, "args": {"seed": 1}},
        r"no weights by name, only epoch \(int\), lr \(float\), args \(dict\)",
    ),
    "other names": (
        lambda state: {name.replace("features", "stem"): x for name, x in state.items()},
        r"add --model NAME; it holds 16 tensors: stem\.0\.weight 8x3x11x11, .*r\.6\.bias 6$",
    ),
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", UNCLEAR)
def test_a_checkpoint_that_does_not_say_which_weights_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    use_small(monkeypatch, "one_weird_trick")
    make, says = UNCLEAR[how]
    torch.save(make(small_torchvision().state_dict()), tmp_path / "file")
    with pytest.raises((CheckpointError, UsageError), match=says) as caught:
        import_weights(tmp_path / "file", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_beside_the_network_are_listed_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, "one_weird_trick")
    state = prefixed("model.", small_torchvision().state_dict())
    torch.save({**state, "normalize.mean": torch.ones(3)}, tmp_path / "file")
    with pytest.raises(CheckpointError, match=r": normalize\.mean \(3 in the file, missing in"):
        import_weights(tmp_path / "file", tmp_path / "run", model="one_weird_trick")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("value", "names"),
    [
        (np.float64(91.5), r"numpy\.\S+\.scalar \(of a NumPy number or array\)"),
        (np.zeros(2), r"numpy\.\S+_reconstruct \(of a NumPy number or array\)"),
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (Path("data"), r"pathlib\.\w+"),
    ],
)
def test_an_object_beside_the_weights_is_named(
    tmp_path: Path, value: object, names: str, new: bool
) -> None:
    content = {"state_dict": lively("alexnet_small").state_dict(), "best": value}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    says = rf"it needs {names}, but only tensors, .* torch\.save\(model\.state_dict\(\), FILE\)$"
    with pytest.raises(CheckpointError, match=says):
        import_weights(tmp_path / "bad.pth", tmp_path / "run", model="alexnet_small")


# One output, and sigmoids.


def one_output(tmp_path: Path) -> tuple[nn.Sequential, dict[str, Any]]:
    model = lively("alexnet_small", 1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "classes.json").write_text('["ham", "spam"]')
    return model, {"model": "alexnet_small", "mean": "120,110,100", "size": 64}


def test_one_output_becomes_two_classes_of_the_same_probabilities(tmp_path: Path) -> None:
    model, options = one_output(tmp_path)
    with torch.no_grad():
        model[-1].get_parameter("weight").mul_(0.1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    report = import_weights(
        tmp_path / "weights.pt", tmp_path / "run", classes=tmp_path / "classes.json", **options
    )
    images = pixels(5, 64)
    mean = np.array([120, 110, 100])[:, None, None]
    logit = model.double()(torch.from_numpy(centre(images, 56) - mean)).detach()
    expected = torch.cat([1 - torch.sigmoid(logit), torch.sigmoid(logit)], 1)
    found = answers(tmp_path / "run", images).exp()
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-3)
    assert 0.01 < expected[:, 1].min() < 0.99  # not all are sure
    assert (report.classes, Run.open(tmp_path / "run").classes) == (2, ["ham", "spam"])


def test_one_output_without_names_is_refused(tmp_path: Path) -> None:
    _, options = one_output(tmp_path)
    with pytest.raises(UsageError, match=r"has one output: if its sigmoid .* add --classes FILE"):
        import_weights(tmp_path / "weights.pt", tmp_path / "run", **options)
    (tmp_path / "one.txt").write_text("spam\n")
    with pytest.raises(UsageError, match="names 1 classes, the network has 2"):
        import_weights(
            tmp_path / "weights.pt", tmp_path / "run", classes=tmp_path / "one.txt", **options
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["Sigmoid", "SigmoidCrossEntropyLoss"])
def test_a_caffe_network_with_sigmoids_has_no_single_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, version: int
) -> None:
    use_small(monkeypatch, "caffenet")
    net = CAFFE["NetParameter"].FromString(caffemodel(lively("caffenet"), version=version))
    layer = net.layer.add() if version == 2 else net.layers.add()
    number = {"Sigmoid": 19, "SigmoidCrossEntropyLoss": 27}[kind]
    layer.name, layer.type = "probabilities", kind if version == 2 else number
    (tmp_path / "net").write_bytes(net.SerializeToString())
    with pytest.raises(CheckpointError, match="takes a sigmoid of each of its 6 outputs"):
        import_weights(tmp_path / "net", tmp_path / "run")


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_an_onnx_network_with_sigmoids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    use_small(monkeypatch, "caffe_alexnet")
    proto = zoo_onnx(lively("caffe_alexnet", classes), transposed=True, packed=False)
    proto.graph.node.append(helper.make_node("Sigmoid", ["fc8_1"], ["p"]))
    onnx.save(proto, tmp_path / "net.onnx")
    says = "has one output" if classes == 1 else "takes a sigmoid of each of its 6 outputs"
    with pytest.raises((CheckpointError, UsageError), match=says):
        import_weights(tmp_path / "net.onnx", tmp_path / "run")


@pytest.mark.parametrize("length", [0x180, ord("P") | ord("K") << 8, 0x108])
def test_a_header_of_any_length_is_no_other_format(tmp_path: Path, length: int) -> None:
    header = json.dumps({"a.weight": TENSOR}).ljust(length).encode()
    (tmp_path / "file").write_bytes(safetensors_file(header, data=bytes(4)))
    stored = read_weights(tmp_path / "file")
    assert stored.format == "safetensors"
    assert torch.equal(stored.weights["a.weight"], torch.zeros(1))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["caffe_alexnet", "caffenet"])
def test_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: int) -> None:
    use_small(monkeypatch, "caffe_alexnet", "caffenet")
    theirs = lively(name)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(theirs, version=version))
    report = import_weights(tmp_path / "net.caffemodel", tmp_path / "run")
    images = pixels(3, 256)
    bgr = caffe_input(images, np.array([104, 117, 123])[:, None, None])
    expected = log_softmax(bgr_network(theirs)(bgr))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert (report.model, report.preprocessing, report.resize) == (name, "caffe", "warp")


@pytest.mark.parametrize("version", [1, 2])
def test_caffes_cifar10_takes_rgb(tmp_path: Path, version: int) -> None:
    """Its images come from CIFAR-10's file, red first, not from OpenCV, which has blue first."""
    theirs = lively("cifar10_18")
    content = caffemodel(theirs, version=version, bgr=False)
    (tmp_path / "net.caffemodel").write_bytes(content)
    mean = np.random.default_rng(0).uniform(90, 130, (32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    report = import_weights(
        tmp_path / "net.caffemodel", tmp_path / "run", mean=tmp_path / "mean.npy"
    )
    images = pixels(3, 32)
    inputs = images.transpose(0, 3, 1, 2) - mean.transpose(2, 0, 1)
    expected = log_softmax(theirs(torch.from_numpy(inputs)))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert (report.model, report.preprocessing, report.size) == ("cifar10_18", "alexnet", 32)


def test_pools_and_norms_of_another_kind_are_another_network(tmp_path: Path) -> None:
    theirs = lively("cifar10_18")
    theirs.set_submodule("pool3", nn.MaxPool2d(3, 2, ceil_mode=True))
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(theirs))
    with pytest.raises(UsageError, match="does not say to which network it belongs"):
        import_weights(tmp_path / "net.caffemodel", tmp_path / "run", mean="1,2,3", size=32)
    with pytest.raises(CheckpointError, match=r"avgpool snorm conv relu pool fc, cifar10_18 has"):
        import_weights(
            tmp_path / "net.caffemodel", tmp_path / "run", model="cifar10_18", mean="1,2,3", size=32
        )


def test_a_mean_image_of_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, "caffenet")
    theirs = lively("caffenet")
    (tmp_path / "net").write_bytes(caffemodel(theirs))
    mean = np.random.default_rng(0).uniform(90, 130, (3, 256, 256)).astype(np.float32)
    blob = CAFFE["BlobProto"](num=1, channels=3, height=256, width=256, data=mean.ravel())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    import_weights(tmp_path / "net", tmp_path / "run", mean=tmp_path / "mean.binaryproto")
    images = pixels(3, 256)
    inside = mean[:, 14:241, 14:241]
    expected = log_softmax(bgr_network(theirs)(caffe_input(images, inside)))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE


def test_a_fine_tuned_caffenet_is_known_by_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, "caffenet")
    net = CAFFE["NetParameter"].FromString(caffemodel(lively("caffenet")))
    net.layer[-1].name = "fc8_flickr"
    (tmp_path / "net").write_bytes(net.SerializeToString())
    import_weights(tmp_path / "net", tmp_path / "run", model="caffenet")
    theirs = torch.tensor(net.layer[-1].blobs[1].data)
    torch.testing.assert_close(Run.open(tmp_path / "run").load_model()[-1].bias.data, theirs)


def zoo_onnx(model: nn.Sequential, *, transposed: bool, packed: bool) -> onnx.ModelProto:
    """Write a Caffe network as the ONNX zoo has it: BGR in, weights called conv1_w_0."""
    nodes, tensors, x = [], [], "data_0"
    for name, row in model.named_children():
        operator = {
            nn.Conv2d: "Conv", nn.ReLU: "Relu", nn.MaxPool2d: "MaxPool", nn.Linear: "Gemm",
            nn.Flatten: "Flatten", nn.Dropout: "Dropout",
        }.get(type(row), "LRN" if name.startswith("norm") else None)  # fmt: skip
        if operator is None:
            continue
        inputs: list[str] = [x]
        attributes: dict[str, Any] = {"size": 5} if operator == "LRN" else {}
        for part, parameter in row.named_parameters():
            array = parameter.detach().numpy()
            if name == "conv1" and part == "weight":
                array = array[:, ::-1]
            if operator == "Gemm" and part == "weight":
                array, attributes = array if transposed else array.T, {"transB": int(transposed)}
            inputs.append(f"{name}_{part[0]}_0")
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), inputs[-1])
            if packed:
                kind, shape = TensorProto.FLOAT, array.shape
                tensor = helper.make_tensor(inputs[-1], kind, shape, array.ravel())
            tensors.append(tensor)
        x = f"{name}_1"
        nodes.append(helper.make_node(operator, inputs, [x], **attributes))
    given = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])
    graph = helper.make_graph(nodes, "bvlc", [given], [], tensors)
    return helper.make_model(graph)


@pytest.mark.parametrize(("transposed", "packed"), [(True, False), (False, False), (True, True)])
def test_an_onnx_file_as_in_the_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transposed: bool, packed: bool
) -> None:
    use_small(monkeypatch, "caffe_alexnet")
    theirs = lively("caffe_alexnet")
    onnx.save(zoo_onnx(theirs, transposed=transposed, packed=packed), tmp_path / "net.onnx")
    report = import_weights(tmp_path / "net.onnx", tmp_path / "run")
    images = pixels(3, 256)
    bgr = caffe_input(images, np.array([104, 117, 123])[:, None, None])
    expected = log_softmax(bgr_network(theirs)(bgr))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert (report.model, report.preprocessing) == ("caffe_alexnet", "caffe")


def test_an_onnx_file_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, "one_weird_trick")
    theirs = small_torchvision()
    example = (torch.zeros(1, 3, 224, 224),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of deprecations inside
        path = tmp_path / "net.onnx"
        torch.onnx.export(theirs, example, path, external_data=False, verbose=False)
    report = import_weights(tmp_path / "net.onnx", tmp_path / "run")
    images = pixels(3, 256)
    expected = log_softmax(theirs(torchvision_input(images)))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert (report.model, report.preprocessing) == ("one_weird_trick", "torchvision")


def test_a_plain_state_dict_with_our_names(tmp_path: Path) -> None:
    model = lively("alexnet_small")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    report = import_weights(
        tmp_path / "weights.pt",
        tmp_path / "run",
        model="alexnet_small",
        mean="120,110,100",
        size=64,
    )
    images = pixels(3, 64)
    mean = np.array([120, 110, 100])[:, None, None]
    expected = log_softmax(model(torch.from_numpy(centre(images, 56) - mean).float()))
    assert relative_error(answers(tmp_path / "run", images), expected) < TOLERANCE
    assert report.preprocessing == "alexnet"
    assert report.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.fault(62)
@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
@pytest.mark.parametrize(
    ("name", "ablate"),
    [
        ("alexnet_small", {}),
        ("cifar10_11", {}),
        ("alexnet_small", {"activation": "tanh", "norm": "batch"}),
        ("alexnet_small", {"overlap": "no", "without": "conv4"}),
    ],
)
def test_there_and_back(tmp_path: Path, name: str, ablate: dict[str, str], kind: str) -> None:
    run = write_run(tmp_path / "run", lively(name, ablate=ablate), name, ablate)
    export_run(run.path, tmp_path / "file", kind)
    report = import_weights(tmp_path / "file", tmp_path / "back")
    back = Run.open(tmp_path / "back")
    for (key, ours), theirs in zip(
        run.load_model().state_dict().items(), back.load_model().state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    assert torch.equal(run.preprocessing.mean_image, back.preprocessing.mean_image)
    ours, theirs = (preprocessing_as_json(each.preprocessing) for each in (run, back))
    assert ours == theirs
    assert (run.classes, run.titles) == (back.classes, back.titles)
    assert (back.settings.model, back.settings.ablate) == (name, ablate)
    assert report.preprocessing == "its own"


@pytest.mark.fault(62)
def test_there_and_back_by_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of before the card, which the same options as for any Caffe network complete."""
    use_small(monkeypatch, "caffenet")
    run = write_run(tmp_path / "run", lively("caffenet"), "caffenet")
    export_run(run.path, tmp_path / "caffe", "caffe")
    folder = tmp_path / "caffe"
    write_caffe(
        "caffenet", run.load_model(), run.preprocessing.mean_image.permute(1, 2, 0).numpy(), folder
    )
    for path in (folder, folder / "weights.caffemodel"):
        with pytest.raises(UsageError, match=f"add --mean {folder}/mean.binaryproto"):
            import_weights(path, tmp_path / "back")
    import_weights(
        folder,
        tmp_path / "back",
        mean=folder / "mean.binaryproto",
        classes=folder / "classes.json",
    )
    back = Run.open(tmp_path / "back")
    for ours, theirs in zip(
        run.load_model().parameters(), back.load_model().parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(run.preprocessing.mean_image, back.preprocessing.mean_image)
    assert (run.classes, run.titles) == (back.classes, back.titles)


ROUND_TRIPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnx": ("net.onnx", "net.onnx", {}),
    "onnx with preprocessing": ("net.onnx", "net.onnx", {"with_preprocessing": True}),
    "torch-export": ("net.pt2", "net.pt2", {}),
    "safetensors": ("net.safetensors", "net.safetensors", {}),
    "caffe, folder": ("caffe", "caffe", {"format": "caffe"}),
    "caffe, file": ("caffe", "caffe/weights.caffemodel", {"format": "caffe"}),
}


@pytest.mark.fault(62)
# torch 2.11 warns so of what its own loader does.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("how", ROUND_TRIPS)
def test_every_format_gives_the_same_answers_when_it_is_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    use_small(monkeypatch, "caffenet")
    made = write_run(tmp_path / "made", lively("caffenet"), "caffenet")
    unusual = replace(made.preprocessing, resize="warp", orientation="ignore")
    note = {"data": {"path": "made", "fingerprint": ""}}
    run = Run.write(made.path, made.settings, made.classes, made.titles, unusual, note)
    written, read, options = ROUND_TRIPS[how]
    export_run(run.path, tmp_path / written, **options)
    report = import_weights(tmp_path / read, tmp_path / "back")
    back = Run.open(tmp_path / "back")
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(pixels(1, 400)[0][:, :150]).save(tmp_path / "tall.jpg", exif=turned)
    ours, theirs = (
        predict_images(tmp_path / "tall.jpg", each.path, device="cpu", top=CLASSES)[0].predictions
        for each in (run, back)
    )
    assert ours == theirs
    assert torch.equal(run.preprocessing.mean_image, back.preprocessing.mean_image)
    assert preprocessing_as_json(run.preprocessing) == preprocessing_as_json(back.preprocessing)
    assert (run.classes, run.titles) == (back.classes, back.titles)
    assert (report.preprocessing, report.resize) == ("its own", "warp")


def test_another_mean_leaves_the_rest_of_the_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, "caffenet")
    made = write_run(tmp_path / "made", lively("caffenet"), "caffenet")
    warped = replace(made.preprocessing, resize="warp")
    note = {"data": {"path": "made", "fingerprint": ""}}
    Run.write(made.path, made.settings, made.classes, made.titles, warped, note)
    for name, kind in (("caffe", "caffe"), ("net.safetensors", None)):
        export_run(made.path, tmp_path / name, kind)
        import_weights(tmp_path / name, tmp_path / f"{name}-run", mean="1,2,3")
        back = Run.open(tmp_path / f"{name}-run")
        assert back.preprocessing.mean_image.mean((1, 2)).tolist() == [1, 2, 3]
        assert preprocessing_as_json(back.preprocessing) == preprocessing_as_json(warped)
        for ours, theirs in zip(
            made.load_model().parameters(), back.load_model().parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_parts_of_runs_and_8_bit_files_name_the_whole(
    tmp_path: Path, tiny_run: Path, tiny_data: Path
) -> None:
    (checkpoint, *_) = (tiny_run / "checkpoints").iterdir()
    for path, says in (
        (checkpoint, "is a checkpoint of a run: use the run directory"),
        (tiny_run, "is a run directory: other commands take it without an import"),
    ):
        with pytest.raises(UsageError, match=says):
            import_weights(path, tmp_path / "back")
    export_run(tiny_run, tmp_path / "small.onnx", int8=True, check=tiny_data)
    with pytest.raises(CheckpointError, match="have 8 bits: import the file exported without --in"):
        import_weights(tmp_path / "small.onnx", tmp_path / "back")


@pytest.mark.parametrize("what", ["file", "classes", "mean"])
def test_an_address_is_named_as_it_was_given(tmp_path: Path, tiny_run: Path, what: str) -> None:
    torch.save(lively("alexnet_small").state_dict(), tmp_path / "weights.pt")
    address = "https://example.com/net.pth"
    given: dict[str, Any] = {"file": tmp_path / "weights.pt", "model": "alexnet_small"}
    for form in (address, Path(address)):
        with pytest.raises(UsageError, match=f"^{address} is an address: download the file first"):
            import_weights(**{**given, what: form}, out=tmp_path / "run")


# What the run then does.


def test_an_imported_run_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small(monkeypatch, "caffenet")
    (tmp_path / "net").write_bytes(caffemodel(lively("caffenet")))
    (tmp_path / "classes.txt").write_text("".join(f"n0000000{i} thing {i}\n" for i in range(6)))
    words = ["import", tmp_path / "net", tmp_path / "run", "--classes", tmp_path / "classes.txt"]
    assert main(list(map(str, words))) == 0
    shown = capsys.readouterr().out
    assert "Caffe model: caffenet, 6 classes" in shown
    assert "images (caffe): both sides to 256, centre 227 x 227, less 123, 117, 104\n" in shown
    run = Run.open(tmp_path / "run")
    assert (run.classes[1], run.titles[1]) == ("n00000001", "thing 1")
    assert run.preprocessing.resize == "warp"
    tall = pixels(1, 400)[0][:, :200]
    Image.fromarray(tall).save(tmp_path / "tall.png")
    (prediction,) = predict_images(tmp_path / "tall.png", tmp_path / "run", device="cpu")
    warped = Image.fromarray(tall).resize((256, 256), Image.Resampling.BICUBIC)
    expected = answers(tmp_path / "run", np.array(warped)[None])[0].exp().numpy()
    for name, probability in prediction.predictions:
        assert probability == pytest.approx(expected[run.classes.index(name)], rel=1e-4)


def test_json_says_how_the_file_was_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small(monkeypatch, "one_weird_trick")
    torch.save(small_torchvision().state_dict(), tmp_path / "x")
    assert main(["import", f"{tmp_path}/x", f"{tmp_path}/run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["classes"]) == ("one_weird_trick", CLASSES)
    info = Run.open(tmp_path / "run").info
    assert info["imported"]["sha256"] == report["sha256"]
    assert info["classes"][:2] == ["class 0000", "class 0001"]


def test_a_thousand_classes_are_imagenets(tmp_path: Path) -> None:
    weights = create_model("cifar10_11", 1000).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    options: dict[str, Any] = {"model": "cifar10_11", "mean": "120,120,120", "size": 32}
    import_weights(tmp_path / "weights.pt", tmp_path / "run", **options)
    run = Run.open(tmp_path / "run")
    assert (run.classes[281], run.titles[281]) == ("n02123045", "tabby, tabby cat")


def test_an_imported_run_is_evaluated_and_is_the_start_of_a_training(
    tmp_path: Path, tiny_data: Path
) -> None:
    torch.save(lively("cifar10_11", 3).state_dict(), tmp_path / "weights.pt")
    options: dict[str, Any] = {"model": "cifar10_11", "mean": "120,120,120", "size": 32}
    import_weights(tmp_path / "weights.pt", tmp_path / "run", classes=tiny_data, **options)
    assert evaluate_run(tmp_path / "run", tiny_data, device="cpu").images == 15
    tuned = replace(TINY, epochs=1, init="model")
    train_model(tiny_data, tmp_path / "tuned", tuned, device="cpu", init=tmp_path / "run")
    assert len(Run.open(tmp_path / "tuned").metrics()) > 0


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    model = lively("alexnet_small")
    run = write_run(tmp_path / "run", model, "alexnet_small")
    export_run(run.path, tmp_path / "good", "safetensors")
    with safe_open(tmp_path / "good", "pt") as file:
        texts = file.metadata()
    preprocessing = json.loads(texts["alexnet_preprocessing"])
    for key, value in (
        ("alexnet_classes", "[1"),
        ("alexnet_preprocessing", json.dumps({"size": 10**9, "crop": 56, "mean": [1, 2, 3]})),
        ("alexnet_mean_image", "AAAA"),
        ("alexnet_mean_image", "no base64!"),
        ("alexnet_ablate", "3"),
        ("alexnet_preprocessing", preprocessing | {"color_std": ["a"]}),
        ("alexnet_preprocessing", preprocessing | {"crop": 56.0}),
        ("alexnet_preprocessing", preprocessing | {"resize": "stretch"}),
        ("alexnet_mean_image", base64.b64encode(b"\xff" * (64 * 64 * 12)).decode()),
    ):
        text = value if isinstance(value, str) else json.dumps(value)
        save_file(model.state_dict(), tmp_path / "bad", metadata={**texts, key: text})
        with pytest.raises(CheckpointError, match="has a damaged description"):
            import_weights(tmp_path / "bad", tmp_path / "back")
    for key, value, says in (
        ("alexnet_classes", "[]", "names 0 classes, the network has 6"),
        ("alexnet_model", "alexnet_x", "there is no model"),
        ("alexnet_model", "alexnet", "does not fit the network"),
        ("alexnet_ablate", '{"norm": []}', "there is no norm=\\[\\]"),
        ("alexnet_preprocessing", json.dumps(preprocessing | {"crop": 40}), "of side 40, .* 56"),
    ):
        save_file(model.state_dict(), tmp_path / "bad", metadata={**texts, key: value})
        with pytest.raises((CheckpointError, UsageError), match=says):
            import_weights(tmp_path / "bad", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# Questions that files leave open.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "add --model NAME"),
        ({"model": "alexnet_small"}, "add --mean R,G,B"),
        ({"model": "alexnet_small", "mean": "1,2,3"}, "add --size N"),
        ({"model": "alexnet_small", "mean": "1,2"}, "is not a mean image: No such file"),
        ({"model": "vgg"}, "there is no model 'vgg'"),
        ({"model": "alexnet_small", "preprocessing": "keras"}, "one of alexnet, caffe, torch"),
        ({"model": "alexnet_small", "mean": "1,2,3", "size": 40}, "network takes 56 x 56"),
    ],
)
def test_what_must_be_said(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    torch.save(lively("alexnet_small").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=says) as caught:
        import_weights(tmp_path / "weights.pt", tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_the_user_says_goes_first(tmp_path: Path) -> None:
    model = lively("alexnet_small")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    image = np.random.default_rng(0).uniform(0, 255, (60, 60, 3)).astype(np.float32)
    np.save(tmp_path / "mean.npy", image)
    import_weights(
        tmp_path / "weights.pt",
        tmp_path / "run",
        model="alexnet_small",
        preprocessing="caffe",
        mean=tmp_path / "mean.npy",
    )
    run = Run.open(tmp_path / "run")
    np.testing.assert_array_equal(run.preprocessing.mean_image.permute(1, 2, 0).numpy(), image)
    assert run.preprocessing.resize == "warp"
    first = run.load_model().get_submodule("conv1").get_parameter("weight")
    assert torch.equal(first, model.get_submodule("conv1").get_parameter("weight").flip(1))


@pytest.mark.parametrize(
    ("text", "classes", "titles"),
    [
        ("n02 a\nn03 b\n", ["n02 a", "n03 b"], ["n02 a", "n03 b"]),
        ("\ufeffn00000001 a, b\r\nn00000002 c\r\n", ["n00000001", "n00000002"], ["a, b", "c"]),
        ('["a", "b"]', ["a", "b"], ["a", "b"]),
        ('{"0": ["n1", "a"], "1": ["n2", "b"]}', ["n1", "n2"], ["a", "b"]),
        ('{"1": "b", "0": "a"}', ["a", "b"], ["a", "b"]),
        ('{"b": 1, "a": 0}', ["a", "b"], ["a", "b"]),
        ('{"10": 0, "9": 1}', ["10", "9"], ["10", "9"]),
        ('[["n1", "a"], ["n2", "b"]]', ["n1", "n2"], ["a", "b"]),
    ],
)
def test_files_of_classes(tmp_path: Path, text: str, classes: list[str], titles: list[str]) -> None:
    torch.save(lively("alexnet_small", 2).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "classes").write_text(text, encoding="utf-8")
    import_weights(
        tmp_path / "weights.pt",
        tmp_path / "run",
        model="alexnet_small",
        mean="1,2,3",
        size=64,
        classes=tmp_path / "classes",
    )
    run = Run.open(tmp_path / "run")
    assert (run.classes, run.titles) == (classes, titles)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\n", "names 1 classes, the network has 6"),
        ("a\n" * 6, "names two classes a"),
        ("[1, 2", "cannot read the classes"),
        ("[1, 2]", "cannot read the classes"),
        ('{"a": "b"}', "neither numbers with names, nor names with numbers"),
        ('{"a": 0, "1": "b"}', "neither numbers with names, nor names with numbers"),
        ('{"1": "a", "2": "b", "3": "c"}', r"numbers are 1, 2, 3, \.\.\., 3; .* are 0 to 2, each"),
        ('{"a": 0, "b": 0}', r"numbers are 0, 0, \.\.\., 0; those of the network's outputs"),
        ('{"0": {"name": "a"}}', "is not a name, nor a list of key and name"),
        ('[["a"]]', "is not a name, nor a list of key and name"),
        (None, "cannot read the classes"),
    ],
)
def test_bad_files_of_classes(tmp_path: Path, text: str | None, says: str) -> None:
    torch.save(lively("alexnet_small").state_dict(), tmp_path / "weights.pt")
    if text is not None:
        (tmp_path / "classes").write_text(text)
    options: dict[str, Any] = {"model": "alexnet_small", "mean": "1,2,3", "size": 64}
    with pytest.raises(UsageError, match=says):
        import_weights(
            tmp_path / "weights.pt", tmp_path / "run", classes=tmp_path / "classes", **options
        )


def test_classes_of_a_data_set(tmp_path: Path, tiny_data: Path) -> None:
    torch.save(lively("alexnet_small", 3).state_dict(), tmp_path / "weights.pt")
    options: dict[str, Any] = {"model": "alexnet_small", "mean": "1,2,3", "size": 64}
    import_weights(tmp_path / "weights.pt", tmp_path / "run", classes=tiny_data, **options)
    assert Run.open(tmp_path / "run").classes == ["across", "down", "slanting"]


def test_an_existing_run_is_left_alone(tmp_path: Path, tiny_run: Path) -> None:
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="exists already"):
        import_weights(tmp_path / "weights.pt", tiny_run, model="alexnet_small")


# Weights that do not fit.


@pytest.mark.fault(14)
def test_every_mismatch_is_listed_with_both_sizes(tmp_path: Path) -> None:
    state = lively("alexnet_small").state_dict()
    state["conv2.weight"] = state["conv2.weight"][:, :3].clone()
    state["fc7.bias"] = torch.zeros(7)
    del state["conv3.bias"]
    state["conv9.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        import_weights(tmp_path / "weights.pt", tmp_path / "run", model="alexnet_small")
    for part in (
        "conv2.weight (128x3x5x5 in the file, 128x24x5x5 in the network)",
        "fc7.bias (7 in the file, 1024 in the network)",
        "conv3.bias (missing in the file, 192 in the network)",
        "conv9.weight (2x2 in the file, missing in the network)",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("file", "named"), [("caffenet", "caffe_alexnet"), ("caffenet", "alexnet")]
)
def test_equal_shapes_do_not_hide_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, named: str
) -> None:
    use_small(monkeypatch, "caffe_alexnet", "caffenet", "alexnet")
    (tmp_path / "net").write_bytes(caffemodel(lively(file)))
    with pytest.raises(CheckpointError, match=f"is {file}, {named} has the rows conv relu norm"):
        import_weights(tmp_path / "net", tmp_path / "run", model=named)


@pytest.mark.parametrize("last", [torch.tensor(3.0), torch.empty(10**9, 0), torch.ones(2, 2, 2)])
def test_a_last_layer_that_is_none(tmp_path: Path, last: torch.Tensor) -> None:
    state = lively("alexnet_small").state_dict()
    torch.save({**state, "fc8.weight": last}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"fc8\.weight \(.* in the file, 1000x1024 in the"):
        import_weights(tmp_path / "weights.pt", tmp_path / "run", model="alexnet_small")


@pytest.mark.fault(16)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = lively("alexnet_small").state_dict()
    state["fc6.weight"][3, 4] = float("nan")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"fc6\.weight holds numbers that are not finite"):
        import_weights(tmp_path / "weights.pt", tmp_path / "run", model="alexnet_small")


# Files that are meant to harm.


class Harm:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.fault(12)
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("where", ["whole", "inside"])
def test_a_pickle_is_not_executed(tmp_path: Path, new: bool, where: str) -> None:
    harm: Any = Harm(tmp_path / "ran")
    content = harm if where == "whole" else {"conv1.weight": torch.zeros(1), "x": harm}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read") as caught:
        import_weights(tmp_path / "bad.pth", tmp_path / "run", model="alexnet_small")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_pickle_of_these_tests_would_harm(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Harm(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def repeated() -> torch.Tensor:
    """A tensor that claims 10**12 numbers and holds one."""
    return torch.zeros(1).expand(10**6, 10**6)


def safetensors_file(header: Any, *, length: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(begin: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def blob(*shape: int, numbers: int = 4) -> bytes:
    net = CAFFE["NetParameter"](name="bad")
    part = net.layer.add(name="conv1", type="Convolution").blobs.add(data=[1.0] * numbers)
    part.shape.dim.extend(shape)
    return bytes(net.SerializeToString())


def node(
    tensor: onnx.TensorProto | None = None, *, again: bool = False, **attributes: Any
) -> bytes:
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], **attributes)
    tensors = [tensor] if tensor else []
    return bytes(
        helper.make_model(
            helper.make_graph([gemm] * (1 + again), "g", [], [], tensors)
        ).SerializeToString()
    )


def outside() -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2])
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))


def zipped(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def lying(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)


TENSOR = f32(0, 4, 1)
BAD_FILES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "empty": (b"", "is empty"),
    "text": (b"conv1.weight = 3\n" * 100, "is in none of these formats"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is in none of these formats|cannot be read"),
    "zip": (b"PK\x03\x04" + bytes(100), "cannot be read"),
    "compressed": (compressed, "is a compressed archive"),
    "lying": (lying, "claims to hold more than its own size"),
    "script": (partial(zipped, names=["a/data.pkl", "a/constants.pkl"]), "of TorchScript: save"),
    "npz": (partial(zipped, names=["a.npy", "b.npy"]), "cannot be read: not a .npy file"),
    "list": (lambda path: torch.save([1, 2], path), "holds a list, not weights by name"),
    "number": (lambda path: torch.save(3.0, path), "holds a float, not weights by name"),
    "repeated": (lambda path: torch.save({"fc8.weight": repeated()}, path), "claims more numbers"),
    "header": (safetensors_file({}, length=1 << 40), "claims a header of 1,099,511,627,776 bytes"),
    "short header": (safetensors_file({"a": TENSOR}, length=9, data=bytes(4)), "cannot be read"),
    "no json": (safetensors_file(b"{" + b"[" * 5000), "cannot be read"),
    "outside": (safetensors_file({"a": f32(0, 4 << 30, 1 << 30)}, data=bytes(8)), "cannot be read"),
    "overlap": (
        safetensors_file({"a": f32(0, 8, 2), "b": f32(4, 12, 2)}, data=bytes(12)),
        "cannot be read",
    ),
    "wrong count": (safetensors_file({"a": f32(0, 8, 3)}, data=bytes(8)), "cannot be read"),
    "negative": (safetensors_file({"a": f32(-8, 0, 2)}, data=bytes(8)), "cannot be read"),
    "huge blob": (blob(10**6, 10**6), "a blob of shape 1000000 x 1000000 holds 4 numbers"),
    "overflow": (blob(1 << 33, 1 << 31), "holds 4 numbers"),
    "negative blob": (blob(-2, -2), "a blob of shape -2 x -2 holds 4 numbers"),
    "many sizes": (blob(*[1] * 50, numbers=1), "holds 1 numbers"),
    "cut": (blob(2, 2)[:-3], "is in none of these formats"),
    "no tensor": (node(), "its weight w is not in the file"),
    "elsewhere": (node(outside()), "w is stored in another file"),
    "whole numbers": (
        node(numpy_helper.from_array(np.ones((2, 2), np.int64), "w")),
        "w is not stored as floating-point numbers",
    ),
    "scaled": (
        node(numpy_helper.from_array(np.ones((2, 2), np.float32), "w"), alpha=0.5),
        "alpha = 0.5, not 1",
    ),
    "shared": (
        node(numpy_helper.from_array(np.ones((2, 2), np.float32), "w"), again=True),
        "or used before",
    ),
    "huge tensor": (
        node(TensorProto(name="w", data_type=1, dims=[1 << 20, 1 << 20], raw_data=bytes(16))),
        "holds 4 numbers",
    ),
}  # fmt: skip


@pytest.mark.fault(13)
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_without_taking_memory(tmp_path: Path, name: str) -> None:
    content, says = BAD_FILES[name]
    path = tmp_path / "bad.file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=says) as caught:
            import_weights(path, tmp_path / "run", model="alexnet_small", mean="1,2,3", size=64)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.file"]


def test_a_folder_of_others_names_a_file_in_it(tmp_path: Path) -> None:
    for name in ("deploy.prototxt", "bvlc.caffemodel", "imagenet_mean.binaryproto"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"folder; .*, such as {tmp_path}/bvlc.caffemodel$"):
        import_weights(tmp_path, tmp_path / "run")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {path}"):
            import_weights(path, tmp_path / "run", model="alexnet_small")


many = hypothesis_settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small file of each format."""
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 2, 3))
    model.add_module("fc8", nn.Linear(2, 2))
    torch.save(model.state_dict(), folder / "zip")
    torch.save(model.state_dict(), folder / "old", _use_new_zipfile_serialization=False)
    save_file(model.state_dict(), folder / "safetensors")
    arrays: dict[str, Any] = {name: x.numpy() for name, x in model.state_dict().items()}
    np.savez(folder / "npz.npz", **arrays)
    return {
        **{name: (folder / name).read_bytes() for name in ("zip", "old", "safetensors", "npz.npz")},
        "caffe": caffemodel(model),
        "caffe 1": caffemodel(model, version=1),
        "onnx": bytes(zoo_onnx(model, transposed=True, packed=False).SerializeToString()),
        "onnx packed": bytes(zoo_onnx(model, transposed=True, packed=True).SerializeToString()),
    }


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return whole_files(tmp_path_factory.mktemp("wholes"))


@pytest.mark.fault(13)
@many
@given(data=st.data())
def test_damage_of_any_kind_is_a_checkpoint_error(
    wholes: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(wholes[data.draw(st.sampled_from(sorted(wholes)))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content))) or None]
    (tmp_path / "damaged").write_bytes(content)
    with suppress(CheckpointError):
        read_weights(tmp_path / "damaged")


@many
@given(content=st.binary(max_size=200))
def test_noise_is_a_checkpoint_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "noise").write_bytes(content)
    with pytest.raises(CheckpointError):
        import_weights(tmp_path / "noise", tmp_path / "run", model="alexnet_small")


# Downloading.


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small file under the published name, for a network as small."""
    monkeypatch.setenv("no_proxy", "*")
    use_small(monkeypatch, "one_weird_trick")
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save(small_torchvision().state_dict(), folder / "alexnet-owt-7be5be79.pth")
    return folder


def test_published_weights_are_believed_by_their_hash(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(published) as address:
        with pytest.raises(CheckpointError, match="is not the published file") as caught:
            import_weights("torchvision", tmp_path / "run", mirror=address)
        assert not (tmp_path / "run").exists()
        begins = str(caught.value).split("begins with ")[1][:8]
        known = download.Published("http://nowhere.invalid", "alexnet-owt-7be5be79.pth", begins)
        monkeypatch.setitem(download.PUBLISHED, "torchvision", known)
        report = import_weights("torchvision", tmp_path / "run", mirror=f"{address}/")
    assert report.sha256.startswith(begins)
    assert report.model == "one_weird_trick"


def test_the_published_hash_is_torchvisions() -> None:
    known = download.PUBLISHED["torchvision"]
    assert known.address + known.file == (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    )
    assert known.sha256_prefix == "7be5be79"


def test_a_download_that_fails(published: Path, tmp_path: Path) -> None:
    (published / "alexnet-owt-7be5be79.pth").unlink()
    with served(published) as address, pytest.raises(StorageError, match="File not found"):
        import_weights("torchvision", tmp_path / "run", mirror=address)
    with pytest.raises(StorageError, match=rf"cannot fetch {address}/alexnet-owt-.*refused"):
        import_weights("torchvision", tmp_path / "run", mirror=address)
    with pytest.raises(UsageError, match="begins with https://"):
        import_weights("torchvision", tmp_path / "run", mirror="file:///etc")


def test_a_download_that_breaks_off(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_half(source: Any, target: Any) -> None:
        target.write(source.read(1000))

    monkeypatch.setattr(
        "http.server.SimpleHTTPRequestHandler.copyfile", lambda _, *x: send_half(*x)
    )
    with served(published) as address, pytest.raises(StorageError, match=r"ended early|Incompl"):
        import_weights("torchvision", tmp_path / "run", mirror=address)
