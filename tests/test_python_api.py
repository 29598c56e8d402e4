"""What `import alexnet` gives: prediction of all kinds of images, data by number, trainings."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type, get_type_hints

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from torch.utils.data import DataLoader

import alexnet
from alexnet.cli import main
from alexnet.images import Pixels
from alexnet.python.training import Changes

PIXELS = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def run(tiny_run: Path) -> alexnet.Run:
    return alexnet.Run.open(tiny_run)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """Return what a command prints with --json."""
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


KINDS: dict[str, Any] = {
    "path": lambda path: path,
    "text": str,
    "bytes": content,
    "Pillow": Image.open,
    "Pillow from bytes": lambda path: Image.open(io.BytesIO(content(path))),
    "array": lambda _: PIXELS,
    "array, channels first": lambda _: PIXELS.transpose(2, 0, 1),
    "tensor": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor, channels last": lambda _: torch.from_numpy(PIXELS),
    "floats": lambda _: PIXELS / 255,
    "tensor of floats": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255,
    "RGBA": lambda _: np.concatenate([PIXELS, PIXELS[:, :, :1]], axis=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_answered_as_the_command_does(
    run: alexnet.Run, picture: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("predict", picture, "--run", run.path, "--device", "cpu")
    (expected,) = command(capsys, *words)
    answer = run.predict(KINDS[kind](picture), device="cpu")
    assert answer.as_json()["predictions"] == expected["predictions"]  # to the last digit


@pytest.mark.parametrize("views", [1, 10])
def test_a_list_is_answered_as_the_command_does(
    run: alexnet.Run, tmp_path: Path, views: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many").mkdir()
    rng = np.random.default_rng(0)
    for number in range(35):  # more than are predicted at a time
        noise = rng.integers(0, 256, (33 + number, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "many" / f"{number:02}.png")
    words = ("predict", tmp_path / "many", "--run", run.path, "--device", "cpu", "--views", views)
    expected = command(capsys, *words)
    answers = run.predict([tmp_path / "many"], views=views, device="cpu")
    assert [answer.as_json() | {"run": str(run.path)} for answer in answers] == expected
    opened = [Image.open(path) for path in sorted((tmp_path / "many").iterdir())]
    answers = run.predict(iter(opened), views=views, device="cpu")
    assert [a.predictions for a in answers] == [
        tuple((pair["class"], pair["probability"]) for pair in each["predictions"])
        for each in expected
    ]


def test_grey_images_have_the_same_value_in_all_channels(run: alexnet.Run) -> None:
    grey = PIXELS[:, :, 0]
    expected = run.predict(np.stack([grey] * 3, axis=2)).predictions
    kinds: list[Any] = [grey, grey[:, :, None], grey[None], torch.from_numpy(grey / 255)]
    for kind in kinds:
        assert run.predict(kind).predictions == expected


def test_a_photograph_of_pillow_is_turned_as_its_file_is(run: alexnet.Run, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    expected = run.predict(tmp_path / "turned.png").predictions
    assert run.predict(Image.open(tmp_path / "turned.png")).predictions == expected
    assert run.predict(np.rot90(PIXELS, -1)).predictions == expected
    assert run.predict(PIXELS).predictions != expected


REFUSED: dict[str, tuple[Any, str]] = {
    "batch": (np.zeros((2, 40, 50, 3), np.uint8), r"array \(2, 40, 50, 3\) is a batch: pass list"),
    "either": (np.zeros((3, 50, 3), np.uint8), "the first or the last number can be the channels"),
    "channels": (torch.zeros((5, 40, 50)), r"tensor \(5, 40, 50\) has neither first nor last 1, 3"),
    "vector": (np.zeros(9, np.uint8), r"array \(9,\): an image is \(H, W\)"),
    "int64": (PIXELS.astype(np.int64), "of int64: pixels are uint8, 0-255, or floats, 0-1"),
    "0-255": (PIXELS.astype(np.float32), "holds floats from 0 to 255: floats are 0-1"),
    "centred": (PIXELS / 255 - 0.5, "holds floats from -0.5 to 0.5"),
    "nan": (np.full((40, 50, 3), np.nan), "holds floats from nan to nan"),
    "none": (np.zeros((0, 50, 3), np.uint8), "has no pixels"),
    "address": ("https://example.org/cat.jpg", "is an address: download the file first"),
    "kind": ([{"cat": 1}], "an image is a path, bytes, .* a tensor, not a dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_mean_two_things_is_refused_in_one_line(run: alexnet.Run, case: str) -> None:
    given, message = REFUSED[case]
    with pytest.raises(alexnet.UsageError, match=message) as caught:
        run.predict(given)
    assert "\n" not in str(caught.value)


def test_images_that_cannot_be_read_are_errors_of_data(run: alexnet.Run, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for given, message in (
        (b"text", "4 bytes: not a JPEG, PNG"),
        (tmp_path / "none.png", "No such file"),
        (tmp_path / "cut.png", "cut.png: "),
        (Image.new("I", (9, 9)), "I image, 9 x 9: pixels of mode I, which have more than 8 bits"),
    ):
        with pytest.raises(alexnet.DataError, match=message):
            run.predict(given)
    with pytest.raises(alexnet.UsageError, match="is a folder: put it in a list"):
        run.predict(tmp_path)
    with pytest.raises(alexnet.UsageError, match="top must be at least 1"):
        run.predict(PIXELS, top=0)
    assert run.predict([]) == []


def test_weights_are_read_once(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    run = alexnet.Run.open(tmp_path / "run")
    first = run.predict(PIXELS)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert run.predict(PIXELS) == first
    with pytest.raises(alexnet.CheckpointError):
        alexnet.Run.open(tmp_path / "run").predict(PIXELS)


def test_display_names_stand_beside_the_classes(
    tiny_run: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    info = json.loads((tmp_path / "run/run.json").read_text())
    info["titles"] = ["<across>", "from top & down", "slanting lines"]
    (tmp_path / "run/run.json").write_text(json.dumps(info))
    (shown,) = command(capsys, "predict", picture, "--run", tmp_path / "run")
    titles = dict(zip(info["classes"], info["titles"], strict=True))
    assert all(pair["title"] == titles[pair["class"]] for pair in shown["predictions"])
    answer = alexnet.Run.open(tmp_path / "run").predict(picture)
    assert answer.titles == tuple(titles[name] for name, _ in answer.predictions)
    html = answer._repr_html_()
    assert "&lt;across&gt;" in html
    assert "top &amp; down" in html
    assert [float(width) for width in re.findall(r"width:([\d.]+)%", html)] == pytest.approx(
        [100 * probability for _, probability in answer.predictions], abs=0.1
    )


def test_a_network_and_its_preprocessing_give_the_answers(run: alexnet.Run, picture: Path) -> None:
    inputs = run.preprocess([picture, PIXELS])
    assert inputs.shape == (2, 3, 24, 24)
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(run.preprocess(picture), inputs[0])
    network = run.load_model()
    assert isinstance(network, torch.nn.Module)
    with torch.no_grad():
        probabilities = network(inputs).double().softmax(1)[0]
    name, probability = run.predict(picture, device="cpu").predictions[0]
    assert probabilities[run.classes.index(name)] == pytest.approx(probability, rel=1e-5)
    again = pickle.loads(pickle.dumps(run.preprocess))  # for the processes of a DataLoader
    assert torch.equal(again(PIXELS), inputs[0])


def test_a_loader_of_ones_own_measures_the_error_that_evaluate_reports(
    run: alexnet.Run, tiny_data: Path
) -> None:
    data, network = alexnet.Dataset(tiny_data), run.load_model()
    wrong = 0
    for images, labels in DataLoader(data["val"], batch_size=4, shuffle=True):
        with torch.no_grad():
            wrong += int((network(run.preprocess(images)).argmax(1) != labels).sum())
    assert wrong / len(data["val"]) == alexnet.evaluate_run(run.path, tiny_data).top1_error


def test_a_data_set_has_its_images_by_split_and_number(tiny_data: Path) -> None:
    data = alexnet.Dataset(tiny_data)
    assert len(data) == 69
    assert list(data) == ["train", "val", "test"]
    assert "val" in data
    assert "other" not in data
    images = data["val"]
    stored = data.split("val")
    assert len(images) == len(stored) == 15
    pixels, label = images[-1]
    assert (pixels == stored.read([14])[0]).all()
    assert label == stored.labels[14]
    assert type(label) is int
    assert [number for _, number in images] == images.labels.tolist()
    with pytest.raises(IndexError):
        images[15]
    with pytest.raises(alexnet.UsageError, match="has no split 'other'; it has train, val, test"):
        data["other"]


def test_training_takes_a_recipe_keywords_and_callbacks_and_shows_its_progress(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    report = alexnet.train_model(
        alexnet.Dataset(tiny_data),
        tmp_path / "run",
        recipe="small",
        model="cifar10_11",
        epochs=2,
        lr=0.003,
        batch_size=8,
        log_steps=2,
        device="cpu",
        on_step=steps.append,
        on_epoch=epochs.append,
    )
    shown = capsys.readouterr()
    assert "epoch 2/2: train loss" in shown.err
    assert not shown.out
    run = alexnet.Run.open(tmp_path / "run")
    changed: dict[str, Any] = {
        "model": "cifar10_11",
        "epochs": 2,
        "lr": 0.003,
        "batch_size": 8,
        "log_steps": 2,
    }
    assert run.settings == alexnet.override(alexnet.recipe("small"), **changed)
    assert [*steps, *epochs] == sorted(run.metrics(), key=lambda row: "kind" in row)
    assert [row["step"] for row in steps] == [2, 4, 6, 8, 10]
    assert report.curves == epochs == run.curves()
    assert report.val_loss == epochs[-1]["val_loss"]


def test_earlier_calls_train_as_before_and_silence_is_possible(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = alexnet.train_model(tiny_data, tmp_path / "run", TINY, device="cpu", progress=False)
    assert capsys.readouterr().err == ""
    before = alexnet.Run.open(tiny_run).curves()
    assert [row["val_loss"] for row in report.curves] == [row["val_loss"] for row in before]
    more = alexnet.train_model(tiny_data, tmp_path / "run", epochs=3, resume=True, progress=None)
    assert len(more.curves) == 3
    assert alexnet.Run.open(tmp_path / "run").settings.lr == TINY.lr


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"learning_rate": 1}, "there is no setting 'learning_rate'; the settings are: model"),
        ({"epochs": 2.5}, "setting epochs must be a whole number, not 2.5"),
        ({"settings": TINY, "recipe": "small"}, "settings and recipe were given: pass one"),
        ({"recipe": "tiny"}, "there is no recipe 'tiny'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tiny_data: Path, tmp_path: Path, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(alexnet.UsageError, match=message):
        alexnet.train_model(tiny_data, tmp_path / "run", **keywords)
    assert not (tmp_path / "run").exists()


def test_all_settings_but_one_are_keywords_of_the_same_type() -> None:
    kinds = get_type_hints(alexnet.Settings)
    del kinds["init"]  # a run in train_model
    assert get_type_hints(Changes) == kinds


def test_a_report_draws_its_curves(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = alexnet.train_model(tiny_data, tiny_run, resume=True, progress=False)
    loss, error = report.plot().axes
    rows = alexnet.Run.open(tiny_run).curves()
    (training, validation), (top1, _) = loss.lines, error.lines
    for line, key in ((training, "train_loss"), (validation, "val_loss"), (top1, "top1_error")):
        assert np.asarray(line.get_xdata()).tolist() == [1, 2]
        assert np.asarray(line.get_ydata()).tolist() == [row[key] for row in rows]
    html = report._repr_html_()
    assert html.count("<polyline") == 4
    assert f"validation {rows[-1]['val_loss']:.3g}" in html
    assert "<polyline" in alexnet.Run.open(tiny_run)._repr_html_()


def test_objects_say_what_they_are(run: alexnet.Run, tiny_data: Path) -> None:
    data = alexnet.Dataset(tiny_data)
    errors = [row["top1_error"] for row in run.curves()]
    assert repr(run) == (
        f"Run({str(run.path)!r}: cifar10_11, 3 classes, 2 of 2 epochs, lowest top-1 error "
        f"{min(errors):.2%})"
    )
    assert repr(data) == (
        f"Dataset({str(tiny_data)!r}: 39 train, 15 val, 15 test images of 32 x 32, 3 classes)"
    )
    assert repr(data["val"]) == "Images('val': 15 images, 3 classes)"
    assert repr(run.preprocess) == "Preprocess(shorter side to 32, centre 24 x 24, less the mean)"
    answer = run.predict(PIXELS, top=1)
    ((_, probability),) = answer.predictions
    assert repr(answer) == f"Prediction('array (40, 50, 3)': {answer.titles[0]} {probability:.1%})"
    summary = alexnet.summarize("alexnet")
    counts = "60,965,224 parameters, 724,406,816 multiply-adds"
    assert repr(summary) == f"Summary('alexnet': {len(summary.layers)} rows, {counts})"
    assert "<td" in summary._repr_html_()
    assert "slanting" in data._repr_html_()
    evaluation = alexnet.evaluate_run(run.path, tiny_data)
    settings = alexnet.recipe("cifar10")
    for each in (run, data, summary, evaluation, settings, run.preprocessing, run.predict(PIXELS)):
        assert len(repr(each)) < 400
        assert " at 0x" not in repr(each)
    assert repr(alexnet.Settings()) == "Settings()"
    assert eval(repr(settings), {"Settings": alexnet.Settings}) == settings


def test_only_the_public_names_are_listed(tmp_path: Path) -> None:
    code = "import alexnet, alexnet.cli, json; print(json.dumps(dir(alexnet)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stub = Path(alexnet.__file__).with_suffix(".pyi").read_text()
    named = {*re.findall(r"(?m) as (\w+)$", stub), "__version__"}
    assert set(json.loads(done.stdout)) == named
    assert Path(alexnet.__file__).with_name("py.typed").is_file()


def test_type_checkers_see_the_types(run: alexnet.Run, tiny_data: Path, tmp_path: Path) -> None:
    """mypy checks this in `make check`: a comment that is not needed is an error, too."""
    assert_type(run.predict(PIXELS), alexnet.Prediction)
    assert_type(run.predict([PIXELS]), list[alexnet.Prediction])
    assert_type(alexnet.Dataset(tiny_data)["val"][0], tuple[Pixels, int])
    with pytest.raises(alexnet.UsageError, match="setting epochs must be a whole number"):
        alexnet.train_model(tiny_data, tmp_path / "run", epochs="five")  # type: ignore[arg-type]
