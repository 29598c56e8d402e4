"""What a data set adds: training images near to an image, and the patches that excite a unit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.analysis.features import taps
from alexnet.analysis.figures.excitation import Excitation, find_excitation, patches
from alexnet.analysis.figures.pictures import png_address
from alexnet.analysis.figures.subject import (
    MOST_IMAGES,
    Indices,
    Subject,
    evenly,
    last_hidden,
    learning_rows,
    open_subject,
)
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.images import Pixels
from alexnet.serve.inside import check_unit
from alexnet.serve.limits import Refusal
from alexnet.serve.predictor import Predictor

NEAREST = 8
PATCHES = 9


@dataclass(frozen=True)
class Index:
    """Training images by what the last hidden layer makes of them; what excites each unit."""

    layer: str
    images: Indices
    features: Tensor
    """(images, units)."""
    excitation: dict[str, Excitation]


class Gallery:
    """A data set that fits a run. `make` looks at its images once; until then it refuses."""

    def __init__(self, data: str, predictor: Predictor) -> None:
        self.subject: Subject = open_subject(predictor.run.path, data)
        self.index: Index | None = None

    @torch.inference_mode()
    def make(self) -> None:
        """Look at up to `MOST_IMAGES` training images, and at as many of the split."""
        subject = self.subject
        layer, wanted = last_hidden(subject.model), evenly(len(subject.train), MOST_IMAGES)
        parts = [
            taps(subject.model, inputs, [layer])[layer].flatten(1).float().cpu()
            for _, inputs in subject.batches(subject.train, wanted)
        ]
        excitation = find_excitation(subject, learning_rows(subject.model), top=PATCHES)
        self.index = Index(layer, wanted, torch.cat(parts), excitation)

    @property
    def _made(self) -> Index:
        if self.index is None:
            raise Refusal(503, "the data set is still being looked at; try again", retry_after="5")
        return self.index

    @torch.inference_mode()
    def nearest(self, predictor: Predictor, image: Pixels) -> dict[str, Any]:
        """Return the training images nearest to an image, the nearest first."""
        index, subject = self._made, self.subject
        own = taps(subject.model, predictor.inputs(image), [index.layer])[index.layer]
        distances = torch.cdist(own.flatten(1).float().cpu(), index.features)[0]
        kept = distances.argsort(stable=True)[:NEAREST]
        numbers = index.images[kept.numpy()]
        pictures = subject.seen(subject.train.read(numbers))
        found = [
            {
                "title": subject.titles[int(subject.train.labels[number])],
                "distance": float(distances[place]),
                "picture": png_address(np.ascontiguousarray(picture)),
            }
            for number, place, picture in zip(numbers, kept, pictures, strict=True)
        ]
        return {"layer": index.layer, "searched": len(index.images), "images": found}

    def patches(self, layer: str, unit: int) -> dict[str, Any]:
        """Return the parts of images that excite a unit most, at their true size."""
        index, subject = self._made, self.subject
        if layer not in index.excitation:
            raise Refusal(400, f"{layer} has no units of its own; name a row with weights")
        found = index.excitation[layer]
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
