"""The paper's network for small images and short trainings: a table of this project."""

from collections import OrderedDict

from torch import nn

from alexnet.networks.initialization import BIASED, initialize
from alexnet.networks.layers import Input, LocalResponseNorm

# fmt: off
# The formatter would break the columns of the tables.


def alexnet_small(num_classes: int = 10) -> nn.Sequential:
    """Build the same eight layers for 56 x 56 images, a quarter of the paper's side.

    conv1 has 5 x 5 kernels and stride 2 (the paper: 11 x 11 and 4). Its map is 27 x 27, the paper's
    second size; the maps after it have the paper's sizes of one stage later (13, 6, 2). The last
    window reads one row and column of zeros past the right and bottom edge. Convolutions have half
    of the paper's kernels, fc6 and fc7 a quarter of its units.
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 56, 56),                                         # 3 x 56 x 56
        pad1=nn.ZeroPad2d((0, 1, 0, 1)),                                # 3 x 57 x 57
        conv1=nn.Conv2d(3, 48, 5, stride=2),                            # 48 x 27 x 27
        relu1=nn.ReLU(),                                                # 48 x 27 x 27
        norm1=LocalResponseNorm(),                                      # 48 x 27 x 27
        pool1=nn.MaxPool2d(3, stride=2),                                # 48 x 13 x 13
        conv2=nn.Conv2d(48, 128, 5, padding=2, groups=2),               # 128 x 13 x 13
        relu2=nn.ReLU(),                                                # 128 x 13 x 13
        norm2=LocalResponseNorm(),                                      # 128 x 13 x 13
        pool2=nn.MaxPool2d(3, stride=2),                                # 128 x 6 x 6
        conv3=nn.Conv2d(128, 192, 3, padding=1),                        # 192 x 6 x 6
        relu3=nn.ReLU(),                                                # 192 x 6 x 6
        conv4=nn.Conv2d(192, 192, 3, padding=1, groups=2),              # 192 x 6 x 6
        relu4=nn.ReLU(),                                                # 192 x 6 x 6
        conv5=nn.Conv2d(192, 128, 3, padding=1, groups=2),              # 128 x 6 x 6
        relu5=nn.ReLU(),                                                # 128 x 6 x 6
        pool5=nn.MaxPool2d(3, stride=2),                                # 128 x 2 x 2
        flatten=nn.Flatten(),                                           # 512
        fc6=nn.Linear(512, 1024),                                       # 1024
        relu6=nn.ReLU(),                                                # 1024
        drop6=nn.Dropout(0.5),                                          # 1024
        fc7=nn.Linear(1024, 1024),                                      # 1024
        relu7=nn.ReLU(),                                                # 1024
        drop7=nn.Dropout(0.5),                                          # 1024
        fc8=nn.Linear(1024, num_classes),                               # num_classes
    ))
    return initialize(model, std=0.01, biased=BIASED)
