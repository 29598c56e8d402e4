"""ResNet with 18 layers: blocks that add to their input, and batch normalisation.

RN: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015; table 1. Where a
block halves the map, a 1 x 1 convolution leads past it (RN 3.3, option B).
"""

from collections import OrderedDict

from torch import nn

from alexnet.networks.branches import Sum
from alexnet.networks.layers import Input


def residual(inputs: int, outputs: int, stride: int = 1) -> Sum:
    """Build a block of two convolutions and what leads past them (RN figure 2); a ReLU follows."""
    main = nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        norm1=nn.BatchNorm2d(outputs),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        norm2=nn.BatchNorm2d(outputs),
    ))  # fmt: skip
    if stride == 1:
        return Sum(main=main, shortcut=nn.Identity())
    shortcut = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
        norm=nn.BatchNorm2d(outputs),
    ))  # fmt: skip
    return Sum(main=main, shortcut=shortcut)


# fmt: off
# The formatter would break the columns of the tables.


def resnet18(num_classes: int = 1000) -> nn.Sequential:
    """Build the 18 layers: 11,689,512 parameters, PyTorch's own initial weights (RN table 1)."""
    return nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),     # 64 x 112 x 112
        norm1=nn.BatchNorm2d(64),                                       # 64 x 112 x 112
        relu1=nn.ReLU(),                                                # 64 x 112 x 112
        pool1=nn.MaxPool2d(3, stride=2, padding=1),                     # 64 x 56 x 56
        block2a=residual(64, 64),                                       # 64 x 56 x 56
        relu2a=nn.ReLU(),                                               # 64 x 56 x 56
        block2b=residual(64, 64),                                       # 64 x 56 x 56
        relu2b=nn.ReLU(),                                               # 64 x 56 x 56
        block3a=residual(64, 128, stride=2),                            # 128 x 28 x 28
        relu3a=nn.ReLU(),                                               # 128 x 28 x 28
        block3b=residual(128, 128),                                     # 128 x 28 x 28
        relu3b=nn.ReLU(),                                               # 128 x 28 x 28
        block4a=residual(128, 256, stride=2),                           # 256 x 14 x 14
        relu4a=nn.ReLU(),                                               # 256 x 14 x 14
        block4b=residual(256, 256),                                     # 256 x 14 x 14
        relu4b=nn.ReLU(),                                               # 256 x 14 x 14
        block5a=residual(256, 512, stride=2),                           # 512 x 7 x 7
        relu5a=nn.ReLU(),                                               # 512 x 7 x 7
        block5b=residual(512, 512),                                     # 512 x 7 x 7
        relu5b=nn.ReLU(),                                               # 512 x 7 x 7
        pool5=nn.AvgPool2d(7),                                          # 512 x 1 x 1
        flatten=nn.Flatten(),                                           # 512
        fc18=nn.Linear(512, num_classes),                               # num_classes
    ))


def resnet18_small(num_classes: int = 10) -> nn.Sequential:
    """Build `resnet18` for 56 x 56 images, with half of its kernels; conv1 is 5 x 5."""
    return nn.Sequential(OrderedDict(
        input=Input(3, 56, 56),                                         # 3 x 56 x 56
        conv1=nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False),     # 32 x 28 x 28
        norm1=nn.BatchNorm2d(32),                                       # 32 x 28 x 28
        relu1=nn.ReLU(),                                                # 32 x 28 x 28
        pool1=nn.MaxPool2d(3, stride=2, padding=1),                     # 32 x 14 x 14
        block2a=residual(32, 32),                                       # 32 x 14 x 14
        relu2a=nn.ReLU(),                                               # 32 x 14 x 14
        block2b=residual(32, 32),                                       # 32 x 14 x 14
        relu2b=nn.ReLU(),                                               # 32 x 14 x 14
        block3a=residual(32, 64, stride=2),                             # 64 x 7 x 7
        relu3a=nn.ReLU(),                                               # 64 x 7 x 7
        block3b=residual(64, 64),                                       # 64 x 7 x 7
        relu3b=nn.ReLU(),                                               # 64 x 7 x 7
        block4a=residual(64, 128, stride=2),                            # 128 x 4 x 4
        relu4a=nn.ReLU(),                                               # 128 x 4 x 4
        block4b=residual(128, 128),                                     # 128 x 4 x 4
        relu4b=nn.ReLU(),                                               # 128 x 4 x 4
        block5a=residual(128, 256, stride=2),                           # 256 x 2 x 2
        relu5a=nn.ReLU(),                                               # 256 x 2 x 2
        block5b=residual(256, 256),                                     # 256 x 2 x 2
        relu5b=nn.ReLU(),                                               # 256 x 2 x 2
        pool5=nn.AvgPool2d(2),                                          # 256 x 1 x 1
        flatten=nn.Flatten(),                                           # 256
        fc18=nn.Linear(256, num_classes),                               # num_classes
    ))
