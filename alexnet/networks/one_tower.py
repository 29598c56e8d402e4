"""The network of the paper without its two towers."""

from collections import OrderedDict

from torch import nn

from alexnet.networks.initialization import BIASED, initialize
from alexnet.networks.layers import Input, LocalResponseNorm

# fmt: off
# The formatter would break the columns of the tables.


def alexnet_one_tower(num_classes: int = 1000) -> nn.Sequential:
    """Build the network of the paper without its two towers: 62,378,344 parameters.

    It has the rows and widths of `alexnet`, but every kernel of conv2, conv4 and conv5 reads all
    maps. It is often called AlexNet, but is neither in the paper nor in the code of 2012; their
    one-tower net is `alexnet_half`.
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),                                # 3 x 227 x 227
        conv1=nn.Conv2d(3, 96, 11, stride=4),                           # 96 x 55 x 55
        relu1=nn.ReLU(),                                                # 96 x 55 x 55
        norm1=LocalResponseNorm(),                                      # 96 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 96 x 27 x 27
        conv2=nn.Conv2d(96, 256, 5, padding=2),                         # 256 x 27 x 27
        relu2=nn.ReLU(),                                                # 256 x 27 x 27
        norm2=LocalResponseNorm(),                                      # 256 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 256 x 13 x 13
        conv3=nn.Conv2d(256, 384, 3, padding=1),                        # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 384, 3, padding=1),                        # 384 x 13 x 13
        relu4=nn.ReLU(),                                                # 384 x 13 x 13
        conv5=nn.Conv2d(384, 256, 3, padding=1),                        # 256 x 13 x 13
        relu5=nn.ReLU(),                                                # 256 x 13 x 13
        pool5=nn.MaxPool2d(3, stride=2),                                # 256 x 6 x 6
        flatten=nn.Flatten(),                                           # 9216
        fc6=nn.Linear(9216, 4096),                                      # 4096
        relu6=nn.ReLU(),                                                # 4096
        drop6=nn.Dropout(0.5),                                          # 4096
        fc7=nn.Linear(4096, 4096),                                      # 4096
        relu7=nn.ReLU(),                                                # 4096
        drop7=nn.Dropout(0.5),                                          # 4096
        fc8=nn.Linear(4096, num_classes),                               # num_classes
    ))
    return initialize(model, std=0.01, biased=BIASED)
