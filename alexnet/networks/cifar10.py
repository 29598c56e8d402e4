"""The paper's two networks for CIFAR-10 (P 3.3)."""

from collections import OrderedDict

from torch import nn

from alexnet.networks.initialization import initialize
from alexnet.networks.layers import Input, LocallyConnected2d, LocalResponseNorm

STDS = {"conv1": 0.0001, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
"""Standard deviations of the start weights (AN layers-conv-local-13pct.cfg)."""

# fmt: off
# The formatter would break the columns of the tables.


def cifar10_13(num_classes: int = 10) -> nn.Sequential:
    """Build the paper's CIFAR-10 net without normalisation: 13 % (AN layers-conv-local-13pct.cfg).

    Pools round up, as cuda-convnet's do: 24 -> 12 -> 6. `local` layers have unshared kernels.
    """
    model = nn.Sequential(OrderedDict(
        input=Input(3, 24, 24),                                         # 3 x 24 x 24
        conv1=nn.Conv2d(3, 64, 5, padding=2),                           # 64 x 24 x 24
        relu1=nn.ReLU(),                                                # 64 x 24 x 24
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 64 x 12 x 12
        conv2=nn.Conv2d(64, 64, 5, padding=2),                          # 64 x 12 x 12
        relu2=nn.ReLU(),                                                # 64 x 12 x 12
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 64 x 6 x 6
        local3=LocallyConnected2d(64, 32, 3, input_size=6, padding=1),  # 32 x 6 x 6
        relu3=nn.ReLU(),                                                # 32 x 6 x 6
        local4=LocallyConnected2d(32, 32, 3, input_size=6, padding=1),  # 32 x 6 x 6
        relu4=nn.ReLU(),                                                # 32 x 6 x 6
        flatten=nn.Flatten(),                                           # 1152
        fc10=nn.Linear(1152, num_classes),                              # num_classes
    ))
    return initialize(model, std=0.01, stds=STDS)


def cifar10_11(num_classes: int = 10) -> nn.Sequential:
    """Build the 11 % net: `cifar10_13` and nothing but local response normalisation (P 3.3).

    This is the first of the two nets so called (CC1 at 3878e8f, 2012-03-13), which differs from the
    13 % net by the norms alone: size 5, k 1, scale 0.001 divided by the size.
    """

    def norm() -> LocalResponseNorm:
        return LocalResponseNorm(size=5, alpha=0.001 / 5, beta=0.75, k=1.0)

    model = nn.Sequential(OrderedDict(
        input=Input(3, 24, 24),                                         # 3 x 24 x 24
        conv1=nn.Conv2d(3, 64, 5, padding=2),                           # 64 x 24 x 24
        relu1=nn.ReLU(),                                                # 64 x 24 x 24
        norm1=norm(),                                                   # 64 x 24 x 24
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 64 x 12 x 12
        conv2=nn.Conv2d(64, 64, 5, padding=2),                          # 64 x 12 x 12
        relu2=nn.ReLU(),                                                # 64 x 12 x 12
        norm2=norm(),                                                   # 64 x 12 x 12
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 64 x 6 x 6
        local3=LocallyConnected2d(64, 32, 3, input_size=6, padding=1),  # 32 x 6 x 6
        relu3=nn.ReLU(),                                                # 32 x 6 x 6
        local4=LocallyConnected2d(32, 32, 3, input_size=6, padding=1),  # 32 x 6 x 6
        relu4=nn.ReLU(),                                                # 32 x 6 x 6
        flatten=nn.Flatten(),                                           # 1152
        fc10=nn.Linear(1152, num_classes),                              # num_classes
    ))
    return initialize(model, std=0.01, stds=STDS)
