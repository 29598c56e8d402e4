"""The paper's two networks for CIFAR-10 (P 3.3), and the smaller one before them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.networks.initialization import initialize
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import SpatialResponseNorm

STDS = {"conv1": 0.0001, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
"""Standard deviations of the initial weights (AN layers-conv-local-13pct.cfg)."""


class LocallyConnected2d(nn.Module):
    """A convolution whose kernels are not shared: each output position has its own.

    `input_size` is the height and width of its maps; stride is 1.
    weight: (positions, out, in * kernel * kernel), bias: (out, height, width).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        input_size: int,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding, self.stride, self.groups = kernel_size, padding, 1, 1
        self.output_size = input_size + 2 * padding - kernel_size + 1
        self.weight = nn.Parameter(
            torch.empty(self.output_size**2, out_channels, in_channels * kernel_size**2)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, self.output_size, self.output_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, size, size) to (N, out, output_size, output_size)."""
        # On a GPU F.unfold launches a kernel for each image.
        cut = cut_patches if x.is_cuda else F.unfold
        patches = cut(x, self.kernel_size, padding=self.padding)  # (N, in*k*k, positions)
        products = torch.bmm(self.weight, patches.permute(2, 1, 0))  # (positions, out, N)
        shape = (x.shape[0], self.out_channels, self.output_size, self.output_size)
        return products.permute(2, 1, 0).reshape(shape) + self.bias

    def extra_repr(self) -> str:
        """Show the sizes in the printed table."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"padding={self.padding}, output_size={self.output_size}"
        )


def cut_patches(x: Tensor, kernel_size: int, *, padding: int) -> Tensor:
    """Return what F.unfold does, (N, C * kernel_size**2, positions), by a copy of all images."""
    windows = F.pad(x, (padding,) * 4).unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
    count = windows.shape[2] * windows.shape[3]  # (N, C, height, width, k, k)
    return windows.permute(2, 3, 1, 4, 5, 0).reshape(count, -1, len(x)).permute(2, 1, 0)


# fmt: off
# The formatter would break the columns of the tables.


def cifar10_18(num_classes: int = 10) -> nn.Sequential:
    """Build Krizhevsky's net of 18 % error, as Caffe trains it (CF examples/cifar10, "full").

    It takes whole images. Pools round up (32 -> 16 -> 8 -> 4), and the last two average the pixels
    that their windows have inside the map. Norms are within maps, with an alpha of 5e-5 that Caffe
    divides by the 9 pixels of a window (CF lrn_layer.cpp). Caffe calls `snorm` norm and `fc10` ip1.
    """

    def snorm() -> SpatialResponseNorm:
        return SpatialResponseNorm(size=3, alpha=5e-5 / 9, beta=0.75)

    model = nn.Sequential(OrderedDict(
        input=Input(3, 32, 32),                                         # 3 x 32 x 32
        conv1=nn.Conv2d(3, 32, 5, padding=2),                           # 32 x 32 x 32
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),                # 32 x 16 x 16
        relu1=nn.ReLU(),                                                # 32 x 16 x 16
        snorm1=snorm(),                                                 # 32 x 16 x 16
        conv2=nn.Conv2d(32, 32, 5, padding=2),                          # 32 x 16 x 16
        relu2=nn.ReLU(),                                                # 32 x 16 x 16
        pool2=nn.AvgPool2d(3, stride=2, ceil_mode=True),                # 32 x 8 x 8
        snorm2=snorm(),                                                 # 32 x 8 x 8
        conv3=nn.Conv2d(32, 64, 5, padding=2),                          # 64 x 8 x 8
        relu3=nn.ReLU(),                                                # 64 x 8 x 8
        pool3=nn.AvgPool2d(3, stride=2, ceil_mode=True),                # 64 x 4 x 4
        flatten=nn.Flatten(),                                           # 1024
        fc10=nn.Linear(1024, num_classes),                              # num_classes
    ))
    return initialize(model, std=0.01, stds={"conv1": 0.0001})


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
    """Build the 11 % net: `cifar10_13` with local response normalisation (P 3.3).

    This is the first of the two nets of that name (CC1 at 3878e8f, 2012-03-13). It differs from
    the 13 % net in the norms alone: size 5, k 1, scale 0.001 divided by the size.
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
