"""GoogLeNet: 22 layers that learn, in blocks of four branches with kernels of several sizes.

GN: Szegedy et al., "Going deeper with convolutions", 2014. Its auxiliary classifiers, which serve
the training alone, are left out. Pools round up, as Caffe's do, and the norms are Caffe's (CF
models/bvlc_googlenet): the paper gives no constants.
"""

from collections import OrderedDict

from torch import nn

from alexnet.networks.branches import Concatenation
from alexnet.networks.layers import Input, LocalResponseNorm


def inception(
    inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int
) -> Concatenation:
    """Build a block (GN figure 2b): the columns of GN's table 1 in their order.

    `one`, the second number of `three` and `five`, and `pool` are the maps that each branch gives;
    the first number of a pair is that of the 1 x 1 kernels before ("reduce").
    """
    return Concatenation(
        one=nn.Sequential(OrderedDict(conv=nn.Conv2d(inputs, one, 1), relu=nn.ReLU())),
        three=_reduced(inputs, three, 3),
        five=_reduced(inputs, five, 5),
        pool=nn.Sequential(OrderedDict(
            pool=nn.MaxPool2d(3, stride=1, padding=1),
            conv=nn.Conv2d(inputs, pool, 1),
            relu=nn.ReLU(),
        )),
    )  # fmt: skip


def _reduced(inputs: int, maps: tuple[int, int], size: int) -> nn.Sequential:
    """Build a convolution of fewer maps, which 1 x 1 kernels make."""
    return nn.Sequential(OrderedDict(
        reduce=nn.Conv2d(inputs, maps[0], 1),
        relu_reduce=nn.ReLU(),
        conv=nn.Conv2d(maps[0], maps[1], size, padding=size // 2),
        relu=nn.ReLU(),
    ))  # fmt: skip


def _norm() -> LocalResponseNorm:
    return LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)


# fmt: off
# The formatter would break the columns of the tables.


def googlenet(num_classes: int = 1000) -> nn.Sequential:
    """Build GoogLeNet: 6,998,552 parameters, PyTorch's own initial weights (GN table 1)."""
    return nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3),                 # 64 x 112 x 112
        relu1=nn.ReLU(),                                                # 64 x 112 x 112
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 64 x 56 x 56
        norm1=_norm(),                                                  # 64 x 56 x 56
        reduce2=nn.Conv2d(64, 64, 1),                                   # 64 x 56 x 56
        relu_reduce2=nn.ReLU(),                                         # 64 x 56 x 56
        conv2=nn.Conv2d(64, 192, 3, padding=1),                         # 192 x 56 x 56
        relu2=nn.ReLU(),                                                # 192 x 56 x 56
        norm2=_norm(),                                                  # 192 x 56 x 56
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 192 x 28 x 28
        inception3a=inception(192, 64, (96, 128), (16, 32), 32),        # 256 x 28 x 28
        inception3b=inception(256, 128, (128, 192), (32, 96), 64),      # 480 x 28 x 28
        pool3=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 480 x 14 x 14
        inception4a=inception(480, 192, (96, 208), (16, 48), 64),       # 512 x 14 x 14
        inception4b=inception(512, 160, (112, 224), (24, 64), 64),      # 512 x 14 x 14
        inception4c=inception(512, 128, (128, 256), (24, 64), 64),      # 512 x 14 x 14
        inception4d=inception(512, 112, (144, 288), (32, 64), 64),      # 528 x 14 x 14
        inception4e=inception(528, 256, (160, 320), (32, 128), 128),    # 832 x 14 x 14
        pool4=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 832 x 7 x 7
        inception5a=inception(832, 256, (160, 320), (32, 128), 128),    # 832 x 7 x 7
        inception5b=inception(832, 384, (192, 384), (48, 128), 128),    # 1024 x 7 x 7
        pool5=nn.AvgPool2d(7),                                          # 1024 x 1 x 1
        flatten=nn.Flatten(),                                           # 1024
        drop5=nn.Dropout(0.4),                                          # 1024
        fc22=nn.Linear(1024, num_classes),                              # num_classes
    ))


def googlenet_small(num_classes: int = 10) -> nn.Sequential:
    """Build `googlenet` for 56 x 56 images, with half of its kernels.

    conv1 is 5 x 5. Two pools have padding, so that 2 x 2 places are left at the end.
    """
    return nn.Sequential(OrderedDict(
        input=Input(3, 56, 56),                                         # 3 x 56 x 56
        conv1=nn.Conv2d(3, 32, 5, stride=2, padding=2),                 # 32 x 28 x 28
        relu1=nn.ReLU(),                                                # 32 x 28 x 28
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 32 x 14 x 14
        norm1=_norm(),                                                  # 32 x 14 x 14
        reduce2=nn.Conv2d(32, 32, 1),                                   # 32 x 14 x 14
        relu_reduce2=nn.ReLU(),                                         # 32 x 14 x 14
        conv2=nn.Conv2d(32, 96, 3, padding=1),                          # 96 x 14 x 14
        relu2=nn.ReLU(),                                                # 96 x 14 x 14
        norm2=_norm(),                                                  # 96 x 14 x 14
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 96 x 7 x 7
        inception3a=inception(96, 32, (48, 64), (8, 16), 16),           # 128 x 7 x 7
        inception3b=inception(128, 64, (64, 96), (16, 48), 32),         # 240 x 7 x 7
        pool3=nn.MaxPool2d(3, stride=2, padding=1),                     # 240 x 4 x 4
        inception4a=inception(240, 96, (48, 104), (8, 24), 32),         # 256 x 4 x 4
        inception4b=inception(256, 80, (56, 112), (12, 32), 32),        # 256 x 4 x 4
        inception4c=inception(256, 64, (64, 128), (12, 32), 32),        # 256 x 4 x 4
        inception4d=inception(256, 56, (72, 144), (16, 32), 32),        # 264 x 4 x 4
        inception4e=inception(264, 128, (80, 160), (16, 64), 64),       # 416 x 4 x 4
        pool4=nn.MaxPool2d(3, stride=2, padding=1),                     # 416 x 2 x 2
        inception5a=inception(416, 128, (80, 160), (16, 64), 64),       # 416 x 2 x 2
        inception5b=inception(416, 192, (96, 192), (24, 64), 64),       # 512 x 2 x 2
        pool5=nn.AvgPool2d(2),                                          # 512 x 1 x 1
        flatten=nn.Flatten(),                                           # 512
        drop5=nn.Dropout(0.4),                                          # 512
        fc22=nn.Linear(512, num_classes),                               # num_classes
    ))
