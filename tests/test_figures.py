"""What figures show, against networks whose answer is known; and every figure, written."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_makers import lively, pixels, write_run
from network_makers import shrunk
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from torch import nn

import alexnet
from alexnet.analysis.figures import (
    FIGURES,
    activations,
    confusion,
    curves,
    draw_figures,
    filters,
    neighbours,
    pictures,
    predictions,
    rdm,
    saliency,
    style,
    units,
)
from alexnet.analysis.figures.excitation import cut, find_excitation, patches
from alexnet.analysis.figures.preferred import preferred_images
from alexnet.analysis.figures.subject import (
    Subject,
    activation_after,
    evenly,
    last_hidden,
    map_layers,
    open_subject,
    tower_count,
)
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.cli import main
from alexnet.dataset import Dataset, Split
from alexnet.errors import DataError, UsageError
from alexnet.images import Pixels
from alexnet.images.filter_pictures import filter_pictures
from alexnet.networks.layers import Input
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class Stored(Split):
    """A split whose images are in memory."""

    def __init__(self, images: Pixels, labels: list[int]) -> None:
        self.images, self.labels, self.split_name = images, np.array(labels), "test"

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Any) -> Pixels:
        found: Pixels = self.images[np.asarray(indices)]
        return found


@pytest.fixture(scope="module")
def subject(tiny_run: Path, tiny_data: Path) -> Subject:
    return open_subject(tiny_run, tiny_data, device="cpu")


def planted(
    subject: Subject, model: nn.Sequential, images: Pixels, labels: list[int] | None = None
) -> Subject:
    """Make a subject of a known network and known images, whose mean is grey."""
    side = images.shape[1]
    mean = torch.full((3, side, side), 128.0)
    split = Stored(images, labels or [0] * len(images))
    return Subject(
        run=subject.run,
        model=model.eval(),
        preprocessing=Preprocessing(side, side, mean, (40.0, 40.0, 40.0), IDENTITY),
        epochs=1,
        data=subject.data,
        split=split,
        train=split,
    )


def table(side: int, **rows: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict[str, nn.Module](input=Input(3, side, side), **rows))


def grey(count: int, side: int) -> Pixels:
    return np.full((count, side, side, 3), 128, np.uint8)


# Patches that excite a unit.

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def cross_network() -> nn.Sequential:
    """A filter that sees a bright cross on a dark ground, after another that sees nothing."""
    conv = nn.Conv2d(3, 2, 3, stride=2, padding=1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()  # type: ignore[union-attr]
        conv.weight[1] = torch.from_numpy(np.where(CROSS, 1.0, -1.0))
    return table(12, conv1=conv, relu1=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(72, 2))


def test_the_patch_that_a_filter_was_made_for_is_found(subject: Subject) -> None:
    images = grey(40, 12)
    cross = np.where(CROSS, 200, 56).astype(np.uint8)[..., None].repeat(3, 2)
    images[7, 3:6, 5:8] = cross  # where the unit (2, 3) sees: from 2 * 2 - 1 and 2 * 3 - 1 on
    images[31, 0:2, 9:12] = cross[1:]  # its first row would be in the padding: weaker
    known = planted(subject, cross_network(), images)
    found = find_excitation(known, ["conv1"], top=3)["conv1"]
    assert found.alive() == [1]
    assert found.images[1, :2].tolist() == [7, 31]
    assert found.positions[1, :2].tolist() == [[2, 3], [0, 5]]
    assert found.values[1, 0] == pytest.approx(9 * 72 * 3)
    field = receptive_fields(known.model)["conv1"]
    first, second, _ = patches(known, found, field, 1)
    assert_array_equal(first, cross)
    assert_array_equal(second[1:], cross[1:])
    assert (second[0] == 232).all()  # outside of the image


def test_batches_change_nothing(subject: Subject) -> None:
    layers = ["conv1", "local3", "fc10"]
    found = find_excitation(subject, layers, top=4)
    with torch.no_grad():
        x = subject.inputs(subject.split.read(np.arange(len(subject.split))))
        for name, row in subject.model.named_children():
            x = row(x)
            if name in layers:
                best = x.flatten(2).amax(2) if x.ndim == 4 else x
                values, images = best.T.topk(4, dim=1)
                assert_allclose(found[name].values, values, rtol=1e-5, atol=1e-5)
                assert_array_equal(found[name].images[:, 0], images[:, 0])


def test_cutting_out_of_an_image() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert_array_equal(cut(image, (1, 2, 3, 5)), image[1:3, 2:5])
    outside = cut(image, (-2, 3, 2, 7), fill=9)
    assert outside.shape == (4, 4, 3)
    assert_array_equal(outside[2:, :2], image[:2, 3:])
    assert (outside[:2] == 9).all()
    assert (cut(image, (5, 5, 7, 7), fill=9) == 9).all()


# Preferred images.


def test_a_filter_prefers_what_it_is(subject: Subject) -> None:
    known = planted(subject, cross_network(), grey(1, 12))
    field = receptive_fields(known.model)["conv1"]
    (image,) = preferred_images(known.model, known.preprocessing, "conv1", field, [1])
    assert image.shape == (3, 3, 3)
    shades = image.mean(2)
    assert shades[CROSS].min() > 128 > shades[~CROSS].max()


@pytest.mark.parametrize("layer", ["conv1", "conv2", "local4", "fc10"])
def test_preferred_images_excite_more_than_photographs(subject: Subject, layer: str) -> None:
    field = receptive_fields(subject.model)[layer]
    made = preferred_images(subject.model, subject.preprocessing, layer, field, [1, 2])
    again = preferred_images(subject.model, subject.preprocessing, layer, field, [1, 2])
    assert_array_equal(made, again)
    assert made.shape == (2, *(2 * [min(field.size[0], 24)]), 3)
    if layer != "fc10":
        return
    best = find_excitation(subject, [layer], top=1)[layer].values[1:, 0]
    inputs = torch.from_numpy(made).permute(0, 3, 1, 2) - subject.preprocessing.mean
    with torch.no_grad():
        reached = subject.model(inputs)[[0, 1], [1, 2]]
    assert (reached > best).all()


# Where the evidence is.


def corner_network(side: int = 20) -> nn.Sequential:
    """A network that reads the top left quarter alone: class 1 for a bright one."""
    linear = nn.Linear(3 * side * side, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[1].view(3, side, side)[:, : side // 2, : side // 2] = 0.0002
    return table(side, conv1=identity_conv(), flatten=nn.Flatten(), fc=linear)


def identity_conv() -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[..., None, None])
        conv.bias.zero_()  # type: ignore[union-attr]
    return conv


def test_occlusion_finds_the_corner_that_is_read() -> None:
    image = torch.full((3, 20, 20), 100.0)
    lost = saliency.occlusion_map(corner_network(), image, 1)
    assert (lost[:9, :9] > 0).all()
    # A square of side 4 that reaches into the quarter covers up to 3 pixels outside.
    assert_allclose(lost[13:], 0, atol=1e-7)
    assert_allclose(lost[:, 13:], 0, atol=1e-7)
    # In the middle of the quarter each square covers 16 of its 100 pixels.
    whole, covered = (1 / (1 + math.exp(-0.02 * 3 * pixels)) for pixels in (100, 84))
    assert lost[5, 5] == pytest.approx(whole - covered, rel=1e-4)
    other = saliency.occlusion_map(corner_network(), image, 0)
    assert_allclose(other, -lost, atol=1e-6)


def test_an_occlusion_map_is_rough_first_and_then_exact() -> None:
    image = torch.full((3, 20, 20), 100.0)
    model = corner_network()
    steps = list(saliency.occlusion_steps(model, image, 1, batch=1 + 25))
    assert [step.done for step in steps[:2]] == [25, 51]
    assert steps[-1].done == steps[-1].count == (20 + 3) ** 2
    # The first 25 squares of side 4 cover the image without overlap.
    assert (steps[0].lost[:12, :12] > 0).all()
    assert_allclose(steps[0].lost[12:], 0, atol=1e-7)
    assert_allclose(steps[-1].lost, saliency.occlusion_map(model, image, 1), atol=1e-6)


def test_grad_cam_of_a_linear_head_is_that_by_hand() -> None:
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(36, 3)
    model = table(8, conv1=conv, relu1=nn.ReLU(), flatten=nn.Flatten(), fc=linear).eval()
    image = torch.randn(3, 8, 8) * 50
    with torch.no_grad():
        maps = conv(image[None]).relu()[0]
    weights = linear.weight.detach()[2].reshape(4, 9).mean(1)  # the gradient's mean over places
    by_hand = (weights[:, None, None] * maps).sum(0).clamp(min=0)
    expected = nn.functional.interpolate(by_hand[None, None], (8, 8), mode="bilinear")[0, 0]
    assert by_hand.max() > 0
    assert_allclose(saliency.grad_cam(model, image, 2), expected, rtol=1e-5, atol=1e-4)


# Neighbours, filters, dissimilarities, maps, errors.


def test_a_copy_is_the_nearest_neighbour(subject: Subject) -> None:
    images = subject.train.read(np.arange(39))
    other = images[::-1].copy()
    other[10] = subject.split.read([4])[0]
    known = Subject(
        **{**vars(subject), "train": Stored(other, subject.train.labels[::-1].tolist())}
    )
    found = neighbours.find_neighbours(known, np.array([4, 8]), 5)
    assert found.images[0, 0] == 10
    assert found.distances[0, 0] < 1e-4  # batches of other sizes round differently
    assert found.layer == "relu4"
    features = alexnet.extract_features(subject.run, other, "relu4").popitem()[1].reshape(39, -1)
    own = alexnet.extract_features(subject.run, subject.split.read([8]), "relu4")["relu4"]
    distances = np.linalg.norm(features - own.reshape(1, -1), axis=1)
    assert found.images[1].tolist() == np.argsort(distances)[:5].tolist()
    assert_allclose(found.distances[1], np.sort(distances)[:5], rtol=1e-4)


def test_smoothness_tells_waves_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 3, 11, 11)).astype(np.float32)
    found = filters.smoothness(noise)
    assert abs(found.mean()) < 0.01
    assert found.std() == pytest.approx(filters.chance((3, 11, 11)), rel=0.15)
    row, column = np.mgrid[:11, :11]
    waves = np.stack([np.sin(0.5 * (row * a + column * b)) for a, b in ((1, 0), (0, 1), (1, 1))])
    coloured = np.repeat(waves[:, None], 3, 1).astype(np.float32)
    coloured[2] *= np.array([1, -1, 0], np.float32)[:, None, None]
    report = filters.learned(coloured)
    assert (report.filters, report.smooth, report.coloured) == (3, 3, 1)
    assert report.smoothness > 0.8
    assert_allclose(filters.coloured(coloured), [0, 0, 1], atol=1e-6)
    assert filters.learned(noise).smooth < 8
    assert "noise that they started with" in filters.in_words([filters.learned(noise)])
    words = filters.in_words([report, report])
    assert words.startswith("6 of 6 filters are smoother than random weights")
    assert words.endswith("Filters that see colour in the two towers: 1 of 3, 1 of 3.")


def test_filters_are_grey_where_they_are_zero() -> None:
    weights = np.zeros((2, 3, 2, 2), np.float32)
    weights[1, 0, 0, 0], weights[1, 2, 1, 1] = 0.5, -0.25
    blank, own = filter_pictures(weights)
    assert (blank == 128).all()
    assert_array_equal(own[0, 0], [255, 128, 128])
    assert_array_equal(own[1, 1], [128, 128, 64])
    assert [len(part) for part in filters.by_tower(weights, 2)] == [1, 1]


def test_a_sheet_has_its_tiles_in_order() -> None:
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    out = pictures.sheet(pictures.enlarged(tiles, 2), across=3, gap=1)
    assert out.shape == (5, 8, 4)
    assert out[0, [0, 3, 6], 0].tolist() == [0, 1, 2]
    assert out[3, [0, 3], 0].tolist() == [3, 4]
    assert out[[0, 1, 2, 3], [2, 5, 0, 6], 3].tolist() == [0, 0, 0, 0]


def test_a_spotlight_keeps_what_is_hot() -> None:
    picture = np.full((1, 3, 3), [200, 40, 0], np.uint8)
    out = pictures.spotlight(picture, np.array([[2, 1, -1]], np.float32))
    assert out[0, 0].tolist() == [200, 40, 0]
    assert out[0, 2].tolist() == [194, 194, 194]  # grey, a third of the way from white
    assert 40 < out[0, 1, 1] < 194
    assert (pictures.spotlight(picture, np.zeros((1, 3), np.float32)) == 194).all()


def test_dissimilarities_of_classes_are_those_of_scipy(subject: Subject) -> None:
    found = rdm.class_distances(subject, np.array([0, 2]))
    assert list(found) == ["relu1", "relu2", "relu3", "relu4", "fc10"]
    labels = subject.split.labels
    images = subject.split.read(np.arange(len(labels)))
    for name in ("relu2", "fc10"):
        features = alexnet.extract_features(subject.run, images, name)[name].reshape(15, -1)
        means = np.stack([features[labels == label].mean(0) for label in (0, 2)])
        assert_allclose(found[name], squareform(pdist(means, "correlation")), atol=1e-4)


def test_the_strongest_maps_come_first(subject: Subject) -> None:
    found = activations.strongest_maps(subject, 3)
    assert list(found) == ["relu1", "relu2", "relu3", "relu4"]
    images = subject.split.read([3])
    maps = alexnet.extract_features(subject.run, images, "relu2")["relu2"][0]
    numbers, shown = found["relu2"]
    assert numbers[0] == maps.mean((1, 2)).argmax()
    shares = maps[numbers].clip(0) / maps.max()
    assert_allclose(shown[..., 0], 255 * np.sqrt(shares), atol=0.51)


def test_the_training_error_is_that_of_the_evaluation(
    subject: Subject, tiny_run: Path, tiny_data: Path
) -> None:
    error, count = curves.training_error(subject)
    evaluated = alexnet.evaluate_run(tiny_run, tiny_data, split="train", device="cpu")
    assert count == 39
    assert error == pytest.approx(evaluated.top1_error)


def test_answers_are_those_of_predict(subject: Subject, tmp_path: Path, tiny_run: Path) -> None:
    answers = predictions.answers(subject, np.array([0, 7]), top=2)
    for number, answer in enumerate(answers):
        path = tmp_path / f"{number}.png"
        Image.fromarray(subject.split.read([answer.index])[0]).save(path)
        (expected,) = alexnet.predict_images(path, tiny_run, top=2, device="cpu")
        names = [subject.run.classes[label] for label, _ in answer.predictions]
        assert names == [name for name, _ in expected.predictions]
        assert_allclose([p for _, p in answer.predictions], [p for _, p in expected.predictions])
        assert answer.is_right == (names[0] == subject.run.classes[answer.truth])
        assert answer.picture.shape == (24, 24, 3)


# The rows of any network.


@pytest.mark.parametrize("name", alexnet.list_models())
def test_rows_are_found_in_every_network(name: str) -> None:
    with torch.device("meta"):
        model = alexnet.create_model(name, 3)
    local = ("relu4", "local4", "relu4")
    others = {"cifar10_18": ("pool3", "conv3", "relu3"), "cifar10_13": local, "cifar10_11": local}
    others |= dict.fromkeys(("vgg11", "vgg11_small"), ("relu10", "conv8", "relu8"))
    others |= dict.fromkeys(
        ("googlenet", "googlenet_small"), ("pool5", "inception5b", "inception5b")
    )
    others |= dict.fromkeys(("resnet18", "resnet18_small"), ("pool5", "block5b", "relu5b"))
    hidden, layer, activation = others.get(name, ("relu7", "conv5", "relu5"))
    assert (last_hidden(model), map_layers(model)[-1]) == (hidden, layer)
    assert activation_after(model, layer) == activation
    with_towers = ("alexnet", "alexnet_2012", "alexnet_nocomm", "alexnet_small")
    assert tower_count(model) == (2 if name in (*with_towers, "caffenet", "caffe_alexnet") else 1)


def test_evenly_spaced_numbers() -> None:
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 8).tolist() == [0, 1, 2]
    assert evenly(0, 8).tolist() == []


# All figures.


@pytest.fixture(scope="module")
def drawn(
    tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> alexnet.FiguresReport:
    out = tmp_path_factory.mktemp("figures")
    return draw_figures(tiny_run, tiny_data, out, device="cpu")


def test_every_figure_is_drawn_in_both_formats(drawn: alexnet.FiguresReport) -> None:
    assert [figure.name for figure in drawn.figures] == list(FIGURES)
    assert drawn.left_out == {}
    for figure in drawn.figures:
        assert figure.caption.endswith(".")
        vector, raster = map(Path, figure.files)
        assert "<svg" in vector.read_text(encoding="utf-8")[:1000]
        with Image.open(raster) as image:
            assert image.width >= 600
            pixels: NDArray[Any] = np.asarray(image.convert("RGB"))
        assert (pixels[0, 0] == 255).all()  # a ground of its own
        assert pixels.std() > 5
    assert not list(Path(drawn.out).glob(".alexnet-*"))


def test_the_same_run_gives_the_same_files(
    drawn: alexnet.FiguresReport, tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    again = draw_figures(tiny_run, tiny_data, tmp_path, only=["curves", "rdm"], device="cpu")
    for figure in again.figures:
        for file in map(Path, figure.files):
            assert file.read_bytes() == (Path(drawn.out) / file.name).read_bytes()


def test_one_unit_can_be_chosen(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["figures", str(tiny_run), str(tiny_data), "--out", str(tmp_path), "--device", "cpu"]
    assert main([*words, "--layer", "conv2", "--unit", "5", "--format", "svg", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [figure["name"] for figure in document["figures"]] == ["units"]
    assert document["figures"][0]["files"] == [str(tmp_path / "units.svg")]
    assert main([*words, "--only", "filters"]) == 0
    assert "in the" not in capsys.readouterr().out.splitlines()[0]  # one tower


def test_units_have_what_the_figure_shows(subject: Subject) -> None:
    rows = units.find_units(subject, count=2)
    assert [row[0].layer for row in rows] == ["conv1", "conv2", "local3", "local4", "fc10"]
    last = rows[-1][0]
    assert last.title == subject.titles[last.number]
    assert last.field == (24, 24)
    assert [each.shape for each in rows[1][0].patches] == [(15, 15, 3)] * 9
    side = 3 * units.SIDE + 2
    assert rows[1][0].picture().shape == (side, 2 * side + 5, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"only": ["nothing"]}, "no figure nothing; there are curves"),
        ({"formats": ["gif"]}, "no format gif; there are svg, png"),
        ({"unit": 3}, "name the layer, too"),
        ({"layer": "pool1"}, "no layer pool1 with units; there are conv1"),
        ({"layer": "conv1", "unit": 64}, "conv1 has units 0 to 63, not 64"),
    ],
)
def test_what_there_is_not_is_said(
    changes: dict[str, Any], says: str, tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        draw_figures(tiny_run, tiny_data, tmp_path, device="cpu", **changes)


def test_without_the_library_it_is_named(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[figures\]'"):
        draw_figures(tiny_run, tiny_data)


def relabelled(tiny_data: Path, run: Run) -> Callable[[str | Path], Dataset]:
    """Open the tiny data set as if its classes were the first of a run's."""

    def opened(_: str | Path) -> Dataset:
        dataset = Dataset(tiny_data)
        dataset.classes = run.classes[:3]
        return dataset

    return opened


def test_an_imported_run_has_no_curves_and_may_know_more_classes(
    tmp_path: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(tmp_path / "run", lively("cifar10_13"), "cifar10_13")
    monkeypatch.setattr("alexnet.analysis.figures.subject.Dataset", relabelled(tiny_data, run))
    words = ["figures", str(run.path), str(tiny_data), "--device", "cpu", "--format", "png"]
    assert main([*words, "--only", "curves", "--only", "confusion", "--only", "predictions"]) == 0
    captured = capsys.readouterr()
    assert "curves is left out: the run recorded no epochs" in captured.err
    assert (run.path / "figures/confusion.png").exists()
    assert not (run.path / "figures/curves.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012", "alexnet_nocomm", "one_weird_trick"])
def test_large_networks_with_towers_and_without_are_drawn(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.analysis.figures.preferred.STEPS", 2)
    images = pixels(6, 224)
    known = planted(subject, shrunk(name).float(), images, [0, 0, 1, 1, 2, 2])
    with style.look():
        parts: tuple[Any, ...] = (
            predictions,
            neighbours,
            units,
            activations,
            saliency,
            confusion,
            rdm,
            filters,
        )
        for part in parts:
            assert part.draw(known).caption
    towers = filters.by_tower(filters.first_filters(known), tower_count(known.model))
    assert len(towers) == (1 if name == "one_weird_trick" else 2)


def test_dead_units_are_left_out(subject: Subject) -> None:
    network = cross_network()
    with torch.no_grad():
        network[1].weight.zero_()  # type: ignore[operator]
        network[4].weight.zero_()  # type: ignore[operator]
        network[4].bias.fill_(-1)  # type: ignore[operator]
    with pytest.raises(DataError, match="no test image excites a unit"):
        units.find_units(planted(subject, network, grey(3, 12)))
