"""Weights of backbones: parity with open_clip and timm, from each kind of file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbone_fixtures import (
    CLIP_SIZES,
    CLIP_VIT,
    CONVNEXT,
    VIT,
    load_clip,
    make_clip,
    make_images,
    make_tower,
    perturb,
    rounded_to_half,
    save,
)
from torch import Tensor, nn

from twin_policy.backbones import FINAL, WeightsError, registry

FILES = ("open_clip_model.safetensors", "tower.pt", "tower.pth", "model.bin", "any.jit.pt")
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).reshape(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).reshape(3, 1, 1)


def same(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module", params=CLIP_SIZES)
def clip(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, make_clip(CLIP_SIZES[request.param], quick_gelu=True)


# Parity with open_clip


@pytest.mark.parametrize("file", FILES)
def test_clip_computes_what_open_clip_computes(
    clip: tuple[str, Any], file: str, tmp_path: Path
) -> None:
    name, model = clip
    path = save(model.state_dict(), tmp_path / "CLIP.openai" / file)
    reference = rounded_to_half(model) if "jit" in file else model
    tower = load_clip(name, path)
    images = make_images(size=(64, 64))
    pixels = (images - MEAN) / STD
    with torch.no_grad():
        embedded = reference.encode_image(pixels)
        inner = reference.visual.forward_intermediates(pixels)["image_intermediates"]
        found = tower.encode(images, tower.layer_names)
    same(found[FINAL].projected, embedded)
    assert len(inner) == tower.num_layers
    for layer, expected in zip(tower.layer_names, inner, strict=False):
        same(found[layer].tokens, expected.flatten(2).transpose(1, 2))
    assert tower.identity is not None
    assert tower.identity.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tower.identity.tag, tower.identity.licence) == ("openai", "MIT")
    assert tower.identity.quick_gelu is (True if name == "clip_vit_b32" else None)
    dropped = tower.identity.dropped
    assert "token_embedding.weight" in dropped["text tower"]
    assert dropped["contrastive loss"] == ["logit_scale"]
    assert ("shapes of TorchScript" in dropped) == ("jit" in file)


def test_clips_class_token_of_a_middle_layer(tmp_path: Path) -> None:
    model = make_clip(CLIP_SIZES["clip_vit_b32"], quick_gelu=True)
    tower = load_clip("clip_vit_b32", save(model.state_dict(), tmp_path / "x.jit.pt"))
    images = make_images(size=(64, 64))
    with torch.no_grad():
        given = rounded_to_half(model).visual.forward_intermediates(
            (images - MEAN) / STD, indices=[1], output_extra_tokens=True
        )
        found = tower.encode(images, [1])["block1"]
    same(found.class_token, given["image_intermediates_prefix"][0][:, 0])
    assert found.projected is None


def test_positions_are_resized_as_open_clip_resizes_them(tmp_path: Path) -> None:
    from open_clip.model import resize_pos_embed

    vision = CLIP_SIZES["clip_vit_b32"] | {"patch_size": 16}
    model = make_clip(vision, quick_gelu=True)
    path = save(model.state_dict(), tmp_path / "openai" / "a.safetensors")
    wide = make_clip(vision | {"image_size": (48, 96)}, quick_gelu=True)
    tensors = model.state_dict()
    resize_pos_embed(tensors, wide)
    wide.load_state_dict(tensors)
    tower = registry.create("ViT-B/32", weights=str(path), overrides=vision, size=(48, 96)).eval()
    images = make_images(size=(48, 96))
    with torch.no_grad():
        found = tower.encode(images)[FINAL]
        same(found.projected, wide.encode_image((images - MEAN) / STD))
    assert found.grid == (3, 6)


def test_positions_in_half_precision_are_resized_in_float(tmp_path: Path) -> None:
    """An antialiased bicubic resize in bfloat16 loses what the file still has."""
    vision = CLIP_SIZES["clip_vit_b32"] | {"patch_size": 16}
    tensors = {k: v.bfloat16() for k, v in make_clip(vision, quick_gelu=True).state_dict().items()}
    path = save(tensors, tmp_path / "openai" / "half.safetensors")
    exact = save({k: v.float() for k, v in tensors.items()}, tmp_path / "openai" / "b.safetensors")
    half, full = (
        registry.create("ViT-B/32", weights=str(file), overrides=vision, size=(96, 48))
        for file in (path, exact)
    )
    assert half.dtype == torch.float32
    for name, value in full.network.state_dict().items():
        assert torch.equal(half.network.state_dict()[name], value)


def test_a_resnet_takes_other_sizes() -> None:
    vision = CLIP_SIZES["clip_rn50"]
    tower = make_tower("clip_rn50", overrides=vision, size=(64, 128))
    features = tower.encode(make_images())[FINAL]
    assert features.grid == (2, 4)
    assert tower.network.state_dict()["attnpool.positional_embedding"].shape == (9, 512)


# QuickGELU and tags


@pytest.mark.parametrize(
    ("name", "tag", "quick"),
    [
        ("ViT-B/32", "openai", True),
        ("ViT-B/32", "laion2b_s34b_b79k", False),
        ("ViT-B/32", "laion400m_e32", True),
        ("ViT-B/16", "laion400m_e32", False),
        ("ViT-B/16", "metaclip_400m", True),
        ("ViT-L/14", "laion2b_s32b_b82k", False),
        ("ViT-L/14", "dfn2b", True),
    ],
)
def test_quick_gelu_is_told_by_the_tag(name: str, tag: str, quick: bool) -> None:
    from open_clip.transformer import QuickGELU

    recipe = registry.recipe(name, tag=tag, overrides=CLIP_VIT)
    tower = registry.build(recipe)
    kinds = {type(m) for m in tower.modules() if isinstance(m, QuickGELU | nn.GELU)}
    assert kinds == {QuickGELU if quick else nn.GELU}
    assert tower.quick_gelu is quick


@pytest.mark.parametrize(
    ("place", "tag"),
    [
        ("ViT-B-32.pt.jit.pt", "openai"),
        ("vit_base_patch32_clip_224.openai/open_clip_model.safetensors", "openai"),
        ("CLIP-ViT-B-32-laion2B-s34B-b79K/open_clip_model.safetensors", "laion2b_s34b_b79k"),
        ("weights/vit_b_32-laion2b_e16-af8dbd0c.pth", "laion2b_e16"),
    ],
)
def test_a_files_place_tells_its_tag(place: str, tag: str, tmp_path: Path) -> None:
    path = save({"logit_scale": torch.zeros(1)}, tmp_path / place)
    assert registry.recipe("ViT-B/32", weights=str(path)).tag == tag


def test_a_file_of_unknown_tag_is_refused_until_told(tmp_path: Path) -> None:
    model = make_clip(CLIP_SIZES["clip_vit_b32"], quick_gelu=False)
    path = save(model.state_dict(), tmp_path / "mine" / "clip.pt")
    with pytest.raises(WeightsError, match=r"whether they need QuickGELU: give their tag, one of"):
        load_clip("clip_vit_b32", path)
    tower = load_clip("clip_vit_b32", path, tag="laion2b_s34b_b79k")
    images = make_images(size=(64, 64))
    with torch.no_grad():
        same(tower.encode(images)[FINAL].projected, model.encode_image((images - MEAN) / STD))


def test_tags_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = save({"logit_scale": torch.zeros(1)}, tmp_path / "any.jit.pt")
    with pytest.raises(WeightsError, match=r"laion2b_e16 \(tag\) and openai \(weights\)"):
        registry.recipe("ViT-B/32", weights=str(path), tag="laion2b_e16")
    with pytest.raises(WeightsError, match=r"augreg_in21k \(the name\) and augreg_in1k \(weights"):
        registry.recipe("timm:vit_base_patch16_224.augreg_in21k", weights="hub:augreg_in1k")
    with pytest.raises(WeightsError, match="did you mean 'openai'"):
        registry.recipe("ViT-B/32", weights="hub:openia")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ViT-B/32", "hub", "The tag decides QuickGELU"),
        ("timm:vit_base_patch16_clip_quickgelu_224", "hub", r"write timm:.*TAG, with one of"),
        ("timm:vit_base_patch32_clip_224.openai", "hub", "take timm:vit_base_patch32_clip_quickg"),
    ],
)
def test_weights_are_not_guessed(name: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        registry.recipe(name, weights=weights)


# timm and DINOv3


VIT_NAME = "timm:vit_base_patch32_clip_quickgelu_224.openai"


def make_timm(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    net = timm.create_model(name, **options)
    perturb(net)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (VIT_NAME, VIT | {"img_size": 64}),
        ("timm:vit_base_patch16_siglip_224.webli", VIT | {"img_size": 32}),
        ("timm:convnext_tiny.fb_in22k", dict(CONVNEXT)),
    ],
)
def test_timm_computes_what_timm_computes(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    net = make_timm(name.removeprefix("timm:").partition(".")[0], num_classes=10, **options)
    path = save(net.state_dict(), tmp_path / "model.safetensors")
    side = options.pop("img_size", 64)
    tower = registry.create(name, weights=str(tmp_path), overrides=options, size=(side, side))
    tower.eval()
    images = make_images(size=(side, side))
    blocks: list[Tensor] = []
    for block in getattr(net, "blocks", None) or net.stages:
        block.register_forward_hook(lambda _, __, output: blocks.append(output))
    with torch.no_grad():
        features = net.forward_features(tower.preprocessing(images))
        pooled = net.forward_head(features, pre_logits=True)
        found = tower.encode(images, tower.layer_names)
    same(found[FINAL].pooled, pooled)
    for layer, raw in zip(tower.layer_names, blocks, strict=False):
        if raw.ndim == 4:
            same(found[layer].tokens, raw.flatten(2).transpose(1, 2))
        else:
            same(found[layer].tokens, raw[:, 1:] if tower.has_class_token else raw)
    if tower.has_class_token:
        same(found[FINAL].class_token, features[:, 0])
        same(found[FINAL].tokens, features[:, 1:])
    assert tower.identity is not None
    assert tower.identity.file == path.name
    assert tower.identity.licence != "none"


def test_a_clip_without_a_whole_qkv_is_refused_by_timms_door_too(tmp_path: Path) -> None:
    """Without a classifier timm itself loads such a file in silence."""
    net = make_timm("vit_base_patch32_clip_quickgelu_224", num_classes=16, img_size=64, **VIT)
    tensors = net.state_dict()
    del tensors["blocks.1.attn.qkv.weight"]
    path = save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 tensors are missing \['blocks.1.attn.qkv.weight'\]"):
        registry.create(VIT_NAME, weights=str(path), overrides=VIT, size=(64, 64))


def as_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in tensors.items():
        key = re.sub(r"gamma_(\d)", r"ls\1.gamma", key).replace("reg_token", "storage_tokens")
        renamed[key] = value
        if key.endswith("qkv.weight"):
            bias = torch.zeros(len(value))
            bias[len(value) // 3 : 2 * len(value) // 3] = torch.nan
            renamed[key.replace("weight", "bias")] = bias
            renamed[key.replace("weight", "bias_mask")] = torch.ones(len(value))
    return renamed | {"mask_token": torch.ones(1, 64), "rope_embed.periods": torch.ones(4)}


def as_hugging_face(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = {
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "patch_embed.proj": "embeddings.patch_embeddings",
        "attn.proj": "attention.o_proj",
        "fc1": "up_proj",
        "fc2": "down_proj",
        "gamma_1": "layer_scale1.lambda1",
        "gamma_2": "layer_scale2.lambda1",
    }
    renamed = {"embeddings.mask_token": torch.ones(1, 1, 64)}
    for key, value in tensors.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if key.startswith("blocks."):
            key = prefix + key.replace("blocks.", "layer.")
        if "qkv" in key:
            for part, weight in zip("qkv", value.chunk(3), strict=True):
                name = key.replace("attn.qkv", f"attention.{part}_proj")
                renamed[name] = weight
                if part != "k":
                    renamed[name.replace("weight", "bias")] = torch.zeros(len(weight))
        else:
            renamed[key] = value
    return renamed


@pytest.fixture(scope="module")
def dinov3() -> Any:
    return make_timm("vit_base_patch16_dinov3", num_classes=0, global_pool="token", **VIT)


@pytest.mark.parametrize("names", ["timm", "meta", "layer.", "model.layer."])
def test_dinov3_by_every_name(dinov3: Any, names: str, tmp_path: Path) -> None:
    tensors = dinov3.state_dict()
    if names == "meta":
        file = save(as_meta(tensors), tmp_path / "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth")
    else:
        if "layer" in names:
            tensors = as_hugging_face(tensors, names.removesuffix("layer."))
        file = save(tensors, tmp_path / "model.safetensors")
    tower = registry.create(
        "dinov3_vit_b16", weights=str(tmp_path), overrides=VIT, size=(32, 48)
    ).eval()
    images = make_images(size=(32, 48))
    with torch.no_grad():
        expected = dinov3.forward_features(tower.preprocessing(images))
        found = tower.encode(images)[FINAL]
    same(found.class_token, expected[:, 0])
    same(found.pooled, expected[:, 0])
    same(found.registers, expected[:, 1:5])
    same(found.tokens, expected[:, 5:])
    assert tower.identity is not None
    assert (tower.identity.file, tower.identity.licence) == (file.name, "dinov3-license")
    assert ("biases that are zero" in tower.identity.dropped) == (names != "timm")


def test_a_bias_that_is_not_zero_is_not_dropped(dinov3: Any, tmp_path: Path) -> None:
    tensors = as_hugging_face(dinov3.state_dict(), "")
    tensors["layer.1.attention.v_proj.bias"][0] = 1
    path = save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.v_proj\.bias is not zero"):
        registry.create("dinov3_vit_b16", weights=str(path), overrides=VIT)
