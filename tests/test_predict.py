"""Predictions against the same computed step by step, and files that are no images."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Stripes
from PIL import Image

from alexnet.cli import main
from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import evaluate_run
from alexnet.images import Orientation
from alexnet.images.files import find_files
from alexnet.predict import Prediction, best_classes, predict_images
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT
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


def with_orientation(run: Path, out: Path, orientation: str | None) -> Path:
    """Copy a run, with another rule for turned photographs; None is a run without one."""
    shutil.copytree(run, out)
    info = json.loads((out / "run.json").read_text())
    info["preprocessing"].pop("orientation")
    if orientation:
        info["preprocessing"]["orientation"] = orientation
    (out / "run.json").write_text(json.dumps(info))
    return out


TURNS = {1: 0, 3: 2, 6: 1, 8: 3}
"""By orientation: quarter turns to the left that the stored pixels had."""


@pytest.mark.fault(45)
@pytest.mark.parametrize("orientation", ["turn", "ignore", None])
def test_evaluate_and_predict_agree_on_turned_photographs(
    tiny_run: Path, tmp_path: Path, orientation: Orientation | None
) -> None:
    """The same files, once through prepare and evaluate, once through predict."""
    rng = np.random.default_rng(0)
    for item in (source := Stripes()).listing(SILENT).items:
        path = tmp_path / "photos" / item.split / item.label / f"{item.at[2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = number = int(rng.choice([*TURNS]))
        pixels = np.rot90(source.read(item), TURNS[number]).copy()
        Image.fromarray(pixels).save(path, exif=exif)
    data = tmp_path / "data"
    prepare_dataset(
        tmp_path / "photos", data, size=32, orientation=orientation or "ignore", workers=1
    )
    if orientation is None:
        info = json.loads((data / "dataset.json").read_text())
        assert info.pop("orientation") == "ignore"
        (data / "dataset.json").write_text(json.dumps(info))
    run = with_orientation(tiny_run, tmp_path / "run", orientation)
    settings = Run.open(run).settings
    made = Run.create(tmp_path / "made", Dataset(data), settings, 24, {})
    assert made.preprocessing.orientation == Run.open(run).preprocessing.orientation

    predictions = predict_images(tmp_path / "photos/val", run, top=3, device="cpu")
    measured = evaluate_run(run, data, device="cpu")
    wrong = sum(each.predictions[0][0] != Path(each.image).parent.name for each in predictions)
    assert measured.top1_error == wrong / len(predictions)
    upright = evaluate_run(tiny_run, Run.open(tiny_run).info["data"]["path"], device="cpu")
    assert (measured.top1_error == upright.top1_error) == (orientation == "turn")


@pytest.mark.parametrize("orientation", ["ignore", None])
def test_a_run_of_images_that_were_not_turned_does_not_turn_them(
    tiny_run: Path, tmp_path: Path, orientation: str | None
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos/tagged.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "photos/untagged.png")
    run = with_orientation(tiny_run, tmp_path / "run", orientation)
    tagged, untagged = predict_images(tmp_path / "photos", run)
    assert tagged.predictions == untagged.predictions
    turned, straight = predict_images(tmp_path / "photos", tiny_run)
    assert turned.predictions != straight.predictions == untagged.predictions


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


def test_the_best_classes_come_first_and_ties_in_their_order(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    run.titles = ["Across", "Down", "Slanting"]
    assert best_classes("a.jpg", np.array([0.25, 0.5, 0.25]), run, 2) == Prediction(
        "a.jpg", (("down", 0.5), ("across", 0.25)), ("Down", "Across")
    )


def test_json_is_a_list_of_image_and_predictions() -> None:
    prediction = Prediction("a.jpg", (("n1", 0.75), ("n2", 0.25)), ("cat", "dog"))
    assert prediction.as_json() == {
        "image": "a.jpg",
        "predictions": [
            {"class": "n1", "probability": 0.75, "title": "cat"},
            {"class": "n2", "probability": 0.25, "title": "dog"},
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


def test_links_to_nowhere_are_bad_files(
    tiny_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """git-annex and DVC leave them where a file is not fetched."""
    (photos / "1/annexed.jpg").symlink_to("../.git/annex/objects/SHA256E-s1")
    (photos / "1/loop.jpg").symlink_to("loop.jpg")
    bad: list[str] = []
    good = predict_images(photos, tiny_run, on_bad=lambda error: bad.append(str(error)))
    assert len(good) == 5
    annexed = f"{photos}/1/annexed.jpg: a link to ../.git/annex/objects/SHA256E-s1, which does not "
    assert bad[0] == annexed + "exist; fetch that file"
    assert bad[1].startswith(f"{photos}/1/loop.jpg: ")
    assert main(["predict", str(photos), "--run", str(tiny_run)]) == 3
    shown = capsys.readouterr()
    assert shown.out.count(".png") == 5
    assert annexed in " ".join(shown.err.split())


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root opens every folder")
def test_a_folder_that_cannot_be_opened_is_a_bad_file(tiny_run: Path, photos: Path) -> None:
    (photos / "1").chmod(0)
    bad: list[str] = []
    try:
        good = predict_images(photos, tiny_run, on_bad=lambda error: bad.append(str(error)))
    finally:
        (photos / "1").chmod(0o700)
    assert len(good) == 3
    assert bad == [f"{photos}/1: Permission denied"]


def test_linked_folders_are_searched_as_prepare_does(tmp_path: Path) -> None:
    for name in ("real/1.png", "real/deep/2.png", "far/3.png", "far/back/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "real/far").symlink_to(tmp_path / "far")
    (tmp_path / "far/real").symlink_to(tmp_path / "real")  # a circle through two folders
    (tmp_path / "real/deep/up").symlink_to("..")
    found = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path / "real"])]
    assert found == ["real/1.png", "real/deep/2.png", "real/far/3.png", "real/far/back/4.png"]


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
