"""The layers of the paper's network that PyTorch lacks or defines otherwise.

They take and return (N, C, H, W) float tensors. AN is the code of 2012 (see `alexnet.networks`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.errors import UsageError


class Input(nn.Module):
    """The first row of each network: the size of its images, which it checks.

    Values are 0-255, RGB, with the training mean subtracted. Raises `UsageError` for another shape,
    which would otherwise cause an obscure error in a later layer.
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
    """Add to each channel of `x` its `size // 2` neighbours on both sides, fewer at the ends.

    Channels are the third dimension from the end.
    """
    reach = size // 2
    channels = x.shape[-3]
    padded = F.pad(x, (0, 0, 0, 0, reach, reach))
    # Shifted additions are faster than the 3-d average pool of torch.nn.LocalResponseNorm, and
    # their gradient is deterministic on CUDA, which the pool's is not.
    total = padded.narrow(-3, 0, channels)
    for shift in range(1, size):
        total = total + padded.narrow(-3, shift, channels)
    return total


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in a type whose squares neither overflow nor lose most of their digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels (paper, section 3.3).

    b_i = a_i / (k + alpha * sum of a_j**2 over the `size` channels around i) ** beta

    alpha multiplies the sum, as in the paper. The 2012 code (AN layer.py:1183), Caffe and
    torch.nn.LocalResponseNorm divide alpha by `size` first: their 1e-4 is 2e-5 here. `size` is odd.
    `towers` splits the channels into that many equal parts, which are normalised separately: in
    2012 each of the two GPUs normalised its own maps.
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
