"""What a data set adds: training images near to an image, and the patches that excite a unit."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.analysis.features import taps
from alexnet.analysis.figures.excitation import Excitation, find_excitation, patches
from alexnet.analysis.figures.pictures import png_address
from alexnet.analysis.figures.subject import MOST_IMAGES, Subject, learning_rows, open_subject
from alexnet.analysis.index import Index, has_index, index_command, memory_index, open_index
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.errors import CheckpointError, DataError
from alexnet.images import Pixels
from alexnet.progress import SILENT, Progress
from alexnet.serve.inside import check_unit
from alexnet.serve.limits import Refusal
from alexnet.serve.predictor import Predictor
from alexnet.storage.folders import SHIPPED_RUN

NEAREST = 8
PATCHES = 9


class Gallery:
    """A data set that fits a run. `make` looks at its images once; until then it refuses.

    `index` is the run's own, if it has one: then the nearest images are found at once.
    """

    def __init__(
        self,
        data: str | Path,
        predictor: Predictor,
        index: Index | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.subject: Subject = open_subject(
            predictor.run.path,
            data,
            checkpoint=predictor.weights,
            device=predictor.device,
            progress=progress,
        )
        self.index = index
        self.excitation: dict[str, Excitation] | None = None
        """What excites each unit, by layer."""

    @torch.inference_mode()
    def make(self) -> None:
        """Look at up to `MOST_IMAGES` training images, and at as many of the split."""
        self.index = self.index or memory_index(self.subject, MOST_IMAGES)
        rows = learning_rows(self.subject.model)
        self.excitation = find_excitation(self.subject, rows, top=PATCHES)

    @torch.inference_mode()
    def nearest(self, predictor: Predictor, image: Pixels) -> dict[str, Any]:
        """Return the training images nearest to an image, the nearest first."""
        if self.index is None:
            raise not_yet()
        index, subject = self.index, self.subject
        own = taps(subject.model, predictor.inputs(image), [index.layer])[index.layer]
        (numbers,), (distances,) = index.find(own, NEAREST)
        pictures = subject.seen(index.split.read(numbers))
        found = [
            {
                "title": subject.titles[int(index.split.labels[number])],
                "distance": float(distance),
                "picture": png_address(np.ascontiguousarray(picture)),
            }
            for number, distance, picture in zip(numbers, distances, pictures, strict=True)
        ]
        return {"layer": index.layer, "searched": len(index.images), "images": found}

    def patches(self, layer: str, unit: int) -> dict[str, Any]:
        """Return the parts of images that excite a unit most, at their true size."""
        if self.excitation is None:
            raise not_yet()
        subject = self.subject
        if layer not in self.excitation:
            raise Refusal(400, f"{layer} has no units of its own; name a row with weights")
        found = self.excitation[layer]
        check_unit(layer, unit, len(found.values))
        field = receptive_fields(subject.model)[layer]
        pictures = patches(subject, found, field, unit)
        return {
            "layer": layer,
            "unit": unit,
            "side": field.size[0],
            "split": subject.split.split_name,
            "patches": [png_address(each) for each in pictures],
            "values": found.values[unit].tolist(),
        }


def open_gallery(
    predictor: Predictor, data: str | Path | None, progress: Progress = SILENT
) -> Gallery | None:
    """Open the data set of a run's index, or the one that is named.

    Without an index that fits, the one of `data` is made in memory; `progress` gets a line that
    says so, and what to do. Returns None without either.
    """
    index, run = None, predictor.run
    if has_index(run.path):
        try:
            index = open_index(run, data, checkpoint=predictor.weights)
        except (CheckpointError, DataError) as error:
            progress.note(f"no index is used: {error}")
    elif data and run.path != SHIPPED_RUN:
        kept = index_command(run, data, predictor.weights)
        progress.note(f"an index of the training images is made in memory; to keep it: {kept}")
    where = data or (index and index.data)
    return Gallery(where, predictor, index, progress) if where else None


def not_yet() -> Refusal:
    """Return the refusal while `Gallery.make` works."""
    return Refusal(503, "the data set is still being looked at; try again", retry_after="5")
