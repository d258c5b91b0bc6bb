"""clip_dp: the guide's names and numbers, towers in the encoder, what learns, what deploys."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from backbone_fixtures import CLIP_SIZES, CLIP_VIT, make_clip, perturb
from backbone_fixtures import save as save_file
from policy_fixtures import CAMERAS, DIM, make_batch, make_config, make_observation, make_policy
from test_agent import act
from test_checkpoint import save
from torch import nn

from twin_policy import deploy
from twin_policy.agent import Agent
from twin_policy.backbones import WeightsError, registry
from twin_policy.checkpoint import load_checkpoint
from twin_policy.config import EncoderConfig, PolicyConfig
from twin_policy.diffusion import DiffusionPolicy, count_parameters
from twin_policy.encoders import ObsEncoder, check_encoder
from twin_policy.parsing import ConfigError, parse, plain, read_yaml
from twin_policy.pretrained import resolve
from twin_policy.seed_names import CLIP_NAMES

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "backbone": "ViT-B/32",
    "overrides": CLIP_VIT,
    "resize_shape": (64, 96),
    "pretrained_backbone_weights": "random",
    "layer": 1,
    "pooling": "class_token",
    "feature_dim": 16,
}
needs_peft = pytest.mark.skipif(
    not (importlib.util.find_spec("peft") and importlib.util.find_spec("transformers")),
    reason="peft is not installed",
)


def read(**values: Any) -> EncoderConfig:
    return parse(EncoderConfig, values, source="clip.yaml", prefix="policy.encoder")


def tower_config(**options: Any) -> PolicyConfig:
    return dataclasses.replace(make_config(), encoder=EncoderConfig(**SMALL | options))


def tower_policy(**options: Any) -> DiffusionPolicy:
    policy = make_policy(tower_config(**options))
    for backbone in policy.encoder.backbones.values():
        perturb(backbone)
    return policy


def digest(module: nn.Module) -> str:
    hashed = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hashed.update(name.encode() + value.detach().numpy().tobytes())
    return hashed.hexdigest()


def train(policy: DiffusionPolicy, steps: int = 3) -> None:
    policy.train()
    learning = [value for value in policy.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(policy.config, 2)
    for _ in range(steps):
        optimizer.zero_grad()
        policy.compute_loss(batch, generator).backward()
        optimizer.step()


# The guide's names and numbers


def test_three_cameras_of_512_and_14_joints_are_1550() -> None:
    config = parse(
        PolicyConfig, read_yaml(ROOT / "task_configs" / "policies" / "clip_dp.yaml")["policy"],
        source="clip_dp.yaml",
    )  # fmt: skip
    # On the meta device the full-size network costs nothing.
    for steps in (1, config.n_obs_steps):
        with torch.device("meta"):
            encoder = ObsEncoder(
                cameras=config.cameras, n_obs_steps=steps, state_dim=14, config=config.encoder
            )
        assert (encoder.step_dim, encoder.dim) == (1550, steps * 1550)
    assert list(encoder.backbones) == ["shared"]
    assert {adapter.in_features for adapter in encoder.adapters.values()} == {768}
    assert 85e6 < count_parameters(encoder.backbones) < 90e6
    assert not any(value.requires_grad for value in encoder.backbones.parameters())


def test_the_guides_defaults() -> None:
    config = read(clip_model_name="ViT-B/32")
    expected = {
        "backbone": "ViT-B/32",
        "layer": 11,
        "pooling": "class_token",
        "feature_dim": 512,
        "tuning": "frozen",
        "resize_shape": (224, 224),
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.image_normalization is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"clip_layer": 9, "feature_dim": 256}, {"layer": 9, "feature_dim": 256}),
        ({"use_final_features": True}, {"layer": "final", "pooling": "projected"}),
        ({"use_final_features": True, "clip_layer": 3}, {"layer": "final"}),
        ({"freeze_clip": False}, {"tuning": "full"}),
        ({"freeze_clip": False, "tuning": None}, {"tuning": "full"}),
        ({"freeze_clip": False, "tuning": "last_blocks"}, {"tuning": "last_blocks"}),
        ({"freeze_clip": True, "tuning": "lora"}, {"tuning": "lora"}),
        ({"imagenet_norm": True, "clip_layer": 1}, {"image_normalization": "imagenet"}),
        ({"clip_layer": 1, "pooling": "grid"}, {"pooling": "grid", "backbone": "ViT-B/32"}),
        ({"clip_layer": None, "backbone": "resnet18"}, {"backbone": "resnet18", "layer": "final"}),
    ],
)
def test_what_the_guides_names_mean(values: dict[str, Any], expected: dict[str, Any]) -> None:
    config = read(**values)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_layr": 3}, r"'policy\.encoder' 'clip_layr'; did you mean 'clip_layer'"),
        ({"clip_model_name": "ViT-B/23"}, "'ViT-B/23'; did you mean 'ViT-B/32'"),
        ({"clip_layer": 3, "layer": 4}, "clip_layer and layer are two names for one thing"),
        ({"clip_model_name": "RN50", "backbone": "x"}, "two names"),
        ({"freeze_clip": "yes"}, "true or false, and is 'yes'"),
        ({"freeze_clip": True, "tuning": "full"}, "set freeze_clip to false"),
        ({"use_final_features": True, "pooling": "avg"}, "use_final_features means"),
        ({"tuning": "frosen"}, "did you mean 'frozen'"),
        ({"layer": 1.5}, "'policy.encoder.layer' must be int or str, and is 1.5"),
        ({"adapter": "linear"}, "adapter linear needs a feature_dim"),
        ({"lora": {"rank": 0}}, "a rank of at least 1"),
        ({"resize_shape": [0, 4]}, "resize_shape needs a height"),
    ],
)
def test_a_fault_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**values)


def test_the_guides_models_are_the_registrys() -> None:
    for name in CLIP_NAMES:
        assert registry.recipe(name).name.startswith("clip_")


# Towers in the encoder


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"feature_dim": None}, 64),
        ({"feature_dim": 64}, 64),
        ({"feature_dim": 64, "adapter": "linear"}, 64),
        ({"layer": "final", "pooling": "projected"}, 16),
        ({"pooling": "avg", "layer": "block0", "feature_dim": None}, 64),
        ({"pooling": "grid", "grid_size": (1, 2), "feature_dim": None}, 128),
        ({"pooling": "spatial_softmax", "feature_dim": None}, 64),
        ({"backbone": "RN50", "overrides": {"width": 16, "layers": [1, 1, 1, 1], "embed_dim": 32},
          "layer": "final", "pooling": "projected"}, 16),
        ({"backbone": "timm:vit_base_patch16_224", "overrides": {"embed_dim": 64, "depth": 3,
          "num_heads": 4}, "resize_shape": (32, 48)}, 16),
        ({"backbone": "small_cnn", "overrides": {}, "layer": "layer1", "pooling": "avg"}, 16),
        ({"backbone": "small_cnn", "overrides": {}, "layer": "final", "pooling": "avg",
          "resize_shape": None}, 16),
    ],
)  # fmt: skip
def test_any_backbone_layer_and_readout(options: dict[str, Any], width: int) -> None:
    if options.get("backbone") == "small_cnn":
        options = options | {"pretrained_backbone_weights": None}
    policy = make_policy(tower_config(**options)).eval()
    encoder = policy.encoder
    assert encoder.widths == dict.fromkeys(CAMERAS, width)
    linear = options.get("adapter") == "linear" or options.get("feature_dim", 16) == 16
    assert bool(encoder.adapters) is linear
    batch = make_batch(policy.config, 2)
    frames = {camera: images.flatten(0, 1) for camera, images in batch.images.items()}
    with torch.no_grad():
        whole = encoder(batch.images, batch.state)
        kept = encoder.read_frames(frames)
        features = encoder.reduce(kept).unflatten(0, (2, 3))
        assert whole.shape == (2, encoder.dim)
        torch.testing.assert_close(encoder.condition(features, batch.state), whole)


def test_a_grid_finer_than_the_tokens() -> None:
    policy = make_policy(tower_config(pooling="grid", grid_size=(3, 3)))
    with pytest.raises(ValueError, match="at most the layer's tokens, 2x3, and is 3x3"):
        policy.compute_loss(make_batch(policy.config, 1), torch.Generator())


def test_a_frozen_tower_is_shared() -> None:
    with pytest.raises(ValueError, match=r"same for every camera: set .*shared_backbone to true"):
        make_policy(tower_config(shared_backbone=False))
    apart = make_policy(tower_config(shared_backbone=False, tuning="full"))
    assert len(apart.encoder.backbones) == 2


def test_changed_colours_stay_in_range() -> None:
    policy = tower_policy(color_jitter=0.9, crop_ratio=0.8).train()
    loss = policy.compute_loss(make_batch(policy.config, 2), torch.Generator().manual_seed(0))
    assert loss.isfinite()


def test_the_normalisation_matters() -> None:
    frames = {c: images[0] for c, images in make_batch(make_config(), 1).images.items()}
    with torch.no_grad():
        native, imagenet = (
            tower_policy(image_normalization=name).encoder.encode_frames(frames)
            for name in (None, "imagenet")
        )
    assert (native - imagenet).abs().max() > 1e-3


# What learns


def test_a_frozen_tower_stays_as_it_is() -> None:
    policy = tower_policy()
    before, adapters = digest(policy.encoder.backbones), digest(policy.encoder.adapters)
    train(policy)
    assert not any(module.training for module in policy.encoder.backbones.modules())
    assert digest(policy.encoder.backbones) == before
    assert digest(policy.encoder.adapters) != adapters
    assert all(value.grad is None for value in policy.encoder.backbones.parameters())


def changed(policy: DiffusionPolicy) -> set[str]:
    """Names of the tower's tensors that training changes."""
    tower = policy.encoder.backbones
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    train(policy)
    after = tower.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_the_last_blocks_up_to_the_layer_learn() -> None:
    found = changed(tower_policy(tuning="last_blocks", trainable_blocks=1))
    assert found
    assert all("resblocks.1." in name for name in found)
    final = changed(
        tower_policy(
            tuning="last_blocks", trainable_blocks=1, layer="final", pooling="projected"
        )
    )  # fmt: skip
    assert {name.rpartition(".")[2] for name in final if "resblocks" not in name} >= {"proj"}
    assert not any("resblocks.1." in name for name in final)
    with pytest.raises(ValueError, match="has 2 layers to train, and got 3"):
        tower_policy(tuning="last_blocks", trainable_blocks=3)


def test_full_tuning() -> None:
    found = changed(tower_policy(tuning="full"))
    assert any("conv1" in name for name in found)
    # What comes after the layer is not used.
    unused = ("resblocks.2.", "ln_post", "net.proj")
    assert not any(part in name for name in found for part in unused)


@needs_peft
@pytest.mark.parametrize("backbone", ["ViT-B/32", "timm:vit_base_patch16_224"])
def test_lora_is_merged_into_the_checkpoint(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = {"overrides": {"embed_dim": 64, "depth": 3, "num_heads": 4}}
    policy = tower_policy(
        tuning="lora", backbone=backbone, **(timm if backbone.startswith("timm") else {})
    )
    frames = {c: images[0] for c, images in make_batch(policy.config, 1).images.items()}
    with torch.no_grad():
        before = policy.eval().encoder.encode_frames(frames)
        names = policy.encoder.add_adapters(seed=0)
        # Adapters add nothing at first, and the split attention is the whole one.
        torch.testing.assert_close(
            policy.encoder.encode_frames(frames), before, atol=1e-4, rtol=1e-4
        )
    assert any("attn" in name for name in names)
    assert any("mlp" in name for name in names)
    assert all("lora_" in name for name in changed(policy))
    policy.eval()
    assert not any(
        id(value) in {id(other) for other in policy.encoder.backbone_parameters()}
        for value in policy.encoder.backbones.parameters()
        if value.requires_grad
    )
    save(tmp_path / "checkpoint", policy)
    monkeypatch.setattr("twin_policy.lora.check_peft", lambda: pytest.fail("peft was asked for"))
    loaded = load_checkpoint(tmp_path / "checkpoint").policy
    assert not any("lora" in name for name in loaded.state_dict())
    with torch.no_grad():
        ours, theirs = (each.encoder.encode_frames(frames) for each in (policy, loaded))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-3


def test_without_peft_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ValueError, match=r"pip install 'twinbench\[lora\]'"):
        check_encoder(CAMERAS, EncoderConfig(**SMALL, tuning="lora"))


# Weights and checkpoints


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "ViT-B-32.laion2b_e16"
    model = make_clip(CLIP_SIZES["clip_vit_b32"], quick_gelu=False)
    return save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def test_a_checkpoint_rebuilds_the_tower_without_its_file(
    weight_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / weight_file.parent.name / weight_file.name
    copy.parent.mkdir()
    copy.write_bytes(weight_file.read_bytes())
    config = tower_config(
        pretrained_backbone_weights=str(copy), overrides=CLIP_SIZES["clip_vit_b32"]
    )
    with pytest.raises(WeightsError, match=r"built for None: build it from `resolve"):
        make_policy(config).encoder.load_pretrained()
    resolved = resolve(config.encoder)
    assert (resolved.backbone, resolved.tag) == ("clip_vit_b32", "laion2b_e16")
    assert resolve(resolved) == resolved
    policy = make_policy(config, encoder=resolved)
    identity = policy.encoder.load_pretrained()
    assert identity["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert (identity["licence"], identity["quick_gelu"]) == ("MIT", False)
    assert len(identity["dropped"]["text tower"]) > 3
    save(tmp_path / "checkpoint", policy)
    copy.unlink()
    loaded = load_checkpoint(tmp_path / "checkpoint").policy
    assert loaded.config.encoder == resolved
    tower, original = (each.encoder.backbones["shared"] for each in (loaded, policy))
    assert tower.recipe == original.recipe
    assert tower.fingerprint() == original.fingerprint()
    with pytest.raises(WeightsError, match="no weight file"):
        resolve(config.encoder)


def test_weights_are_asked_for_and_random_ones_by_that_word() -> None:
    with pytest.raises(WeightsError, match=r"set policy\.encoder\.pretrained_backbone_weights"):
        make_policy(tower_config(pretrained_backbone_weights=None)).encoder.load_pretrained()
    identity = make_policy(tower_config()).encoder.load_pretrained()
    assert identity["source"] == "random weights"


def test_a_config_survives_the_way_through_yaml() -> None:
    config = tower_config(tuning="lora", layer=-1)
    stored = yaml.safe_load(yaml.safe_dump(plain(config)))
    assert parse(PolicyConfig, stored, source="again") == dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, overrides=dict(CLIP_VIT)),
    )


# Acting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "checkpoint", tower_policy())
    return tmp_path / "checkpoint"


def test_environments_do_not_see_one_another(folder: Path) -> None:
    agent = Agent(load_checkpoint(folder))
    together, alone = act(agent, [10, 11, 12]), act(agent, [12])
    np.testing.assert_array_equal(alone[0], together[2])


def test_new_frames_alone_are_encoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(load_checkpoint(folder))
    tower = agent.policy.encoder.backbones["shared"]
    encode, counts = tower.encode, []

    def counted(images: torch.Tensor, layers: Any) -> Any:
        counts.append(len(images))
        return encode(images, layers)

    monkeypatch.setattr(tower, "encode", counted)
    for step in range(4):
        agent.observe(make_observation(step), seed=0)
        agent.act()
    assert counts == [1] * 4 * len(CAMERAS)


def test_bfloat16_is_close(folder: Path) -> None:
    arguments = {"checkpoint_path": str(folder), "device": "cpu", "task_name": "toy"}
    exact = act(deploy.get_model(arguments), [5], replans=1)
    rounded = act(deploy.get_model(arguments | {"inference_dtype": "bfloat16"}), [5], replans=1)
    assert 0 < np.abs(exact - rounded).max() < 0.2


def test_the_policy_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "policy"))
    drop_in = importlib.import_module("clip_dp")
    model = drop_in.get_model({"checkpoint_path": str(folder), "device": "cpu"})
    model.observe(make_observation(0), seed=1)
    (actions,) = model.act()
    assert actions.shape == (6, DIM)
    for name in [name for name in sys.modules if name.startswith("clip_dp")]:
        del sys.modules[name]
    ours, theirs = (
        yaml.safe_load((ROOT / "policy" / name / "deploy_policy.yml").read_text())
        for name in ("clip_dp", "dp_resnet")
    )
    assert ours == theirs | {"policy_name": "clip_dp"}
