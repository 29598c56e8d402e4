"""Trees of folders as people have them: the classes are found by structure, or refused."""

import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from data_makers import (
    Recorder,
    encode,
    photo,
    picture,
    tree,
    write_tar,
    write_tree,
    write_zip,
)

from alexnet.dataset import Dataset
from alexnet.errors import DataError, StorageError, UsageError
from alexnet.prepare import prepare_dataset
from alexnet.prepare.sources import open_source
from alexnet.prepare.sources.base import Listing
from alexnet.prepare.splits import plan_splits

PHOTO = photo(0)


def listing(path: Path) -> Listing:
    return open_source(path, path.parent / "work", Recorder()).listing(Recorder())


def made(folder: Path, paths: list[str], texts: dict[str, str] | None = None) -> Path:
    files = dict.fromkeys(paths, PHOTO)
    files |= {name: text.encode() for name, text in (texts or {}).items()}
    return write_tree(folder / "source", files)


def files_below(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, by their paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def found(path: Path) -> dict[str, str]:
    """Return "split/class" or "class" by the name of each image."""
    return {item.name: f"{item.split}/{item.label}".strip("/") for item in listing(path).items}


# Each path with what it must become; "" is left out with a note.
PLAIN = {
    "archives packed twice": {
        "training_set/training_set/cats/1.jpg": "train/cats",
        "training_set/training_set/dogs/1.jpg": "train/dogs",
        "test_set/test_set/cats/1.jpg": "test/cats",
        "test_set/test_set/dogs/1.jpg": "test/dogs",
    },
    "Intel's scenes": {
        "seg_train/seg_train/sea/1.jpg": "train/sea",
        "seg_train/seg_train/street/1.jpg": "train/street",
        "seg_test/seg_test/sea/1.jpg": "test/sea",
        "seg_pred/seg_pred/7.jpg": "",
    },
    "one split packed twice": {
        "Train/train/cat/1.jpg": "train/cat",
        "Train/train/dog/1.jpg": "train/dog",
        "valid/cat/1.jpg": "val/cat",
    },
    "a split of one class": {
        "train/cat/1.jpg": "train/cat",
        "train/dog/1.jpg": "train/dog",
        "testing/dog/a/1.jpg": "test/dog",
    },
    "years in the names": {
        "train2017/cat/1.jpg": "train/cat",
        "train2017/dog/1.jpg": "train/dog",
        "val2017/dog/1.jpg": "val/dog",
    },
    "words joined to the split": {
        "trainset/cat/1.jpg": "train/cat",
        "trainset/dog/1.jpg": "train/dog",
        "Validation Images/dog/1.jpg": "val/dog",
    },
    "a leading folder, Apple's and Synology's folders": {
        "pets/pets/train/cat/1.jpg": "train/cat",
        "pets/pets/train/dog/1.jpg": "train/dog",
    },
    "a test split without classes": {
        "train/cat/1.jpg": "train/cat",
        "train/dog/1.jpg": "train/dog",
        "test/1.jpg": "",
        "test/2.jpg": "",
        "test/3.jpg": "",
    },
    "classes with words of splits in them": {
        "train station/1.jpg": "train station",
        "test tube/1.jpg": "test tube",
        "bus/1.jpg": "bus",
    },
    "images beside folders of a class": {
        "cat/1.jpg": "cat",
        "cat/2.jpg": "cat",
        "cat/a/3.jpg": "cat",
        "cat/b/4.jpg": "cat",
        "dog/1.jpg": "dog",
    },
    "one folder in each class": {
        "train/n01/images/1.JPEG": "train/n01",
        "train/n02/images/1.JPEG": "train/n02",
    },
}


@pytest.mark.parametrize("name", PLAIN)
def test_classes_are_found_by_structure(tmp_path: Path, name: str) -> None:
    source = made(tmp_path, list(PLAIN[name]))
    junk = {f"{folder}/train/cat/1.jpg": b"x" for folder in ("__MACOSX", "@eaDir", "__pycache__")}
    write_tree(source, junk | {".ipynb_checkpoints/1.jpg": b"x", "Thumbs.db": b"x"})
    assert found(source) == {path: label for path, label in PLAIN[name].items() if label}
    left_out = [path for path, label in PLAIN[name].items() if not label]
    notes = listing(source).notes
    assert bool(left_out) == any("left out" in note or "skipped" in note for note in notes)
    assert listing(source).ignored == len(left_out) + len(junk) + 2


UNCLEAR = {
    "a flat test folder beside classes": (
        ["cat/1.jpg", "dog/1.jpg", "test/1.jpg", "test/2.jpg"],
        "test is a name for a split, beside class folders: call it otherwise",
    ),
    "groups of classes": (
        ["animal/cat/1.jpg", "animal/dog/1.jpg", "vehicle/car/1.jpg"],
        "unclear what the classes are: animal holds images in the folders cat, dog, unlike vehicle",
    ),
    "classes at two depths": (
        ["cat/1.jpg", "dog/small/1.jpg", "dog/large/1.jpg"],
        "dog holds images in the folders large, small, unlike cat",
    ),
    "a preview in each group": (
        ["animal/x.jpg", "animal/cat/1.jpg", "animal/dog/1.jpg", "car/1.jpg", "car/2.jpg"],
        "animal holds images in the folders cat, dog, unlike car",
    ),
    "groups in one split": (
        ["train/animal/cat/1.jpg", "train/animal/dog/1.jpg", "train/car/1.jpg"],
        "/train: unclear what the classes are: animal",
    ),
    "splits in each class": (
        ["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg", "dog/test/1.jpg"],
        "/cat is divided into test, train; sort by split first, as in test/cat",
    ),
    "unknown names of splits": (
        ["seen/cat/1.jpg", "seen/dog/1.jpg", "unseen/cat/1.jpg", "unseen/dog/1.jpg"],
        "the folders seen, unseen hold folders, not images",
    ),
    "a split that is not named like one": (
        ["train/cat/1.jpg", "train/dog/1.jpg", "holdout/cat/1.jpg"],
        "train are splits, but holdout holds class folders too",
    ),
    "a class called train with folders": (
        ["bus/1.jpg", "bus/2.jpg", "car/1.jpg", "car/2.jpg", "train/a/1.jpg", "train/b/1.jpg"],
        "4 of 6 images lie outside the class folders, the first is bus/1.jpg",
    ),
    "mostly loose images": (
        ["1.jpg", "2.jpg", "3.jpg", "cat/1.jpg", "dog/1.jpg"],
        "3 of 5 images lie outside the class folders, the first is 1.jpg",
    ),
    "images and masks": (
        ["images/1.jpg", "images/2.jpg", "masks/1.png", "masks/2.png"],
        "the folders images, masks are images and what was drawn on them",
    ),
    "one class": (["train/cat/1.jpg"], r"one class only \(cat\)"),
    "one class twice": (["dogs/dogs/1.jpg"], r"one class only \(dogs\)"),
    "only images": (["images/1.jpg", "images/2.jpg"], "/images holds 2 files but no class folders"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_classes_that_are_not_plain_are_refused(tmp_path: Path, name: str) -> None:
    paths, message = UNCLEAR[name]
    with pytest.raises(DataError, match=message):
        plan_splits(listing(made(tmp_path, paths)).items, 0.1, 0)


def test_names_equal_but_for_their_unicode_form_are_one_class(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "Füße")
    decomposed = unicodedata.normalize("NFD", "Füße")
    assert composed != decomposed
    paths = [f"train/{decomposed}/1.jpg", "train/Hände/1.jpg", f"val/{composed}/1.jpg"]
    source = made(tmp_path, paths)
    assert found(source) == {
        paths[0]: f"train/{composed}",
        paths[1]: "train/Hände",
        paths[2]: f"val/{composed}",
    }
    made(tmp_path, [f"train/{composed}/2.jpg"])
    assert any(note.endswith("are one class") for note in listing(source).notes)
    plan = plan_splits(listing(source).items, 0, 0)
    assert plan.classes == [composed, "Hände"]
    assert len(plan.splits["train"]) == 3


def test_names_equal_but_for_their_case_are_noted(tmp_path: Path) -> None:
    source = made(tmp_path, ["cat/1.jpg", "Cat/1.jpg", "dog/1.jpg"])
    (note,) = listing(source).notes
    assert note.endswith("the folders Cat, cat are different classes, with almost one name")


def test_a_packed_data_set_is_no_source(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", tree({"cat": 2, "dog": 2}))
    prepare_dataset(source, tmp_path / "out", size=8, store="jpeg", workers=1)
    with pytest.raises(UsageError, match="is a packed data set already"):
        listing(tmp_path / "out")


def test_an_empty_class_folder_in_val_is_as_a_missing_one(tmp_path: Path) -> None:
    source = made(tmp_path, ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"])
    without = listing(source)
    (source / "val/dog").mkdir()
    assert list(listing(source).items) == list(without.items)
    assert plan_splits(without.items, 0, 0).notes[0] == "val has no images of 1 classes: dog"
    (source / "val/emu").mkdir()
    assert any("without images: emu" in note for note in listing(source).notes)


SIDE_FILES = ["1.MOV", "1.xmp", "1.JSON", "1.txt", "1.AAE", "Thumbs.db", "desktop.ini", "a.zip"]


def test_side_files_are_no_images_and_change_no_draw(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", tree({"cat": 20, "dog": 20}))
    before = plan_splits(listing(source).items, 0.2, 0).splits
    write_tree(source, {f"{label}/{name}": b"x" for label in ("cat", "dog") for name in SIDE_FILES})
    assert listing(source).ignored == 2 * len(SIDE_FILES)
    assert plan_splits(listing(source).items, 0.2, 0).splits == before


# Tables of classes.

WNIDS = ["n01440764", "n01443537"]
TABLES = {
    "labels.csv": "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n",
    "no header": "1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n",
    "folders in the names": "file,label\nimages/1.jpg,cat\n/home/x/2.jpg,dog\nimages\\3.jpg,cat\n",
    "no endings": "id,breed\n1,cat\n2,dog\n3,cat\n",
    "quotes, semicolons and a mark": '\ufefffile;label\r\n"1.jpg";"cat"\r\n2.jpg;dog\r\n3.jpg;cat',
    "the other order": "class,filename\ncat,1.jpg\ndog,2.jpg\ncat,3.jpg\n",
    "pandas' numbers": ",file,label\n0,3.jpg,cat\n1,1.jpg,cat\n2,2.jpg,dog\n",
    "pandas' numbers, no endings": ",id,label\n1,3,cat\n2,1,cat\n3,2,dog\n",
    "a number and a word": "id,target,breed\n3,0,cat\n2,1,dog\n1,0,cat\n",
    "other columns": "id,width,label,height\n1,30,cat,24\n2,30,dog,24\n3,30,cat,24\n",
    "spaces": "1.jpg cat\n2.jpg dog\n3.jpg cat\n",
    "a column for each class": "id,cat,dog\n3,1,0\n1,1.0,0.0\n2,0,1\n",
    "absolute, of Windows": "C:\\my data\\1.jpg cat\nC:\\my data\\2.jpg dog\n3.jpg cat\n",
    "more rows": "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n4.jpg,emu\n",
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("make", ["folder", "tar", "zip"])
def test_a_table_gives_the_classes(tmp_path: Path, name: str, make: str) -> None:
    files = {f"images/{i}.jpg": PHOTO for i in (1, 2, 3)} | {"labels.csv": TABLES[name].encode()}
    makers: dict[str, Callable[[Path, dict[str, bytes]], Path]]
    makers = {"folder": write_tree, "tar": write_tar, "zip": write_zip}
    source = makers[make](tmp_path / "source", files)
    assert found(source) == {"images/1.jpg": "cat", "images/2.jpg": "dog", "images/3.jpg": "cat"}


def test_a_table_beside_flat_images_and_one_for_each_split(tmp_path: Path) -> None:
    text = TABLES["labels.csv"]
    source = made(tmp_path / "a", ["1.jpg", "2.jpg", "3.jpg"], {"labels.csv": text})
    assert found(source) == {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": "cat"}
    texts = {"train.csv": "id,label\n1,cat\n2,dog\n", "test.csv": "id,label\n3,cat\n"}
    source = made(tmp_path / "b", [f"images/{i}.jpg" for i in (1, 2, 3)], texts)
    assert list(found(source).values()) == ["train/cat", "train/dog", "test/cat"]
    source = made(tmp_path / "c", ["train/1.jpg", "train/2.jpg", "test/3.jpg"], texts)
    assert list(found(source).values()) == ["test/cat", "train/cat", "train/dog"]
    rows = "file,label\ntrain/1.jpg,cat\ntrain/2.jpg,dog\nval/1.jpg,dog\nval/2.jpg,cat\n"
    paths = [f"{split}/{i}.jpg" for split in ("train", "val") for i in (1, 2)]
    source = made(tmp_path / "e", paths, {"labels.csv": rows})
    assert list(found(source).values()) == ["train/cat", "train/dog", "val/dog", "val/cat"]
    text = "filepaths,labels,data set\ntrain/x/1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,valid\n"
    source = made(tmp_path / "d", [f"images/{i}.jpg" for i in (1, 2, 3)], {"birds.csv": text})
    assert list(found(source).values()) == ["train/cat", "train/dog", "val/cat"]


def test_tables_of_known_collections(tmp_path: Path) -> None:
    rows = "Width,Height,Roi.X1,ClassId,Path\n30,24,5,1,Test/0.png\n30,24,5,0,Test/1.png\n"
    paths = ["Train/0/0.png", "Train/1/1.png", "Test/0.png", "Test/1.png"]
    signs = made(tmp_path / "traffic signs", paths, {"Test.csv": rows})
    expected = {"Train/0/0.png": "train/0", "Train/1/1.png": "train/1"}
    assert found(signs) == expected | {"Test/0.png": "test/1", "Test/1.png": "test/0"}
    texts = {"train.csv": "id_code,diagnosis\na,0\nb,2\n", "test.csv": "id_code,age\nc,51\nd,60\n"}
    paths = ["train_images/a.png", "train_images/b.png", "test_images/c.png", "test_images/d.png"]
    eyes = made(tmp_path / "eyes", paths, {"train.csv": texts["train.csv"]})
    assert found(eyes) == {paths[0]: "train/0", paths[1]: "train/2"}
    made(tmp_path / "eyes", [], texts)
    with pytest.raises(DataError, match=r"test\.csv names the images, but .* \(age\)"):
        listing(eyes)


def test_a_table_that_contradicts_the_folders_is_refused(tmp_path: Path) -> None:
    paths = [
        f"{patient}/{i}.jpg" for patient in ("p1", "p2") for i in (f"{patient}a", f"{patient}b")
    ]
    text = "file,label\np1a,ill\np1b,well\np2a,ill\np2b,well\n"
    source = made(tmp_path, paths, {"labels.csv": text})
    with pytest.raises(DataError, match=r"labels\.csv gives other classes than the folders"):
        listing(source)
    made(
        tmp_path,
        [],
        {"labels.csv": text.replace("p1b,well", "p1b,ill").replace("p2a,ill", "p2a,well")},
    )
    assert set(found(source).values()) == {"p1", "p2"}


def test_images_that_a_table_does_not_name_are_left_out_with_a_note(tmp_path: Path) -> None:
    texts = {"train.csv": TABLES["labels.csv"], "sample_submission.csv": "id,label\n4,cat\n5,cat\n"}
    source = made(tmp_path, [f"images/{i}.jpg" for i in range(1, 6)], texts)
    assert len(found(source)) == 3
    notes = " ".join(listing(source).notes)
    assert "train.csv names 3 of 5 images; the others are left out, the first is 4.jpg" in notes


def test_rows_without_an_image_are_told(tmp_path: Path) -> None:
    source = made(tmp_path / "a", [f"images/{i}.jpg" for i in (1, 2, 3)])
    (source / "labels.csv").write_text(TABLES["more rows"])
    notes = " ".join(listing(source).notes)
    assert "labels.csv: 1 of 4 rows name no image here, the first 4.jpg" in notes
    rows = "file,label,split\n1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,test\n4.jpg,dog,test\n"
    paths = [f"{'train' if i < 3 else 'test'}/{i}.jpg" for i in (1, 2, 3, 4)]
    source = made(tmp_path / "b", paths, {"labels.csv": rows})
    assert not any("no image here" in note for note in listing(source).notes)


def test_names_with_spaces_in_a_list_of_caffe(tmp_path: Path) -> None:
    names = [f"a photo {i}.jpg" for i in (1, 2, 3, 4)]
    texts = {
        "train.txt": f"images/{names[0]} 20\nimages/{names[1]} 21\n",
        "val.txt": f"images/{names[2]}  20\nimages/{names[3]} 21\n",
    }
    source = made(tmp_path, [f"images/{name}" for name in names], texts)
    assert list(found(source).values()) == ["train/20", "train/21", "val/20", "val/21"]


BAD_TABLES = {
    "two classes": ("file,label\n1.jpg,cat\n2.jpg,dog\n1.jpg,dog\n", r"csv:4: 1\.jpg has two"),
    "no class": ("file,label\n1.jpg,cat\n2.jpg,\n3.jpg,cat\n", "csv:3: '' cannot be the name"),
    "a path": ("file,label\n1.jpg,../x\n2.jpg,dog\n", r"csv:2: '\.\./x' cannot be the name"),
    "which column": ("id,a,b\n1,x,y\n2,x,z\n3,y,z\n", r"which column is the class \(a, b\)"),
    "several marks": ("id,cat,dog\n1,1,1\n2,0,1\n3,1,0\n", "call one column label"),
    "marks and counts": ("id,cat,legs\n1,1,4\n2,0,2\n3,1,4\n", "call one column label"),
    "tags": ("id,tags\n1,red cat\n2,red\n3,red cat\n", "csv:2: 'red cat' names several classes"),
    "findings": ("id,label\n1,cyst\n2,cyst|fracture\n3,cyst\n", "csv:3: .* several classes"),
    "two answers": ("id,label,species\n1,x,y\n2,x,z\n3,y,z\n", "which column is the class"),
    "cut": ("id,label\n1,cat\n2,dog\n3\n", "csv:4: 1 columns, 2 in the first line"),
    "other names": ("id,label\nx,cat\ny,dog\n", "no class folders"),
    "empty": ("", "no class folders"),
    "no text": ("\udcff\udcfe", "no class folders"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_tables_that_leave_the_classes_unclear_are_refused(tmp_path: Path, name: str) -> None:
    text, message = BAD_TABLES[name]
    source = made(tmp_path, [f"images/{i}.jpg" for i in (1, 2, 3)])
    (source / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        listing(source)


def test_two_tables_that_disagree_are_refused(tmp_path: Path) -> None:
    texts = {"a.csv": TABLES["labels.csv"], "b.csv": "file,label\n1.jpg,dog\n"}
    source = made(tmp_path, [f"images/{i}.jpg" for i in (1, 2, 3)], texts)
    with pytest.raises(DataError, match=r"a\.csv, b\.csv give 1\.jpg different classes"):
        listing(source)


def test_tiny_imagenet_as_published(tmp_path: Path) -> None:
    train = [f"t/train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(3)]
    val = [f"t/val/images/val_{i}.JPEG" for i in range(4)]
    test = [f"t/test/images/test_{i}.JPEG" for i in range(4)]
    rows = [f"val_{i}.JPEG\t{WNIDS[i % 3 > 0]}\t0\t{i}\t44\t62\n" for i in range(4)]
    texts = {"t/val/val_annotations.txt": "".join(rows), "t/wnids.txt": "\n".join(WNIDS)}
    texts |= {f"t/train/{wnid}/{wnid}_boxes.txt": f"{wnid}_0.JPEG\t0\t0\t62\t62" for wnid in WNIDS}
    source = made(tmp_path, train + val + test, texts)
    expected = {path: f"train/{path.split('/')[2]}" for path in train}
    expected |= {path: f"val/{WNIDS[i % 3 > 0]}" for i, path in enumerate(val)}
    assert found(source) == expected
    assert any("4 images without classes: left out" in note for note in listing(source).notes)
    assert listing(source).titles == {}
    words = {"n00001740": "entity", **dict.fromkeys(WNIDS, "thing, object")}
    lines = "".join(f"{wnid}\t{text}\n" for wnid, text in words.items())
    write_tree(source, {"t/words.txt": lines.encode(), "t/boxes.txt": b"a\tb\n"})
    assert listing(source).titles == dict.fromkeys(WNIDS, "thing, object")
    assert listing(write_tar(tmp_path / "t.tar", files_below(source))).titles
    (source / "t/val/val_annotations.txt").unlink()
    with pytest.raises(DataError, match="/val/images holds 4 files but no class folders"):
        listing(source)


@pytest.mark.parametrize("table", ["cat\t0\ndog\t1\n", "cat\tCats\n", "cat\tCats\tx\n", "\xff\t"])
def test_a_table_that_lacks_words_for_classes_gives_none(tmp_path: Path, table: str) -> None:
    source = made(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (source / "classes.txt").write_bytes(table.encode("latin-1"))
    assert listing(source).titles == {}


def test_caltech_101_as_published(tmp_path: Path) -> None:
    """Class folders below one folder, lists of names beside it, and a file left in a class."""
    top = "101_ObjectCategories"
    images = [f"{top}/{name}/image_0001.jpg" for name in ("BACKGROUND_Google", "Faces", "ant")]
    texts = {"train.txt": "ant/image_0001.jpg\n", "test.txt": "Faces/image_0001.jpg\n"}
    source = made(tmp_path, images, texts | {"caltech_dataset.py": "", "README.md": ""})
    write_tree(source, {f"{top}/BACKGROUND_Google/tmp": PHOTO})
    assert found(source) == {path: path.split("/")[1] for path in images}


def test_cifar_10_as_png(tmp_path: Path) -> None:
    """Every file keeps its pixels: an image that is square already is not scaled."""
    pixels = {
        f"{split}/{name}/{name}_s_{number:06d}.png": picture(number, 32, 32)
        for number, (split, name) in enumerate(product(("train", "test"), ("airplane", "bird")))
    }
    files = {path: encode(image, "PNG") for path, image in pixels.items()}
    source = write_tree(tmp_path / "source", files | {"README.md": b"#"})
    prepare_dataset(source, tmp_path / "out", size=32, val_fraction=0, workers=1)
    dataset = Dataset(tmp_path / "out")
    assert dataset.split_names == ["train", "test"]
    for split in map(dataset.split, dataset.split_names):
        for image, stored in enumerate(split.read(np.arange(len(split)))):
            assert np.array_equal(stored, pixels[split.name(image)])


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_imagenet(tmp_path: Path, given: str) -> None:
    top = "ILSVRC/Data/CLS-LOC"
    train = [f"{top}/train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(3)]
    val = [f"{top}/val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
    test = [f"{top}/test/ILSVRC2012_test_{i:08d}.JPEG" for i in range(1, 5)]
    answers = {Path(path).stem: WNIDS[i % 3 > 0] for i, path in enumerate(val)}
    rows = [f"{name},{wnid} 85 1 499 272 " for name, wnid in reversed(answers.items())]
    rows[0] += f"{rows[0].split(',')[1]}"
    samples = [f"{Path(path).stem},{WNIDS[0]} 0 0 9 9" for path in test]
    header = "ImageId,PredictionString"
    texts = {
        "LOC_val_solution.csv": "\n".join([header, *rows, ""]),
        "LOC_sample_submission.csv": "\n".join([header, *samples]),
        "LOC_train_solution.csv": "\n".join([header, f"{WNIDS[0]}_0,{WNIDS[0]} 0 0 1 1"]),
        "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": "<a/>",
        "ILSVRC/ImageSets/CLS-LOC/test.txt": "ILSVRC2012_test_00000001 1\n",
    }
    source = made(tmp_path, train + val + test, texts)
    labels = found(source / given)
    assert len(labels) == 10
    by_stem = {Path(path).stem: label for path, label in labels.items()}
    assert {name: by_stem[name] for name in answers} == {n: f"val/{w}" for n, w in answers.items()}
    assert any("without classes: left out" in note for note in listing(source / given).notes)
    if given == "ILSVRC":  # packed, with the answers beside it
        images = dict.fromkeys(train + val + test, PHOTO)
        (tmp_path / "LOC_val_solution.csv").write_text(texts["LOC_val_solution.csv"])
        assert found(write_tar(tmp_path / "loc.tar.gz", images, "w:gz")) == {
            f"{given}/{path}": label for path, label in labels.items()
        }


# Zip archives.


def test_a_zip_gives_what_its_folder_gives(tmp_path: Path) -> None:
    files = tree({"pets/train/cat": 2, "pets/train/dög": 2, "pets/test/cat": 1})
    folder = write_tree(tmp_path / "source", files)
    path = write_zip(tmp_path / "pets.zip", files | {"__MACOSX/pets/train/cat/._0.jpg": b"x"})
    source = open_source(path, tmp_path / "work", Recorder())
    items = list(source.listing(Recorder()).items)
    assert {item.name: f"{item.split}/{item.label}" for item in items} == found(folder)
    assert {item.name: source.read(item) for item in items} == files
    assert {each.name for each in tmp_path.iterdir()} == {"source", "pets.zip", "work"}


def test_zips_named_by_split_are_read_together(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_zip(folder / "train.zip", tree({"train/cat": 2, "train/dog": 1}))
    write_zip(folder / "test_images.zip", tree({"cat": 1}))
    assert sorted(found(folder).values()) == ["test/cat", "train/cat", "train/cat", "train/dog"]


def test_archives_beside_folders_of_splits(tmp_path: Path) -> None:
    folder = made(tmp_path, ["train/cat/1.jpg", "train/dog/1.jpg"])
    write_zip(folder / "train.zip", tree({"train/emu": 2}))
    assert sorted(found(folder)) == ["train/cat/1.jpg", "train/dog/1.jpg"]
    write_zip(folder / "val.zip", tree({"val/cat": 2}))
    with pytest.raises(DataError, match=r"folders \(train\) and archives; unpack val\.zip too"):
        found(folder)


def test_imagenets_class_tars_in_a_zip(tmp_path: Path) -> None:
    tars = {f"{wnid}.tar": write_tar(tmp_path / wnid, tree({".": 2})) for wnid in WNIDS}
    path = write_zip(tmp_path / "x.zip", {name: tar.read_bytes() for name, tar in tars.items()})
    source = open_source(path, tmp_path / "work", Recorder())
    items = source.listing(Recorder()).items
    assert [item.label for item in items] == [wnid for wnid in WNIDS for _ in range(2)]
    assert source.read(items[1]) == tree({".": 2})["./1.jpg"]
    assert listing(path).version == source.listing(Recorder()).version  # so that it can continue


def test_a_test_archive_without_classes_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_zip(folder / "train.zip", tree({"train/cat": 2, "train/dog": 1}))
    write_zip(folder / "test1.zip", tree({"test1": 5}))
    assert sorted(found(folder).values()) == ["train/cat", "train/cat", "train/dog"]
    assert any("5 images without classes: left out" in note for note in listing(folder).notes)


def test_a_zip_written_with_backslashes_has_folders(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "source.zip", {"cat\\1.jpg": PHOTO, "dog\\1.jpg": PHOTO})
    assert found(path) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "cat/../../evil.jpg", "C:\\evil.jpg"])
def test_zip_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "source.zip", tree({"cat": 1, "dog": 1}) | {name: b"x"})
    with pytest.raises(DataError, match="points outside; refused"):
        listing(path)
    assert not list(tmp_path.rglob("evil.jpg"))


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "source.zip", tree({"cat": 1, "dog": 1}))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"cat/link\.jpg' is a link or device; refused"):
        listing(path)


@pytest.mark.fault(40)
@pytest.mark.parametrize("damage", ["cut", "flipped", "encrypted", "method"])
def test_zips_that_cannot_be_read_are_refused(tmp_path: Path, damage: str) -> None:
    path = write_zip(tmp_path / "source.zip", tree({"cat": 2, "dog": 2}))
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[30 + len("cat/0.jpg") + 100] ^= 0x55  # in the first file
    elif damage == "encrypted":
        data[directory + 8] |= 1
    else:
        data[directory + 10] = 99
    path.write_bytes(bytes(data))
    message = {
        "encrypted": "is encrypted; unpack it",
        "method": r"source\.zip: .*compression.*; unpack it",
    }
    with pytest.raises(DataError, match=message.get(damage, "cut off or damaged")):
        listing(path)


def test_a_zip_larger_than_the_disk_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "source.zip", {"cat/1.jpg": bytes(10**7), "dog/1.jpg": PHOTO})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(StorageError, match=r"0\.0 GB needed to unpack source\.zip"):
        listing(path)


@pytest.mark.parametrize("source", ["https://a.org/b/pets.zip", Path("https://a.org/b/pets.zip")])
def test_an_address_is_shown_whole(tmp_path: Path, source: str | Path) -> None:
    with pytest.raises(UsageError, match=r"https://a\.org/b/pets\.zip is an address: download"):
        prepare_dataset(source, tmp_path / "out", size=8)
