"""The pictures that the server offers, and what the shipped net says of them."""

from PIL import Image

import alexnet
from alexnet.demo.drawings import CLASSES
from alexnet.serve.samples import make_samples
from alexnet.storage.folders import SHIPPED_RUN


def test_the_shipped_net_knows_most_scenes_but_not_the_frog() -> None:
    run = alexnet.Run.open(SHIPPED_RUN)
    (scenes,) = make_samples([run.classes])
    assert list(scenes.pictures) == list(run.classes)
    pictures = [Image.fromarray(picture) for picture in scenes.pictures.values()]
    best = [answer.predictions[0][0] for answer in run.predict(pictures)]
    right = [name for name, answer in zip(scenes.pictures, best, strict=True) if name == answer]
    assert len(right) >= 5
    assert "frog" not in right  # docs/serve.md says so


def test_each_network_gets_the_samples_that_it_may_know() -> None:
    scenes = alexnet.Run.open(SHIPPED_RUN).classes
    (drawings,) = make_samples([CLASSES])
    assert tuple(drawings.pictures) == CLASSES
    for several in ([scenes, CLASSES], [["tench", "goldfish"]]):
        assert [len(kind.pictures) for kind in make_samples(several)] == [10, 10]
