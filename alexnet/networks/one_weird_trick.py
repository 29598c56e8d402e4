"""The one-tower network of 2014, as torchvision has it."""

from collections import OrderedDict

from torch import nn

from alexnet.networks.layers import Input

# fmt: off
# The formatter would break the columns of the tables.


def one_weird_trick(num_classes: int = 1000) -> nn.Sequential:
    """Build torchvision's `alexnet`: 61,100,840 parameters, PyTorch's own initial weights.

    The widths are those of Krizhevsky, "One weird trick for parallelizing convolutional neural
    networks", 2014 (CC2 layers-imagenet-1gpu.cfg). That net normalises in layers 1 and 2 and does
    not pad conv1. torchvision's has no norm, pads conv1 by 2, and applies dropout to the inputs of
    fc6 and fc7, where all other networks apply it to their outputs. Its adaptive pool has no effect
    at this size.
    """
    return nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        conv1=nn.Conv2d(3, 64, 11, stride=4, padding=2),                # 64 x 55 x 55
        relu1=nn.ReLU(),                                                # 64 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 64 x 27 x 27
        conv2=nn.Conv2d(64, 192, 5, padding=2),                         # 192 x 27 x 27
        relu2=nn.ReLU(),                                                # 192 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 192 x 13 x 13
        conv3=nn.Conv2d(192, 384, 3, padding=1),                        # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 256, 3, padding=1),                        # 256 x 13 x 13
        relu4=nn.ReLU(),                                                # 256 x 13 x 13
        conv5=nn.Conv2d(256, 256, 3, padding=1),                        # 256 x 13 x 13
        relu5=nn.ReLU(),                                                # 256 x 13 x 13
        pool5=nn.MaxPool2d(3, stride=2),                                # 256 x 6 x 6
        flatten=nn.Flatten(),                                           # 9216
        drop6=nn.Dropout(0.5),                                          # 9216
        fc6=nn.Linear(9216, 4096),                                      # 4096
        relu6=nn.ReLU(),                                                # 4096
        drop7=nn.Dropout(0.5),                                          # 4096
        fc7=nn.Linear(4096, 4096),                                      # 4096
        relu7=nn.ReLU(),                                                # 4096
        fc8=nn.Linear(4096, num_classes),                               # num_classes
    ))
