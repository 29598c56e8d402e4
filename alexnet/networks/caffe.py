"""The two networks of Caffe's model zoo.

Both take 227 x 227 images, which conv1 covers without padding. Caffe's pools round up, which makes
no difference at these sizes. Caffe's weights are for BGR images; the import reverses the channels
of conv1, so these networks take RGB as all others do.
"""

from collections import OrderedDict

from torch import nn

from alexnet.networks.initialization import BIASED, initialize
from alexnet.networks.layers import Input, LocalResponseNorm

STDS = {"fc6": 0.005, "fc7": 0.005}
"""Standard deviations of weights other than 0.01 (CF bvlc_alexnet/train_val.prototxt:280)."""


def norm() -> LocalResponseNorm:
    """Build Caffe's normalisation: across both towers, with k 1 (caffe.proto:888).

    CF lrn_layer.cpp:120 divides the alpha of both files, 1e-4, by the size.
    """
    return LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)


# fmt: off
# The formatter would break the columns of the tables.


def caffe_alexnet(num_classes: int = 1000) -> nn.Sequential:
    """Build bvlc_alexnet: normalisation before the pool, biases 0.1 (CF models/bvlc_alexnet).

    60,965,224 parameters. Its readme says that the paper's biases of 1 "gave flat loss".
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 227, 227),                                       # 3 x 227 x 227
        conv1=nn.Conv2d(3, 96, 11, stride=4),                           # 96 x 55 x 55
        relu1=nn.ReLU(),                                                # 96 x 55 x 55
        norm1=norm(),                                                   # 96 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 96 x 27 x 27
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),               # 256 x 27 x 27
        relu2=nn.ReLU(),                                                # 256 x 27 x 27
        norm2=norm(),                                                   # 256 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 256 x 13 x 13
        conv3=nn.Conv2d(256, 384, 3, padding=1),                        # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),              # 384 x 13 x 13
        relu4=nn.ReLU(),                                                # 384 x 13 x 13
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),              # 256 x 13 x 13
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
    return initialize(model, std=0.01, stds=STDS, bias=0.1, biased=BIASED)


def caffenet(num_classes: int = 1000) -> nn.Sequential:
    """Build CaffeNet: the pool before normalisation, biases 1 (CF models/bvlc_reference_caffenet).

    60,965,224 parameters.
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 227, 227),                                       # 3 x 227 x 227
        conv1=nn.Conv2d(3, 96, 11, stride=4),                           # 96 x 55 x 55
        relu1=nn.ReLU(),                                                # 96 x 55 x 55
        pool1=nn.MaxPool2d(3, stride=2),                                # 96 x 27 x 27
        norm1=norm(),                                                   # 96 x 27 x 27
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),               # 256 x 27 x 27
        relu2=nn.ReLU(),                                                # 256 x 27 x 27
        pool2=nn.MaxPool2d(3, stride=2),                                # 256 x 13 x 13
        norm2=norm(),                                                   # 256 x 13 x 13
        conv3=nn.Conv2d(256, 384, 3, padding=1),                        # 384 x 13 x 13
        relu3=nn.ReLU(),                                                # 384 x 13 x 13
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),              # 384 x 13 x 13
        relu4=nn.ReLU(),                                                # 384 x 13 x 13
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),              # 256 x 13 x 13
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
    return initialize(model, std=0.01, stds=STDS, bias=1.0, biased=BIASED)
