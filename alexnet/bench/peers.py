"""What others use, with PyTorch and Pillow alone: networks, an ImageFolder, a prediction script.

The networks are written here again, not taken from `alexnet.networks`, because what is to be
measured is what one gets without this package. For the same reason little is imported.

`python -m alexnet.bench.peers THREADS DEVICE WEIGHTS IMAGE...` is the script that one would write
for `alexnet predict`.
"""

import importlib
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

SIZE, CROP = 256, 224

# Networks.

# fmt: off
# The formatter would break the columns of the tables.


def modules_alexnet(num_classes: int = 1000) -> nn.Sequential:
    """Build the paper's network of PyTorch's modules; its state dict is that of our `alexnet`.

    torch.nn.LocalResponseNorm divides alpha by its size, so 5e-4 there is the paper's 1e-4.
    """
    return nn.Sequential(OrderedDict(
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),
        conv1=nn.Conv2d(3, 96, 11, stride=4),
        relu1=nn.ReLU(inplace=True),
        norm1=nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        pool1=nn.MaxPool2d(3, stride=2),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
        relu2=nn.ReLU(inplace=True),
        norm2=nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        pool2=nn.MaxPool2d(3, stride=2),
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
        relu5=nn.ReLU(inplace=True),
        pool5=nn.MaxPool2d(3, stride=2),
        flatten=nn.Flatten(),
        fc6=nn.Linear(9216, 4096),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(0.5),
        fc7=nn.Linear(4096, 4096),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout(0.5),
        fc8=nn.Linear(4096, num_classes),
    ))

# fmt: on


def torchvision_alexnet(num_classes: int = 1000) -> tuple[nn.Module, str]:
    """Return torchvision's `alexnet`, or its layers where it cannot be imported, and a note."""
    torchvision = import_torchvision("models")
    if torchvision:
        net: nn.Module = torchvision.models.alexnet(num_classes=num_classes)
        return net, f"torchvision {torchvision.__version__}"
    from alexnet.networks.registry import create_model

    layers = create_model("one_weird_trick", num_classes)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # as torchvision's are
    return layers, "its layers, torchvision cannot be imported here"


def import_torchvision(module: str) -> Any:
    """Import a module of torchvision and return torchvision; None where that fails."""
    try:
        importlib.import_module(f"torchvision.{module}")
        return importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError):  # the latter two: built for another torch
        return None


# Images.


def decode(path: Path) -> Image.Image:
    """Decode an image to RGB."""
    with Image.open(path) as opened:
        return opened.convert("RGB")


def shorter_side_to(image: Image.Image, size: int, *options: Any) -> Image.Image:
    """Scale an image so that its shorter side is `size`."""
    scale = size / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), *options)


def centre(image: Image.Image, size: int) -> Image.Image:
    """Cut out the central square."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def shrink(file: Path, out: Path, quality: int) -> None:
    """Do what scripts for ImageNet do: shorter side to 256 (bilinear, antialiased), the centre."""
    image = shorter_side_to(decode(file), SIZE, Image.Resampling.BILINEAR)
    centre(image, SIZE).save(out, "JPEG", quality=quality)


class Transform:
    """Augment one image as it is written for torchvision: (3, 224, 224) float32."""

    def __init__(self, mean: Tensor, colours: Tensor) -> None:
        self.mean = mean
        """(3, 224, 224)."""
        self.colours = colours
        """(3, 3): the shift for a normal number of each principal component, in its column."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Scale the shorter side to 256 if need be, then crop, mirror, shift the colours."""
        if min(image.size) != SIZE:
            image = shorter_side_to(image, SIZE, Image.Resampling.BILINEAR)
        top = int(torch.randint(image.height - CROP + 1, ()))
        left = int(torch.randint(image.width - CROP + 1, ()))
        image = image.crop((left, top, left + CROP, top + CROP))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels: NDArray[np.uint8] = np.array(image)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() - self.mean
        return tensor + (self.colours @ (torch.randn(3) * 0.1))[:, None, None]


class ImageFolder(TorchDataset[tuple[Tensor, int]]):
    """What torchvision's class of this name does, where that cannot be imported."""

    def __init__(self, folder: str, transform: Transform) -> None:
        classes = sorted(Path(folder).iterdir())
        self.files = [(file, n) for n, below in enumerate(classes) for file in below.iterdir()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        return self.transform(decode(file)), label


def folder_loader(
    folder: Path, transform: Transform, batch: int, workers: int, *, pin_memory: bool
) -> Iterable[tuple[Tensor, Tensor]]:
    """Read a folder of class folders by a DataLoader with so many worker processes."""
    torchvision = import_torchvision("datasets")
    kind: Any = torchvision.datasets.ImageFolder if torchvision else ImageFolder
    return DataLoader(
        kind(str(folder), transform),
        batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
    )


# Prediction.


def main(threads: str, device: str, weights: str, *images: str) -> None:
    """Print the five most probable classes of each image."""
    torch.set_num_threads(int(threads))
    model = modules_alexnet()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.to(device).eval()
    for path in images:
        with torch.inference_mode():
            answer = model(network_input(Path(path)).to(device)).softmax(1).topk(5)
        sys.stdout.write(f"{path} {answer.indices.tolist()} {answer.values.tolist()}\n")


def network_input(path: Path) -> Tensor:
    """Decode, scale the shorter side to 256, cut out the centre: (1, 3, 224, 224) float32."""
    image = centre(shorter_side_to(decode(path), SIZE), CROP)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] - 120


if __name__ == "__main__":
    main(*sys.argv[1:])
