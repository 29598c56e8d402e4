"""An index finds the images that brute force finds, and is used for its own weights and data."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

import alexnet
from alexnet.analysis.index import BLOCK, Index, open_index
from alexnet.cli import main
from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, DataError, StorageError, UsageError
from alexnet.storage.atomic import sha256_of
from alexnet.storage.checkpoint_store import find
from alexnet.storage.locks import run_lock


@pytest.fixture(scope="module")
def indexed(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run, with an index."""
    run = tmp_path_factory.mktemp("indexed") / "run"
    shutil.copytree(tiny_run, run)
    alexnet.index_images(tiny_data, run)
    return run


@pytest.fixture
def run(indexed: Path, tmp_path: Path) -> Path:
    """A run with an index, to change."""
    return Path(shutil.copytree(indexed, tmp_path / "run"))


@pytest.fixture(scope="module")
def pictures(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images as PNG files, by split and number: these are their pixels exactly."""
    folder = tmp_path_factory.mktemp("pictures")
    data = Dataset(tiny_data)
    for name in ("train", "test"):
        (folder / name).mkdir()
        split = data.split(name)
        for number, pixels in enumerate(split.read(range(len(split)))):
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def features(indexed: Path, pictures: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What `alexnet features` writes for these files: the layer before the classifier."""
    found = {}
    for name in ("train", "test"):
        out = pictures / f"{name}.npy"
        command = ["features", str(pictures / name), str(out), "--run", str(indexed)]
        assert main([*command, "--layer", "relu4"]) == 0
        found[name] = np.load(out).astype(np.float64).reshape(len(np.load(out)), -1)
    return found


def brute_force(features: dict[str, np.ndarray[Any, Any]], query: int) -> np.ndarray[Any, Any]:
    distances: np.ndarray[Any, Any] = np.sqrt(
        ((features["train"] - features["test"][query]) ** 2).sum(1)
    )
    return distances


# What is found.


def test_the_index_holds_what_features_writes(
    indexed: Path, features: dict[str, np.ndarray[Any, Any]]
) -> None:
    stored = np.load(indexed / "index/features.npy")
    assert stored.shape == features["train"].shape
    assert_allclose(stored, features["train"], rtol=1e-4, atol=1e-4)


def test_predict_names_the_nearest_of_brute_force(
    indexed: Path,
    tiny_data: Path,
    pictures: Path,
    features: dict[str, np.ndarray[Any, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = (tiny_data / "train-names.txt").read_text().splitlines()
    labels = np.load(tiny_data / "train-labels.npy")
    classes = json.loads((tiny_data / "dataset.json").read_text())["classes"]
    capsys.readouterr()
    command = ["predict", str(pictures / "test"), "--run", str(indexed), "--nearest", "6"]
    assert main([*command, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 15
    for query, answer in enumerate(answers):
        distances = brute_force(features, query)
        order = np.argsort(distances, kind="stable")[:6]
        found = answer["nearest"]
        assert [each["image"] for each in found] == [json.loads(names[i]) for i in order]
        assert [each["class"] for each in found] == [classes[labels[i]] for i in order]
        assert_allclose([each["distance"] for each in found], distances[order], rtol=1e-4)
    assert main([*command[:1], str(pictures / "test/004.png"), *command[2:]]) == 0
    shown = capsys.readouterr().out
    assert "nearest of 39 training images in relu4, by distance:" in shown
    for each in answers[4]["nearest"]:
        assert f"{each['distance']:.2f}  {each['image']}  {each['class']}" in shown


def test_python_finds_the_same(indexed: Path, pictures: Path) -> None:
    run = alexnet.Run.open(indexed)
    files = sorted((pictures / "test").iterdir())
    many = run.nearest(files, 4)
    assert [len(each) for each in many] == [4] * 15
    one = run.nearest(np.asarray(Image.open(files[2])), 4)
    assert [each.image for each in one] == [each.image for each in many[2]]
    assert one[0].as_json().keys() == {"image", "class", "title", "distance"}
    itself = run.nearest(pictures / "train/007.png", 1)
    assert itself[0].distance < 1e-3
    assert itself[0].image == Dataset(Path(indexed_data(indexed))).split("train").name(7)
    with pytest.raises(UsageError, match="at least 1"):
        run.nearest(files, 0)


def indexed_data(run: Path) -> str:
    return str(json.loads((run / "index/index.json").read_text())["data"]["path"])


def test_blocks_are_searched_as_one(tiny_data: Path) -> None:
    """More rows than a block, equal ones among them: the first of equal ones comes first."""
    rows = np.random.default_rng(0).normal(size=(2 * BLOCK + 5, 3)).astype(np.float32)
    rows[-1] = rows[BLOCK + 1] = rows[3]
    numbers = np.arange(len(rows))[::-1].copy()
    index = Index("relu7", tiny_data, Dataset(tiny_data).split("train"), numbers, rows)
    images, distances = index.find(torch.from_numpy(rows[[3, 70]]), 3)
    assert images[0].tolist() == [numbers[3], numbers[BLOCK + 1], numbers[-1]]
    assert distances[0].tolist() == [0, 0, 0]
    exact = np.linalg.norm(rows.astype(np.float64) - rows[70], axis=1)
    assert images[1].tolist() == numbers[np.argsort(exact)[:3]].tolist()


# What is written.


def test_the_index_says_of_what_it_is(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (run / "index/features.npy").read_bytes()
    assert main(["index", str(tiny_data), "--run", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["layer"], report["images"], report["split"]) == ("relu4", 39, "train")
    facts = json.loads((run / "index/index.json").read_text())
    assert facts["weights"]["sha256"] == find(run, "best")["sha256"]
    assert facts["data"] == {
        "path": str(tiny_data.resolve()),
        "fingerprint": Dataset(tiny_data).fingerprint,
    }
    assert (run / "index/features.npy").read_bytes() == first
    assert report["bytes"] == len(first)
    assert main(["index", str(tiny_data), "--run", str(run)]) == 0
    assert "39 train images" in capsys.readouterr().out
    assert not list(run.glob(".alexnet-*"))


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in (run / "index").iterdir()}

    def fail(*_: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alexnet.analysis.index._features", fail)
    with pytest.raises(StorageError, match="No space left"):
        alexnet.index_images(tiny_data, run)
    assert {path.name: path.read_bytes() for path in (run / "index").iterdir()} == before
    assert not list(run.glob(".alexnet-*"))


def test_wrong_words_are_told_in_a_line(
    indexed: Path, tiny_data: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(pictures / "test/000.png")
    for words, code, text in (
        (["index", str(pictures), "--run", str(indexed)], 3, "not a packed data set"),
        (["index", str(indexed), "--run", str(tiny_data)], 4, "not a run directory"),
        (["predict", image, "--nearest", "3"], 2, "a run of your own"),
        (["predict", image, "--run", str(indexed), "--data", "d"], 2, "add --nearest"),
        (["predict", image, "--run", str(indexed), "--nearest", "0"], 2, "equal to 1"),
    ):
        assert main(words) == code, words
        assert text in capsys.readouterr().err
    with run_lock(indexed), pytest.raises(UsageError, match="a training writes to"):
        alexnet.index_images(tiny_data, indexed)


# When it is used.


def problem(run: Path, kind: type[Exception], data: Path | None = None) -> str:
    with pytest.raises(kind) as raised:
        open_index(alexnet.Run.open(run), data)
    return str(raised.value)


def test_a_run_without_an_index_says_how_to_make_it(tiny_run: Path) -> None:
    told = problem(tiny_run, CheckpointError)
    assert told.endswith(f"make it: alexnet index DATA --run {tiny_run}")


def test_other_weights_are_told(run: Path, tiny_data: Path) -> None:
    manifest = json.loads((run / "checkpoints.json").read_text())
    for entry in manifest["checkpoints"]:
        entry["sha256"] = "0" * 64
    (run / "checkpoints.json").write_text(json.dumps(manifest))
    told = problem(run, CheckpointError)
    assert "of other weights" in told
    assert told.endswith(f"renew it: alexnet index {tiny_data.resolve()} --run {run}")


def test_a_data_set_that_moved_is_asked_for(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    facts = json.loads((run / "index/index.json").read_text())
    facts["data"]["path"] = str(tmp_path / "gone")
    (run / "index/index.json").write_text(json.dumps(facts))
    assert f"is not at {tmp_path / 'gone'}, where it was: give --data" in problem(run, DataError)
    assert len(open_index(alexnet.Run.open(run), tiny_data).images) == 39
    other = Path(shutil.copytree(tiny_data, tmp_path / "other"))
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | {"fingerprint": "other"}))
    assert "another data set" in problem(run, DataError, other)


@pytest.mark.parametrize("what", ["bit", "short", "json", "shape", "version", "list", "count"])
def test_a_damaged_index_is_refused_in_a_line(run: Path, what: str) -> None:
    features, facts = run / "index/features.npy", run / "index/index.json"
    written = json.loads(facts.read_text())
    data = bytearray(features.read_bytes())
    if what == "bit":
        data[-1] ^= 1
    if what == "short":
        data = data[:-4]
    if what == "shape":
        features.unlink()
        np.save(features, np.zeros(3, np.float32))
    else:
        features.write_bytes(data)
    if what == "count":
        np.save(features, np.zeros((3, 2), np.float32))
        written["features"]["sha256"] = sha256_of(features)
    changed = {"json": "{", "list": "[]", "version": json.dumps(written | {"version": 9})}
    facts.write_text(changed.get(what, json.dumps(written)))
    told = problem(run, CheckpointError)
    assert "is damaged" in told
    assert re.search(r"alexnet index \S+ --run", told)
    assert "\n" not in told
