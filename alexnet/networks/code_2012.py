"""The networks of the 2012 source code: its files layers-145, -145-half and -150.

They differ from the paper's text: layer 1 normalises the signed responses, before pool and ReLU;
layer 2 has a second normalisation, within each map; each tower normalises its own channels, with
alpha divided by 5; conv3, conv4 and conv5 have larger initial weights; dropout halves in
evaluation. docs/models.md compares them with the paper's network.

A tower's half of a layer is a group of the layer here, or half of its outputs where it reads both
towers.
"""

from collections import OrderedDict

from torch import nn

from alexnet.networks.initialization import BIASED, initialize
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout, SpatialResponseNorm

STDS = {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}
"""Standard deviations of initial weights other than 0.01 (AN layers-145.cfg:143-214)."""


def norm(towers: int) -> LocalResponseNorm:
    """Build the code's normalisation across channels (AN layer-params-145.cfg:137-155).

    Its alpha, 1e-4, is divided by the size (AN layer.py:1183).
    """
    return LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=2.0, towers=towers)


# fmt: off
# The formatter would break the columns of the tables.


def alexnet_2012(num_classes: int = 1000) -> nn.Sequential:
    """Build net #145, whose log has the paper's 40.7 % and 18.2 %: 60,965,224 parameters.

    AN layers-145.cfg; its log ends at 0.406640 and 0.182100 (layer-params-145.cfg:182). Towers read
    their own maps, except conv3, fc6, fc7 and fc8, which read both (:135-161, :238-299).
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),                                # 3 x 227 x 227
        conv1=nn.Conv2d(3, 96, 11, stride=4),                           # 96 x 55 x 55
        norm1=norm(towers=2),                                           # 96 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 96 x 27 x 27
        relu1=nn.ReLU(),                                                # 96 x 27 x 27
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),               # 256 x 27 x 27
        relu2=nn.ReLU(),                                                # 256 x 27 x 27
        norm2=norm(towers=2),                                           # 256 x 27 x 27
        snorm2=SpatialResponseNorm(),                                   # 256 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 256 x 13 x 13
        conv3=nn.Conv2d(256, 384, 3, padding=1),                        # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),              # 384 x 13 x 13
        relu4=nn.ReLU(),                                                # 384 x 13 x 13
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),              # 256 x 13 x 13
        pool5=nn.MaxPool2d(3, stride=2),                                # 256 x 6 x 6
        relu5=nn.ReLU(),                                                # 256 x 6 x 6
        flatten=nn.Flatten(),                                           # 9216
        fc6=nn.Linear(9216, 4096),                                      # 4096
        relu6=nn.ReLU(),                                                # 4096
        drop6=PaperDropout(0.5),                                        # 4096
        fc7=nn.Linear(4096, 4096),                                      # 4096
        relu7=nn.ReLU(),                                                # 4096
        drop7=PaperDropout(0.5),                                        # 4096
        fc8=nn.Linear(4096, num_classes),                               # num_classes
    ))
    return initialize(model, std=0.01, stds=STDS, biased=BIASED)


def alexnet_half(num_classes: int = 1000) -> nn.Sequential:
    """Build net #145-half, the paper's one-GPU net with half of the kernels: 59,798,312 parameters.

    AN layers-145-half.cfg: one tower of `alexnet_2012`, with conv5, fc6 and fc7 as wide as both
    together, which gives about as many parameters (P 3.2, note 2).
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),                                # 3 x 227 x 227
        conv1=nn.Conv2d(3, 48, 11, stride=4),                           # 48 x 55 x 55
        norm1=norm(towers=1),                                           # 48 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 48 x 27 x 27
        relu1=nn.ReLU(),                                                # 48 x 27 x 27
        conv2=nn.Conv2d(48, 128, 5, padding=2),                         # 128 x 27 x 27
        relu2=nn.ReLU(),                                                # 128 x 27 x 27
        norm2=norm(towers=1),                                           # 128 x 27 x 27
        snorm2=SpatialResponseNorm(),                                   # 128 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 128 x 13 x 13
        conv3=nn.Conv2d(128, 192, 3, padding=1),                        # 192 x 13 x 13
        relu3=nn.ReLU(),                                                # 192 x 13 x 13
        conv4=nn.Conv2d(192, 192, 3, padding=1),                        # 192 x 13 x 13
        relu4=nn.ReLU(),                                                # 192 x 13 x 13
        conv5=nn.Conv2d(192, 256, 3, padding=1),                        # 256 x 13 x 13
        pool5=nn.MaxPool2d(3, stride=2),                                # 256 x 6 x 6
        relu5=nn.ReLU(),                                                # 256 x 6 x 6
        flatten=nn.Flatten(),                                           # 9216
        fc6=nn.Linear(9216, 4096),                                      # 4096
        relu6=nn.ReLU(),                                                # 4096
        drop6=PaperDropout(0.5),                                        # 4096
        fc7=nn.Linear(4096, 4096),                                      # 4096
        relu7=nn.ReLU(),                                                # 4096
        drop7=PaperDropout(0.5),                                        # 4096
        fc8=nn.Linear(4096, num_classes),                               # num_classes
    ))
    return initialize(model, std=0.01, stds=STDS, biased=BIASED)


def alexnet_nocomm(num_classes: int = 1000) -> nn.Sequential:
    """Build net #150, whose towers meet only in fc8: 60,714,408 parameters.

    AN layers-150.cfg. In each tower conv2 has 160 kernels (#145: 128) and fc6 4096 units (2048),
    which makes up for the missing weights between the towers. Its log ends at 0.418280 and 0.193300
    (#145: 0.406640 and 0.182100).
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),                                # 3 x 227 x 227
        conv1=nn.Conv2d(3, 96, 11, stride=4),                           # 96 x 55 x 55
        norm1=norm(towers=2),                                           # 96 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 96 x 27 x 27
        relu1=nn.ReLU(),                                                # 96 x 27 x 27
        conv2=nn.Conv2d(96, 320, 5, padding=2, groups=2),               # 320 x 27 x 27
        relu2=nn.ReLU(),                                                # 320 x 27 x 27
        norm2=norm(towers=2),                                           # 320 x 27 x 27
        snorm2=SpatialResponseNorm(),                                   # 320 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 320 x 13 x 13
        conv3=nn.Conv2d(320, 384, 3, padding=1, groups=2),              # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),              # 384 x 13 x 13
        relu4=nn.ReLU(),                                                # 384 x 13 x 13
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),              # 256 x 13 x 13
        pool5=nn.MaxPool2d(3, stride=2),                                # 256 x 6 x 6
        relu5=nn.ReLU(),                                                # 256 x 6 x 6
        flatten=nn.Flatten(),                                           # 9216
        fc6=GroupedLinear(9216, 8192, groups=2),                        # 8192
        relu6=nn.ReLU(),                                                # 8192
        drop6=PaperDropout(0.5),                                        # 8192
        fc7=GroupedLinear(8192, 4096, groups=2),                        # 4096
        relu7=nn.ReLU(),                                                # 4096
        drop7=PaperDropout(0.5),                                        # 4096
        fc8=nn.Linear(4096, num_classes),                               # num_classes
    ))
    return initialize(model, std=0.01, stds=STDS, biased=BIASED)
