"""Pictures to try a network on: drawings, which the package makes itself."""

from alexnet.demo.drawings import CLASSES, draw_picture
from alexnet.images import Pixels

SEED = 7
"""Other pictures than those of the demo's training."""


def make_samples() -> dict[str, Pixels]:
    """Draw one picture of each of the demo's classes, (64, 64, 3), by the class's name."""
    return {name: draw_picture(SEED, "test", number) for number, name in enumerate(CLASSES)}


def knows_drawings(classes: list[str]) -> bool:
    """Tell whether a network was trained on the demo's drawings."""
    return list(classes) == list(CLASSES)
