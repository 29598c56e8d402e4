"""From made-up images to predictions: every route gives the same answer for an image."""

from pathlib import Path

import numpy as np
import torch
from conftest import TINY, Stripes
from PIL import Image

from alexnet.dataset import Dataset
from alexnet.evaluate import evaluate_run, log_probabilities
from alexnet.predict import predict_images
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT
from alexnet.storage.run import Run
from alexnet.train import train_model


def write_folders(folder: Path) -> Path:
    """Write the stripes as PNG files in class folders, with splits."""
    source = Stripes()
    for item in source.listing(SILENT).items:
        path = folder / item.split / item.label / f"{item.at[2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(item)).save(path)
    return folder


def test_evaluate_and_predict_agree_from_folder_to_answer(tmp_path: Path) -> None:
    photos = write_folders(tmp_path / "photos")
    report = prepare_dataset(photos, tmp_path / "data", size=32, workers=1)
    assert {name: split["images"] for name, split in report.splits.items()} == {
        "train": 39,
        "val": 15,
        "test": 15,
    }
    train_model(tmp_path / "data", tmp_path / "run", TINY, device="cpu")
    for views in (1, 10):
        result = evaluate_run(
            tmp_path / "run", tmp_path / "data", split="test", views=views, device="cpu"
        )
        answers = predict_images(photos / "test", tmp_path / "run", views=views, device="cpu")
        wrong = [answer.predictions[0][0] != Path(answer.image).parent.name for answer in answers]
        assert len(wrong) == result.images == 15
        assert sum(wrong) / 15 == result.top1_error
        right = [dict(each.predictions)[Path(each.image).parent.name] for each in answers]
        np.testing.assert_allclose(-np.log(right).mean(), result.loss, rtol=1e-5)


def test_folders_and_generator_give_the_same_data_set(tmp_path: Path, tiny_data: Path) -> None:
    prepare_dataset(write_folders(tmp_path / "photos"), tmp_path / "data", size=32, workers=1)
    ours, theirs = Dataset(tmp_path / "data"), Dataset(tiny_data)
    for name in ("train", "val", "test"):
        one, other = ours.split(name), theirs.split(name)
        assert (one.labels == other.labels).all()
        everything = np.arange(len(one))
        assert (one.read(everything) == other.read(everything)).all()
    assert np.array_equal(ours.mean_image, theirs.mean_image)


def test_a_network_in_float64_says_the_same(tiny_run: Path, tiny_data: Path) -> None:
    run, split = Run.open(tiny_run), Dataset(tiny_data).split("test")
    images = split.read(np.arange(15))
    single = log_probabilities(run.load_model(), images, run.preprocessing)
    crop = torch.from_numpy(images[:, 4:28, 4:28]).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        logits = run.load_model().double()(crop - run.preprocessing.mean.double())
    torch.testing.assert_close(single, logits.log_softmax(1), rtol=1e-3, atol=1e-4)
