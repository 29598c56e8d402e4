"""The 1000 classes of ILSVRC-2012: WordNet ids and what they mean."""

from functools import cache
from importlib.resources import files


@cache
def imagenet_classes() -> dict[str, str]:
    """Map each WordNet id to its words: "n01440764" to "tench, Tinca tinca".

    In the order of the sorted ids, which is that of the outputs of the networks that Caffe,
    torchvision and the ONNX model zoo published. The words do not tell the classes apart: two are
    called "crane".
    """
    text = (files("alexnet") / "imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return dict((wordnet_id, words) for wordnet_id, words in lines)  # noqa: C402 - pairs only
