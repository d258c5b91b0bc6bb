"""From what is read of a backbone's layer to the features of one camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Expected image position of each of K learned keypoints (arXiv 1509.06113)."""

    def __init__(self, channels: int, num_keypoints: int, temperature: float = 1.0) -> None:
        super().__init__()
        # Without a bias, which the softmax over the picture would cancel.
        self.to_keypoints = nn.Conv2d(channels, num_keypoints, 1, bias=False)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.dim = 2 * num_keypoints

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, 2K): x in [-1, 1] left to right, y top to bottom, a keypoint."""
        # The factor is put on the weights, which are smaller than the logits.
        weight = self.to_keypoints.weight * self.temperature
        # In bfloat16 a position would be known to one part in 256 only.
        with torch.autocast(features.device.type, enabled=False):
            return expected_positions(F.conv2d(features.float(), weight))


def expected_positions(logits: Tensor) -> Tensor:
    """Softmax over the picture of (N, K, h, w), then mean positions: (N, 2K), x before y."""
    height, width = logits.shape[-2:]
    x = torch.linspace(-1, 1, width, device=logits.device, dtype=logits.dtype)
    y = torch.linspace(-1, 1, height, device=logits.device, dtype=logits.dtype)
    weights = rearrange(logits, "n k h w -> n k (h w)").softmax(dim=-1)
    grid = torch.stack([repeat(x, "w -> (h w)", h=height), repeat(y, "h -> (h w)", w=width)], -1)
    return rearrange(weights @ grid, "n k xy -> n (k xy)")


class AveragePool(nn.Module):
    """Mean over the picture: (N, C, h, w) -> (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = channels

    def forward(self, features: Tensor) -> Tensor:
        return features.float().mean(dim=(-2, -1))


class AsRead(nn.Module):
    """What was read, in float32 and in one row: (N, ...) -> (N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        return rearrange(features.float(), "n ... -> n (...)")


def cell_means(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Means of a map (N, C, h, w) in each cell of a coarser grid.

    Raises:
        ValueError: the grid has more cells than the map has places.
    """
    height, width = tokens.shape[-2:]
    if height < grid_size[0] or width < grid_size[1]:
        raise ValueError(
            f"grid_size must be at most the layer's tokens, {height}x{width}, and is "
            f"{grid_size[0]}x{grid_size[1]}: lower policy.encoder.grid_size, or raise resize_shape"
        )
    return F.adaptive_avg_pool2d(tokens.float(), grid_size).to(tokens.dtype)


class Adapter(nn.Linear):
    """Pooled features (N, C) to (N, feature_dim), in float32 under autocast too."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


Pool = SpatialSoftmax | AveragePool | AsRead
