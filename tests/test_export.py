"""Exported networks give the same answers in other engines: ONNX Runtime, OpenCV, torch.export."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from convert_makers import CLASSES, lively, pixels, use_small, write_run
from network_makers import TABLES, pictures, relative_error, shrunk, taps_of
from numpy.typing import NDArray
from onnx import helper
from safetensors import safe_open
from torch import nn

from alexnet.cli import main
from alexnet.convert import export_run, formats, import_weights, write_onnx
from alexnet.convert.caffe import write_caffe
from alexnet.convert.card import Card
from alexnet.errors import CheckpointError, DataError, StorageError, UsageError
from alexnet.evaluate import evaluate_run, log_probabilities
from alexnet.networks.initialization import he_initialize
from alexnet.networks.registry import create_model, input_shape
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

TOLERANCE = 1e-4
MEAN = np.full((256, 256, 3), 120, np.float32)


def inputs(side: int, count: int) -> NDArray[np.float32]:
    """Make images with the spectrum of photographs, 0-255 less the mean: (N, 3, side, side)."""
    return pictures(5, side)[:count].float().numpy()


def compare_taps(model: nn.Sequential, found: dict[str, NDArray[Any]], x: NDArray[Any]) -> None:
    """Compare every row with what it gives in float64."""
    expected = taps_of(model.double(), torch.from_numpy(x).double())
    for name, tap in expected.items():
        if name in found:
            flat = torch.from_numpy(found[name]).reshape(tap.shape)
            assert relative_error(flat, tap.numpy()) < TOLERANCE, name
    assert set(found) == set(expected) - {"input"}


# Caffe, run by OpenCV 4. It ignores LRN's k, which is 1 in these networks anyway.


@pytest.fixture(scope="module", params=["caffe_alexnet", "caffenet"])
def in_opencv(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A full network, and the same one in OpenCV."""
    folder = tmp_path_factory.mktemp("caffe")
    model = lively(request.param)
    write_caffe(request.param, model, MEAN, folder)
    files = str(folder / "deploy.prototxt"), str(folder / "weights.caffemodel")
    net = cv2.dnn.readNetFromCaffe(*files)
    net.enableFusion(False)
    (folder / "weights.caffemodel").unlink()
    return model, net


@pytest.mark.parametrize("count", [1, 5])
def test_every_tap_in_opencv(in_opencv: Any, count: int) -> None:
    model, net = in_opencv
    x = inputs(227, count)
    names = [name for name, _ in model.named_children() if name != "input"]
    net.setInput(np.ascontiguousarray(x[:, ::-1]))
    with torch.no_grad():
        ours = taps_of(model, torch.from_numpy(x))
    for name, found in zip(names, net.forward(names), strict=True):
        expected = ours[name].double().numpy()
        theirs = torch.from_numpy(found.reshape(expected.shape))
        assert relative_error(theirs, expected) < TOLERANCE, name
    probabilities = torch.softmax(ours["fc8"].double(), 1).numpy()
    assert relative_error(torch.from_numpy(net.forward("prob")), probabilities) < TOLERANCE


@pytest.mark.parametrize("name", ["caffe_alexnet", "one_weird_trick", "cifar10_18"])
def test_opencv_runs_the_exported_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if not name.startswith("cifar10"):
        use_small(monkeypatch, name)
    run = write_run(tmp_path / "run", lively(name), name)
    report = export_run(run.path, tmp_path / "caffe", "caffe")
    assert report.engine.startswith("OpenCV 4.")
    assert report.comparison.largest_difference < TOLERANCE * report.comparison.largest_answer
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "caffe").iterdir())
    assert not list(tmp_path.glob("*.partial"))


def test_without_opencv_the_weights_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, "caffenet")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    run = write_run(tmp_path / "run", lively("caffenet"), "caffenet")
    report = export_run(run.path, tmp_path / "caffe", "caffe")
    assert report.engine == "the weights read again"
    assert report.comparison.largest_difference == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("alexnet_small", r"no layer like pad1 \(ZeroPad2d\)"),
        ("cifar10_13", "no layer like local3"),
    ],
)
def test_what_caffe_cannot_express(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        write_caffe(name, create_model(name, CLASSES), MEAN, tmp_path)


def test_other_norms_than_caffes_are_refused(tmp_path: Path) -> None:
    model = shrunk("caffenet").float()
    model.get_submodule("norm2").__dict__["k"] = 2.0
    with pytest.raises(UsageError, match="norm2 has k = 2 and 1 towers"):
        write_caffe("caffenet", model, MEAN, tmp_path)
    model = shrunk("caffenet").float()
    model.get_submodule("pool1").__dict__["kernel_size"] = 2
    with pytest.raises(UsageError, match="pool1 gives 27 x 27, in Caffe 28 x 28"):
        write_caffe("caffenet", model, MEAN, tmp_path)


# ONNX, run by ONNX Runtime.


def card_for(name: str, model: nn.Sequential) -> Card:
    crop = input_shape(name)[1]
    classes = tuple(map(str, range(model[-1].out_features)))  # type: ignore[arg-type]
    preprocessing = Preprocessing(crop, crop, torch.zeros(3, crop, crop), (0.0,) * 3, ())
    return Card(name, {}, classes, classes, preprocessing, "")


def run_onnx(path: Path, x: NDArray[Any], rows: list[str]) -> dict[str, NDArray[Any]]:
    """Run a file with every row as an output."""
    proto = onnx.load(path)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in rows)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return dict(zip(rows, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


def check_onnx(path: Path, name: str, model: nn.Sequential) -> onnx.ModelProto:
    """Write a network and compare every row for one image and for five."""
    write_onnx.write_onnx(model, card_for(name, model), path, with_preprocessing=False)
    rows = [row for row, _ in model.named_children() if row != "input"]
    for count in (1, 5):
        x = inputs(input_shape(name)[1], count)
        compare_taps(model, run_onnx(path, x, rows), x)
    return onnx.load(path)


@pytest.mark.fault(62)
@pytest.mark.parametrize("name", TABLES)
def test_every_tap_of_every_network_in_onnx_runtime(tmp_path: Path, name: str) -> None:
    model = lively(name) if name.startswith("cifar10") else shrunk(name).float()
    proto = check_onnx(tmp_path / "net.onnx", name, model)
    rows = [row for row, _ in model.named_children()][1:]
    if name in ("alexnet", "caffe_alexnet", "caffenet", "one_weird_trick", "alexnet_small"):
        assert [node.name for node in proto.graph.node] == rows
        norms = [node for node in proto.graph.node if node.name.startswith("norm")]
        assert {node.op_type for node in norms} <= {"LRN"}
    assert set(rows) <= {node.name for node in proto.graph.node}


@pytest.mark.parametrize("name", ["googlenet_small", "resnet18_small"])
def test_rows_with_branches_in_onnx_runtime(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3)
    he_initialize(model, 60)
    model(pictures(8, 56).float())  # means and variances of its own
    check_onnx(tmp_path / "net.onnx", name, model.eval())


@pytest.mark.parametrize(
    "ablate",
    [
        {"activation": "tanh", "norm": "none"},
        {"activation": "sigmoid", "overlap": "no"},
        {"norm": "batch", "without": "conv3"},
    ],
)
def test_ablated_networks_in_onnx_runtime(tmp_path: Path, ablate: dict[str, str]) -> None:
    check_onnx(tmp_path / "net.onnx", "alexnet_small", lively("alexnet_small", ablate=ablate))


def test_onnx_of_a_row_that_it_does_not_know(tmp_path: Path) -> None:
    model = lively("alexnet_small")
    model.add_module("odd", nn.Softplus())
    with pytest.raises(UsageError, match=r"odd \(Softplus\) cannot be exported to ONNX"):
        write_onnx.write_onnx(
            model, card_for("alexnet_small", lively("alexnet_small")), tmp_path / "x",
            with_preprocessing=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("small") / "run"
    return write_run(path, lively("alexnet_small"), "alexnet_small")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.parametrize("count", [1, 5])
def test_preprocessing_inside_the_graph(small_run: Run, tmp_path: Path, count: int) -> None:
    export_run(small_run.path, tmp_path / "net.onnx", with_preprocessing=True)
    images = pixels(count, 64)
    opened = session(tmp_path / "net.onnx")
    (given,), (answer,) = opened.get_inputs(), opened.get_outputs()
    assert (given.name, given.type, given.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 64, 64, 3],
    )
    assert (answer.name, answer.shape) == ("probabilities", ["batch", CLASSES])
    (found,) = opened.run(None, {"images": images})
    ours = log_probabilities(small_run.load_model(), images, small_run.preprocessing).exp()
    assert relative_error(torch.from_numpy(found), ours.numpy()) < TOLERANCE


@pytest.mark.fault(62)
def test_the_file_says_what_it_is(small_run: Run, tmp_path: Path) -> None:
    report = export_run(small_run.path, tmp_path / "net.onnx")
    texts = session(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    assert texts["alexnet_model"] == "alexnet_small"
    assert json.loads(texts["alexnet_classes"]) == small_run.classes
    assert json.loads(texts["alexnet_titles"]) == small_run.titles
    preprocessing = json.loads(texts["alexnet_preprocessing"])
    mean = small_run.preprocessing.mean_image.mean((1, 2)).tolist()
    assert preprocessing["mean"] == pytest.approx(mean)
    assert (preprocessing["size"], preprocessing["crop"]) == (64, 56)
    assert (preprocessing["channels"], preprocessing["resize"]) == ("RGB", "short")
    (stored,) = json.loads((small_run.path / "checkpoints.json").read_text())["checkpoints"]
    assert texts["alexnet_source_sha256"] == stored["sha256"]
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_run_on_real_images_has_the_same_error_in_onnx(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    report = export_run(tiny_run, tmp_path / "net.onnx", check=tiny_data, check_images=0)
    evaluation = evaluate_run(tiny_run, tiny_data, device="cpu")
    errors = report.comparison.errors
    assert errors is not None
    assert report.comparison.images == evaluation.images == 15
    assert errors.file_top1_error == errors.run_top1_error == evaluation.top1_error
    assert errors.file_top5_error == errors.run_top5_error == evaluation.top5_error


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_int8_reports_both_errors(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, with_preprocessing: bool
) -> None:
    report = export_run(
        tiny_run,
        tmp_path / "net.onnx",
        int8=True,
        check=tiny_data,
        check_images=7,
        with_preprocessing=with_preprocessing,
    )
    errors = report.comparison.errors
    assert errors is not None
    assert report.comparison.images == 7
    assert report.comparison.largest_difference < 0.1 * report.comparison.largest_answer
    assert abs(errors.file_top1_error - errors.run_top1_error) <= 1 / 7
    operators = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert "MatMulInteger" in operators
    texts = session(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    assert texts["alexnet_model"] == "cifar10_11"


def test_int8_is_a_quarter_of_the_size(small_run: Run, tmp_path: Path) -> None:
    full = export_run(small_run.path, tmp_path / "full.onnx")
    write_onnx.quantize(tmp_path / "full.onnx", tmp_path / "int8.onnx")
    convolutions = sum(
        row.weight.numel() for row in small_run.new_model() if isinstance(row, nn.Conv2d)
    )
    smaller = (tmp_path / "int8.onnx").stat().st_size
    assert smaller - 4 * convolutions < 0.3 * (full.bytes - 4 * convolutions)


# torch.export and safetensors.


@pytest.mark.fault(62)
# torch 2.11 warns so of what its own loader does.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_torch_export(small_run: Run, tmp_path: Path) -> None:
    report = export_run(small_run.path, tmp_path / "net.pt2", "torch-export")
    assert report.comparison.largest_difference == 0
    notes = {"card.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=notes).module()
    assert json.loads(notes["card.json"])["alexnet_model"] == "alexnet_small"
    model = small_run.load_model()
    for count in (1, 5):
        x = torch.from_numpy(inputs(56, count))
        with torch.no_grad():
            assert torch.equal(program(x), model(x))


@pytest.mark.fault(62)
def test_safetensors(small_run: Run, tmp_path: Path) -> None:
    export_run(small_run.path, tmp_path / "net.safetensors", "safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = file.metadata()
    create_model("alexnet_small", CLASSES).load_state_dict(found, strict=True)
    for name, tensor in small_run.load_model().state_dict().items():
        assert torch.equal(found[name], tensor)
    assert json.loads(texts["alexnet_classes"]) == small_run.classes


# What is refused, and what is left then.


@pytest.mark.fault(62)
def test_a_file_with_other_answers_is_not_kept(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_text("the one before")
    monkeypatch.setitem(write_onnx._ROWS, nn.ReLU, write_onnx._operator("Tanh"))
    with pytest.raises(CheckpointError, match="is not written: its answers differ") as caught:
        export_run(small_run.path, tmp_path / "net.onnx", overwrite=True)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "the one before"


def test_answers_that_are_no_numbers_are_not_equal(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_a_number(graph: Any, name: str, _row: nn.Module, x: str) -> str:
        return str(graph.node("Mul", name, x, graph.number(f"{name}/nan", float("nan"))))

    monkeypatch.setitem(write_onnx._ROWS, nn.Dropout, not_a_number)
    with pytest.raises(CheckpointError, match="is not written"):
        export_run(small_run.path, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "safetensors", "caffe"])
def test_a_full_disk(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for target in ("onnx.save", "pathlib.Path.write_bytes", "pathlib.Path.mkdir"):
        monkeypatch.setattr(target, full)
    monkeypatch.setattr(formats, "save_file", full)
    with pytest.raises(StorageError, match=r"cannot write .*out: No space left"):
        export_run(small_run.path, tmp_path / "out", kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"format": "tflite"}, UsageError, "no format 'tflite'; the formats are: onnx, torch-"),
        ({"format": "caffe", "int8": True}, UsageError, "need --format onnx, not caffe"),
        ({"int8": True}, DataError, "add --check DATA"),
        ({"check": "gone"}, DataError, "gone"),
    ],
)
def test_what_cannot_be_exported(
    small_run: Run, tmp_path: Path, options: dict[str, Any], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        export_run(small_run.path, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_data_of_another_size_or_other_classes(
    small_run: Run, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="holds images of side 32, the run takes 64"):
        export_run(small_run.path, tmp_path / "out", check=tiny_data)
    other = write_run(tmp_path / "run", lively("cifar10_11"), "cifar10_11")
    report = export_run(other.path, tmp_path / "out", check=tiny_data)
    assert report.comparison.images == 15
    assert report.comparison.errors is None
    with pytest.raises(DataError, match="with the classes of the run"):
        export_run(other.path, tmp_path / "int8", int8=True, check=tiny_data)


def test_what_is_not_installed_is_named(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"onnx and onnxruntime missing: pip install 'alexnet\["):
        export_run(small_run.path, tmp_path / "out")


def test_a_folder_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, "caffenet")
    run = write_run(tmp_path / "run", lively("caffenet"), "caffenet")
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe/mine").touch()
    for format_, overwrite in (("caffe", False), ("caffe", True), ("onnx", False)):
        with pytest.raises(UsageError, match="caffe is a folder already: name another path"):
            export_run(run.path, tmp_path / "caffe", format_, overwrite=overwrite)
    assert (tmp_path / "caffe/mine").exists()
    (tmp_path / "empty").mkdir()
    export_run(run.path, tmp_path / "empty", "caffe")
    assert (tmp_path / "empty/weights.caffemodel").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_there_is_replaced_only_when_asked(
    small_run: Run, tmp_path: Path, link: bool
) -> None:
    out = tmp_path / "net.onnx"
    if link:
        out.symlink_to("gone")
    else:
        out.write_text("mine")
    with pytest.raises(UsageError, match=r"net\.onnx exists already: add --force"):
        export_run(small_run.path, out)
    assert out.is_symlink() if link else out.read_text() == "mine"
    assert main(["export", str(small_run.path), str(out), "--force"]) == 0
    assert len(onnx.load(out).graph.node) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_lies_under_the_names_of_unfinished_files_stays(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    foreign = [tmp_path / "net.safetensors.partial", tmp_path / "net.tmp"]
    for path in foreign:
        if kind == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "mine").touch()
    export_run(small_run.path, tmp_path / "net.safetensors")
    monkeypatch.setattr(formats, "save_file", lambda *_, **__: None)  # writes nothing
    with pytest.raises((CheckpointError, StorageError)):
        export_run(small_run.path, tmp_path / "net.safetensors", overwrite=True)
    for path in foreign:
        assert path.read_text() == "mine" if kind == "file" else (path / "mine").exists()
    assert len(list(tmp_path.iterdir())) == 3


# The ending says the format.


# torch 2.11 warns so of what its own loader does.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("net.onnx", None, "onnx"),
        ("net.ONNX", "onnx", "onnx"),
        ("net.pt2", None, "torch-export"),
        ("net.safetensors", None, "safetensors"),
        ("net", None, "onnx"),
        ("net-1.0", "safetensors", "safetensors"),
        ("net", "torch-export", "torch-export"),
    ],
)
def test_the_ending_says_the_format(
    small_run: Run, tmp_path: Path, name: str, given: str | None, kind: str
) -> None:
    report = export_run(small_run.path, tmp_path / name, given)
    assert report.format == kind
    start = (tmp_path / name).read_bytes()[:9]
    expected = {"torch-export": start[:2] == b"PK", "safetensors": start[8:] == b"{"}
    assert expected.get(kind, start[:1] == b"\x08")  # the field ir_version of a ModelProto


@pytest.mark.parametrize("name", ["x.h5", "keep.png", "x.pt", "x.caffemodel", "x.tflite"])
@pytest.mark.parametrize("given", [None, "onnx", "caffe"])
def test_other_endings_are_refused(
    small_run: Run, tmp_path: Path, name: str, given: str | None
) -> None:
    (tmp_path / name).write_text("mine")
    says = rf"{name}: no format has the ending \.\w+; \.onnx is ONNX, \.pt2 torch-export"
    with pytest.raises(UsageError, match=says):
        export_run(small_run.path, tmp_path / name, given, overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_an_ending_of_another_format_than_the_one_named(small_run: Run, tmp_path: Path) -> None:
    for name, given in (("x.pt2", "onnx"), ("x.onnx", "safetensors"), ("x.onnx", "caffe")):
        with pytest.raises(UsageError, match=f"ending of .*, but --format says {given}"):
            export_run(small_run.path, tmp_path / name, given)
    assert not list(tmp_path.iterdir())


# torch 2.11 warns so of what its own loader does.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.safetensors", "caffe"])
def test_the_umask_gives_the_modes_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, umask: int
) -> None:
    use_small(monkeypatch, "caffenet")
    run = write_run(tmp_path / "run", lively("caffenet"), "caffenet")
    out = tmp_path / name
    before = os.umask(umask)
    try:
        export_run(run.path, out, "caffe" if name == "caffe" else None)
        import_weights(out, tmp_path / "back")
    finally:
        os.umask(before)
    made = [out, tmp_path / "back"]
    made += [inside for folder in made if folder.is_dir() for inside in folder.rglob("*")]
    for path in made:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert oct(path.stat().st_mode & 0o777) == oct(expected), path


# The command.


def test_the_command_prints_difference_and_errors(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tiny_run), f"{tmp_path}/net.onnx", "--check", str(tiny_data)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "net.onnx: cifar10_11 as onnx, " in out
    assert "checked on 15 images with ONNX Runtime" in out
    rows = [line.split() for line in out.splitlines() if "%" in line]
    assert [row[0] for row in rows] == ["run", "file"]
    assert rows[0][1:] == rows[1][1:]
    assert main([*words, "--json"]) == 2
    assert "net.onnx exists already: add --force to replace it" in capsys.readouterr().err
    assert main([*words, "--json", "--force"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["comparison"]["errors"]["run_top5_error"] == 0
    assert main(["export", str(tiny_run), f"{tmp_path}/caffe", "--format", "caffe"]) == 2
    assert "alexnet: error: Caffe has no layer like" in capsys.readouterr().err
