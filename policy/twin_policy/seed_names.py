"""The parameter names of the CLIP integration guide, and what they mean in an encoder's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin_policy.names import unknown

SEED_NAMES = ("clip_model_name", "clip_layer", "use_final_features", "freeze_clip", "imagenet_norm")
"""`feature_dim` and `resize_shape` are names of the encoder's own."""

CLIP_NAMES = ("ViT-B/32", "ViT-B/16", "ViT-L/14", "RN50")

LEARNING = {True: ("frozen", "lora"), False: ("full", "last_blocks")}
"""`tuning` that agrees with `freeze_clip`, the one that it means first: LoRA leaves CLIP frozen."""


def from_seed_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's keys with the guide's names replaced by what they mean.

    One of them is enough to mean CLIP; the others then have the guide's values: layer 11 of
    ViT-B/32, its class token brought to 512 features, pictures of 224x224, CLIP frozen. A key that
    is null says nothing.

    Raises:
        ValueError: another CLIP, a value of another type, or two names for one thing.
    """
    said = {name: values[name] for name in SEED_NAMES if values.get(name) is not None}
    given = {name: value for name, value in values.items() if name not in SEED_NAMES}
    if not said:
        return given
    # Of these two, null says something: no adapter, the network's own size.
    kept = ("feature_dim", "resize_shape")
    given = {name: value for name, value in given.items() if value is not None or name in kept}
    for name in ("use_final_features", "freeze_clip", "imagenet_norm"):
        if not isinstance(said.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, and is {said[name]!r}")
    twice = {"clip_model_name": "backbone", "clip_layer": "layer", "imagenet_norm": NORMALIZATION}
    for name, other in twice.items():
        if name in said and other in given:
            raise ValueError(f"{name} and {other} are two names for one thing: give one of them")
    model = said.get("clip_model_name", CLIP_NAMES[0])
    if "backbone" not in given and model not in CLIP_NAMES:
        raise unknown("clip_model_name", str(model), CLIP_NAMES)
    meant: dict[str, Any] = {"backbone": model, "feature_dim": 512, "resize_shape": [224, 224]}
    if "imagenet_norm" in said:
        meant[NORMALIZATION] = "imagenet" if said["imagenet_norm"] else "native"
    meant |= _readout(said, given) | {"tuning": _tuning(said.get("freeze_clip", True), given)}
    return meant | given


NORMALIZATION = "image_normalization"


def _readout(said: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """As in the guide, `clip_layer` is not looked at where final features are used."""
    if not said.get("use_final_features", False):
        return {"layer": said.get("clip_layer", 11), "pooling": "class_token"}
    if (pooling := given.get("pooling", "projected")) != "projected" or "layer" in given:
        raise ValueError(
            "use_final_features means layer final and pooling projected, and "
            f"{'layer' if 'layer' in given else 'pooling'} is "
            f"{given.get('layer', pooling)!r}: set use_final_features to false, or leave that out"
        )
    return {"layer": "final", "pooling": "projected"}


def _tuning(freeze: bool, given: Mapping[str, Any]) -> str:
    allowed = LEARNING[freeze]
    tuning = given.get("tuning")
    if tuning in LEARNING[not freeze]:
        raise ValueError(
            f"freeze_clip {str(freeze).lower()} goes with tuning {' or '.join(allowed)}, and that "
            f"is {tuning}: set freeze_clip to {str(not freeze).lower()}"
        )
    return str(tuning or allowed[0])
