"""ImageNet's archives of 2012: a tar of tars to train, a flat tar without labels to validate."""

import re
from dataclasses import dataclass
from pathlib import Path

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item, ItemTable, Listing
from alexnet.prepare.sources.labels import DEVKIT, ValLabels
from alexnet.prepare.sources.names import is_image_path
from alexnet.prepare.sources.tar import members, read_at, stamp
from alexnet.progress import Progress

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
_CLASS_TAR = re.compile(r"(?:\./)?(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"(?:.*/)?ILSVRC2012_val_\d{8}\.JPEG")


@dataclass(frozen=True)
class ImageNetSource:
    """The training archive, the validation archive with its labels, or both."""

    location: str
    train: Path | None
    val: Path | None
    val_labels: ValLabels
    kind: str = "imagenet"
    version: str = ""  # of the archives as given, where they were unpacked

    def listing(self, progress: Progress) -> Listing:
        """Index the archives: one small read for each image."""
        items, ignored = ItemTable(), 0
        if self.train is not None:
            ignored += self._list_train(self.train, items, progress)
        if self.val is not None:
            ignored += self._list_val(self.val, items, progress)
        used = [path for path in (self.train, self.val) if path is not None]
        titles = self.val_labels.titles()
        return Listing(items, titles, ignored, max_rejects=0, version=self.version or stamp(*used))

    def read(self, item: Item) -> bytes:
        """Return the bytes of one image."""
        _, offset, size = item.at
        path = self.val if item.name.startswith("ILSVRC2012_val") else self.train
        assert path is not None  # noqa: S101 - the items came from these archives
        return read_at(path, offset, size)

    def _list_train(self, path: Path, items: ItemTable, progress: Progress) -> int:
        class_tars, ignored = list(members(path)), 0
        with progress.task(f"index {path.name}", len(class_tars), "classes") as advance:
            for class_tar in class_tars:
                match = _CLASS_TAR.fullmatch(class_tar.name)
                if match is None:
                    raise DataError(f"{path}: {class_tar.name!r} is not the tar of a WordNet id")
                images = 0
                for member in members(path, class_tar.offset, class_tar.size):
                    if member.is_folder or not is_image_path(member.name):
                        ignored += not member.is_folder
                        continue
                    name = f"{match[1]}/{member.name}"
                    items.append(Item("train", match[1], name, (0, member.offset, member.size)))
                    images += 1
                if not images:
                    raise DataError(f"{path}: {class_tar.name} holds no images")
                advance(1)
        return ignored

    def _list_val(self, path: Path, items: ItemTable, progress: Progress) -> int:
        progress.note(f"indexing {path.name}")
        files = [member for member in members(path) if not member.is_folder]
        images = {
            member.name.rpartition("/")[2]: member
            for member in files
            if _VAL_IMAGE.fullmatch(member.name)
        }
        for name, wnid in self.val_labels.label(sorted(images)).items():
            items.append(Item("val", wnid, name, (0, images[name].offset, images[name].size)))
        return len(files) - len(images)


def find_imagenet(path: Path, first_member: str) -> tuple[Path | None, Path | None]:
    """Return the training and the validation archive: `path` itself, in it, or beside it.

    `first_member` is the first name in `path` if that is a tar. Missing archives are None.
    """
    if path.is_dir():
        train, val = path / TRAIN, path / VAL
    elif _CLASS_TAR.fullmatch(first_member):
        train, val = path, path.parent / VAL
    elif _VAL_IMAGE.fullmatch(first_member):
        return None, path
    else:
        return None, None
    return train if train.is_file() else None, val if val.is_file() else None


def find_devkit(folder: Path) -> Path | None:
    """Return the devkit in a folder, packed or unpacked; None if there is none."""
    return next((p for p in (folder / f"{DEVKIT}.tar.gz", folder / DEVKIT) if p.exists()), None)
