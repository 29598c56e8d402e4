"""The commands in the guide run as they stand there, on drawings and on small networks.

`test_site.py` runs those of the lesson, `test_readme.py` those of the README for one's own images.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from document_checks import FENCE, ROOT, read
from PIL import Image

from alexnet import Run
from alexnet.cli import main
from alexnet.demo.drawings import Drawings
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT
from alexnet.recipes import recipe
from alexnet.train import train_model

COUNTS = {"train": 40, "val": 20, "test": 30}
NOT_RUN = {
    r"(\S*/|\w+ )?(git|py|python3|pip|docker|curl|make|torchrun)\b": "other programs",
    r"\.venv\S+ install": "installs the package",
    r"alexnet demo": "test_report.py, test_site.py",
    r"alexnet serve": "test_serve.py, faults/test_serving.py: it runs until it is stopped",
    r"alexnet bench": "test_bench.py",
    r"alexnet reproduce (?!--list)": "test_reproduce.py, test_transfer.py, on data made for it",
    r"alexnet prepare (imagenet|imagenette|caltech101)\b": "test_sources.py; downloads",
    r"alexnet prepare (SOURCE|cifar-10|imagenette2)": "test_sources.py, test_layouts.py; downloads",
    r"alexnet doctor data/imagenet": "test_doctor.py, with archives of ImageNet's names",
    r"alexnet import": "test_import.py, test_caffe_cifar10.py; files of 244 MB",
    r"alexnet train .*(--init imagenet|runs/torchvision)": "test_imagenet_weights.py; a download",
    r"alexnet train .*--device cuda": "a GPU; test_kernels_captured.py in an interpreter",
    r"alexnet train .*--parallel": "test_parallel.py; processes of their own",
    r"alexnet train data/imagenet .*large_batch": "ImageNet; test_optim.py, with LARS",
    r"alexnet train .*--model (resnet18|alexnet )": "224 pixels; test_ablation.py",
    r"alexnet convert": "test_towers.py, on small towers",
    r"alexnet export runs/caffe": "test_export.py; a network of 61 million parameters",
}
"""Commands that do not run here, and what runs them instead, or why nothing does."""


def commands(page: Path) -> Iterator[str]:
    """Yield the lines of the blocks of commands of a page."""
    for language, code in FENCE.findall(read(page)):
        lines = code.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if language in ("sh", "console"):
            yield from (re.sub(r"\s+# .*| *&& .*", "", line) for line in lines)


def runs(page: Path) -> list[str]:
    """List the commands of a page that run here."""
    return [line for line in commands(page) if not any(re.match(one, line) for one in NOT_RUN)]


PAGES = [
    page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem != "learn" and runs(page)
]


def train(data: Path, run: Path, seed: int) -> None:
    settings = replace(recipe("small"), model="alexnet_small", epochs=1, seed=seed)
    train_model(data, run, settings, device="cpu")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: packed data, trained runs and photographs."""
    folder = tmp_path_factory.mktemp("guide")
    drawings = Drawings(counts=COUNTS)
    prepare_dataset(drawings, folder / "data/photos", size=64, workers=1)
    shutil.copytree(folder / "data/photos", folder / "data/birds")
    for seed in range(3):
        train(folder / "data/photos", folder / f"runs/seed{seed}", seed=seed)
    shutil.copytree(folder / "runs/seed0", folder / "runs/photos")
    (folder / "photos").mkdir()
    for number, item in enumerate(drawings.listing(SILENT).items[:6]):
        Image.fromarray(drawings.read(item)).save(folder / "photos" / f"{number}.png")
    for name in ("cat.jpg", "dog.png", "photo.jpg"):
        shutil.copy(folder / "photos/0.png", folder / name)
    prepare_photographs(folder)
    return folder


def prepare_photographs(folder: Path) -> None:
    """Pack data/cifar10: a picture in each split of each class of CIFAR-10."""
    for split in ("train", "val", "test"):
        for name in Run.shipped().classes:
            (folder / "ten" / split / name).mkdir(parents=True)
            shutil.copy(folder / "photos/0.png", folder / "ten" / split / name)
    prepare_dataset(folder / "ten", folder / "data/cifar10", size=32, workers=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("matplotlib", "onnxruntime", "pyarrow"):
        pytest.importorskip(module)
    monkeypatch.setattr("alexnet.analysis.figures.preferred.STEPS", 2)
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    lines = runs(page)
    if any("train data/photos runs/photos" in line for line in lines):
        shutil.rmtree("runs/photos")
    for line in lines:
        program, *words = shlex.split(re.sub(r"--epochs \d+", "", line))
        assert program == "alexnet", line
        if words[0] == "train":
            words += ["--epochs", "1"]
        assert main(words) == 0, line


def test_what_is_left_out_is_there_and_is_named_with_tests_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = [line for page in pages for line in commands(page)]
    for pattern, reason in NOT_RUN.items():
        assert any(re.match(pattern, line) for line in lines), pattern
        for name in re.findall(r"[\w/]+\.py", reason):
            assert (ROOT / "tests" / name).exists(), name
