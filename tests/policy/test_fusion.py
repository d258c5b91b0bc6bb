"""G20: what the fusion of backbones must compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twin_policy.fusion import MoEFusion, WeightedFusion


@pytest.mark.parametrize("fusion", [WeightedFusion(4), MoEFusion(4, 6)])
def test_fusion_starts_as_the_plain_mean(fusion: nn.Module) -> None:
    """G20: theta 0, gate 0; where fusing tokens is fusing what is pooled."""
    features = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fusion(features), features.mean(1))
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    moved = fusion(features)
    assert not torch.allclose(moved, features.mean(1), atol=1e-2)
    # Weights that are the same for all tokens commute with pooling; a gate for each does not.
    pooled = fusion(features.mean(2, keepdim=True))[:, 0]
    commutes = torch.allclose(moved.mean(1), pooled, atol=1e-6)
    assert commutes == isinstance(fusion, WeightedFusion)
    order = torch.tensor([3, 1, 0, 2, 4])
    torch.testing.assert_close(fusion(features[:, :, order]), moved[:, order])
