"""Published weights in Python, and state dicts of torchvision's names."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_makers import OneWeirdTrick, small_torchvision, use_small
from torch import Tensor, nn

import alexnet
from alexnet.convert import published

PIXELS = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of an eighth of the kernels, and a cache folder of the test's own."""
    use_small(monkeypatch, "one_weird_trick")
    monkeypatch.setattr(published, "cache_folder", lambda: tmp_path / "cache/kernels")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(small_torchvision(1000).state_dict(), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def theirs_of(pixels: Tensor) -> Tensor:
    """Return what torchvision's network answers to its own input for pixels of 0-255."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    network: OneWeirdTrick = small_torchvision(1000).eval()
    with torch.no_grad():
        answer: Tensor = network((pixels / 255 - mean) / std)
    return answer


def test_a_pretrained_network_answers_as_torchvisions(file: Path) -> None:
    run = alexnet.Run.pretrained("one_weird_trick", mirror=file)
    model = alexnet.create_model("one_weird_trick", pretrained=True, mirror=file)
    assert not model.training
    inputs = run.preprocess([PIXELS])
    expected = theirs_of(inputs + run.preprocessing.mean)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-4)
    answer = run.predict(PIXELS, device="cpu")
    best = int(expected.argmax())
    assert answer.predictions[0][0] == run.classes[best]
    assert answer.titles[0] == run.titles[best] != run.classes[best]  # ImageNet's names


def test_other_classes_get_a_new_last_layer_on_the_published_weights(file: Path) -> None:
    whole = alexnet.create_model("one_weird_trick", pretrained=True, mirror=file)
    model = alexnet.create_model("one_weird_trick", 7, pretrained=True, mirror=file)
    for name, tensor in model.state_dict().items():
        if name.startswith("fc8."):
            assert len(tensor) == 7
        else:
            assert torch.equal(tensor, whole.state_dict()[name])


def test_weights_are_fetched_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = alexnet.Run.pretrained("one_weird_trick", mirror=file)
    again = alexnet.Run.pretrained("one_weird_trick", mirror=file)
    assert run.path == again.path
    assert run.path.parent == tmp_path / "cache/weights"
    convolutions = alexnet.imagenet_convolutions(file)
    assert convolutions != run.path  # a training with --init imagenet takes these alone


def test_a_file_without_linear_layers_is_refused(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    convolutions = {name: tensor.numpy() for name, tensor in state.items() if "features" in name}
    np.savez(tmp_path / "features.npz", **convolutions)
    with pytest.raises(
        alexnet.CheckpointError, match=r"features\.npz has no classifier\.1\.weight"
    ):
        alexnet.create_model("one_weird_trick", pretrained=True, mirror=tmp_path / "features.npz")


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("caffenet", {}, "no weights for caffenet, only for cifar10_11 and one_weird_trick"),
        ("one_weird_trick", {"ablate": {"activation": "tanh"}}, "leave out ablate"),
        ("nothing", {}, "there are no weights for nothing"),
    ],
)
def test_networks_without_weights_are_refused(
    name: str, keywords: dict[str, dict[str, str]], message: str
) -> None:
    with pytest.raises(alexnet.UsageError, match=message):
        alexnet.create_model(name, pretrained=True, **keywords)  # type: ignore[arg-type]


def test_state_dicts_of_torchvisions_names_load_as_they_are() -> None:
    theirs = small_torchvision(1000).eval()
    model = copy.deepcopy(alexnet.create_model("one_weird_trick")).eval()
    state = theirs.state_dict()
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    assert "features.0.weight" in state  # the caller's dict is unchanged
    inputs = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == set(alexnet.create_model("one_weird_trick").state_dict())
    inside = nn.ModuleDict({"net": alexnet.create_model("one_weird_trick")})
    inside.load_state_dict({f"net.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(inside["net"].get_parameter("conv1.weight"), state["features.0.weight"])
    with pytest.raises(RuntimeError, match=r"size mismatch for conv2\.weight"):
        alexnet.create_model("alexnet").load_state_dict(state)
