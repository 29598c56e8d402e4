"""Write labels, names, statistics and dataset.json from the finished shards."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from alexnet.errors import DataError
from alexnet.prepare.shards import ShardResult, ShardTask
from alexnet.prepare.statistics import ColorSums
from alexnet.prepare.workspace import Workspace
from alexnet.storage.dataset_manifest import FORMAT, MANIFEST, VERSION
from alexnet.storage.environment import package_version


class ManifestBuilder:
    """Collects the content of dataset.json split by split, and writes the files that it lists."""

    def __init__(self, workspace: Workspace, classes: Sequence[str], store: str, size: int) -> None:
        self.workspace, self.classes, self.store = workspace, classes, store
        self.sums = ColorSums.empty(size)
        self.splits: dict[str, Any] = {}
        self.rejects: list[dict[str, str]] = []

    def add_split(self, split: str, tasks: Iterable[ShardTask], *, count_colors: bool) -> None:
        """Add one split; the results of its `tasks` are in the workspace."""
        content = _SplitContent({key: label for label, key in enumerate(self.classes)})
        for task in tasks:
            result = self.workspace.result(task.name)
            if not content.add(task, result):
                self.workspace.remove_shard(result)
            if count_colors:
                self.sums.add_sums(result.sums)
        self.rejects += content.rejects
        if not content.labels:
            raise DataError(f"not one image of {split} can be used: {content.rejects[0]['reason']}")
        labels = np.array(content.labels, "<i8")
        names = "".join(json.dumps(name) + "\n" for name in content.names)
        self.splits[split] = {
            "images": len(labels),
            "per_class": np.bincount(labels, minlength=len(self.classes)).tolist(),
            "labels": self.workspace.write_array(f"{split}-labels.npy", labels),
            "names": self.workspace.write(f"{split}-names.txt", names.encode()),
            "shards": content.shards,
        }
        if self.store == "jpeg":
            index = np.concatenate(content.index).astype("<i8")
            self.splits[split]["index"] = self.workspace.write_array(f"{split}-index.npy", index)

    def write(self, facts: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
        """Write the remaining files and dataset.json; return the content of dataset.json.

        `facts` holds size, resize, orientation, titles and the number of ignored files.
        """
        self._check_classes()
        deviations, vectors = self.sums.principal_colors()
        lines = "".join(json.dumps(reject) + "\n" for reject in self.rejects)
        info = {
            "format": FORMAT,
            "version": VERSION,
            "size": facts["size"],
            "resize": facts["resize"],
            "orientation": facts["orientation"],
            "store": self.store,
            "classes": list(self.classes),
            "titles": facts["titles"],
            "splits": self.splits,
            "mean_image": self.workspace.write_array("mean_image.npy", self.sums.mean_image()),
            "color_std": deviations.round(8).tolist(),
            "color_vectors": vectors.round(8).tolist(),
            "rejects": {
                "count": len(self.rejects),
                **self.workspace.write("rejects.jsonl", lines.encode()),
            },
            "ignored": facts["ignored"],
            "provenance": {
                **provenance,
                "alexnet": package_version(),
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
        info["fingerprint"] = fingerprint(info)
        self.workspace.write(MANIFEST, (json.dumps(info, indent=1) + "\n").encode())
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
    """Return a digest of pixels, classes and labels, independent of the images' names."""
    content = [info["version"], info["size"], info["store"], info["classes"]]
    for split, facts in info["splits"].items():
        shards = [shard["sha256"] for shard in facts["shards"]]
        content.append([split, facts["labels"]["sha256"], shards])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass
class _SplitContent:
    """Labels, names, index and rejects of one split, collected shard by shard."""

    label_of: dict[str, int]
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    index: list[NDArray[np.int64]] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)

    def add(self, task: ShardTask, result: ShardResult) -> bool:
        """Add a shard; return False if all its images were rejected."""
        for position, reason in result.rejects:
            item = task.items[position]
            self.rejects.append(
                {"name": item.name, "split": item.split, "class": item.label, "reason": reason}
            )
        if not len(result.accepted):
            return False
        accepted = [task.items[position] for position in result.accepted.tolist()]
        self.labels += [self.label_of[item.label] for item in accepted]
        self.names += [item.name for item in accepted]
        number = np.full(len(result.extents), len(self.shards))
        self.index.append(np.column_stack([number, result.extents]))
        facts = {"file": result.file, "images": len(accepted)}
        self.shards.append(facts | {"bytes": result.bytes, "sha256": result.sha256})
        return True
