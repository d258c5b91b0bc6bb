"""Convolutional backbones, which also take 8-bit pictures through a fused normalisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from twin_policy.backbones.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from twin_policy.backbones.protocol import (
    FINAL,
    LayerFeatures,
    Recipe,
    VisionBackbone,
    features_of_map,
)
from twin_policy.backbones.weights import HubFile, WeightsError, split_dropped, timm_hub_file
from twin_policy.names import Registry, unknown

Size = tuple[int, int]

RESNET_DROPPED = {
    "classifier": ("fc.weight", "fc.bias"),
    "BatchNorm's counters": ("*.num_batches_tracked",),
}
"""All that a ResNet's weight file may hold beyond the trunk."""

RESNET_FILES = ("model.safetensors", "resnet18-f37072fd.pth", "resnet18-5c106cde.pth")
"""As timm and torchvision name them."""


class Backbone(VisionBackbone):
    """A trunk of convolutions behind the normalisation of its pictures."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Sequential,
        channels: int,
        *,
        image_normalization: str = "imagenet",
        pretrained: bool = False,
        layers: Mapping[str, tuple[str, int]] | None = None,
        recipe: Recipe | None = None,
        patch_size: int = 1,
        licence: str = "none",
    ) -> None:
        """`layers`: name to the child of the trunk that ends it, and its channels."""
        recipe = recipe or Recipe("convolutions", image_normalization=image_normalization)
        layers = layers or {}
        super().__init__(
            recipe,
            preprocessing=Preprocessing.named(
                image_normalization, native=(IMAGENET_MEAN, IMAGENET_STD), size=recipe.size
            ),
            widths={name: width for name, (_, width) in layers.items()} | {FINAL: channels},
            patch_size=patch_size,
            licence=licence,
        )
        self.trunk = trunk
        self.channels = channels
        """Channels of the feature map."""
        self.pretrained = pretrained
        """Whether training starts from a weight file (`twin_policy.pretrained`)."""
        self.image_normalization = image_normalization
        self._ends = {child: name for name, (child, _) in layers.items()}
        self.register_buffer("mean", torch.tensor(self.preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocessing.std), persistent=False)

    @property
    def network(self) -> nn.Module:
        return self.trunk

    def _encode(self, pixels: Tensor, names: Sequence[str]) -> dict[str, LayerFeatures]:
        found: dict[str, LayerFeatures] = {}
        for child, part in self.trunk.named_children():
            pixels = part(pixels)
            if self._ends.get(child) in names:
                found[self._ends[child]] = features_of_map(pixels)
            if len(found) == len(names):
                return found
        return found | {FINAL: features_of_map(pixels)}

    def _blocks(self) -> Sequence[nn.Module]:
        blocks, block = [], nn.ModuleList()
        for child, part in self.trunk.named_children():
            block.append(part)
            if child in self._ends:
                blocks.append(block)
                block = nn.ModuleList()
        return blocks

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        if not self.pretrained:
            raise WeightsError(
                f"backbone {self.recipe.name} is trained from scratch and takes no pretrained "
                "weights: take resnet18_frozen_bn, or give no weights"
            )
        return split_dropped(tensors, RESNET_DROPPED)

    def hub_file(self) -> HubFile:
        if not self.pretrained:
            return super().hub_file()
        return resnet18_hub_file(self.recipe.tag or "")

    @property
    def file_names(self) -> tuple[str, ...]:
        return RESNET_FILES

    def normalize(
        self, pictures: Tensor, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Scales to [0, 1], changes colours, applies mean and deviation: in one pass.

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
        """Normalised pictures (N, 3, H, W) to features (N, C, h, w), in the trunk's dtype."""
        features: Tensor = self.trunk(pictures.to(next(self.trunk.parameters()).dtype))
        return features

    def prepare_inference(self, dtype: torch.dtype) -> None:
        """The trunk in `dtype`, float32 or bfloat16, laid out as its device likes it.

        On a CPU, weights that lie as the pictures do save a tenth of the time.
        """
        on_cpu = self.mean.device.type == "cpu"
        layout = torch.channels_last if on_cpu else torch.preserve_format
        self.trunk.to(dtype=dtype).to(memory_format=layout)


def resnet18_hub_file(tag: str) -> HubFile:
    """Of a tag of timm's, with or without `resnet18.` before it.

    Raises:
        WeightsError: timm has no such tag.
    """
    import timm

    full, known = f"resnet18.{tag.removeprefix('resnet18.')}", timm.list_pretrained("resnet18.*")
    if full not in known:
        raise WeightsError(str(unknown("timm tag", full, known)))
    return timm_hub_file(full)


BACKBONES: Registry = Registry("backbone")
"""Those that `ObsEncoder` trains; `backbones.registry` has them all."""


def resnet18_trunk(
    norm_layer: Callable[..., nn.Module], **overrides: Any
) -> tuple[nn.Sequential, dict[str, tuple[str, int]]]:
    """ResNet18 up to its last feature map, and its layers.

    Parameters are named as timm and torchvision do.
    """
    import timm

    net: Any = timm.create_model(
        "resnet18",
        pretrained=False,
        num_classes=0,
        norm_layer=norm_layer,
        zero_init_last=False,
        **overrides,
    )
    parts = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    widths = [info["num_chs"] for info in net.feature_info]
    ends = {"stem": "maxpool"} | {name: name for name in parts[-4:]}
    layers = {name: (end, width) for (name, end), width in zip(ends.items(), widths, strict=True)}
    return nn.Sequential(OrderedDict((part, getattr(net, part)) for part in parts)), layers


def _resnet18(norm_layer: Callable[..., nn.Module], recipe: Recipe) -> Backbone:
    trunk, layers = resnet18_trunk(norm_layer, **recipe.overrides)
    pretrained = recipe.name == "resnet18_frozen_bn"
    return Backbone(
        trunk,
        channels=layers["layer4"][1],
        image_normalization=recipe.image_normalization,
        pretrained=pretrained,
        layers=layers,
        recipe=recipe,
        patch_size=32,
        licence="Apache-2.0 (timm) or BSD-3-Clause (torchvision)" if pretrained else "none",
    )


def _recipe(name: str, image_normalization: str, options: dict[str, Any]) -> Recipe:
    return Recipe(name, image_normalization=image_normalization, **options)


@BACKBONES.register("resnet18")
def resnet18(image_normalization: str = "imagenet", **options: Any) -> Backbone:
    """ResNet18 from scratch, BatchNorm replaced by GroupNorm of 16 channels a group.

    `options` are fields of `Recipe`.
    """

    class GroupsOf16(nn.GroupNorm):
        def __init__(self, channels: int, **_: object) -> None:
            super().__init__(channels // 16, channels)

    recipe = _recipe("resnet18", image_normalization, options)
    return _resnet18(GroupsOf16, recipe)


@BACKBONES.register("resnet18_frozen_bn")
def resnet18_frozen_bn(image_normalization: str = "imagenet", **options: Any) -> Backbone:
    """ResNet18 for pretrained weights: statistics and factors of BatchNorm are constants.

    They are buffers, the same in training and evaluation: no gradients, no optimiser's decay.
    """
    from torchvision.ops import FrozenBatchNorm2d

    class FrozenBatchNorm(FrozenBatchNorm2d):
        def __init__(self, channels: int, **_: object) -> None:
            super().__init__(channels)

    recipe = _recipe("resnet18_frozen_bn", image_normalization, options)
    return _resnet18(FrozenBatchNorm, recipe)


@BACKBONES.register("small_cnn")
def small_cnn(image_normalization: str = "imagenet", **options: Any) -> Backbone:
    """Two convolutions at a quarter of the resolution, cheap enough to train on a CPU."""
    recipe = _recipe("small_cnn", image_normalization, options)
    channels = int(recipe.overrides.get("channels", 32))
    trunk = nn.Sequential(
        nn.Conv2d(3, channels, 6, stride=4, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    ).to(memory_format=torch.channels_last)
    return Backbone(
        trunk,
        channels=channels,
        image_normalization=image_normalization,
        layers={"layer1": ("1", channels), "layer2": ("3", channels)},
        recipe=recipe,
        patch_size=4,
    )
