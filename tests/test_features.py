"""Features are what the rows give, in arrays and files; the examples of docs/features.md run."""

import json
import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_makers import OneWeirdTrick, lively, pixels, write_run
from PIL import Image
from torch import nn

import alexnet
from alexnet.analysis.feature_files import write_features
from alexnet.analysis.features import Tapped, extract_features, layer_shapes, taps
from alexnet.cli import main
from alexnet.dataset import Dataset
from alexnet.errors import DataError, UsageError
from alexnet.images.decode import square_pixels
from alexnet.networks import NAMES
from alexnet.storage.run import Run
from alexnet.transforms import take_view, views

DOCUMENT = Path(__file__).parents[1] / "docs/features.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("features") / "run"
    return write_run(path, lively("alexnet_small"), "alexnet_small")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of the size of the run's images: more than a batch."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pixels(40, 64)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def by_hooks(run: Run, images: Any, layers: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Take the same features with PyTorch's hooks in one batch."""
    model, found = run.load_model(), {}
    for name in layers:

        def keep(_row: nn.Module, _x: Any, output: torch.Tensor, name: str = name) -> None:
            found[name] = output.numpy()

        model.get_submodule(name).register_forward_hook(keep)
    view = views(run.preprocessing.size, run.preprocessing.crop, 1)[0]
    with torch.no_grad():
        model(take_view(torch.from_numpy(images), view, run.preprocessing))
    return found


LAYERS = ["fc7", "conv2", "relu2", "norm1", "drop6"]


def test_features_of_files_are_those_of_hooks(run: Run, photos: Path) -> None:
    expected = by_hooks(run, pixels(40, 64), LAYERS)
    found = extract_features(run.path, photos, LAYERS, device="cpu")
    assert list(found) == LAYERS
    for name in LAYERS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-3)


def test_features_before_and_after_an_activation(run: Run, photos: Path) -> None:
    found = extract_features(run, [photos / "03.png"], ["conv4", "relu4"], device="cpu")
    assert (found["conv4"] < 0).any()
    np.testing.assert_array_equal(found["relu4"], found["conv4"].clip(0))


def test_pixels_and_a_single_name_will_do(run: Run, photos: Path) -> None:
    of_files = extract_features(run, photos, "fc6", device="cpu")["fc6"]
    of_pixels = extract_features(run, pixels(40, 64), "fc6", device="cpu")["fc6"]
    np.testing.assert_array_equal(of_files, of_pixels)


def test_pixels_of_a_data_set(tiny_run: Path, tiny_data: Path) -> None:
    images = Dataset(tiny_data).split("val").read(np.arange(15))
    found = extract_features(tiny_run, images, "local4", device="cpu")["local4"]
    assert found.shape == (15, 32, 6, 6)


def test_a_network_alone_takes_what_it_takes(run: Run) -> None:
    model = run.load_model()
    model.train()  # dropout must not act
    x = np.random.default_rng(0).normal(0, 60, (35, 3, 56, 56))
    found = extract_features(model, x, ["drop6", "fc8"])
    with torch.no_grad():
        expected = run.load_model()(torch.from_numpy(x).float())
    np.testing.assert_allclose(found["fc8"], expected.numpy(), rtol=1e-4, atol=1e-3)
    assert found["drop6"].shape == (35, 1024)


def test_gradients_flow_through_taps(run: Run) -> None:
    model = run.load_model()
    x = torch.randn(2, 3, 56, 56).mul(60).requires_grad_()
    found = taps(model, x, ["relu5", "conv1"])
    assert list(found) == ["relu5", "conv1"]
    torch.autograd.backward(found["relu5"].square().sum())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_rows_after_the_last_tap_do_not_run(run: Run) -> None:
    model = run.load_model()
    model.get_submodule("fc6").forward = None  # type: ignore[assignment]
    assert taps(model, torch.zeros(1, 3, 56, 56), ["pool5"])["pool5"].shape == (1, 128, 2, 2)


@pytest.mark.parametrize(
    ("images", "layers", "says"),
    [
        ("photos", ["fc9", "conv1", "x"], "no layer fc9, x; there are input, pad1, conv1"),
        ("photos", [], "no layer named; there are input"),
        (np.zeros((2, 56, 56, 3), np.uint8), ["fc6"], r"\(N, 64, 64, 3\) uint8, not \(2, 56, 5"),
        (np.zeros((2, 64, 64, 3)), ["fc6"], "uint8, not .* float64"),
        (np.zeros((0, 64, 64, 3), np.uint8), ["fc6"], "there are no images"),
    ],
)
def test_what_makes_no_sense(run: Run, images: Any, layers: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        extract_features(run, images, layers, device="cpu")


def test_a_network_alone_cannot_read_files(run: Run, photos: Path) -> None:
    with pytest.raises(UsageError, match="give its run for files"):
        extract_features(run.load_model(), photos, "fc6")


def test_the_first_bad_file_stops_a_call(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"bad\.jpg: not a JPEG"):
        extract_features(run, tmp_path, "fc6", device="cpu")


# Files.


def names_in(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_layer_is_one_array(run: Run, photos: Path, tmp_path: Path) -> None:
    tapped = Tapped(run, ["relu6"], device="cpu")
    report = write_features(photos, tmp_path / "x.npy", tapped)
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = extract_features(run, photos, "relu6", device="cpu")["relu6"]
    np.testing.assert_array_equal(stored, expected)
    assert stored.flags.c_contiguous
    assert names_in(tmp_path / "x-images.txt") == [str(photos / f"{i:02}.png") for i in range(40)]
    assert report.as_json() == {
        "images": 40,
        "layers": {"relu6": (40, 1024)},
        "files": (f"{tmp_path}/x.npy", f"{tmp_path}/x-images.txt"),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-images.txt", "x.npy"]


def test_several_layers_are_several_arrays(run: Run, photos: Path, tmp_path: Path) -> None:
    write_features(photos, tmp_path / "x.npy", Tapped(run, ["conv5", "fc8"], device="cpu"))
    assert np.load(tmp_path / "x-conv5.npy").shape == (40, 128, 6, 6)
    assert np.load(tmp_path / "x-fc8.npy").shape == (40, 6)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_a_table(run: Run, photos: Path, tmp_path: Path) -> None:
    import importlib

    parquet = importlib.import_module("pyarrow.parquet")
    write_features(photos, tmp_path / "x.parquet", Tapped(run, ["conv5", "fc8"], device="cpu"))
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["image", "conv5", "fc8"]
    shapes = json.loads(table.schema.metadata[b"alexnet_shapes"])
    expected = extract_features(run, photos, ["conv5", "fc8"], device="cpu")
    for layer, values in expected.items():
        stored = np.array(table.column(layer).to_pylist(), np.float32)
        np.testing.assert_array_equal(stored.reshape(-1, *shapes[layer]), values)
    assert table.column("image").to_pylist()[39] == str(photos / "39.png")


def test_a_table_needs_pyarrow(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.analysis.feature_files.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[parquet\]'"):
        write_features(photos, tmp_path / "x.parquet", Tapped(run, ["fc8"], device="cpu"))


def test_bad_files_are_left_out(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "a.png").write_bytes((photos / "00.png").read_bytes())
    (folder / "b.png").write_text("no image")
    (folder / "c.png").write_bytes((photos / "02.png").read_bytes())
    (folder / "d.png").symlink_to("gone.png")
    out = str(tmp_path / "x.npy")
    words = ["features", str(folder), out, "--run", str(run.path), "--layer", "fc8"]
    assert main([*words, "--device", "cpu"]) == 3
    shown = capsys.readouterr()
    assert "2 images\nfc8: 2 x 6\n" in shown.out
    assert "b.png: not a JPEG" in shown.err
    assert "d.png: a link to gone.png, which does not exist" in " ".join(shown.err.split())
    assert [Path(name).name for name in names_in(tmp_path / "x-images.txt")] == ["a.png", "c.png"]
    assert np.load(out).shape == (2, 6)


def test_a_tilde_is_the_home_folder(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell leaves it in quotes, and Python does not know it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").symlink_to(photos)
    write_features("~/photos", "~/x.npy", Tapped(run, ["fc8"], device="cpu"))
    assert len(np.load(tmp_path / "x.npy")) == 40
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        Dataset("~/data")


def test_nothing_is_written_where_there_is_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no image")
    (tmp_path / "x.npy").write_text("the one before")
    tapped = Tapped(run, ["fc8"], device="cpu")
    bad: list[DataError] = []
    with pytest.raises(DataError, match=r"not one image can be read; the first: .*a\.png"):
        write_features(tmp_path / "in", tmp_path / "x.npy", tapped, on_bad=bad.append)
    assert (tmp_path / "x.npy").read_text() == "the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.npy"]
    assert len(bad) == 1


# The command.


def test_the_list_of_layers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "--run", str(run.path), "--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv5", "128x6x6", "4,608"] in lines
    assert main(["features", "--run", str(run.path), "--list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["relu7"] == [1024]
    assert list(shown) == list(layer_shapes(run.new_model()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("photos x.npy", "at least one --layer"),
        ("photos --layer fc8", "takes IMAGES, OUT"),
        ("photos x.csv --layer fc8", "x.csv is neither a .npy nor a .parquet file"),
        ("photos x.npy --layer fc9", "no layer fc9"),
        ("gone x.npy --layer fc8", "gone: No such file"),
    ],
)
def test_wrong_words(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [str(photos) if word == "photos" else word for word in words.split()]
    assert main(["features", *given, "--run", str(run.path)]) in (2, 3)
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_features_as_json(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(photos), f"{tmp_path}/x.npy", "--run", str(run.path), "--json"]
    assert main([*words, "--layer", "fc8"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == {"fc8": [40, 6]}


# Other sizes.


@pytest.mark.parametrize("name", NAMES)
def test_rows_before_the_first_linear_one_take_any_size(name: str) -> None:
    """Run the rows one by one, without the first one, which checks the size."""
    torch.manual_seed(0)
    model = alexnet.create_model(name, 5).eval()
    others = {"cifar10": "relu2", "vgg11": "pool8", "googlenet": "pool4", "resnet18": "relu5b"}
    last = others.get(name.partition("_")[0], "pool5")
    inputs = torch.randn(2, 3, 150, 91) * 60
    expected = {}
    with torch.no_grad():
        x = inputs
        for row_name, row in list(model.named_children())[1:]:
            x = row(x)
            expected[row_name] = x
            if row_name == last:
                break
        found = taps(model, inputs, ["input", "conv1", last])
    assert torch.equal(found["input"], inputs)
    assert torch.equal(found["conv1"], expected["conv1"])
    assert torch.equal(found[last], expected[last])
    assert layer_shapes(model)[last] != tuple(found[last].shape[1:])


def test_features_of_another_size_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = OneWeirdTrick((64, 192, 384, 256, 256), 8, 5).features.eval()
    ours = alexnet.create_model("one_weird_trick", 5).eval()
    for index, number in zip((0, 3, 6, 8, 10), range(1, 6), strict=True):
        ours.get_submodule(f"conv{number}").load_state_dict(theirs[index].state_dict())
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        expected = theirs(images).numpy()
    found = extract_features(ours, images, "pool5")["pool5"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["flatten", "fc6", "fc8"])
def test_layers_after_it_need_the_size(run: Run, photos: Path, layer: str) -> None:
    with pytest.raises(UsageError, match=r"takes images of shape \(N, 3, 56, 56\)"):
        extract_features(run.load_model(), torch.zeros(1, 3, 64, 64), ["conv1", layer])
    with pytest.raises(UsageError, match="flatten needs that size, layers before it take any"):
        extract_features(run, pixels(2, 80), ["conv1", layer], device="cpu")
    with pytest.raises(UsageError, match="flatten needs images of 56 x 56; only layers before it"):
        extract_features(run, photos, layer, size=80, device="cpu")


def test_images_of_another_size_are_used_whole(run: Run, photos: Path) -> None:
    """Their mean colour is that of the run, as the mean image has no other size."""
    model, mean = run.load_model(), run.preprocessing.mean.mean((1, 2))
    wide = np.ascontiguousarray(pixels(3, 90)[:, :70])
    inputs = torch.from_numpy(wide).permute(0, 3, 1, 2).float() - mean[:, None, None]
    with torch.no_grad():
        expected = taps(model, inputs, ["relu5"])["relu5"].numpy()
    found = extract_features(run, wide, "relu5", device="cpu")["relu5"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)

    scaled = [square_pixels(image, 100) for image in pixels(40, 64)]
    of_pixels = extract_features(run, np.stack(scaled), "relu5", device="cpu")["relu5"]
    of_files = extract_features(run, photos, "relu5", size=100, device="cpu")["relu5"]
    np.testing.assert_array_equal(of_files, of_pixels)


def test_images_as_large_as_the_input_lose_the_mean_image(run: Run) -> None:
    crop = run.preprocessing.crop
    inputs = torch.from_numpy(pixels(2, crop)).permute(0, 3, 1, 2).float() - run.preprocessing.mean
    with torch.no_grad():
        expected = taps(run.load_model(), inputs, ["conv5"])["conv5"].numpy()
    found = extract_features(run, pixels(2, crop), "conv5", size=crop, device="cpu")["conv5"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_command_takes_a_size(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(photos), f"{tmp_path}/x.npy", "--run", str(run.path)]
    words += ["--device", "cpu"]
    assert main([*words, "--layer", "relu5", "--size", "100"]) == 0
    expected = extract_features(run, photos, "relu5", size=100, device="cpu")["relu5"]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert f"relu5: {' x '.join(map(str, expected.shape))}" in capsys.readouterr().out
    for size in ("4", "0", "-1"):
        assert main([*words, "--layer", "relu5", "--size", size]) == 2
        assert f"images of {size} x {size} are too small" in capsys.readouterr().err


# The examples.


def examples() -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def run_example(
    number: int, run: Run, photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Run an example in a folder where it finds the run and the images that it names."""
    (folder / "runs").mkdir()
    (folder / "runs/photos").symlink_to(run.path)
    (folder / "photos").symlink_to(photos)
    (folder / "example.py").write_text(examples()[number])
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    return runpy.run_path("example.py")


def test_the_example_of_one_call(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run_example(0, run, photos, tmp_path, monkeypatch)
    assert capsys.readouterr().out == "(40, 128, 6, 6)\n"


def test_the_example_of_a_distance(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_example(1, run, photos, tmp_path, monkeypatch)
    distance, model, image = names["distance"], names["model"], names["image"]
    assert distance(model, image, image).item() == 0
    near, far = distance(model, image, names["slightly"]), distance(model, image, names["very"])
    assert 0 < 4 * near.item() < far.item()
    assert torch.allclose(distance(model, names["very"], image), far)
    moved = names["slightly"].clone().requires_grad_()
    distance(model, image, moved).sum().backward()
    closer = moved - 1e2 * moved.grad
    assert distance(model, image, closer).item() < near.item()


def test_the_example_of_neurons(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    deep = extract_features(run, photos, "relu7", device="cpu")["relu7"]
    deep = (deep - deep.mean(0)) / (deep.std(0) + 1e-6)
    principal = np.linalg.svd(deep, full_matrices=False)[0][:, :3]  # neurons that relu7 explains
    np.save(tmp_path / "responses.npy", principal)
    names = run_example(2, run, photos, tmp_path, monkeypatch)
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert max(shown, key=lambda layer: float(shown[layer])) == "relu7"
    noise = np.random.default_rng(0).normal(size=(40, 3))
    assert names["predictivity"](names["features"]["relu7"], noise) < 0.5


def test_it_is_offered_by_the_package() -> None:
    assert alexnet.extract_features is extract_features
