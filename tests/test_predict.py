"""Predictions against the same computed step by step, and files that are no images."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.images.files import find_files
from alexnet.predict import Prediction, best_classes, predict_images
from alexnet.storage.run import Run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of different sizes, in nested folders."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "photos"
    for number, size in enumerate([(32, 32), (60, 41), (33, 200), (1, 50), (320, 240)]):
        path = folder / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return folder


def by_hand(path: Path, run: Run, corners: list[tuple[int, int, bool]]) -> torch.Tensor:
    """Compute the probabilities of one image with Pillow, torch and nothing of ours but the net."""
    size, crop = run.preprocessing.size, run.preprocessing.crop
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    middle = (size - crop) // 2
    mean = np.load(run.path / "mean_image.npy")[middle : middle + crop, middle : middle + crop]
    model = run.load_model("cpu")
    views = []
    for x, y, mirrored in corners:
        view = np.asarray(square.crop((x, y, x + crop, y + crop)), np.float32)
        view = (view[:, ::-1] if mirrored else view) - mean
        with torch.no_grad():
            logits = model(torch.from_numpy(view.transpose(2, 0, 1)[None].copy()))
        views.append(torch.softmax(logits.double(), 1)[0])
    return torch.stack(views).mean(0)


@pytest.mark.parametrize("views", [1, 10])
def test_probabilities_are_those_computed_by_hand(tiny_run: Path, photos: Path, views: int) -> None:
    run = Run.open(tiny_run)
    end = run.preprocessing.size - run.preprocessing.crop
    places = [(0, 0), (end, 0), (0, end), (end, end), (end // 2, end // 2)]
    corners = [(x, y, mirrored) for mirrored in (False, True) for x, y in places]
    if views == 1:
        corners = [(end // 2, end // 2, False)]
    predictions = predict_images(photos, tiny_run, views=views, device="cpu")
    assert [Path(each.image).name for each in predictions] == [
        "0.png", "2.png", "4.png", "1.png", "3.png",
    ]  # fmt: skip
    for prediction in predictions:
        expected = by_hand(Path(prediction.image), run, corners)
        for name, probability in prediction.predictions:
            # Of a tall image Pillow may scale columns first or rows first: the last bits differ.
            assert probability == pytest.approx(
                float(expected[run.classes.index(name)]), rel=2e-3, abs=1e-7
            )
        values = [probability for _, probability in prediction.predictions]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1)


@pytest.mark.fault(45)
def test_exif_turns_a_photograph(tiny_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    turned, upright = predict_images(tmp_path, tiny_run)
    assert turned.predictions == upright.predictions


def test_one_answer_whatever_the_batch(
    tiny_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = predict_images(photos, tiny_run)
    monkeypatch.setattr("alexnet.predict.PREDICTION_BATCH", 2)
    for one, other in zip(together, predict_images(photos, tiny_run), strict=True):
        assert one.image == other.image
        assert dict(one.predictions) == pytest.approx(dict(other.predictions), rel=1e-4)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (100, 3)])
def test_top_limits_the_classes(tiny_run: Path, photos: Path, top: int, count: int) -> None:
    classes = len(Run.open(tiny_run).classes)
    for prediction in predict_images(photos, tiny_run, top=top):
        assert len(prediction.predictions) == min(count if top < 100 else classes, classes)


def test_the_best_classes_come_first_and_ties_in_their_order() -> None:
    assert best_classes(np.array([0.2, 0.5, 0.2, 0.1]), ["a", "b", "c", "d"], 3) == (
        ("b", 0.5),
        ("a", 0.2),
        ("c", 0.2),
    )


def test_json_is_a_list_of_image_and_predictions() -> None:
    prediction = Prediction("a.jpg", (("cat", 0.75), ("dog", 0.25)))
    assert prediction.as_json() == {
        "image": "a.jpg",
        "predictions": [
            {"class": "cat", "probability": 0.75},
            {"class": "dog", "probability": 0.25},
        ],
    }


def test_bad_files_are_named_and_the_others_predicted(tiny_run: Path, photos: Path) -> None:
    (photos / "0" / "notes.txt").write_text("not an image")
    (photos / "0" / "empty.jpg").touch()
    whole = (photos / "0" / "4.png").read_bytes()
    (photos / "1" / "cut.png").write_bytes(whole[: len(whole) // 2])
    bad: list[str] = []
    good = predict_images(
        [photos, photos / "none.jpg"], tiny_run, on_bad=lambda error: bad.append(str(error))
    )
    assert len(good) == 5
    assert bad[0] == f"{photos}/0/empty.jpg: empty file"
    assert bad[1] == f"{photos}/0/notes.txt: not a JPEG, PNG, WEBP, GIF or BMP image"
    assert bad[2].startswith(f"{photos}/1/cut.png: damaged: ")
    assert bad[3] == f"{photos}/none.jpg: No such file or directory"


def test_the_first_bad_file_is_raised_by_default(tiny_run: Path, photos: Path) -> None:
    (photos / "0" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"notes\.txt: not a JPEG"):
        predict_images(photos, tiny_run)


def test_only_bad_files_give_an_empty_answer(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    bad: list[DataError] = []
    assert predict_images(tmp_path / "a.txt", tiny_run, on_bad=bad.append) == []
    assert len(bad) == 1


def test_files_are_sorted_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.png", ".hidden.png", ".cache/x.png", "c/d/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path])]
    assert found == ["a.png", "b/10.png", "b/2.png", "c/d/e.png"]
    given = [tmp_path / "b" / "2.png", tmp_path / "a.png", tmp_path / "b" / "2.png"]
    assert find_files(given) == given


def test_nothing_to_predict_is_an_error(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no file in .*empty"):
        predict_images(tmp_path / "empty", tiny_run)
    with pytest.raises(DataError, match="there is no file in an empty list"):
        predict_images([], tiny_run)


def test_impossible_requests_are_refused(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="top must be at least 1, not 0"):
        predict_images(photos, tiny_run, top=0)
    with pytest.raises(UsageError, match="1 or 10 views, not 3"):
        predict_images(photos, tiny_run, views=3)
    with pytest.raises(CheckpointError, match="not a run directory"):
        predict_images(photos, tmp_path)
    shutil.copytree(tiny_run, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    with pytest.raises(CheckpointError):
        predict_images(photos, tmp_path / "bare")


def test_progress_counts_every_file(tiny_run: Path, photos: Path) -> None:
    counts: list[int] = []

    class Count:
        @contextmanager
        def task(self, label: str, total: int, unit: str) -> Iterator[object]:
            assert (label, total, unit) == ("predict", 6, "images")
            yield lambda count, _text="": counts.append(count)

        def note(self, message: str) -> None:
            pytest.fail(message)

    (photos / "bad.txt").touch()
    predict_images(photos, tiny_run, on_bad=lambda _: None, progress=Count())  # type: ignore[arg-type]
    assert sum(counts) == 6
