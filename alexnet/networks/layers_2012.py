"""The layers of the 2012 code that the paper's network does not need.

P is the paper, AN the code of 2012 (see `alexnet.networks`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.networks.layers import at_least_float32


class SpatialResponseNorm(nn.Module):
    """Response normalisation within each map: the second one of layer 2 (AN type rnorm).

    b = a / (1 + alpha * sum of a**2 over the `size` x `size` pixels around it) ** beta

    The paper does not mention it. Pixels outside the map count as 0; `size` is odd. The code's
    alpha is 0.001, which it divides by size**2 (AN layer.py:1183): 4e-5 here.
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
    """Dropout as in the paper (P 4.2; AN layer.cu:1126-1135), which scales in evaluation.

    Training sets values to zero with probability `p` and leaves the others unchanged; evaluation
    multiplies all by 1 - p. torch.nn.Dropout instead divides by 1 - p in training. With p = 0.5 the
    next layer sees values half as large here.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of `x`, of any shape, in training; scale them in evaluation."""
        keep = 1 - self.p
        return x * torch.full_like(x, keep).bernoulli() if self.training else x * keep

    def extra_repr(self) -> str:
        """Show the probability in the printed table."""
        return f"p={self.p}"


class GroupedLinear(nn.Module):
    """A fully connected layer with groups, as convolutions have them.

    Group g maps the g-th part of the inputs to the g-th part of the outputs.
    weight: (out_features, in_features / groups), bias: (out_features). The initial weights are
    torch.nn.Linear's.
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
