"""The contract of every backbone, and what each kind promises besides."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import torch
from backbone_fixtures import CLIP_RN, CLIP_VIT, CONVNEXT, TOWERS, VIT, make_images, make_tower
from torch import Tensor, nn

from twin_policy.backbones import FINAL, LayerFeatures, Recipe, VisionBackbone, registry
from twin_policy.backbones.protocol import READOUTS


@pytest.fixture(scope="module", params=TOWERS)
def tower(request: pytest.FixtureRequest) -> VisionBackbone:
    return make_tower(request.param)


def close(found: LayerFeatures, expected: LayerFeatures, tolerance: float) -> None:
    assert found.grid == expected.grid
    for part in ("tokens", "class_token", "registers", "pooled", "projected"):
        mine, theirs = getattr(found, part), getattr(expected, part)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


def test_every_entry_is_under_contract() -> None:
    assert set(registry.names()) <= set(TOWERS)


def test_shapes_and_widths_are_as_announced(tower: VisionBackbone) -> None:
    given = tower.encode(make_images(), tower.layer_names)
    assert tuple(given) == tower.layer_names
    assert tower.layer_names[-1] == FINAL
    assert tower.num_layers == len(given) - 1
    for name, features in given.items():
        height, width = features.grid
        assert features.tokens.shape == (2, height * width, tower.width(name))
        assert features.registers.shape == (2, tower.num_registers, tower.width(name))
        for readout in READOUTS:
            try:
                channels = tower.width(name, readout)
            except ValueError:
                with pytest.raises(ValueError, match="there is no"):
                    features.readout(readout)
                continue
            found = features.readout(readout)
            assert found.shape[-1] == channels
            assert found.dtype == torch.float32
            assert torch.isfinite(found).all()
    size = tower.preprocessing.size
    if size is not None:
        assert given[FINAL].grid == tuple(side // tower.patch_size for side in size)


def test_several_layers_at_once_are_those_taken_one_at_a_time(tower: VisionBackbone) -> None:
    images = make_images()
    together = tower.encode(images, tower.layer_names)
    for number, name in enumerate(tower.layer_names[:-1]):
        for layer in (name, number, number - tower.num_layers):
            (alone,) = tower.encode(images, [layer]).values()
            close(alone, together[name], 1e-5)
    backwards = tower.encode(images, [FINAL, 0, tower.layer_names[0]])
    assert tuple(backwards) == (FINAL, tower.layer_names[0])
    close(backwards[FINAL], together[FINAL], 1e-5)


def test_a_picture_does_not_depend_on_its_batch(tower: VisionBackbone) -> None:
    images = make_images(3)
    layers = [0, FINAL]
    together = tower.encode(images, layers)
    alone = tower.encode(images[1:2], layers)
    for name, features in alone.items():
        for mine, theirs in (
            (features.tokens, together[name].tokens[1:2]),
            (features.pooled, together[name].pooled[1:2]),
        ):
            assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_tokens_are_row_by_row(tower: VisionBackbone) -> None:
    """What is black on the left shows as a difference between columns, not between rows."""
    size = tower.preprocessing.size or (64, 96)
    images = torch.ones((1, 3, *size))
    images[..., : size[1] // 2] = 0
    (plain,) = tower.encode(torch.ones_like(images), [0]).values()
    (changed,) = tower.encode(images, [0]).values()
    height, width = plain.grid
    assert (height, width) != (width, height)
    moved = (changed.tokens - plain.tokens).abs().sum(-1).reshape(height, width)
    assert moved.mean(dim=0).std() > 2 * moved.mean(dim=1).std()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide 8-bit pictures by 255"),
        (torch.full((1, 3, 8, 8), 255.0), r"got values from 255 to 255: divide"),
        (torch.full((1, 3, 8, 8), -1.0), "leave the normalisation to the backbone"),
        (torch.full((1, 3, 8, 8), torch.nan), "got values from nan"),
        (torch.zeros(1, 8, 8, 3), "permute"),
        (torch.zeros(3, 8, 8), r"\(B, 3, H, W\)"),
    ],
)
def test_other_pictures_are_refused(tower: VisionBackbone, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tower.encode(images)


def test_layers_that_are_not_there_are_refused(tower: VisionBackbone) -> None:
    count = tower.num_layers
    for wrong in (count, -count - 1, True):
        with pytest.raises(ValueError, match=rf"numbered 0 to {count - 1}.* got {wrong}"):
            tower.encode(make_images(), [wrong])
    with pytest.raises(ValueError, match=r"unknown layer of .*'finale'; did you mean 'final'"):
        tower.encode(make_images(), ["finale"])
    with pytest.raises(ValueError, match="no layers asked"):
        tower.encode(make_images(), [])


def test_gradients_flow_where_asked(tower: VisionBackbone) -> None:
    def learning() -> set[str]:
        tower.network.zero_grad(set_to_none=True)
        features = tower.encode(make_images(), tower.layer_names)[FINAL]
        parts = [features.pooled, features.tokens, features.projected]
        total = sum(part.square().mean() for part in parts if part is not None)
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
        return {name for name, p in tower.network.named_parameters() if p.grad is not None}

    try:
        every = learning()
        assert every == {name for name, _ in tower.network.named_parameters()}
        tower.freeze(last_trainable=1)
        some = learning()
        assert some
        assert some < every
        tower.freeze()
        assert not learning()
        tower.thaw()
        assert learning() == every
        with pytest.raises(ValueError, match="layers to train, and got 99"):
            tower.freeze(last_trainable=99)
    finally:
        tower.thaw()
        tower.eval()
        tower.network.zero_grad(set_to_none=True)


def test_a_frozen_backbone_stays_in_evaluation_and_repeats_itself(tower: VisionBackbone) -> None:
    images = make_images()
    with torch.no_grad():
        before = tower.encode(images)[FINAL].pooled
        tower.freeze()
        tower.train()
        assert not any(module.training for module in tower.network.modules())
        assert torch.equal(tower.encode(images)[FINAL].pooled, before)
    tower.thaw()
    assert all(module.training for module in tower.network.modules())
    tower.eval()


def test_shallow_layers_cost_no_deep_ones(tower: VisionBackbone) -> None:
    blocks, calls = tower._blocks(), []
    last = next(part for part in blocks[-1].modules() if not isinstance(part, nn.ModuleList))
    handle = last.register_forward_hook(lambda *_: calls.append(1))
    tower.encode(make_images(), [0])
    assert not calls
    tower.encode(make_images(), [0, FINAL])
    handle.remove()
    assert calls == [1]


def test_a_backbone_says_what_it_is(tower: VisionBackbone) -> None:
    told = json.loads(json.dumps(tower.describe()))
    assert told["weights"]["source"] in ("random weights", "from scratch")
    assert (told["weights"]["source"] == "random weights") == (
        TOWERS[tower.recipe.name].get("weights") == "random"
    )
    assert told["weights"]["sha256"] is None
    assert len(told["preprocessing"]["mean"]) == 3
    first = tower.fingerprint()
    assert tower.fingerprint() == first
    parameter = next(tower.network.parameters())
    with torch.no_grad():
        parameter += 1e-3
        changed = tower.fingerprint()
        parameter -= 1e-3
    assert changed != first


def test_its_recipe_and_state_rebuild_it(tower: VisionBackbone) -> None:
    stored = json.loads(json.dumps(tower.describe()))["recipe"]
    again = registry.build(Recipe(**stored)).eval()
    again.load_state_dict(tower.state_dict())
    close(again.encode(make_images())[FINAL], tower.encode(make_images())[FINAL], 1e-6)


def test_bfloat16_comes_close(tower: VisionBackbone) -> None:
    with torch.no_grad():
        exact = tower.encode(make_images())[FINAL].pooled
        tower.prepare_inference(torch.bfloat16)
        rounded = tower.encode(make_images())[FINAL].pooled
        tower.prepare_inference(torch.float32)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


# Names, sizes and normalisation


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ViT-B/32", "clip_vit_b32"),
        ("ViT-L/14", "clip_vit_l14"),
        ("ViT-B-16", "clip_vit_b16"),
        ("RN50", "clip_rn50"),
    ],
)
def test_clips_are_known_by_their_other_names(spelling: str, name: str) -> None:
    assert registry.recipe(spelling, weights="random").name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_vit_b31", "did you mean 'clip_vit_b32'"),
        ("ViT-B/33", "did you mean 'ViT-B/32'"),
        ("timm:vit_base_patch16_225", "did you mean 'vit_base_patch16_224'"),
        ("timm:vit_base_patch16_224.augreg", "did you mean 'augreg2_in21k_ft_in1k'|'augreg_in1k'"),
    ],
)
def test_an_unknown_backbone_is_told_its_neighbour(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.recipe(name, weights="random")


def test_timms_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="is a ResNet, and TwinBench takes"):
        registry.create("timm:test_resnet", weights="random")


def test_normalisation_is_that_of_the_weights() -> None:
    def mean(name: str, overrides: dict[str, Any], **options: Any) -> tuple[float, ...]:
        made = registry.build(registry.recipe(name, overrides=overrides, **options))
        return made.preprocessing.mean

    imagenet, clip = (0.485, 0.456, 0.406), (0.48145466, 0.4578275, 0.40821073)
    assert mean("ViT-B/32", CLIP_VIT) == mean("RN50", CLIP_RN, tag="openai") == clip
    assert mean("ViT-L/14", CLIP_VIT, tag="laion2b_s32b_b82k") == (0.5, 0.5, 0.5)
    assert mean("dinov3_vit_b16", VIT) == imagenet
    assert mean("timm:vit_base_patch16_224.augreg_in21k", VIT) == (0.5, 0.5, 0.5)
    assert mean("ViT-B/32", CLIP_VIT, image_normalization="imagenet") == imagenet
    assert mean("timm:convnext_tiny.fb_in22k", CONVNEXT, image_normalization="clip") == clip
    with pytest.raises(ValueError, match=r"did you mean 'imagenet'.*or 'native'"):
        mean("ViT-B/32", CLIP_VIT, image_normalization="imagnet")


def test_normalisation_and_resize_are_applied_by_the_backbone() -> None:
    tower = make_tower("clip_vit_b16")
    images = make_images(size=(64, 96))
    small = nn.functional.interpolate(images, (32, 48), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(
        tower.encode(images)[FINAL].pooled, tower.encode(small)[FINAL].pooled
    )
    mean, std = (
        torch.tensor(value).reshape(3, 1, 1)
        for value in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    torch.testing.assert_close(tower.preprocessing(small), (small - mean) / std)


@pytest.mark.parametrize(
    ("name", "overrides", "patch"),
    [
        ("clip_vit_b16", CLIP_VIT, 16),
        ("dinov3_vit_b16", VIT, 16),
        ("timm:convnext_tiny", CONVNEXT, 32),
    ],
)
def test_patches_must_divide_the_size(name: str, overrides: dict[str, Any], patch: int) -> None:
    with pytest.raises(ValueError, match=rf"multiple of {patch}, and is \(40, 64\)"):
        registry.create(name, weights="random", overrides=overrides, size=(40, 64))


def test_a_mistyped_override_is_told_its_neighbour() -> None:
    with pytest.raises(ValueError, match="did you mean 'width'"):
        registry.create("ViT-B/32", weights="random", overrides={"witdh": 64})


# Full size, on the meta device


@pytest.mark.parametrize(
    ("name", "told", "million", "tensors", "digest"),
    [
        ("clip_vit_b32", (12, 768, 512, 224, 7), 87.8, 152, "1567832d23b04aaa"),
        ("clip_vit_b16", (12, 768, 512, 224, 14), 86.2, 152, "40a1988c8defc587"),
        ("clip_vit_l14", (24, 1024, 768, 224, 16), 304.0, 296, "48a84c57b38eefe1"),
        ("clip_rn50", (5, 2048, 1024, 224, 7), 38.4, 284, "2ed26110d751101a"),
        ("dinov3_vit_b16", (12, 768, None, 256, 16), 85.6, 162, "3832cceb2df4ed8d"),
    ],
)
def test_full_size_names_and_shapes(
    name: str, told: tuple[Any, ...], million: float, tensors: int, digest: str
) -> None:
    """Of official files: they change only if open_clip's or timm's names do."""
    with torch.device("meta"):
        tower = registry.build(registry.recipe(name))
    size, grid = tower.preprocessing.size, tower.grid
    assert told == (tower.num_layers, tower.width(), tower.projected_width, size[0], grid[1])
    shapes = {key: tuple(value.shape) for key, value in tower.net.state_dict().items()}
    count = sum(value.numel() for value in tower.net.state_dict().values())
    hashed = hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:16]
    assert (round(count / 1e6, 1), len(shapes), hashed) == (million, tensors, digest)
