"""CLIP's picture towers through open_clip: ViTs and ResNets, without the text tower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twin_policy.backbones.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
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
    is_torchscript,
    resize_positions,
    split_dropped,
)
from twin_policy.names import unknown

CLIP_MODELS = {
    "clip_vit_b32": "ViT-B-32",
    "clip_vit_b16": "ViT-B-16",
    "clip_vit_l14": "ViT-L-14",
    "clip_rn50": "RN50",
}
"""Our names to open_clip's."""

OPENAI = "openai"

HUB_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""As open_clip names its files on the hub."""

DROPPED = {
    "text tower": (
        "token_embedding.weight",
        "positional_embedding",
        "transformer.resblocks.*",
        "ln_final.*",
        "text_projection",
        "attn_mask",
        "text.*",
    ),
    "contrastive loss": ("logit_scale", "logit_bias"),
    "shapes of TorchScript": ("input_resolution", "context_length", "vocab_size"),
    "BatchNorm's counters": ("visual.*.num_batches_tracked",),
}
"""All that a CLIP file may hold beyond the picture tower."""

LICENCES = {
    "openai": "MIT",
    "laion": "MIT",
    "datacomp": "MIT",
    "commonpool": "MIT",
    "metaclip": "CC BY-NC 4.0",
    "dfn": "Apple's research licence",
}
"""By the start of the tag."""


def build_clip(recipe: Recipe) -> ClipBackbone:
    """The tower of a recipe, with fresh weights from torch's global generator.

    `overrides` are fields of open_clip's vision config, and `embed_dim`.
    """
    import open_clip

    model = CLIP_MODELS[recipe.name]
    config: dict[str, Any] = open_clip.get_model_config(model)
    vision = config["vision_cfg"] | {"embed_dim": config["embed_dim"], "head_width": 64}
    strange = set(recipe.overrides) - {*vision, "mlp_ratio"}
    if strange:
        raise unknown(f"override of {recipe.name}", min(strange), {*vision, "mlp_ratio"})
    vision |= recipe.overrides
    tower = ClipResNet if isinstance(vision["layers"], list | tuple) else ClipViT
    return tower(recipe, vision)


def clip_file_names(name: str) -> tuple[str, ...]:
    """Under which a folder may hold the weights: open_clip's names and OpenAI's."""
    return (*HUB_NAMES, f"{CLIP_MODELS[name]}.pt")


def clip_tags(name: str) -> dict[str, Mapping[str, Any]]:
    """Tags of a model's published weights, and what open_clip knows of each."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    model = CLIP_MODELS[name]
    return {tag: get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)}


def uses_quick_gelu(name: str, tag: str) -> bool:
    return bool(clip_tags(name)[tag].get("quick_gelu", tag == OPENAI))


def clip_tag_of_file(name: str, path: Path) -> str:
    """The tag that a file tells by its kind, or by its name or that of its folder.

    Raises:
        WeightsError: it tells none, or several.
    """
    if is_torchscript(path):
        return OPENAI
    told = re.sub(r"[^a-z0-9]+", "_", f"{path.absolute().parent.name} {path.stem}".lower())
    tags = clip_tags(name)
    found = [tag for tag in tags if re.search(rf"(?<![a-z0-9]){tag}(?![a-z0-9])", told)]
    # laion2b_e16 is no part of laion2b_e160, but a tag may be the start of a longer one.
    found = [tag for tag in found if not any(tag != other and tag in other for other in found)]
    if len(found) != 1:
        raise WeightsError(
            f"{path}: cannot tell which weights of {name} these are, and so not whether they need "
            f"QuickGELU: give their tag, one of {', '.join(tags)}, or name the folder after it "
            f"({CLIP_MODELS[name]}.{OPENAI}/{path.name})"
        )
    return found[0]


def check_clip_tag(name: str, tag: str) -> None:
    tags = clip_tags(name)
    if tag not in tags:
        raise WeightsError(str(unknown(f"tag of {name}", tag, tags)))


class ClipBackbone(VisionBackbone):
    """What ViTs and ResNets of CLIP have in common: their files."""

    def __init__(self, recipe: Recipe, vision: Mapping[str, Any], **layers: Any) -> None:
        tag = recipe.tag or OPENAI
        known = clip_tags(recipe.name)[tag]
        own = int(vision["image_size"])
        size = recipe.size or (own, own)
        stride = layers["patch_size"]
        if any(side % stride or side < stride for side in size):
            raise ValueError(
                f"the input size of {recipe.name} must be a multiple of {stride}, and is {size}"
            )
        native = (known.get("mean", CLIP_MEAN), known.get("std", CLIP_STD))
        super().__init__(
            recipe,
            preprocessing=Preprocessing.named(
                recipe.image_normalization,
                native=native,
                size=size,
                interpolation=known.get("interpolation", "bicubic"),
            ),
            projected_width=vision["embed_dim"],
            licence=next((v for k, v in LICENCES.items() if tag.startswith(k)), "unknown"),
            **layers,
        )
        self.grid = (size[0] // stride, size[1] // stride)
        """Of the tokens of the last layers."""

    def hub_file(self) -> HubFile:
        known = clip_tags(self.recipe.name)[self.recipe.tag or OPENAI]
        repository, _, name = str(known.get("hf_hub", "")).rpartition("/")
        if not repository:
            raise WeightsError(
                f"open_clip has no {self.recipe.tag} weights of {self.recipe.name} on the hub: "
                "give a file of them instead"
            )
        return HubFile(repository, (name,) if name else HUB_NAMES)

    @property
    def file_names(self) -> tuple[str, ...]:
        return clip_file_names(self.recipe.name)

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        kept, dropped = split_dropped(tensors, DROPPED)
        tower = {key.removeprefix("visual."): tensor for key, tensor in kept.items()}
        positions = self._positions
        if positions in tower:
            tower[positions] = resize_positions(tower[positions], self.grid, prefix=1)
        return tower, dropped

    _positions: str
    """Name of the position embeddings."""


class ClipViT(ClipBackbone):
    """Layers `block0`, ..., raw as each block leaves them; `final` after the last norm."""

    _positions = "positional_embedding"

    def __init__(self, recipe: Recipe, vision: Mapping[str, Any]) -> None:
        from open_clip.transformer import QuickGELU, VisionTransformer

        width, depth, patch = vision["width"], vision["layers"], vision["patch_size"]
        names = [*(f"block{i}" for i in range(depth)), FINAL]
        super().__init__(
            recipe,
            vision,
            widths=dict.fromkeys(names, width),
            patch_size=patch,
            has_class_token=True,
        )
        self.net: Any = VisionTransformer(
            image_size=self.preprocessing.size,
            patch_size=patch,
            width=width,
            layers=depth,
            heads=width // vision["head_width"],
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            output_dim=vision["embed_dim"],
            act_layer=QuickGELU if self.quick_gelu else nn.GELU,
        )

    @property
    def quick_gelu(self) -> bool:
        return uses_quick_gelu(self.recipe.name, self.recipe.tag or OPENAI)

    def _encode(self, pixels: Tensor, names: Sequence[str]) -> dict[str, LayerFeatures]:
        last = self.num_layers - 1
        wanted = sorted({last if name == FINAL else self.layer_names.index(name) for name in names})
        given = self.net.forward_intermediates(
            pixels,
            indices=wanted,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        layers = dict(
            zip(
                wanted,
                zip(given["image_intermediates"], given["image_intermediates_prefix"], strict=True),
                strict=True,
            )
        )
        found = {
            f"block{index}": self._features(tokens, prefix)
            for index, (tokens, prefix) in layers.items()
        }
        if FINAL in names:
            tokens, prefix = (self.net.ln_post(part) for part in layers[last])
            found[FINAL] = self._features(tokens, prefix, projected=prefix[:, 0] @ self.net.proj)
        return found

    def _features(
        self, tokens: Tensor, prefix: Tensor, projected: Tensor | None = None
    ) -> LayerFeatures:
        return features_of_tokens(
            tokens, prefix, grid=self.grid, has_class_token=True, projected=projected
        )

    def _blocks(self) -> Sequence[nn.Module]:
        return list(self.net.transformer.resblocks)

    def _tail(self) -> Sequence[nn.Module | nn.Parameter]:
        return self.net.ln_post, self.net.proj


class ClipResNet(ClipBackbone):
    """Layers `stem`, `layer1` to `layer4`; the projection of `final` is the attention pool's.

    BatchNorm's statistics and factors are constants, in training too: features of a picture do
    not depend on its batch.
    """

    _positions = "attnpool.positional_embedding"

    def __init__(self, recipe: Recipe, vision: Mapping[str, Any]) -> None:
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.utils import freeze_batch_norm_2d

        width = vision["width"]
        widths = {"stem": width} | {f"layer{i + 1}": width * 4 * 2**i for i in range(4)}
        super().__init__(recipe, vision, widths=widths | {FINAL: widths["layer4"]}, patch_size=32)
        self.net: Any = freeze_batch_norm_2d(
            ModifiedResNet(
                layers=vision["layers"],
                output_dim=vision["embed_dim"],
                heads=width * 32 // vision["head_width"],
                image_size=32,
                width=width,
            )
        )
        channels = widths["layer4"]
        positions = torch.randn(self.grid[0] * self.grid[1] + 1, channels) / channels**0.5
        self.net.attnpool.positional_embedding = nn.Parameter(positions)

    def _encode(self, pixels: Tensor, names: Sequence[str]) -> dict[str, LayerFeatures]:
        # Not through `forward_intermediates`, whose stop_early is inverted for ResNets.
        found: dict[str, LayerFeatures] = {}
        for name in self.layer_names[:-1]:
            pixels = getattr(self.net, name)(pixels)
            if name in names:
                found[name] = features_of_map(pixels)
            if len(found) == len(names):
                return found
        return found | {FINAL: features_of_map(pixels, projected=self.net.attnpool(pixels))}

    def _blocks(self) -> Sequence[nn.Module]:
        net = self.net
        stem = nn.ModuleList([net.conv1, net.bn1, net.conv2, net.bn2, net.conv3, net.bn3])
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4]

    def _tail(self) -> Sequence[nn.Module | nn.Parameter]:
        return (self.net.attnpool,)
