"""Pictures for the page that look inside: where the evidence is, and what excites units."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet.analysis.figures.excitation import find_excitation, patches
from alexnet.analysis.figures.pictures import png_address, scaled, sheet, spotlight
from alexnet.analysis.figures.predictions import Answer
from alexnet.analysis.figures.saliency import grad_cam, occlusion_map
from alexnet.analysis.figures.subject import Subject, evenly, map_layers
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.images import Pixels

IMAGES = 6
UNITS = 2
"""Units shown of each layer."""
PATCHES = 9
SIDE = 56
"""Of a patch in pixels."""


@dataclass(frozen=True)
class Evidence:
    """Where in an image the network sees the class that it predicts."""

    label: int
    probability: float
    least: float
    """What is left of the probability where covering costs most."""
    seen: Pixels
    pictures: tuple[str, str, str]
    """The image, its occlusion map and Grad-CAM, as data addresses."""


def find_evidence(subject: Subject, answers: Sequence[Answer]) -> list[Evidence]:
    """Map the evidence in some of the images, evenly from all."""
    found = []
    for answer in [answers[index] for index in evenly(len(answers), IMAGES)]:
        label, probability = answer.predictions[0]
        image = subject.inputs(subject.split.read([answer.index]))[0]
        lost = occlusion_map(subject.model, image, label)
        cam = grad_cam(subject.model, image, label)
        shown = [answer.picture, *(spotlight(answer.picture, heat) for heat in (lost, cam))]
        first, second, third = map(png_address, shown)
        least = probability - float(lost.max())
        found.append(Evidence(label, probability, least, answer.picture, (first, second, third)))
    return found


@dataclass(frozen=True)
class Excited:
    """A unit, and what excites it most."""

    layer: str
    unit: int
    side: int
    """Of its receptive field, in pixels."""
    picture: str
    """A data address."""


def find_excited(subject: Subject) -> list[Excited]:
    """Show units of each layer of maps with the patches that excite them most."""
    layers = map_layers(subject.model)
    excitations = find_excitation(subject, layers, top=PATCHES)
    fields = receptive_fields(subject.model)
    found = []
    for name in layers:
        alive = excitations[name].alive()
        for unit in [alive[index] for index in evenly(len(alive), UNITS)]:
            cuts = patches(subject, excitations[name], fields[name], unit)
            tiles = sheet([scaled(cut, SIDE) for cut in cuts], PATCHES, gap=2)
            found.append(Excited(name, unit, fields[name].size[0], png_address(tiles)))
    return found
