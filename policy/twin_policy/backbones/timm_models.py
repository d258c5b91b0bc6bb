"""ViTs and ConvNeXts of timm by name, DINOv3 among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twin_policy.backbones.dinov3_names import DINOV3_DROPPED, DINOV3_FILES, from_dinov3
from twin_policy.backbones.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from twin_policy.backbones.protocol import (
    FINAL,
    LayerFeatures,
    Recipe,
    VisionBackbone,
    features_of_map,
    features_of_tokens,
)
from twin_policy.backbones.weights import (
    HubFile,
    WeightsError,
    resize_positions,
    split_dropped,
    timm_hub_file,
)
from twin_policy.names import unknown

PREFIX = "timm:"

DINOV3, DINOV3_ARCHITECTURE, DINOV3_TAG = "dinov3_vit_b16", "vit_base_patch16_dinov3", "lvd1689m"

DINOV3_SINCE = "1.0.20"
"""timm's first version with it."""

DROPPED = {
    "classifier": ("head.weight", "head.bias", "head.fc.*", "head_dist.*"),
    "pretraining": ("mask_token",),
}
"""All that timm's files of ViTs and ConvNeXts may hold beyond the tower."""


def architecture(name: str) -> str:
    """timm's name of `timm:NAME` and of our own entries."""
    return DINOV3_ARCHITECTURE if name == DINOV3 else name.removeprefix(PREFIX)


def split_timm_name(name: str) -> tuple[str, str | None]:
    """`timm:NAME.TAG` to `timm:NAME` and TAG.

    Raises:
        ValueError: timm has no such architecture or tag, with the nearest match.
    """
    model, _, tag = name.removeprefix(PREFIX).partition(".")
    check_timm_model(model)
    if tag:
        check_timm_tag(model, tag)
    return PREFIX + model, tag or None


def check_timm_model(model: str) -> None:
    import timm

    if model == DINOV3_ARCHITECTURE and not timm.is_model(model):
        raise ValueError(
            f"timm {timm.__version__} has no DINOv3: pip install 'timm>={DINOV3_SINCE}'"
        )
    if not timm.is_model(model):
        raise unknown("timm model", model, timm.list_models())


def timm_tags(model: str) -> list[str]:
    import timm

    return [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]


def check_timm_tag(model: str, tag: str) -> None:
    """Refuses a tag that does not exist, and weights in a network with other activations."""
    from timm.models import get_pretrained_cfg

    tags = timm_tags(model)
    if tag not in tags:
        raise WeightsError(str(unknown(f"tag of timm:{model}", tag, tags)))
    notes = getattr(get_pretrained_cfg(f"{model}.{tag}"), "notes", None) or ()
    if "quickgelu" not in model and any("natively QuickGELU" in note for note in notes):
        twin = model.replace("_clip_", "_clip_quickgelu_")
        raise WeightsError(
            f"the weights {tag} were trained with QuickGELU, and timm:{model} has GELU: take "
            f"timm:{twin}.{tag}"
        )


def build_timm(recipe: Recipe) -> VisionBackbone:
    """The tower of a recipe, with fresh weights from torch's global generator.

    `overrides` are arguments of timm's constructor: embed_dim, depth, patch_size, ...

    Raises:
        ValueError: neither a ViT nor a ConvNeXt, or an input size that its patches do not divide.
    """
    import timm
    from timm.models import ConvNeXt, Eva, VisionTransformer, get_pretrained_cfg

    model = architecture(recipe.name)
    check_timm_model(model)
    config = get_pretrained_cfg(f"{model}.{recipe.tag}" if recipe.tag else model)
    size = recipe.size or (config.input_size[-2:] if config else (224, 224))
    options: dict[str, Any] = dict(recipe.overrides)
    family = timm.model_entrypoint(model).__module__.rpartition(".")[2]
    if family in ("vision_transformer", "deit", "eva"):
        options["img_size"] = size
    if "dinov3" in model and family == "eva":
        # timm's own default is the mean, without DINOv3's class token.
        options["global_pool"] = "token"
    # Without a classifier timm would load weights loosely, so it does not load them: `put` does.
    net = timm.create_model(model, pretrained=False, num_classes=0, **options)
    preprocessing = Preprocessing.named(
        recipe.image_normalization,
        native=(
            (tuple(config.mean), tuple(config.std)) if config else (IMAGENET_MEAN, IMAGENET_STD)  # type: ignore[arg-type]
        ),
        size=tuple(size),
        interpolation=config.interpolation if config else "bicubic",
    )
    licence = (config.license if config and config.license else "unknown") if recipe.tag else "none"
    if isinstance(net, VisionTransformer | Eva):
        return TimmViT(recipe, net, preprocessing, licence)
    if isinstance(net, ConvNeXt):
        return TimmConvNeXt(recipe, net, preprocessing, licence)
    raise ValueError(
        f"timm:{model} is a {type(net).__name__}, and TwinBench takes timm's ViTs "
        "(VisionTransformer, Eva) and ConvNeXts"
    )


def _check_size(recipe: Recipe, size: tuple[int, int], stride: int) -> None:
    if any(side % stride or side < stride for side in size):
        raise ValueError(
            f"the input size of {recipe.name} must be a multiple of {stride}, and is {size}"
        )


class TimmBackbone(VisionBackbone):
    """What timm's ViTs and ConvNeXts have in common: their files."""

    net: Any

    @property
    def quick_gelu(self) -> bool | None:
        model = architecture(self.recipe.name)
        return "quickgelu" in model if "_clip_" in model else None

    def hub_file(self) -> HubFile:
        return timm_hub_file(f"{architecture(self.recipe.name)}.{self.recipe.tag}")

    @property
    def file_names(self) -> tuple[str, ...]:
        own = DINOV3_FILES if self.recipe.name == DINOV3 else ()
        return ("model.safetensors", "pytorch_model.bin", *own)

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        kept = tensors
        dropped: dict[str, list[str]] = {}
        if "dinov3" in self.recipe.name:
            kept, dropped = split_dropped(kept, DINOV3_DROPPED)
            kept, zeros = from_dinov3(kept, self.net.state_dict())
            dropped |= {"biases that are zero": zeros} if zeros else {}
        kept, classifier = split_dropped(kept, DROPPED)
        return self._fit(kept), dropped | classifier

    def _fit(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors


class TimmViT(TimmBackbone):
    """Layers `block0`, ..., raw as each block leaves them; `final` after the last norm."""

    def __init__(
        self, recipe: Recipe, net: Any, preprocessing: Preprocessing, licence: str
    ) -> None:
        (patch, other) = net.patch_embed.patch_size
        if patch != other:
            raise ValueError(f"{recipe.name} has patches of {patch} x {other}: must be square")
        assert preprocessing.size is not None
        _check_size(recipe, preprocessing.size, patch)
        has_class_token = getattr(net, "cls_token", None) is not None
        names = [*(f"block{i}" for i in range(len(net.blocks))), FINAL]
        super().__init__(
            recipe,
            preprocessing=preprocessing,
            widths=dict.fromkeys(names, net.embed_dim),
            patch_size=patch,
            has_class_token=has_class_token,
            num_registers=net.num_prefix_tokens - has_class_token,
            licence=licence,
        )
        self.net = net
        height, width = preprocessing.size
        self.grid = (height // patch, width // patch)

    def _encode(self, pixels: Tensor, names: Sequence[str]) -> dict[str, LayerFeatures]:
        last, prefixed = self.num_layers - 1, bool(self.net.num_prefix_tokens)
        wanted = sorted({last if name == FINAL else self.layer_names.index(name) for name in names})
        given = self.net.forward_intermediates(
            pixels,
            indices=wanted,
            # True would put the last norm on every layer taken.
            norm=False,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            return_prefix_tokens=prefixed,
        )
        layers = {
            index: layer if prefixed else (layer, layer[:, :0])
            for index, layer in zip(wanted, given, strict=True)
        }
        found = {
            f"block{index}": self._features(tokens, prefix)
            for index, (tokens, prefix) in layers.items()
        }
        if FINAL in names:
            found[FINAL] = self._final(*layers[last])
        return found

    def _features(
        self, tokens: Tensor, prefix: Tensor, pooled: Tensor | None = None
    ) -> LayerFeatures:
        return features_of_tokens(
            tokens,
            prefix,
            grid=self.grid,
            has_class_token=self.has_class_token,
            pooled=pooled,
        )

    def _final(self, tokens: Tensor, prefix: Tensor) -> LayerFeatures:
        count = prefix.shape[1]
        normed = self.net.norm(torch.cat([prefix, tokens], dim=1))
        pooled = self.net.forward_head(normed, pre_logits=True)
        return self._features(normed[:, count:], normed[:, :count], pooled)

    def _fit(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if "pos_embed" not in tensors or self.net.pos_embed is None:
            return tensors
        prefix = 0 if getattr(self.net, "no_embed_class", False) else self.net.num_prefix_tokens
        return tensors | {
            "pos_embed": resize_positions(tensors["pos_embed"], self.grid, prefix=prefix)
        }

    def _blocks(self) -> Sequence[nn.Module]:
        return list(self.net.blocks)

    def _tail(self) -> Sequence[nn.Module | nn.Parameter]:
        pool = getattr(self.net, "attn_pool", None)
        return [self.net.norm, self.net.fc_norm, *([pool] if pool is not None else [])]


class TimmConvNeXt(TimmBackbone):
    """Layers `stage0` to `stage3`; `final` pools and norms the last one."""

    def __init__(
        self, recipe: Recipe, net: Any, preprocessing: Preprocessing, licence: str
    ) -> None:
        widths = {f"stage{i}": info["num_chs"] for i, info in enumerate(net.feature_info)}
        stride = net.feature_info[-1]["reduction"]
        assert preprocessing.size is not None
        _check_size(recipe, preprocessing.size, stride)
        super().__init__(
            recipe,
            preprocessing=preprocessing,
            widths=widths | {FINAL: net.num_features},
            patch_size=stride,
            licence=licence,
        )
        self.net = net

    def _encode(self, pixels: Tensor, names: Sequence[str]) -> dict[str, LayerFeatures]:
        last = self.num_layers - 1
        wanted = sorted({last if name == FINAL else self.layer_names.index(name) for name in names})
        given = self.net.forward_intermediates(
            pixels, indices=wanted, norm=False, stop_early=True, intermediates_only=True
        )
        maps = dict(zip(wanted, given, strict=True))
        found = {
            f"stage{index}": features_of_map(feature_map) for index, feature_map in maps.items()
        }
        if FINAL in names:
            normed = self.net.norm_pre(maps[last])
            pooled = self.net.forward_head(normed, pre_logits=True)
            found[FINAL] = features_of_map(normed, pooled=pooled)
        return found

    def _blocks(self) -> Sequence[nn.Module]:
        return list(self.net.stages)

    def _tail(self) -> Sequence[nn.Module | nn.Parameter]:
        return self.net.norm_pre, self.net.head
