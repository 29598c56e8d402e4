"""VGG with 11 layers: small kernels throughout, and more layers than AlexNet.

VGG: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
2014; table 1, configuration A.
"""

from collections import OrderedDict

from torch import nn

from alexnet.networks.layers import Input

# fmt: off
# The formatter would break the columns of the tables.


def vgg11(num_classes: int = 1000) -> nn.Sequential:
    """Build VGG's configuration A: 132,863,336 parameters, PyTorch's own initial weights.

    It has no normalisation: the authors saw no gain (VGG 2.1). Rows are numbered by layers that
    learn, as AlexNet's are.
    """
    return nn.Sequential(OrderedDict(
        input=Input(3, 224, 224),                                       # 3 x 224 x 224
        conv1=nn.Conv2d(3, 64, 3, padding=1),                           # 64 x 224 x 224
        relu1=nn.ReLU(),                                                # 64 x 224 x 224
        pool1=nn.MaxPool2d(2, stride=2),                                # 64 x 112 x 112
        conv2=nn.Conv2d(64, 128, 3, padding=1),                         # 128 x 112 x 112
        relu2=nn.ReLU(),                                                # 128 x 112 x 112
        pool2=nn.MaxPool2d(2, stride=2),                                # 128 x 56 x 56
        conv3=nn.Conv2d(128, 256, 3, padding=1),                        # 256 x 56 x 56
        relu3=nn.ReLU(),                                                # 256 x 56 x 56
        conv4=nn.Conv2d(256, 256, 3, padding=1),                        # 256 x 56 x 56
        relu4=nn.ReLU(),                                                # 256 x 56 x 56
        pool4=nn.MaxPool2d(2, stride=2),                                # 256 x 28 x 28
        conv5=nn.Conv2d(256, 512, 3, padding=1),                        # 512 x 28 x 28
        relu5=nn.ReLU(),                                                # 512 x 28 x 28
        conv6=nn.Conv2d(512, 512, 3, padding=1),                        # 512 x 28 x 28
        relu6=nn.ReLU(),                                                # 512 x 28 x 28
        pool6=nn.MaxPool2d(2, stride=2),                                # 512 x 14 x 14
        conv7=nn.Conv2d(512, 512, 3, padding=1),                        # 512 x 14 x 14
        relu7=nn.ReLU(),                                                # 512 x 14 x 14
        conv8=nn.Conv2d(512, 512, 3, padding=1),                        # 512 x 14 x 14
        relu8=nn.ReLU(),                                                # 512 x 14 x 14
        pool8=nn.MaxPool2d(2, stride=2),                                # 512 x 7 x 7
        flatten=nn.Flatten(),                                           # 25088
        fc9=nn.Linear(25088, 4096),                                     # 4096
        relu9=nn.ReLU(),                                                # 4096
        drop9=nn.Dropout(0.5),                                          # 4096
        fc10=nn.Linear(4096, 4096),                                     # 4096
        relu10=nn.ReLU(),                                               # 4096
        drop10=nn.Dropout(0.5),                                         # 4096
        fc11=nn.Linear(4096, num_classes),                              # num_classes
    ))


def vgg11_small(num_classes: int = 10) -> nn.Sequential:
    """Build `vgg11` for 56 x 56 images, with a quarter of its kernels and units."""
    return nn.Sequential(OrderedDict(
        input=Input(3, 56, 56),                                         # 3 x 56 x 56
        conv1=nn.Conv2d(3, 16, 3, padding=1),                           # 16 x 56 x 56
        relu1=nn.ReLU(),                                                # 16 x 56 x 56
        pool1=nn.MaxPool2d(2, stride=2),                                # 16 x 28 x 28
        conv2=nn.Conv2d(16, 32, 3, padding=1),                          # 32 x 28 x 28
        relu2=nn.ReLU(),                                                # 32 x 28 x 28
        pool2=nn.MaxPool2d(2, stride=2),                                # 32 x 14 x 14
        conv3=nn.Conv2d(32, 64, 3, padding=1),                          # 64 x 14 x 14
        relu3=nn.ReLU(),                                                # 64 x 14 x 14
        conv4=nn.Conv2d(64, 64, 3, padding=1),                          # 64 x 14 x 14
        relu4=nn.ReLU(),                                                # 64 x 14 x 14
        pool4=nn.MaxPool2d(2, stride=2),                                # 64 x 7 x 7
        conv5=nn.Conv2d(64, 128, 3, padding=1),                         # 128 x 7 x 7
        relu5=nn.ReLU(),                                                # 128 x 7 x 7
        conv6=nn.Conv2d(128, 128, 3, padding=1),                        # 128 x 7 x 7
        relu6=nn.ReLU(),                                                # 128 x 7 x 7
        pool6=nn.MaxPool2d(2, stride=2),                                # 128 x 3 x 3
        conv7=nn.Conv2d(128, 128, 3, padding=1),                        # 128 x 3 x 3
        relu7=nn.ReLU(),                                                # 128 x 3 x 3
        conv8=nn.Conv2d(128, 128, 3, padding=1),                        # 128 x 3 x 3
        relu8=nn.ReLU(),                                                # 128 x 3 x 3
        pool8=nn.MaxPool2d(2, stride=2),                                # 128 x 1 x 1
        flatten=nn.Flatten(),                                           # 128
        fc9=nn.Linear(128, 1024),                                       # 1024
        relu9=nn.ReLU(),                                                # 1024
        drop9=nn.Dropout(0.5),                                          # 1024
        fc10=nn.Linear(1024, 1024),                                     # 1024
        relu10=nn.ReLU(),                                               # 1024
        drop10=nn.Dropout(0.5),                                         # 1024
        fc11=nn.Linear(1024, num_classes),                              # num_classes
    ))
