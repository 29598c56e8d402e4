"""The last step of prepare: from the finished shards to labels, statistics and dataset.json."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from alexnet.dataset import FORMAT, MANIFEST, VERSION
from alexnet.errors import DataError
from alexnet.prepare.shards import ShardResult, ShardTask
from alexnet.prepare.statistics import ColorSums
from alexnet.prepare.workspace import Workspace


@dataclass
class Contents:
    """What goes into dataset.json, gathered split by split."""

    place: Workspace
    classes: Sequence[str]
    store: str
    sums: ColorSums
    splits: dict[str, Any] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)

    def add_split(self, split: str, tasks: Iterable[ShardTask], *, count_colors: bool) -> None:
        """Add one split from its tasks, whose results lie in the workplace."""
        gathered = _Gathered(dict(zip(self.classes, range(len(self.classes)), strict=True)))
        for task in tasks:
            result = self.place.result(task.name)
            if not gathered.add(task, result):
                self.place.drop(result)
            if count_colors:
                self.sums.add_sums(result.sums)
        self.rejects += gathered.rejects
        if not gathered.labels:
            raise DataError(
                f"not one image of {split} can be used: {gathered.rejects[0]['reason']}"
            )
        per_class = np.bincount(gathered.labels, minlength=len(self.classes)).tolist()
        names = "".join(json.dumps(name) + "\n" for name in gathered.names)
        self.splits[split] = {
            "images": len(gathered.labels),
            "per_class": per_class,
            "labels": self.place.write_array(
                f"{split}-labels.npy", np.array(gathered.labels, "<i8")
            ),
            "names": self.place.write(f"{split}-names.txt", names.encode()),
            "shards": gathered.shards,
        }
        if self.store == "jpeg":
            index = np.concatenate(gathered.index).astype("<i8")
            self.splits[split]["index"] = self.place.write_array(f"{split}-index.npy", index)

    def write(self, facts: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
        """Write the remaining files and dataset.json, and return what it holds.

        `facts` has size, resize, titles and the number of ignored files.
        """
        self._check_classes()
        deviations, vectors = self.sums.principal_colors()
        lines = "".join(json.dumps(reject) + "\n" for reject in self.rejects)
        info = {
            "format": FORMAT,
            "version": VERSION,
            "size": facts["size"],
            "resize": facts["resize"],
            "store": self.store,
            "classes": list(self.classes),
            "titles": facts["titles"],
            "splits": self.splits,
            "mean_image": self.place.write_array("mean_image.npy", self.sums.mean_image()),
            "color_std": deviations.round(8).tolist(),
            "color_vectors": vectors.round(8).tolist(),
            "rejects": {
                "count": len(self.rejects),
                **self.place.write("rejects.jsonl", lines.encode()),
            },
            "ignored": facts["ignored"],
            "provenance": {
                **provenance,
                "alexnet": version("alexnet"),
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
        info["fingerprint"] = fingerprint(info)
        self.place.write(MANIFEST, (json.dumps(info, indent=1) + "\n").encode())
        return info

    def _check_classes(self) -> None:
        if "train" in self.splits:
            per_class = self.splits["train"]["per_class"]
            lost = [key for key, n in zip(self.classes, per_class, strict=True) if not n]
            if lost:
                raise DataError(
                    f"all training images of {', '.join(lost[:5])} were rejected: "
                    f"{self.rejects[0]['name']}: {self.rejects[0]['reason']}"
                )


def fingerprint(info: dict[str, Any]) -> str:
    """Return a digest of pixels, classes and labels, whatever the source called the images."""
    content = [info["version"], info["size"], info["store"], info["classes"]]
    for split, facts in info["splits"].items():
        shards = [shard["sha256"] for shard in facts["shards"]]
        content.append([split, facts["labels"]["sha256"], shards])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass
class _Gathered:
    """The shards of one split, put together."""

    label_of: dict[str, int]
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    index: list[NDArray[np.int64]] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)

    def add(self, task: ShardTask, result: ShardResult) -> bool:
        """Add a shard; False if all its images were rejected."""
        for position, reason in result.rejects:
            item = task.items[position]
            self.rejects.append(
                {"name": item.name, "split": item.split, "class": item.label, "reason": reason}
            )
        if not len(result.kept):
            return False
        kept = [task.items[position] for position in result.kept.tolist()]
        self.labels += [self.label_of[item.label] for item in kept]
        self.names += [item.name for item in kept]
        number = np.full(len(result.places), len(self.shards))
        self.index.append(np.column_stack([number, result.places]))
        facts = {"file": result.file, "images": len(kept)}
        self.shards.append(facts | {"bytes": result.bytes, "sha256": result.sha256})
        return True
