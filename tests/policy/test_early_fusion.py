"""One network that sees all cameras at once: its first convolution (G18), weights, size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbone_fixtures import save
from torch import Tensor, nn

from twin_policy.config import EncoderConfig, PolicyConfig
from twin_policy.diffusion import count_parameters
from twin_policy.encoders import EarlyFusionEncoder, ObsEncoder, create_encoder
from twin_policy.frame_encoder import FrameEncoder
from twin_policy.pretrained import WeightsError

VIEWS = ("left_camera", "right_camera", "head_camera")
SIZE = (32, 48)
CHANNELS = (16, 16, 32, 32)
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {"backbone": "resnet18", "overrides": {"channels": CHANNELS}},
    "resnet18_frozen_bn": {"backbone": "resnet18_frozen_bn", "overrides": {"channels": CHANNELS}},
    "small_cnn": {"backbone": "small_cnn"},
}


def make_encoder(network: str, *, cameras: tuple[str, ...] = VIEWS, **options: Any) -> FrameEncoder:
    """In evaluation mode; `network`: of `NETWORKS`, narrow."""
    torch.manual_seed(0)
    config = EncoderConfig(**{"pooling": "avg", **NETWORKS[network], **options})
    return create_encoder(
        cameras=dict.fromkeys(cameras, SIZE), n_obs_steps=1, state_dim=3, config=config
    ).eval()


def fused(network: str, **options: Any) -> EarlyFusionEncoder:
    encoder = make_encoder(network, early_fusion=True, **options)
    assert isinstance(encoder, EarlyFusionEncoder)
    return encoder


def make_pictures(seed: int, rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (rows, *SIZE, 3), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for an official file: timm's whole key set, every number disturbed."""
    torch.manual_seed(1)
    state = timm.create_model("resnet18", channels=CHANNELS, num_classes=7).state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value += 0.05 * torch.rand_like(value)
            if name.endswith("running_var"):
                value *= 2
    return save(state, tmp_path_factory.mktemp("weights") / "resnet18.safetensors")


def weights_of(network: str, weight_file: Path) -> dict[str, Any]:
    pretrained = network == "resnet18_frozen_bn"
    return {"pretrained_backbone_weights": str(weight_file) if pretrained else None}


def read_same(encoder: FrameEncoder, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Features of a picture in every camera, and what the first convolution makes of it, without
    its bias."""
    seen: list[Tensor] = []
    first = next(m for m in encoder.backbones.modules() if isinstance(m, nn.Conv2d))
    hook = first.register_forward_hook(lambda *parts: seen.append(parts[2].clone()))
    with torch.no_grad():
        features = encoder.encode_frames(dict.fromkeys(encoder.cameras, picture))
        bias = 0 if first.bias is None else first.bias[:, None, None]
    hook.remove()
    return features, seen[0] - bias


@pytest.mark.parametrize("network", NETWORKS)
def test_equal_views_give_what_one_would(network: str, weight_file: Path) -> None:
    """G18, pretrained and from scratch."""
    weights = weights_of(network, weight_file)
    single = make_encoder(network, cameras=("head_camera",), **weights)
    divided = fused(network, **weights)
    copied = fused(network, early_fusion_weights="copied", **weights)
    for encoder in (single, divided, copied):
        encoder.load_pretrained()
    expected, conv = read_same(single, make_pictures(0))
    found, divided_conv = read_same(divided, make_pictures(0))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(divided_conv, conv, atol=1e-5, rtol=1e-5)
    threefold, copied_conv = read_same(copied, make_pictures(0))
    torch.testing.assert_close(copied_conv, 3 * conv, atol=1e-4, rtol=1e-4)
    if network != "resnet18":  # whose GroupNorm takes out any factor
        assert not torch.allclose(threefold, expected, rtol=0.1)


def test_pretrained_weights_are_widened_and_the_others_taken_as_they_are(
    weight_file: Path,
) -> None:
    encoder = fused("resnet18_frozen_bn", pretrained_backbone_weights=str(weight_file))
    identity = encoder.load_pretrained()
    single = make_encoder(
        "resnet18_frozen_bn",
        cameras=("head_camera",),
        shared_backbone=True,
        pretrained_backbone_weights=str(weight_file),
    )
    assert identity == single.load_pretrained()
    assert {"fc.weight", "fc.bias"} <= set(identity["dropped_keys"])
    mine, theirs = (each.backbones["shared"].state_dict() for each in (encoder, single))
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if name == "trunk.conv1.weight":
            for part in mine[name].split(3, dim=1):
                torch.testing.assert_close(part, value / 3)
        else:
            assert torch.equal(mine[name], value), name


def test_every_camera_has_weights_of_its_own(weight_file: Path) -> None:
    """They start alike, so that views may be swapped, and part when they learn."""
    encoder = fused("resnet18_frozen_bn", pretrained_backbone_weights=str(weight_file))
    encoder.load_pretrained()
    views = {camera: make_pictures(seed) for seed, camera in enumerate(VIEWS)}
    swapped = views | {"left_camera": views["right_camera"], "right_camera": views["left_camera"]}

    def encode(images: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return encoder.encode_frames(images)

    torch.testing.assert_close(encode(swapped), encode(views), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-2)
    encoder.train().encode_frames(views).square().mean().backward()
    optimizer.step()
    encoder.eval()
    assert not torch.allclose(encode(swapped), encode(views), atol=1e-4)
    backwards = dict(reversed(views.items()))
    assert torch.equal(encode(backwards), encode(views))


def test_channels_are_in_the_order_of_the_cameras() -> None:
    encoder = fused("small_cnn")
    first = encoder.backbones["shared"].network[0]
    with torch.no_grad():
        first.weight[:, 3:] = 0  # sees the left camera alone
    views = {camera: make_pictures(seed) for seed, camera in enumerate(VIEWS)}
    before = encoder.encode_frames(views)
    for camera in VIEWS:
        changed = encoder.encode_frames(views | {camera: make_pictures(9)})
        assert torch.equal(changed, before) == (camera != "left_camera")


def test_pictures_of_different_sizes_are_refused() -> None:
    cameras = {"left_camera": (32, 48), "head_camera": (64, 96)}
    with pytest.raises(ValueError, match=r"all cameras need one size, and have .*64, 96"):
        PolicyConfig(cameras=cameras, encoder=EncoderConfig(early_fusion=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "clip_vit_b32"}, "set backbone to resnet18, .*backbone is clip_vit_b32"),
        ({"pooling": "grid"}, "pooling to spatial_softmax or avg .*pooling grid"),
        ({"layer": "layer1"}, "layer layer1"),
        ({"resize_shape": (64, 64)}, r"resize_shape \(64, 64\)"),
        ({"shared_backbone": False}, "shared_backbone must not be false"),
    ],
)
def test_only_a_convolutional_backbone_can_be_widened(
    options: dict[str, Any], message: str
) -> None:
    small = {"width": 64, "layers": 3, "head_width": 16, "embed_dim": 32}
    if "backbone" in options:
        options = options | {"overrides": small, "pooling": "class_token", "tuning": "full"}
    with pytest.raises(ValueError, match=message):
        fused("small_cnn", **options)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save({"conv1.weight": torch.zeros(16, 3, 7, 7)}, tmp_path / "broken.safetensors")
    encoder = fused("resnet18_frozen_bn", pretrained_backbone_weights=str(path))
    with pytest.raises(WeightsError):
        encoder.load_pretrained()


def test_a_frozen_one_stays_as_it_was_loaded(weight_file: Path) -> None:
    encoder = fused(
        "resnet18_frozen_bn", pretrained_backbone_weights=str(weight_file), tuning="frozen"
    )
    encoder.load_pretrained()
    assert not any(each.requires_grad for each in encoder.backbones.parameters())


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"shared_backbone": False}, 33_529_536),
        ({"shared_backbone": True}, 11_176_512),
        ({"early_fusion": True}, 11_195_328),
    ],
)
def test_sizes_of_the_real_one(options: dict[str, Any], count: int) -> None:
    """Seed 004 says 33.39 M before and 11.39 M after, with heads: its saving of two thirds, not
    its sum. One backbone for all pictures saves as much."""
    config = EncoderConfig(pooling="avg", **options)
    with torch.device("meta"):
        encoder = create_encoder(
            cameras=dict.fromkeys(VIEWS, (224, 224)), n_obs_steps=1, state_dim=14, config=config
        )
    assert isinstance(encoder, ObsEncoder)
    assert count_parameters(encoder.backbones) == count
    assert 1 - count / 33_529_536 == pytest.approx(0 if count > 2e7 else 2 / 3, abs=1e-3)
