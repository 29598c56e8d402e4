"""The layers that PyTorch lacks, each as the paper or the 2012 code defines it.

Layers take and return (N, C, H, W) float tensors, `GroupedLinear` (N, units).
Sources: "P" is the paper, "AN" the code of 2012, "CC2" its sibling of 2014 (docs/paper.md).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.errors import UsageError


class Input(nn.Module):
    """The first row of each network: holds the size that it takes, and refuses any other.

    Values are 0-255, RGB, with the training mean subtracted. Raises `UsageError` for another shape:
    without adaptive pooling a wrong size would end in an obscure error far down the network.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (channels, height, width)

    def forward(self, images: Tensor) -> Tensor:
        """Return `images` (N, *shape) as they are."""
        if tuple(images.shape[1:]) != self.shape:
            raise UsageError(
                f"this network takes images of shape (N, {', '.join(map(str, self.shape))}), "
                f"not {tuple(images.shape)}; crop or resize them first"
            )
        return images

    def extra_repr(self) -> str:
        """Show the shape in the printed table."""
        return "x".join(map(str, self.shape))


def channel_window_sum(x: Tensor, size: int) -> Tensor:
    """Add to each channel its `size // 2` neighbours on both sides, fewer at the ends.

    Channels are the third dimension from the end.
    """
    reach = size // 2
    channels = x.shape[-3]
    padded = F.pad(x, (0, 0, 0, 0, reach, reach))
    # Shifted additions, where torch.nn.LocalResponseNorm runs a 3-d average pool: faster, and the
    # gradient is deterministic on CUDA, which the pool's is not.
    total = padded.narrow(-3, 0, channels)
    for shift in range(1, size):
        total = total + padded.narrow(-3, shift, channels)
    return total


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in a type in which its squares neither overflow nor lose most of their digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels (paper, section 3.3).

    b_i = a_i / (k + alpha * sum of a_j**2 over the `size` channels around i) ** beta

    The sum is taken literally, as in the paper. The 2012 code, Caffe and torch.nn.LocalResponseNorm
    divide alpha by `size` first (layer.py:1183 there), so their 1e-4 is 2e-5 here. `size` is odd.
    `towers` cuts the channels into that many equal parts, and sums end where a part does: in 2012
    each of the two GPUs normalised its own maps.
    """

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        *,
        towers: int = 1,
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (N, C, H, W), at least in float32: squares overflow float16."""
        wide = at_least_float32(x)
        towers = torch.unflatten(wide * wide, 1, (self.towers, -1))
        total = channel_window_sum(towers, self.size).flatten(1, 2)
        scale = self.k + self.alpha * total
        return (wide * scale.pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the constants in the printed table."""
        return (
            f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, "
            f"towers={self.towers}"
        )


class SpatialResponseNorm(nn.Module):
    """Response normalisation within each map, the 2012 code's second in layer 2 (AN type rnorm).

    b = a / (1 + alpha * sum of a**2 over the `size` x `size` pixels around it) ** beta

    The paper does not mention it. Pixels past the edge count as 0; `size` is odd. The code divides
    its 0.001 by size**2 (AN layer.py:1183), which makes the 4e-5 here.
    """

    def __init__(self, size: int = 5, alpha: float = 0.001 / 25, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (N, C, H, W), at least in float32."""
        wide = at_least_float32(x)
        mean = F.avg_pool2d(wide * wide, self.size, stride=1, padding=self.size // 2)
        scale = 1 + self.alpha * self.size**2 * mean
        return (wide * scale.pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the constants in the printed table."""
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}"


class PaperDropout(nn.Module):
    """Dropout as the paper has it (P 4.2; AN layer.cu:1126-1135): outputs shrink at test time.

    Training sets values to zero with probability `p` and leaves the others as they are; evaluation
    multiplies all by 1 - p. torch.nn.Dropout instead divides by 1 - p in training. The expectation
    is the same, but here the next layer sees values half as large in training as it would there.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop from `x` of any shape in training, scale it in evaluation."""
        keep = 1 - self.p
        return x * torch.full_like(x, keep).bernoulli() if self.training else x * keep

    def extra_repr(self) -> str:
        """Show the probability in the printed table."""
        return f"p={self.p}"


class GroupedLinear(nn.Module):
    """A fully connected layer in `groups` parts that do not see each other's inputs.

    Part g maps the g-th part of the inputs to the g-th part of the outputs: what `groups` is to a
    convolution. weight: (out_features, in_features / groups), bias: (out_features). The start
    weights are torch.nn.Linear's.
    """

    def __init__(self, in_features: int, out_features: int, *, groups: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        part = nn.Linear(in_features // groups, out_features)
        self.weight, self.bias = part.weight, part.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        parts = torch.unflatten(x, 1, (self.groups, -1)).transpose(0, 1)  # (groups, N, in)
        weights = torch.unflatten(self.weight, 0, (self.groups, -1))  # (groups, out, in)
        biases = torch.unflatten(self.bias, 0, (self.groups, 1, -1))  # (groups, 1, out)
        return torch.baddbmm(biases, parts, weights.mT).transpose(0, 1).flatten(1)

    def extra_repr(self) -> str:
        """Show the sizes in the printed table."""
        return f"{self.in_features}, {self.out_features}, groups={self.groups}"


class LocallyConnected2d(nn.Module):
    """A convolution whose kernels are not shared: each output position has its own.

    The paper's CIFAR-10 nets end in two such layers (`local3`, `local4`). `input_size` is the
    height and width that it takes; stride is 1. weight: (positions, out, in * kernel * kernel),
    bias: (out, height, width).
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
        patches = F.unfold(x, self.kernel_size, padding=self.padding)  # (N, in*k*k, positions)
        products = torch.bmm(self.weight, patches.permute(2, 1, 0))  # (positions, out, N)
        shape = (x.shape[0], self.out_channels, self.output_size, self.output_size)
        return products.permute(2, 1, 0).reshape(shape) + self.bias

    def extra_repr(self) -> str:
        """Show the sizes in the printed table."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"padding={self.padding}, output_size={self.output_size}"
        )
