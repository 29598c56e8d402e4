"""Pictures to try a network on, which the package draws itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexnet.demo.drawings import CLASSES, draw_picture
from alexnet.images import Pixels
from alexnet.serve.scenes import SCENES, draw_scene

SEED = 7
"""Other pictures than those of the demo's training."""


@dataclass(frozen=True)
class Samples:
    """Pictures of one kind, by what they show; `words` says what kind."""

    words: str
    pictures: dict[str, Pixels]


def make_samples(networks: Iterable[Sequence[str]]) -> list[Samples]:
    """Draw pictures for networks, given by their classes: both kinds, unless all know one kind."""
    known = list(networks)
    if all(map(knows_scenes, known)):
        return [scenes()]
    return [drawings()] if all(map(knows_drawings, known)) else [scenes(), drawings()]


def scenes() -> Samples:
    """Draw a picture of each class of CIFAR-10, (128, 128, 3)."""
    return Samples(
        "Drawings of the ten classes of CIFAR-10. No network was trained on them.",
        {name: draw_scene(name, SEED) for name in SCENES},
    )


def drawings() -> Samples:
    """Draw a picture of each of the demo's classes, (64, 64, 3)."""
    return Samples(
        "Drawings as in the demo, but not from its training.",
        {name: draw_picture(SEED, "test", number) for number, name in enumerate(CLASSES)},
    )


def knows_scenes(classes: Sequence[str]) -> bool:
    """Tell whether a network has CIFAR-10's classes."""
    return list(classes) == list(SCENES)


def knows_drawings(classes: Sequence[str]) -> bool:
    """Tell whether a network was trained on the demo's drawings."""
    return list(classes) == list(CLASSES)
