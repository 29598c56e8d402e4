"""Dissimilarities against SciPy's, and linear CKA against its definition on the features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_makers import lively, pixels, write_run
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import pdist, squareform

from alexnet.analysis import dissimilarity
from alexnet.analysis.dissimilarity import inner_products, linear_cka, products_of
from alexnet.analysis.features import extract_features
from alexnet.cli import main

LAYERS = ["conv1", "relu5", "fc7"]
OPTIONS = [word for name in LAYERS for word in ("--layer", name)]


def direct_cka(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Follow the definition: |Y'X|^2 / (|X'X| |Y'Y|) for features less their means (Frobenius)."""
    x, y = (each.reshape(len(each), -1).astype(np.float64) for each in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


@pytest.fixture
def features() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(30, 2, (9, 4, 5, 3)).astype(np.float32)


@pytest.fixture(params=[64 * 2**20, 1000])
def _block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are one block, or each two images are."""
    monkeypatch.setattr(dissimilarity, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("_block_bytes")
def test_distances_are_those_of_scipy(features: NDArray[np.float32]) -> None:
    found, flat = inner_products(features), features.reshape(9, -1).astype(np.float64)
    correlation, euclidean = found.correlation_distances(), found.euclidean_distances()
    assert_allclose(correlation, squareform(pdist(flat, "correlation")), atol=1e-9)
    assert_allclose(euclidean, squareform(pdist(flat)), rtol=1e-9)
    assert_array_equal(correlation, correlation.T)
    assert_array_equal(np.diag(euclidean), 0)


@pytest.mark.usefixtures("_block_bytes")
def test_batches_are_put_together(features: NDArray[np.float32]) -> None:
    batches = [{"a": features[:4], "b": features[:4, 0]}, {"a": features[4:], "b": features[4:, 0]}]
    found = products_of(batches, ["a", "b", "a"])
    assert_array_equal(found["a"].gram, inner_products(features).gram)
    assert_array_equal(found["b"].gram, inner_products(features[:, 0]).gram)


def test_cka_is_that_of_its_definition(features: NDArray[np.float32]) -> None:
    other = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32) + features[:, 0, 0, :1]
    found = linear_cka(inner_products(features), inner_products(other))
    assert found == pytest.approx(direct_cka(features, other), rel=1e-6)


def test_cka_is_one_after_a_rotation_a_scale_and_a_shift() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(12, 5))
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    y = 3 * x @ rotation + 7
    first, second = (inner_products(each.astype(np.float32)) for each in (x, y))
    assert linear_cka(first, second) == pytest.approx(1, abs=1e-6)


def test_a_row_that_does_not_change_has_no_correlation() -> None:
    features = np.array([[1, 2, 4], [5, 5, 5], [0, 0, 0]], np.float32)
    correlation = inner_products(features).correlation_distances()
    assert_array_equal(np.isnan(correlation), [[False, True, True], [True] * 3, [True] * 3])
    assert np.isnan(linear_cka(inner_products(features[1:, :1] * 0), inner_products(features[1:])))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pixels(35, 64)):  # more than a batch
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("rdm") / name for name in ("one", "other")]
    for number, path in enumerate(paths):
        model = lively("alexnet_small")
        with torch.no_grad():
            model.get_parameter("conv2.weight").mul_(1 - number)  # the other is blind from there
        write_run(path, model, "alexnet_small")
    return paths


def test_the_command_writes_them(
    photos: Path, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "nothing.png").write_bytes(b"")
    words = ["features", str(photos), str(tmp_path / "rdm.npz"), "--run", str(runs[0]), *OPTIONS]
    assert main([*words, "--rdm", "--json"]) == 3
    (photos / "nothing.png").unlink()
    captured = capsys.readouterr()
    assert "nothing.png" in captured.err
    document = json.loads(captured.out)
    features = extract_features(runs[0], photos, LAYERS)
    with np.load(tmp_path / "rdm.npz") as written:
        assert [Path(name).name for name in written["images"]] == [f"{n:02}.png" for n in range(35)]
        assert written["layers"].tolist() == document["layers"] == LAYERS
        for number, name in enumerate(LAYERS):
            flat = features[name].reshape(35, -1).astype(np.float64)
            expected = squareform(pdist(flat, "correlation"))
            assert_allclose(written["correlation"][number], expected, atol=1e-6)
            assert_allclose(written["euclidean"][number], squareform(pdist(flat)), rtol=1e-5)
        assert_allclose(written["cka"], document["cka"])
        assert written["cka"][0, 2] == pytest.approx(
            direct_cka(features["conv1"], features["fc7"]), rel=1e-4
        )


def test_two_runs_are_compared(
    photos: Path, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(photos), str(tmp_path / "rdm.npz"), "--run", str(runs[0]), *OPTIONS]
    assert main([*words, "--rdm", "--other", str(runs[1]), "--json"]) == 0
    cka = json.loads(capsys.readouterr().out)["cka"]
    assert cka[0][0] == pytest.approx(1)  # conv1 is the same in both
    assert [row[1] for row in cka] == [None] * 3  # relu5 of the other sees nothing
    assert main([*words, "--rdm"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "35 images, linear CKA of layers (1: the same)"
    assert out.count("1.000") == 3


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (["x.npy", "--rdm"], "not a .npz file", 2),
        (["x.npz", "--other", "elsewhere"], "add --rdm", 2),
        (["x.npz", "--rdm", "--other", "elsewhere"], "not a run directory", 4),
    ],
)
def test_what_cannot_be_done_is_said(
    photos: Path,
    runs: list[Path],
    words: list[str],
    says: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--run", str(runs[0]), "--layer", "fc7"]
    assert main(["features", str(photos), *words, *options]) == code
    assert says in capsys.readouterr().err


def test_one_image_is_too_few(
    photos: Path, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--run", str(runs[0]), "--layer", "fc7", "--rdm"]
    assert main(["features", str(photos / "03.png"), str(tmp_path / "x.npz"), *options]) == 3
    assert "at least two images, not 1" in capsys.readouterr().err
