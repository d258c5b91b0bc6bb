"""Backbones: pictures to feature maps; each owns how it wants pictures normalised."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from twin_policy.names import Registry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A trunk of convolutions behind the normalisation that it was made for."""

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        """Channels of the feature map."""
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def normalize(
        self, pictures: Tensor, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Scales to [0, 1], changes colours, applies ImageNet's statistics: in one pass.

        Args:
            pictures: uint8 RGB (N, H, W, 3).
            gain: factors on the picture in [0, 1], float (N, 3).
            shift: added after the gain, float (N, 3).

        Returns:
            float32 (N, 3, H, W), laid out channels last.
        """
        width = pictures.shape[2]
        factor, bias = 1 / (255 * self.std), -self.mean / self.std
        if gain is None or shift is None:
            factor, bias = (rearrange(value, "c -> 1 c") for value in (factor, bias))
        else:
            factor, bias = gain * factor, shift / self.std + bias
        # Whole rows of pixels at once: an inner axis of three channels would not be vectorised.
        factor, bias = (repeat(value, "n c -> n 1 (w c)", w=width) for value in (factor, bias))
        rows = rearrange(pictures, "n h w c -> n h (w c)").float().mul_(factor).add_(bias)
        return rearrange(rows, "n h (w c) -> n c h w", w=width)

    def forward(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (N, 3, H, W) to features (N, C, h, w)."""
        features: Tensor = self.trunk(pictures)
        return features


BACKBONES: Registry = Registry("backbone")


@BACKBONES.register("resnet18")
def resnet18() -> Backbone:
    """ResNet18 from scratch, BatchNorm replaced by GroupNorm of 16 channels a group."""
    import timm

    class GroupsOf16(nn.GroupNorm):
        def __init__(self, channels: int, **_: object) -> None:
            super().__init__(channels // 16, channels)

    net: Any = timm.create_model(
        "resnet18", pretrained=False, num_classes=0, norm_layer=GroupsOf16, zero_init_last=False
    )
    trunk = nn.Sequential(
        net.conv1, net.bn1, net.act1, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
    )
    return Backbone(trunk, channels=512)


@BACKBONES.register("small_cnn")
def small_cnn() -> Backbone:
    """Two convolutions at a quarter of the resolution, cheap enough to train on a CPU."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 32, 6, stride=4, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(inplace=True),
    )
    return Backbone(trunk.to(memory_format=torch.channels_last), channels=32)
