"""Backbones of an encoder: built from its config, and filled with pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from twin_policy.backbones import BACKBONES, Backbone, Recipe, VisionBackbone, registry
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
from twin_policy.config import FUSION, EncoderConfig

__all__ = [
    "RANDOM",
    "WeightsError",
    "build_backbone",
    "complete",
    "is_tower",
    "load_pretrained",
    "load_tower",
    "resolve",
]

SETTING = "policy.encoder.pretrained_backbone_weights"


def is_tower(name: str) -> bool:
    """Whether a backbone comes pretrained and is shared, and is not one trained in the encoder."""
    return name not in BACKBONES.names()


def complete(config: EncoderConfig) -> EncoderConfig:
    """The config with what it leaves open decided by the kind of its backbone.

    Raises:
        ValueError: several copies of a tower that never differ.
    """
    if config.fusion is not None:
        return replace(
            config,
            backbone=FUSION,
            shared_backbone=True,
            tuning=config.tuning or "frozen",
            image_normalization="native",
        )
    tower = is_tower(config.backbone)
    shared = tower if config.shared_backbone is None else config.shared_backbone
    shared = shared or config.early_fusion
    tuning = config.tuning or ("frozen" if tower else "full")
    if tower and tuning == "frozen" and not shared:
        raise ValueError(
            f"a frozen {config.backbone} is the same for every camera: set "
            "policy.encoder.shared_backbone to true, or tuning to last_blocks, lora or full"
        )
    return replace(
        config,
        shared_backbone=shared,
        tuning=tuning,
        image_normalization=config.image_normalization or ("native" if tower else "imagenet"),
    )


def resolve(config: EncoderConfig) -> EncoderConfig:
    """The config with all in it that decides the network, so that a checkpoint can rebuild it.

    Of a tower that is also its weights' tag, which the weights themselves may tell.

    Raises:
        ValueError: an unknown backbone, with the nearest match.
        WeightsError: a tag that is unknown, missing or contradicted; no such weight file.
    """
    config = complete(config)
    if config.fusion is not None:
        # Its models are resolved here, one by one.
        from twin_policy.fusion_resolving import resolve_fusion

        return replace(config, fusion=resolve_fusion(config.fusion))
    if not is_tower(config.backbone):
        return config
    recipe = _recipe(config, config.pretrained_backbone_weights)
    return replace(config, backbone=recipe.name, tag=recipe.tag)


def _recipe(config: EncoderConfig, weights: str | None = None) -> Recipe:
    return registry.recipe(
        config.backbone,
        weights=weights if is_tower(config.backbone) else None,
        tag=config.tag,
        size=config.resize_shape,
        image_normalization=config.image_normalization or "native",
        overrides=config.overrides,
    )


def build_backbone(config: EncoderConfig) -> VisionBackbone:
    """With fresh weights; of a config that is complete.

    They come from torch's global generator, or are those of `weights_seed`, if there is one.

    Raises:
        ValueError: an unknown backbone, or a size that its patches do not divide.
    """
    if config.weights_seed is None:
        return _build_fresh(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.weights_seed)
        return _build_fresh(config)


def _build_fresh(config: EncoderConfig) -> VisionBackbone:
    recipe = _recipe(config)
    if is_tower(config.backbone) or recipe.size or recipe.overrides:
        return registry.build(recipe)
    built: VisionBackbone = BACKBONES[config.backbone](config.image_normalization)
    return built


def load_tower(
    backbones: Sequence[VisionBackbone], config: EncoderConfig, *, setting: str = SETTING
) -> dict[str, Any]:
    """Puts the weights of a config into each of its towers.

    Args:
        setting: what the user calls the option that names the weights, for the messages.

    Returns:
        `WeightsIdentity` as plain values, and the backbone's name.

    Raises:
        WeightsError: weights that are missing or do not fit, or of another tag than was built.
    """
    weights = config.pretrained_backbone_weights
    meant = _recipe(config, weights)
    identity: dict[str, Any] = {}
    for backbone in backbones:
        if backbone.recipe.tag != meant.tag:
            raise WeightsError(
                f"{weights} are of the tag {meant.tag}, and the network was built for "
                f"{backbone.recipe.tag}: build it from `resolve(config)`"
            )
        identity = asdict(registry.load(backbone, weights, setting=setting))
    return {"backbone": meant.name, **identity}


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
