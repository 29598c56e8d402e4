"""The run directory: everything that a training writes and that using its network needs.

    run.json             what it is: model, classes, settings, preprocessing, data, versions,
                         hardware on which it was begun
    mean_image.npy       (size, size, 3) float32, 0-255
    metrics.jsonl        one JSON object per logged step and per epoch
    checkpoints.json     the checkpoints with their SHA-256, and which is last and best
    checkpoints/         step-00000480.safetensors: weights, optimiser, position

Reading it never executes code: it holds only JSON, plain arrays and safetensors.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.device import pick_device
from alexnet.errors import AlexnetError, CheckpointError, StorageError, UsageError
from alexnet.networks.registry import create_model
from alexnet.settings_text import settings_from_json
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import expanded, flush, write_text
from alexnet.storage.checkpoint_format import MODEL, Saved, load_weights
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.dataset_manifest import check_spread
from alexnet.storage.environment import package_version, versions
from alexnet.storage.folders import SHIPPED_RUN, is_run, not_a_run
from alexnet.storage.metrics_log import read_metrics
from alexnet.storage.untrusted import map_array, parse_json
from alexnet.transforms import Preprocessing

FORMAT, VERSION = "alexnet-run", 1


class Run:
    """An opened run directory; use `Run.open` or `Run.create`."""

    def __init__(self, path: Path, info: dict[str, Any], preprocessing: Preprocessing) -> None:
        self.path = path
        self.info = info
        self.preprocessing = preprocessing
        self.settings = settings_from_json(info["settings"])
        self.model_name: str = info["model"]
        self.classes: list[str] = info["classes"]
        self.titles: list[str] = info["titles"]

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Tell whether there is a run at `path`."""
        return is_run(Path(path))

    @classmethod
    def create(
        cls,
        path: str | Path,
        data: Dataset,
        settings: Settings,
        crop: int,
        note: dict[str, Any],
        mean_image: Tensor | None = None,
    ) -> Self:
        """Make a new run directory for training on `data`; `note` is added to run.json.

        `mean_image` (3, size, size) is subtracted in place of the data's own.
        Raises `UsageError` for a run that has a checkpoint or files of something else, `DataError`
        for images of one colour, `StorageError` for a failed write.
        """
        _check_unused(expanded(path))
        check_spread(data.path, data.color_std)
        if mean_image is None:
            mean_image = torch.from_numpy(np.array(data.mean_image)).permute(2, 0, 1)
        preprocessing = Preprocessing(
            size=data.size,
            crop=crop,
            mean_image=mean_image,
            color_std=tuple(data.color_std),
            color_vectors=tuple(map(tuple, data.color_vectors)),
            resize=data.resize,
            orientation=data.orientation,
        )
        note = {"data": {"path": str(data.path), "fingerprint": data.fingerprint}, **note}
        return cls.write(path, settings, data.classes, data.titles, preprocessing, note)

    @classmethod
    def write(
        cls,
        path: str | Path,
        settings: Settings,
        classes: Sequence[str],
        titles: Sequence[str],
        preprocessing: Preprocessing,
        note: dict[str, Any],
    ) -> Self:
        """Write run.json, with `note` in it, and the mean image of a run without checkpoints.

        `note` has at least "data": path and fingerprint of what the network was trained on.
        Raises `StorageError` for a failed write.
        """
        path = expanded(path)
        info = {
            "format": FORMAT,
            "version": VERSION,
            "model": settings.model,
            "classes": list(classes),
            "titles": list(titles),
            "preprocessing": preprocessing_as_json(preprocessing),
            "settings": settings.as_json(),
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **note,
        }
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            mean_image = preprocessing.mean_image.permute(1, 2, 0).numpy()
            np.save(path / "mean_image.npy", np.ascontiguousarray(mean_image, np.float32))
            flush(path / "mean_image.npy")  # before run.json, which says that it is there
            write_text(path / "run.json", json.dumps(info, indent=2) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write the run directory {path}: {error.strerror}") from None
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory. Raises `CheckpointError` if none can be read."""
        path = expanded(path)
        if not cls.exists(path):
            raise CheckpointError(not_a_run(path))
        try:
            info = parse_json((path / "run.json").read_text(encoding="utf-8"))
            if info["format"] != FORMAT or info["version"] > VERSION:
                raise CheckpointError(
                    f"{path}/run.json is {info['format']} version {info['version']}; this alexnet "
                    f"{package_version()} reads {FORMAT} up to version {VERSION}: update it"
                )
            mean_image = np.array(map_array(path / "mean_image.npy"), np.float32)
            _check(info, mean_image)
            mean = torch.from_numpy(mean_image).permute(2, 0, 1).contiguous()
            return cls(path, info, preprocessing_from_json(info["preprocessing"], mean))
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, OSError, AlexnetError) as error:
            raise CheckpointError(f"{path} cannot be read as a run: {error!r}") from None

    @classmethod
    def shipped(cls) -> Self:
        """Open the run that comes with this package: cifar10_11, trained on CIFAR-10.

        Its `path` serves wherever a run is asked for.
        """
        return cls.open(SHIPPED_RUN)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; those of a whole epoch have a `val_loss` entry."""
        return read_metrics(self.path / "metrics.jsonl")

    def new_model(self) -> nn.Sequential:
        """Build this run's network with fresh weights."""
        return create_model(self.model_name, len(self.classes), ablate=self.settings.ablate)

    def load_model(
        self, device: torch.device | str = "cpu", checkpoint: CheckpointName = "best"
    ) -> nn.Sequential:
        """Return the trained network in evaluation mode, its weights checked and on `device`.

        `checkpoint` names the one with the lowest validation error ("best") or the newest ("last").
        The device "auto" is the fastest one.
        """
        model, _ = self.load(checkpoint)
        return model.to(pick_device() if device == "auto" else device)

    def load(self, checkpoint: CheckpointName = "best") -> tuple[nn.Sequential, Saved]:
        """Return the trained network on the CPU, as `load_model` does, and the checkpoint read."""
        with torch.device("meta"):  # no weights are drawn, only to be replaced
            model = self.new_model()
        saved = checkpoint_store.load(self.path, checkpoint, prefix=MODEL)
        load_weights(model, saved)
        return model.eval(), saved


def _check_unused(path: Path) -> None:
    """Raise `UsageError` if a new run in `path` would replace a training or files of others."""
    if not Run.exists(path):
        for name in ("metrics.jsonl", "checkpoints.json"):  # written after run.json
            if (path / name).exists():
                raise UsageError(
                    f"{path} has {name} but no run.json: restore that, or name another directory"
                )
        return
    if checkpoint_store.read_manifest(path)["checkpoints"]:
        raise UsageError(
            f"{path} already holds a training: add --resume to continue it, or name another "
            f"directory"
        )
    with suppress(ValueError, KeyError, TypeError):
        if parse_json((path / "run.json").read_bytes())["format"] == FORMAT:
            return
    raise UsageError(f"{path}/run.json is of something else: name another directory")


def _check(info: dict[str, Any], mean_image: NDArray[np.float32]) -> None:
    """Raise `ValueError` or `TypeError` for a description that contradicts itself."""
    size, crop = info["preprocessing"]["size"], info["preprocessing"]["crop"]
    if not isinstance(size, int) or not isinstance(crop, int) or not 0 < crop <= size:
        raise ValueError(f"a crop of {crop} from images of side {size}")
    if mean_image.shape != (size, size, 3):
        raise ValueError(f"a mean image of shape {mean_image.shape} for images of side {size}")
    for names in (info["classes"], info["titles"]):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("classes that are no names")
    if not 0 < len(info["classes"]) == len(info["titles"]):
        raise ValueError(f"{len(info['titles'])} titles for {len(info['classes'])} classes")


def preprocessing_as_json(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing as plain JSON values, without the mean image."""
    return {
        "size": preprocessing.size,
        "crop": preprocessing.crop,
        "resize": preprocessing.resize,
        "orientation": preprocessing.orientation,
        "color_std": [float(x) for x in preprocessing.color_std],
        "color_vectors": [[float(x) for x in row] for row in preprocessing.color_vectors],
    }


def preprocessing_from_json(values: dict[str, Any], mean_image: Tensor) -> Preprocessing:
    """Read what `preprocessing_as_json` returned."""
    return Preprocessing(
        size=values["size"],
        crop=values["crop"],
        mean_image=mean_image,
        color_std=tuple(map(float, values["color_std"])),
        color_vectors=tuple(tuple(map(float, row)) for row in values["color_vectors"]),
        resize=values["resize"],
        orientation=values.get("orientation", "ignore"),
    )
