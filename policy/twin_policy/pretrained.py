"""Pretrained weights of the backbones that train inside `ObsEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twin_policy.backbones import Backbone
from twin_policy.backbones.convolutional import (
    RESNET_DROPPED,
    RESNET_FILES,
    resnet18_hub_file,
)
from twin_policy.backbones.weights import (
    HUB,
    RANDOM,
    WeightsError,
    locate,
    put,
    read_weights,
    sha256,
    split_dropped,
)

__all__ = ["RANDOM", "WeightsError", "load_pretrained"]

SETTING = "policy.encoder.pretrained_backbone_weights"


def load_pretrained(backbones: Sequence[Backbone], weights: str) -> dict[str, Any]:
    """Puts the same weights into each backbone.

    Args:
        weights: a local file with the tensors of a ResNet18 by timm's and torchvision's names, or
            a folder that holds one; `hub:` and a timm tag; or `random`, to keep what the
            initialisation gave.

    Returns:
        What identifies them: `source`; but for `random` also `file`, `sha256`, `dropped_keys`.

    Raises:
        WeightsError: no such file or tag, or other tensors than the backbone's.
    """
    if weights == RANDOM:
        return {"source": "random weights"}
    tag = weights.removeprefix(f"{HUB}:")
    path = locate(
        weights,
        hub_file=None if tag == weights else resnet18_hub_file(tag),
        file_names=RESNET_FILES,
        setting=SETTING,
    )
    kept, dropped = split_dropped(read_weights(path), RESNET_DROPPED)
    for backbone in backbones:
        put(path, backbone.trunk, kept, dropped)
    return {
        "source": weights,
        "file": path.name,
        "sha256": sha256(path),
        "dropped_keys": sorted(key for keys in dropped.values() for key in keys),
    }
