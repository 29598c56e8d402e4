"""Pack class folders as ImageNet was packed in 2012, to try `alexnet prepare` on that layout.

    python scripts/make_imagenet_layout.py SOURCE OUT

SOURCE is a folder or tar of class folders. OUT receives the files of an ImageNet download:

    ILSVRC2012_img_train.tar           a tar of one tar for each class, named by WordNet id
    ILSVRC2012_img_val.tar             all validation images in one flat tar, shuffled
    ILSVRC2012_devkit_t12.tar.gz       data/meta.mat and data/ILSVRC2012_validation_ground_truth.txt
    origins.json                       the source's name of each image (ImageNet has no such file)

The image files are copied unchanged. The WordNet ids are invented and sorted like the classes. The
ILSVRC2012_IDs and the ground truth are in another order, as in the real devkit.
"""

import argparse
import io
import json
import random
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from alexnet.prepare.sources import open_source
from alexnet.prepare.sources.base import Item, Source
from alexnet.prepare.splits import plan_splits
from alexnet.progress import SILENT

FOLDER = "ILSVRC2012_devkit_t12"


def make_imagenet_layout(source: str | Path, out: str | Path, seed: int = 0) -> None:
    """Write the class folders of `source` as ImageNet's archives to the folder `out`."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        opened = open_source(Path(source), Path(work), SILENT)
        items = opened.listing(SILENT).items
        plan = plan_splits(items, val_fraction=0.1, seed=seed)
        wnids = {key: f"n{1440764 + 4099 * i:08d}" for i, key in enumerate(plan.classes)}
        chance = random.Random(seed)
        train = [items[number] for number in plan.splits["train"]]
        val = [items[number] for number in plan.splits["val"]]
        chance.shuffle(val)
        origins = _write_train(out / "ILSVRC2012_img_train.tar", opened, train, wnids)
        origins |= _write_val(out / "ILSVRC2012_img_val.tar", opened, val)
    numbers = list(range(1, len(wnids) + 1))
    chance.shuffle(numbers)
    ids = dict(zip(plan.classes, numbers, strict=True))
    _write_devkit(out / f"{FOLDER}.tar.gz", ids, wnids, [ids[item.label] for item in val])
    (out / "origins.json").write_text(json.dumps(origins, indent=0))


def _write_train(
    path: Path, source: Source, items: Sequence[Item], wnids: dict[str, str]
) -> dict[str, str]:
    origins = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for label, wnid in wnids.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT) as class_tar:
                members = [item for item in items if item.label == label]
                for number, item in enumerate(members):
                    name = f"{wnid}_{10000 + number}.JPEG"
                    _add(class_tar, name, _bytes(source, item))
                    origins[f"{wnid}/{name}"] = item.name
            _add(archive, f"{wnid}.tar", inner.getvalue())
    return origins


def _write_val(path: Path, source: Source, items: Sequence[Item]) -> dict[str, str]:
    origins = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, item in enumerate(items, 1):
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
            _add(archive, name, _bytes(source, item))
            origins[name] = item.name
    return origins


def _write_devkit(
    path: Path, ids: dict[str, int], wnids: dict[str, str], truth: Sequence[int]
) -> None:
    meta = io.BytesIO()
    synsets = np.array(list(_synsets(ids, wnids)), dtype=_SYNSET).reshape(-1, 1)
    savemat(meta, {"synsets": synsets})
    text = "".join(f"{number}\n" for number in truth)
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, f"{FOLDER}/readme.txt", b"made by make_imagenet_layout.py\n")
        _add(archive, f"{FOLDER}/data/meta.mat", meta.getvalue())
        name = f"{FOLDER}/data/ILSVRC2012_validation_ground_truth.txt"
        _add(archive, name, text.encode())


_SYNSET = [
    ("ILSVRC2012_ID", object),
    ("WNID", object),
    ("words", object),
    ("gloss", object),
    ("num_children", object),
    ("children", object),
    ("wordnet_height", object),
    ("num_train_images", object),
]


def _synsets(ids: dict[str, int], wnids: dict[str, str]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of meta.mat: the classes by their number, then a synset above them all."""
    for label, number in sorted(ids.items(), key=lambda pair: pair[1]):
        yield number, wnids[label], label, f"photographs of: {label}", 0, [], 0, 1300
    children = sorted(ids.values())
    yield len(ids) + 1, "n00001740", "entity", "the root", len(ids), children, 1, 0


def _bytes(source: Source, item: Item) -> bytes:
    data = source.read(item)
    if not isinstance(data, bytes):
        raise SystemExit("the source holds pixels, not files")
    return data


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a folder or tar of class folders")
    parser.add_argument("out", help="the folder for the archives")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled order")
    arguments = parser.parse_args()
    make_imagenet_layout(arguments.source, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
