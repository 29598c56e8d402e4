"""The 1000 classes of ILSVRC-2012: WordNet ids and words."""

from functools import cache
from importlib.resources import files


@cache
def imagenet_classes() -> dict[str, str]:
    """Map each WordNet id to its words: "n01440764" to "tench, Tinca tinca".

    The order is that of the sorted ids, and of the outputs of the networks published by Caffe,
    torchvision and the ONNX model zoo. The words are not unique: two classes are called "crane".
    """
    text = (files("alexnet.prepare.sources") / "imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return dict((wordnet_id, words) for wordnet_id, words in lines)  # noqa: C402 - pairs only
