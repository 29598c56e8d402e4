"""`--init imagenet`: the published convolutions, downloaded or from a file, and what they start."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Stripes
from convert_makers import OneWeirdTrick, served, small_torchvision, use_small
from data_makers import Recorder
from torch import Tensor, nn

from alexnet.cli import main
from alexnet.convert import download, published
from alexnet.convert.published import imagenet_convolutions
from alexnet.convert.read import read_weights
from alexnet.errors import CheckpointError, UsageError
from alexnet.prepare import prepare_dataset
from alexnet.recipes import recipe
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import sha256_of
from alexnet.storage.run import Run
from alexnet.train import train_model

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
FILE = "alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imagenet") / "data"
    prepare_dataset(Stripes(), out, size=224, workers=1)
    return out


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of an eighth of the kernels, and a cache folder of the test's own."""
    use_small(monkeypatch, "one_weird_trick")
    monkeypatch.setattr(published, "cache_folder", lambda: tmp_path / "cache/kernels")


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """The convolutions alone, as NumPy stores them."""
    state = small_torchvision().features.state_dict()
    np.savez(tmp_path / "features.npz", **{f"features.{k}": v.numpy() for k, v in state.items()})
    return tmp_path / "features.npz"


def held(run: Path) -> dict[str, Tensor]:
    tensors = checkpoint_store.load(run, "best", prefix="model.").tensors
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def test_the_convolutions_compute_what_torchvisions_do(npz: Path) -> None:
    theirs: OneWeirdTrick = small_torchvision()
    run = Run.open(imagenet_convolutions(npz))
    weights = held(run.path)
    assert {name.split(".")[0] for name in weights} == set(CONVOLUTIONS)
    rows = list(run.new_model().named_children())
    model = nn.Sequential(OrderedDict(rows[: [name for name, _ in rows].index("flatten")]))
    model.load_state_dict(weights)
    pixels = torch.randint(0, 256, (2, 3, 224, 224)).float()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        ours = model(pixels - run.preprocessing.mean)
        expected = theirs.features((pixels / 255 - mean) / std)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_download_is_believed_by_its_hash_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save(small_torchvision().state_dict(), folder / FILE)
    digest = sha256_of(folder / FILE)
    with served(folder) as address:
        with pytest.raises(CheckpointError, match="is not the published file"):
            imagenet_convolutions(address)
        known = download.Published("http://nowhere.invalid", FILE, digest[:8])
        monkeypatch.setitem(download.PUBLISHED, "torchvision", known)
        run = imagenet_convolutions(address)
    recorder = Recorder()
    assert imagenet_convolutions(progress=recorder) == run  # nobody serves it any more
    assert run.name == f"imagenet-{digest[:8]}"
    assert recorder.notes == [f"ImageNet's convolutions: torchvision's {FILE}, in {run}"]
    assert imagenet_convolutions(folder / FILE) == run


def test_the_linear_layers_learn_first_then_all(npz: Path, data: Path, tmp_path: Path) -> None:
    source, recorder = imagenet_convolutions(npz), Recorder()
    settings = replace(recipe("fine_tune"), epochs=3, batch_size=13)
    found = {}
    for epochs in (2, 3):
        path = tmp_path / "run"
        train_model(
            data,
            path,
            replace(settings, epochs=epochs, schedule="steps"),
            init=source,
            resume=epochs > 2,
            device="cpu",
            progress=recorder,
        )
        found[epochs] = dict(Run.open(path).load_model(checkpoint="last").named_parameters())
    assert recorder.notes[0] == (
        f"weights of {source}, except for fc6, fc7, fc8; its mean image is subtracted too, not "
        f"that of these images (the middle of it: for images of side 224, not 256)"
    )
    assert f"at rest until epoch 3: {', '.join(CONVOLUTIONS)}" in recorder.notes
    for name, weight in held(source).items():
        assert torch.equal(found[2][name], weight)
        assert not torch.equal(found[3][name], weight)
    for name in ("fc6.weight", "fc7.weight", "fc8.weight"):
        assert not torch.equal(found[2][name], found[3][name])


def test_the_command(
    npz: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", str(data), str(run), "--init", "imagenet", "--device", "cpu", "--plain"]
    more = ["--set", "batch_size=39", "--set", "schedule=steps"]
    assert main([*words, "--mirror", str(npz), *more, "--epochs", "1", "--resume"]) == 0
    out, err = capsys.readouterr()
    assert f"ImageNet's convolutions: {npz}, which is not the published file" in err
    assert "one_weird_trick: 1 epoch" in out
    settings = Run.open(run).settings
    assert settings == replace(recipe("fine_tune"), epochs=1, batch_size=39, schedule="steps")
    npz.unlink()
    assert main([*words, "--epochs", "2", "--resume"]) == 0
    assert "one_weird_trick: 2 epochs" in capsys.readouterr().out


def test_it_is_refused_for_a_run_that_began_otherwise(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(recipe("fine_tune"), epochs=1, batch_size=39, overrides=(), layer_lr={})
    train_model(data, tmp_path / "run", settings, device="cpu")
    words = ["train", str(data), str(tmp_path / "run"), "--resume", "--init", "imagenet"]
    assert main([*words, "--device", "cpu"]) == UsageError.exit_code
    assert "was begun with weights of its own: leave out --init" in capsys.readouterr().err


def test_a_mirror_without_imagenet_is_refused(
    data: Path, tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(data), str(tmp_path / "run"), "--mirror", "x.npz"]
    for init in ([], ["--init", str(tiny_run)]):
        assert main([*words, *init]) == UsageError.exit_code
        assert "--mirror needs --init imagenet" in capsys.readouterr().err


def test_a_part_of_a_network_predicts_nothing(npz: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fc6.weight \(missing in the file"):
        Run.open(imagenet_convolutions(npz)).load_model()


def without(names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {name: x for name, x in arrays.items() if not name.startswith(names)}


OTHERS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a layer less": (without("features.10"), r"has no features\.10\.weight"),
    "another width": (lambda x: x | {"features.3.bias": np.zeros(7)}, "has another shape"),
    "whole numbers": (lambda x: {k: v.astype("i4") for k, v in x.items()}, "as int32, not as"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_refused(npz: Path, tmp_path: Path, case: str) -> None:
    change, says = OTHERS[case]
    with np.load(npz) as arrays:
        np.savez(tmp_path / "other.npz", **change(dict(arrays)))
    with pytest.raises(CheckpointError, match=says):
        imagenet_convolutions(tmp_path / "other.npz")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.npz: No such file"):
        imagenet_convolutions(tmp_path / "none.npz")


def test_two_processes_may_fetch_them_at_once(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_while_another_writes(path: Path) -> Any:
        monkeypatch.setattr(published, "read_weights", read_weights)
        assert imagenet_convolutions(path).is_dir()
        return read_weights(path)

    monkeypatch.setattr(published, "read_weights", read_while_another_writes)
    run = imagenet_convolutions(npz)
    assert set(held(run)) == {f"{n}.{part}" for n in CONVOLUTIONS for part in ("weight", "bias")}
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_arrays_of_any_order_and_precision_are_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(4, 3))
    kinds = {"f": np.asfortranarray(array), "d": array, "b": array.astype(">f4")}
    arrays: dict[str, Any] = {f"fc{n}.weight": x for n, x in enumerate(kinds.values())}
    np.savez(tmp_path / "x.npz", **arrays)
    found = read_weights(tmp_path / "x.npz")
    assert found.format == "NumPy archive"
    for number, expected in enumerate(kinds.values()):
        np.testing.assert_array_equal(found.weights[f"fc{number}.weight"].numpy(), expected)


def test_the_file_says_whose_it_is(npz: Path) -> None:
    info = json.loads((imagenet_convolutions(npz) / "run.json").read_text())
    assert info["data"]["path"] == "imported from features.npz"
    assert info["layers"] == list(CONVOLUTIONS)
