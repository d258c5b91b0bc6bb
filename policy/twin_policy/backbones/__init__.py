"""Backbones: pictures to features, with the weights, resize and normalisation that belong to them.

`registry` makes any of them by name; `BACKBONES` are those that train inside `ObsEncoder`.
"""

from twin_policy.backbones.convolutional import (
    BACKBONES,
    Backbone,
    resnet18,
    resnet18_frozen_bn,
    resnet18_trunk,
    small_cnn,
)
from twin_policy.backbones.preprocessing import IMAGENET_MEAN, IMAGENET_STD, image_statistics
from twin_policy.backbones.protocol import FINAL, LayerFeatures, Recipe, VisionBackbone
from twin_policy.backbones.weights import RANDOM, WeightsError, WeightsIdentity

__all__ = [
    "BACKBONES",
    "FINAL",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RANDOM",
    "Backbone",
    "LayerFeatures",
    "Recipe",
    "VisionBackbone",
    "WeightsError",
    "WeightsIdentity",
    "image_statistics",
    "resnet18",
    "resnet18_frozen_bn",
    "resnet18_trunk",
    "small_cnn",
]
