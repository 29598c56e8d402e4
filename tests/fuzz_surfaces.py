"""The parsers and loaders of the package, with valid files to start from."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from convert_makers import CAFFE, caffemodel
from data_makers import (
    Drawn,
    Recorder,
    cifar_binary_files,
    cifar_python_files,
    encode,
    load_script,
    photo,
    picture,
    tree,
    write_tar,
    write_tree,
)
from fuzzing import Surface
from onnx import helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet.config import Settings
from alexnet.convert.caffe import NET_CARD
from alexnet.convert.card import Card, read_card
from alexnet.convert.classes import read_classes
from alexnet.convert.origins import read_mean
from alexnet.convert.read import read_weights
from alexnet.convert.wire import BYTES, Message, WireError, bytes_field
from alexnet.dataset import Dataset
from alexnet.doctor import diagnose
from alexnet.images.decode import decode_jpeg, encode_jpeg, load_square
from alexnet.prepare import prepare_dataset
from alexnet.prepare.shards import ShardResult
from alexnet.prepare.sources import open_source
from alexnet.prepare.sources.labels import ValLabels, read_devkit
from alexnet.prepare.statistics import ColorSums
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.metrics_log import read_metrics
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

SIZE = 8
Build = Callable[[Path], dict[str, Surface]]


def in_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that writes bytes to `path` and reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write_and_read(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return write_and_read


# Weights of other programs.


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 2, 3))
    model.add_module("relu1", nn.ReLU())
    model.add_module("fc8", nn.Linear(2, 2))
    return model


def onnx_file(model: nn.Sequential, *, ours: bool) -> bytes:
    """An ONNX file of another program, or with our metadata."""
    tensors, nodes = [], []
    for name, row in model.named_children():
        weights = [f"{name}.{part}" for part, _ in row.named_parameters()]
        tensors += [
            numpy_helper.from_array(parameter.detach().numpy(), f"{name}.{part}")
            for part, parameter in row.named_parameters()
        ]
        operator = {"conv1": "Conv", "relu1": "Relu", "fc8": "Gemm"}[name]
        more: dict[str, Any] = {"transB": 1, "alpha": 1.0} if operator == "Gemm" else {}
        nodes.append(helper.make_node(operator, ["x", *weights], ["y"], **more))
    made = helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))
    if ours:
        helper.set_model_props(made, {"alexnet_model": "alexnet_small", "alexnet_ablate": "{}"})
    return bytes(made.SerializeToString())


def torch_file(content: object, *, new: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def torch_program(model: nn.Sequential) -> bytes:
    flat = nn.Sequential(model[0], nn.Flatten(), model[2]).eval()
    out = io.BytesIO()
    program = torch.export.export(flat, (torch.zeros(2, 3, 3, 3),))
    torch.export.save(program, out, extra_files={"card.json": json.dumps(card().as_texts())})
    return out.getvalue()


def safetensors_bytes(folder: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "seed.safetensors", metadata=metadata or None)
    return (folder / "seed.safetensors").read_bytes()


def parse_all(data: memoryview, depth: int = 0) -> None:
    """Parse a message and, recursively, each field of bytes as if it were one."""
    message = Message.parse(data)
    for number in {field[0] for field in message.fields}:
        message.text(number)
        try:
            message.integers(number)
            message.numbers(number, "<f4")
            message.float32(number)
        except WireError:
            continue
    for _, kind, value in message.fields:
        if kind == BYTES and depth < 4 and isinstance(value, memoryview):
            try:
                parse_all(value, depth + 1)
            except WireError:
                continue


def card() -> Card:
    identity = tuple(tuple(float(i == j) for j in range(3)) for i in range(3))
    mean = torch.rand((3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)) * 255
    preprocessing = Preprocessing(SIZE, SIZE, mean, (3.0, 2.0, 1.0), identity)
    return Card("alexnet_small", {}, ("a", "b"), ("A", "B"), preprocessing, "0" * 64)


def read_card_of(data: bytes) -> object:
    """Read a card from JSON texts."""
    try:
        texts = json.loads(data)
        texts = {str(key): str(value) for key, value in texts.items()}
    except (ValueError, AttributeError, RecursionError):
        return None  # no texts, so no file could have them
    return read_card(texts)


def weights(folder: Path) -> dict[str, Surface]:
    model = small_model()
    state = model.state_dict()
    read = in_file(folder / "weights", read_weights)
    caffe = [caffemodel(model, version=version) for version in (1, 2)]
    caffe.append(caffe[1] + bytes_field(NET_CARD, json.dumps(card().as_texts())))
    blob = CAFFE["BlobProto"](data=np.zeros(3 * SIZE * SIZE), channels=3, height=SIZE, width=SIZE)
    mean = [bytes(blob.SerializeToString()), npy(np.zeros((SIZE, SIZE, 3), np.float32))]
    onnxes = [onnx_file(model, ours=ours) for ours in (True, False)]
    names = [
        b'["cat", "dog"]',
        b'{"0": ["n1", "cat"], "1": ["n2", "dog"]}',
        b'{"dog": 1, "cat": 0}',
        b"n00000001 cat\ndog\n",
    ]
    prefixed = {f"module._orig_mod.model.{name}": tensor for name, tensor in state.items()}
    nested = {"state_dict": prefixed, "epoch": 3, "optimizer": {"lr": {"state": {0: 0.1}}}}
    return {
        "protobuf": Surface(
            [*caffe, *onnxes], lambda data: parse_all(memoryview(data)), (WireError,)
        ),
        "caffemodel": Surface(caffe, read),
        "onnx": Surface(onnxes, read),
        "torch zip": Surface([torch_file(state), torch_file(nested)], read),
        "torch program": Surface([torch_program(model)], read),
        "torch old": Surface([torch_file(state, new=False)], read),
        "safetensors": Surface(
            [safetensors_bytes(folder, dict(state), **card().as_texts())], read
        ),
        "mean image": Surface(mean, in_file(folder / "mean", read_mean)),
        "class names": Surface(
            names, in_file(folder / "names", partial(read_classes, count=2)), text=True
        ),
        "card": Surface([json.dumps(card().as_texts()).encode()], read_card_of, text=True),
    }  # fmt: skip


def linked_copy(whole: Path, copy: Path, *files: str) -> Path:
    """Copy a folder by links; copy the content of `files`, which will be damaged."""
    shutil.copytree(whole, copy, copy_function=os.link)
    for file in {*files, "dataset.json", "checkpoints.json"}:
        if (copy / file).exists():
            (copy / file).unlink()
            shutil.copy(whole / file, copy / file)
    return copy


# Runs.


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def make_run(folder: Path) -> Path:
    """A run of the smallest network, with two checkpoints."""
    settings = Settings(model="cifar10_11", epochs=1)
    given = card().preprocessing
    mean = torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(0)) * 255
    preprocessing = Preprocessing(32, 24, mean, given.color_std, given.color_vectors)
    data = {"data": {"path": "nowhere", "fingerprint": "0" * 64}}
    run = Run.write(folder, settings, ["a", "b"], ["A", "B"], preprocessing, data)
    model = run.new_model()
    optimizer = torch.optim.SGD(model.parameters())
    for step in (1, 2):
        checkpoint_store.save(folder, model, optimizer, checkpoint_format.Position(step=step))
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "val_loss": 1.7, "kind": "epoch"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def open_run(run: Path) -> object:
    """Open a run without its weights."""
    opened = Run.open(run)
    with torch.device("meta"):
        opened.new_model()
    return opened.preprocessing.mean


def load_checkpoint(run: Path) -> object:
    return checkpoint_store.load(run, "last").position


def load_with_digest(run: Path) -> object:
    """Load a checkpoint after writing its digest to checkpoints.json."""
    manifest = json.loads((run / "checkpoints.json").read_text())
    last = run / "checkpoints/step-00000002.safetensors"
    digest = hashlib.sha256(last.read_bytes()).hexdigest()
    manifest["checkpoints"] = [{"file": last.name, "step": 2, "epoch": 1, "sha256": digest}]
    (run / "checkpoints.json").write_text(json.dumps(manifest))
    saved = checkpoint_store.load(run, "last")
    with torch.device("meta"):
        model = Run.open(run).new_model()
    checkpoint_format.load_weights(model, saved)
    return saved


def doctored(data: bytes, *, path: Path, target: Path) -> object:
    """Run the doctor, which must report every problem and raise nothing."""
    target.write_bytes(data)
    diagnosis = diagnose(path)
    json.dumps(diagnosis.as_json())
    return diagnosis.exit_code


def runs(folder: Path) -> dict[str, Surface]:
    whole = make_run(folder / "whole")
    small = safetensors_bytes(
        folder,
        {name: tensor[:1, :1] if tensor.ndim > 1 else tensor[:1] for name, tensor in
         load_file(whole / "checkpoints/step-00000002.safetensors").items()},
        position="{}",
    )  # fmt: skip

    def surface(file: str, read: Callable[[Path], object], **options: Any) -> Surface:
        copy = linked_copy(whole, folder / f"{len(list(folder.iterdir()))}", file)
        seeds = options.pop("seeds", [(whole / file).read_bytes()])
        return Surface(seeds, in_file(copy / file, lambda _: read(copy)), **options)

    def examined(file: str, *, text: bool) -> Surface:
        copy = linked_copy(whole, folder / f"doctor-{file}", file)
        read = partial(doctored, path=copy, target=copy / file)
        return Surface([(whole / file).read_bytes()], read, (), text=text)

    weights_file = "checkpoints/step-00000002.safetensors"
    return {
        "run.json": surface("run.json", open_run, text=True),
        "run mean_image.npy": surface("mean_image.npy", open_run),
        "checkpoints.json": surface("checkpoints.json", load_checkpoint, text=True),
        "checkpoint": surface(weights_file, load_with_digest, seeds=[small]),
        "metrics.jsonl": surface(
            "metrics.jsonl", lambda run: read_metrics(run / "metrics.jsonl"), text=True
        ),
        "doctor on run.json": examined("run.json", text=True),
        "doctor on checkpoints.json": examined("checkpoints.json", text=True),
        "doctor on metrics.jsonl": examined("metrics.jsonl", text=True),
    }


# Packed data sets.


def read_all(folder: Path) -> object:
    """Read all of a data set: every image, label and name."""
    dataset = Dataset(folder)
    for name in dataset.split_names:
        split = dataset.split(name)
        split.read(range(len(split)))
        [split.name(index) for index in range(len(split))]
    return dataset.mean_image


def with_digest(
    folder: Path, file: str, read: Callable[[Path], object]
) -> Callable[[bytes], object]:
    """Return a function that reads a damaged file after writing its digest to the manifest."""
    manifest = (folder / "dataset.json").read_text()

    def update(content: Any, data: bytes) -> None:
        if isinstance(content, dict):
            if content.get("file") == file:
                content |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            content = list(content.values())
        for value in content if isinstance(content, list) else ():
            update(value, data)

    def write_and_read(data: bytes) -> object:
        info = json.loads(manifest)
        update(info, data)
        (folder / "dataset.json").write_text(json.dumps(info))
        (folder / file).write_bytes(data)
        return read(folder)

    return write_and_read


def data_sets(folder: Path) -> dict[str, Surface]:
    surfaces = {}
    for store in ("raw", "jpeg"):
        whole = folder / store
        source = Drawn({"a": 4, "b": 4})
        prepare_dataset(source, whole, size=SIZE, store=store, workers=1)
        files = ["dataset.json", "train-labels.npy", "train-names.txt"]
        files += {
            "raw": ["train-00000.npy", "mean_image.npy"],
            "jpeg": ["train-00000.tar", "train-index.npy"],
        }[store]
        for file in files:
            copy = linked_copy(whole, folder / f"{store}-{file}", file)
            text = file.endswith((".json", ".txt"))
            seeds = [(whole / file).read_bytes()]
            read = with_digest(copy, file, read_all)
            if file == "dataset.json":
                read = in_file(copy / file, lambda path: read_all(path.parent))
            surfaces[f"data set {store}: {file}"] = Surface(seeds, read, text=text)
        file = "dataset.json" if store == "raw" else "train-00000.tar"
        copy = linked_copy(whole, folder / f"{store}-doctor", file)
        examine: Callable[[bytes], object] = partial(doctored, path=copy, target=copy / file)
        if store == "jpeg":
            examine = with_digest(copy, file, lambda path: json.dumps(diagnose(path).as_json()))
        seeds = [(whole / file).read_bytes()]
        surfaces[f"doctor on {file}"] = Surface(seeds, examine, (), text=store == "raw")
    return surfaces


# Sources.


def list_and_read(path: Path, **options: Any) -> object:
    """Open a source, list it, and read all of it."""
    source = open_source(path, path.parent / "work", Recorder(), **options)
    items = source.listing(Recorder()).items
    return [source.read(item) for item in items]


def sources(folder: Path) -> dict[str, Surface]:
    folder.mkdir()
    classes = tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    tars = {
        mode: write_tar(folder / f"seed.{mode}", classes, f"w:{mode}").read_bytes()
        for mode in ("", "gz", "bz2", "xz")
    }
    cifar = [
        write_tar(folder / "cifar", files, "w").read_bytes()
        for files in (cifar_python_files(1), cifar_binary_files(1))
    ]
    return {
        "tar": Surface([tars[""]], in_file(folder / "t/tar", list_and_read)),
        "packed tar": Surface(
            [tars["gz"], tars["bz2"], tars["xz"]], in_file(folder / "p/tar", list_and_read)
        ),
        "CIFAR-10": Surface(cifar, in_file(folder / "c/tar", list_and_read)),
        "CIFAR-10 batch": Surface(
            [cifar_python_files(1)["cifar-10-batches-py/data_batch_1"]],
            partial(cifar_batch, folder=folder / "b"),
        ),
        **imagenet(folder, classes),
    }


def imagenet(folder: Path, classes: dict[str, bytes]) -> dict[str, Surface]:
    layout = load_script("make_imagenet_layout")
    write_tree(folder / "source", classes)
    layout.make_imagenet_layout(folder / "source", folder / "imagenet")
    train, val, kit = (
        folder / "imagenet" / name
        for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar",
                     "ILSVRC2012_devkit_t12.tar.gz")
    )  # fmt: skip
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2)]
    labels = [
        "".join(f"{name} n00000001\n" for name in names).encode(),
        b"n00000001\nn00000002\n",
    ]
    truths = [
        member(kit, "ground_truth.txt"),
        member(kit, "ground_truth.txt").replace(b"\n", b"\r\n"),
    ]

    def read_labels(path: Path, *, devkit: Path | None = None) -> object:
        return ValLabels(path, devkit).label(names)

    open_val = partial(list_and_read, devkit=kit)
    return {
        "ImageNet train": Surface(
            [train.read_bytes()], in_file(folder / "it/train.tar", list_and_read)
        ),
        "ImageNet val": Surface([val.read_bytes()], in_file(folder / "iv/val.tar", open_val)),
        "devkit": Surface([kit.read_bytes()], in_file(folder / "k/kit.tar.gz", read_devkit)),
        "meta.mat": Surface([member(kit, "meta.mat")], partial(devkit_with, folder=folder / "m")),
        "label file": Surface(labels, in_file(folder / "l/labels", read_labels), text=True),
        "numbered labels": Surface(
            truths, in_file(folder / "n/labels", partial(read_labels, devkit=kit)), text=True
        ),
    }


def member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as opened:
        info = next(info for info in opened if info.name.endswith(name))
        file = opened.extractfile(info)
        assert file is not None
        return file.read()


def cifar_batch(data: bytes, *, folder: Path) -> object:
    folder.mkdir(exist_ok=True)
    files = cifar_python_files(1) | {"cifar-10-batches-py/data_batch_1": data}
    return list_and_read(write_tar(folder / "tar", files))


def devkit_with(data: bytes, *, folder: Path) -> object:
    truth = b"1\n2\n"
    files = {"data/meta.mat": data, "data/ILSVRC2012_validation_ground_truth.txt": truth}
    return read_devkit(write_tree(folder, files))


# Images.


def images(folder: Path) -> dict[str, Surface]:
    pixels = picture(3, 20, 30)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    grey = Image.fromarray(pixels).convert("L")
    palette = Image.fromarray(pixels).convert("P")
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(4, 20, 30))]}
    kinds = {
        "JPEG": [photo(1), encode(pixels, exif=exif), encode(grey, progressive=True),
                 encode(Image.fromarray(pixels).convert("CMYK"))],
        "PNG": [encode(pixels, "PNG", exif=exif), encode(palette, "PNG"),
                encode(grey.convert("I;16"), "PNG"),
                encode(Image.fromarray(pixels).convert("RGBA"), "PNG")],
        "WebP": [encode(pixels, "WEBP", exif=exif),
                 encode(pixels, "WEBP", lossless=True, **frames)],
        "GIF": [encode(palette, "GIF"), encode(Image.fromarray(pixels), "GIF", **frames)],
        "BMP": [encode(pixels, "BMP"), encode(palette, "BMP")],
    }  # fmt: skip

    def load(data: bytes) -> None:
        plain = load_square(data, SIZE)
        turned = load_square(data, SIZE, orientation="turn", resize="warp")
        assert plain.shape == turned.shape == (SIZE, SIZE, 3)

    surfaces = {name: Surface(seeds, load) for name, seeds in kinds.items()}
    surfaces["any image"] = Surface([seed for seeds in kinds.values() for seed in seeds], load)
    surfaces["stored JPEG"] = Surface([encode_jpeg(picture(5, SIZE, SIZE))], decode_jpeg)
    return surfaces


# Interrupted work.


def interrupted(folder: Path) -> dict[str, Surface]:
    """Results that `prepare` reuses, or computes again after any exception."""
    folder.mkdir()
    none = np.zeros((0, 2), np.int64)
    sums = ColorSums.empty(SIZE)
    ShardResult("a", "a.npy", 9, "0", np.arange(3), none, [(3, "bad")], sums).save(folder / "a.npz")
    seed = (folder / "a.npz").read_bytes()
    return {
        "shard result": Surface([seed], in_file(folder / "b.npz", ShardResult.load), (Exception,))
    }


BUILDERS: dict[str, Build] = {
    "weights": weights,
    "runs": runs,
    "data sets": data_sets,
    "sources": sources,
    "images": images,
    "interrupted": interrupted,
}


def build_surfaces(folder: Path, *groups: str) -> dict[str, Surface]:
    """Build the surfaces of some groups, or all, with their files below `folder`."""
    found: dict[str, Surface] = {}
    for group in groups or BUILDERS:
        found |= BUILDERS[group](folder / group.replace(" ", "-"))
    return found
