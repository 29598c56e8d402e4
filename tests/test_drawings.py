"""The embedded drawings: reproducible, balanced, varied, and hard for pixel methods."""

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from alexnet.dataset import Dataset
from alexnet.demo import scene
from alexnet.demo.drawings import CLASSES, COUNTS, SPLITS, Drawings, draw_picture
from alexnet.demo.shapes import OBJECTS, PAINTS, arc, box, stroke
from alexnet.errors import UsageError
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT

Pictures = NDArray[np.uint8]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draw_many(split: str, count: int) -> tuple[Pictures, NDArray[np.int64]]:
    pictures = np.stack([draw_picture(0, split, index) for index in range(count)])
    return pictures, np.arange(count) % len(CLASSES)


@pytest.fixture(scope="module")
def train() -> tuple[Pictures, NDArray[np.int64]]:
    return draw_many("train", 800)


@pytest.fixture(scope="module")
def test() -> tuple[Pictures, NDArray[np.int64]]:
    return draw_many("test", 300)


# The same pictures every time.


def test_a_picture_does_not_depend_on_those_made_before() -> None:
    alone = draw_picture(0, "val", 7)
    for index in range(5):
        draw_picture(0, "val", index)
    assert_array_equal(draw_picture(0, "val", 7), alone)


def test_another_process_makes_the_same_picture() -> None:
    code = (
        "import sys; from alexnet.demo.drawings import draw_picture;"
        "sys.stdout.buffer.write(draw_picture(3, 'train', 11).tobytes())"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert made == draw_picture(3, "train", 11).tobytes()


def test_seed_split_and_index_each_change_the_picture() -> None:
    pictures = [
        draw_picture(*key)
        for key in [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 10)]
    ]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_no_picture_is_in_two_splits() -> None:
    drawn = [draw_picture(0, split, index).tobytes() for split in SPLITS for index in range(50)]
    assert len(set(drawn)) == len(drawn)


# As a source of data.


def test_the_listing_has_all_classes_equally_often() -> None:
    items = Drawings().listing(SILENT).items
    assert Counter(item.split for item in items) == COUNTS
    for split in SPLITS:
        counts = Counter(item.label for item in items if item.split == split)
        assert set(counts) == set(CLASSES)
        assert len(set(counts.values())) == 1
    assert len({item.name for item in items}) == sum(COUNTS.values())


def test_the_source_draws_what_its_items_say() -> None:
    source = Drawings(seed=2, counts={"test": 12})
    item = source.listing(SILENT).items[11]
    assert (item.split, item.label) == ("test", CLASSES[1])
    assert_array_equal(source.read(item), draw_picture(2, "test", 11))


def test_another_seed_is_another_source() -> None:
    assert Drawings(seed=1).listing(SILENT).version != Drawings().listing(SILENT).version
    assert Drawings(seed=1).location != Drawings().location


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(UsageError, match="no split dev"):
        Drawings(counts={"dev": 1})


def test_several_workers_pack_the_same_pictures(tmp_path: Path) -> None:
    source = Drawings(counts={"train": 40, "val": 20})
    prepare_dataset(source, tmp_path / "data", size=scene.SIZE, workers=2)
    dataset = Dataset(tmp_path / "data")
    assert dataset.classes == list(CLASSES)
    split = dataset.split("val")
    expected = [draw_picture(0, "val", int(split.name(i)[4:9])) for i in range(20)]
    assert_array_equal(split.read(range(20)), np.stack(expected))


# The drawing.


@pytest.mark.parametrize("name", CLASSES)
def test_objects_are_varied_and_fill_their_square(name: str) -> None:
    drawn = [list(OBJECTS[name](generator(seed))) for seed in range(20)]
    for parts in drawn:
        points = np.concatenate([outline for _, outline in parts])
        assert all(0 <= paint < PAINTS and len(outline) >= 3 for paint, outline in parts)
        assert len({paint for paint, _ in parts}) > 1 or name == "key"
        assert np.abs(points).max() <= 1.3
        assert 1.4 <= np.ptp(points, axis=0).max() <= 2.4
    assert len({parts[0][1].tobytes() for parts in drawn}) > 15


def test_a_posed_object_lies_inside_the_picture() -> None:
    sides = []
    for seed in range(200):
        rng = generator(seed)
        parts = scene.pose(list(OBJECTS[CLASSES[seed % 10]](rng)), rng)
        points = np.concatenate([outline for _, outline in parts])
        assert points.min() > -1e-9
        assert points.max() < scene.SIZE + 1e-9
        sides.append(np.ptp(points, axis=0).max() / scene.SIZE)
    assert 0.55 <= min(sides) < 0.6
    assert 0.95 < max(sides) <= 1


def test_colors_can_be_distinguished() -> None:
    smallest = [color_gaps(scene.distinct_colors(7, generator(seed))).min() for seed in range(200)]
    assert np.median(smallest) > 70
    assert min(smallest) > 35


def color_gaps(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances between all pairs of colours, weighted as the eye sees the channels."""
    first, second = np.triu_indices(len(colors), 1)
    weights = 3 * np.array([0.3, 0.59, 0.11])
    gaps: NDArray[np.float64] = np.sqrt((weights * (colors[first] - colors[second]) ** 2).sum(1))
    return gaps


def test_patterns_are_fractions_of_many_kinds() -> None:
    patterns = [scene.pattern(generator(seed)) for seed in range(60)]
    assert all(pattern.min() >= 0 and pattern.max() <= 1 for pattern in patterns)
    spreads = np.array([pattern.std() for pattern in patterns])
    assert (spreads == 0).any()
    assert (spreads > 0.3).any()


def test_a_painted_square_has_its_color_and_the_rest_keeps_theirs() -> None:
    ground = np.full((scene.SIZE, scene.SIZE, 3), 40.0)
    colors = np.array([[200.0, 100, 50]])

    texture = np.ones((scene.SIZE, scene.SIZE))
    texture[40:] = 0.5
    painted = scene.paint(ground, [(0, box(16, 16, 31, 47))], colors, texture)
    assert_array_equal(painted[20, 20], colors[0])
    assert_array_equal(painted[44, 20], colors[0] / 2)
    assert_array_equal(painted[:10], ground[:10])
    assert_array_equal(painted[:, 40:], ground[:, 40:])


def test_a_stroke_along_a_circle_is_a_ring() -> None:
    distances = np.linalg.norm(stroke(arc(0, 0, 1), 0.2), axis=1)
    assert np.allclose(np.sort(np.unique(distances.round(3))), [0.9, 1.1], atol=0.002)


# Difficulty; scripts/drawings_difficulty.py measures it on all pictures.


def test_pictures_use_the_whole_range_and_differ_in_light(train: tuple[Pictures, object]) -> None:
    pictures = train[0]
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == (64, 64, 3)
    assert pictures.min() == 0
    assert pictures.max() == 255
    assert 100 < pictures.mean() < 140
    assert pictures.mean(axis=(1, 2, 3)).std() > 25
    assert np.ptp(pictures.mean(axis=0), axis=(0, 1)).max() < 40  # no position shows the class


def test_colors_do_not_give_the_class_away(
    train: tuple[Pictures, NDArray[np.int64]], test: tuple[Pictures, NDArray[np.int64]]
) -> None:
    means = [
        np.concatenate([pictures.mean(axis=(1, 2)), pictures.std(axis=(1, 2))], axis=1)
        for pictures, _ in (train, test)
    ]
    score = NearestCentroid().fit(means[0], train[1]).score(means[1], test[1])
    assert score < 0.25


def test_pixels_alone_do_not_give_the_class(
    train: tuple[Pictures, NDArray[np.int64]], test: tuple[Pictures, NDArray[np.int64]]
) -> None:
    seen, unseen = (
        pictures.reshape(len(pictures), -1).astype(np.float32) / 255
        for pictures in (train[0], test[0])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear = LogisticRegression(C=1e-3, max_iter=15).fit(seen, train[1])
    neighbours = KNeighborsClassifier(1, algorithm="brute").fit(seen, train[1])
    assert linear.score(unseen, test[1]) < 0.5
    assert neighbours.score(unseen, test[1]) < 0.6
