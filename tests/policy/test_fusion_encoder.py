"""Several frozen models behind one policy: schemes, what is held, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fusion_fixtures import (
    CELLS,
    GRID,
    MODELS,
    SCHEMES,
    WIDTHS,
    make_encoder_config,
    make_fusion,
    write_aligned,
)
from policy_fixtures import CAMERAS, LAYOUT, make_batch, make_config, make_entry
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from xpolicylab_fixtures import CLIENTS, Robot, play_as_robotwin, play_in_one_process

from twin_policy.agent import Agent, noise_generator
from twin_policy.backbones import WeightsError
from twin_policy.checkpoint import load_checkpoint, prepare_checkpoint, save_weights
from twin_policy.config import ActionSpaceConfig, EncoderConfig, PolicyConfig
from twin_policy.diffusion import ChunkPolicy
from twin_policy.encoders import create_encoder
from twin_policy.fusion_config import ModelConfig
from twin_policy.fusion_encoder import FusionEncoder
from twin_policy.images import resize_rgb
from twin_policy.loading import load_agent
from twin_policy.normalizer import Normalizer
from twin_policy.parsing import parse, plain
from twin_policy.policies import TaskSpec, create_policy
from twin_policy.pooling import cell_means
from twin_policy.token_mixing import TokenMixer
from twin_policy.towers import Towers
from twin_policy.xpolicylab import Model


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled") / "four"
    write_aligned(folder)
    return folder


def make_encoder(config: EncoderConfig, *, n_obs_steps: int = 2, seed: int = 0) -> FusionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = create_encoder(
            cameras=CAMERAS, n_obs_steps=n_obs_steps, state_dim=3, config=config
        )
    assert isinstance(encoder, FusionEncoder)
    encoder.load_pretrained()
    return encoder


def make_pictures(batch: int = 2, n_obs_steps: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        camera: torch.randint(
            256, (batch, n_obs_steps, *size, 3), generator=generator, dtype=torch.uint8
        )
        for camera, size in CAMERAS.items()
    }


def make_policy(encoder: EncoderConfig, seed: int = 0, **changes: Any) -> ChunkPolicy:
    """Of two robots' tasks, or of one for `kind: joint`."""
    config = replace(make_config(), encoder=encoder, **changes)
    spec = TaskSpec(LAYOUT, Normalizer.identity(14, 14), "aloha")
    tasks = ["one"] if config.action_space.kind == "joint" else ["one", "two"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = create_policy(config, dict.fromkeys(tasks, spec))
    policy.encoder.load_pretrained()
    return policy


def test_towers_lie_side_by_side_in_their_order() -> None:
    towers = Towers(MODELS, grid=GRID, cells=CELLS)
    pictures = torch.rand(2, 3, 40, 50)
    assert towers.widths == WIDTHS
    with torch.no_grad():
        read = towers.read(pictures)
        assert read.shape == (2, sum(WIDTHS), *CELLS)
        for part, name in zip(read.split(WIDTHS, dim=1), towers.names, strict=True):
            tokens = towers[name].encode(pictures)["final"].tokens
            whole = tokens.transpose(1, 2).unflatten(2, GRID)
            assert torch.equal(part, cell_means(whole, CELLS))
        everything = Towers(MODELS, grid=GRID, cells=None).read(pictures)
    assert everything.shape == (2, sum(WIDTHS), *GRID)
    torch.testing.assert_close(cell_means(everything, CELLS), read)


def test_random_towers_are_their_own_seeds_and_not_the_trainings() -> None:
    prints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        prints.append(Towers(MODELS[:1], grid=GRID).fingerprints())
    assert prints[0] == prints[1]
    other = Towers([replace(MODELS[0], weights_seed=5)], grid=GRID).fingerprints()
    assert other != prints[0]


@pytest.mark.parametrize(
    ("scheme", "pooling"),
    [(scheme, "avg") for scheme in SCHEMES] + [("direct", "grid"), ("single", "spatial_softmax")],
)
def test_what_is_read_is_all_that_the_rest_needs(scheme: str, pooling: str, aligned: Path) -> None:
    config = make_encoder_config(scheme, aligned, pooling=pooling, grid_size=(1, 2))
    encoder, pictures = make_encoder(config).eval(), make_pictures()
    state = torch.rand(2, 2, 3)
    whole = encoder(pictures, state)
    assert whole.shape == (2, encoder.dim) == (2, 2 * (3 + 2 * 6))
    flat = {camera: each.flatten(0, 1) for camera, each in pictures.items()}
    read = encoder.read_frames(flat)
    channels = 32 if scheme == "single" else sum(WIDTHS)
    assert {each.shape for each in read.values()} == {(4, channels, *CELLS)}
    stored = {camera: each.unflatten(0, (2, 2)) for camera, each in read.items()}
    torch.testing.assert_close(encoder({}, state, read=stored), whole)
    features = encoder.encode_frames(flat).unflatten(0, (2, 2))
    assert features.shape[-1] == sum(encoder.widths.values())
    torch.testing.assert_close(encoder.condition(features, state), whole)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_frozen_fusion_stays_as_it_is(scheme: str, aligned: Path) -> None:
    """G21."""
    policy = make_policy(make_encoder_config(scheme, aligned))
    encoder = policy.encoder
    assert isinstance(encoder, FusionEncoder)
    before = encoder.frozen_sha256()
    policy.train()
    assert not any(module.training for module in encoder.backbones.modules())
    assert not any(each.requires_grad for each in encoder.backbones.parameters())
    learning = [each for each in policy.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    batch, generator = make_batch(policy.config, 4), torch.Generator().manual_seed(0)
    for _ in range(3):
        optimizer.zero_grad()
        policy(batch, generator).backward()
        optimizer.step()
    assert encoder.frozen_sha256() == before
    assert all(each.grad is None for each in encoder.backbones.parameters())
    # A gate that is shut lets nothing through to what lies behind it, at the first step.
    assert all(each.grad is not None for each in learning)
    assert encoder.constant() is encoder.backbones


@pytest.mark.parametrize("tuning", ["aligned", "last_blocks", "full"])
def test_tuning_frees_the_distilled_encoder_then_the_models(tuning: str, aligned: Path) -> None:
    config = make_encoder_config("aligned_pooled", aligned, tuning=tuning, trainable_blocks=1)
    encoder = make_encoder(config).train()
    assert encoder.aligned is not None
    encoder.freeze_backbones(True)
    assert not any(each.requires_grad for each in encoder.backbones.parameters())
    assert not any(module.training for module in encoder.backbones.modules())
    encoder.freeze_backbones(False)
    assert encoder.aligned.training
    assert encoder.towers["croco"].net.training == (tuning != "aligned")
    encoder(make_pictures(), torch.rand(2, 2, 3)).square().sum().backward()
    assert any(each.grad is not None for each in encoder.aligned.parameters())
    learns = any(each.grad is not None for each in encoder.towers.parameters())
    assert learns == (tuning != "aligned")
    assert encoder.constant() is (encoder.towers if tuning == "aligned" else None)


def test_weights_that_start_equal_give_the_mean() -> None:
    """G20: theta = 0, and a gate of zeros."""
    read = torch.rand(3, 5 + 7, 2, 2)
    mixers = {kind: TokenMixer((5, 7), 4, kind) for kind in ("mean", "weighted", "moe")}  # type: ignore[arg-type]
    for mixer in mixers.values():
        mixer.adapters.load_state_dict(mixers["mean"].adapters.state_dict())
    plain_mean = mixers["mean"](read)
    assert plain_mean.shape == (3, 4, 4)
    for mixer in mixers.values():
        torch.testing.assert_close(mixer(read), plain_mean)


def test_a_shut_gate_leaves_the_embedding_alone(aligned: Path) -> None:
    """G20."""
    pooled = make_encoder(make_encoder_config("aligned_pooled", aligned)).eval()
    tokens = make_encoder(make_encoder_config("dual_stream_tokens", aligned), seed=1).eval()
    tokens.adapters.load_state_dict(pooled.adapters.state_dict())
    pictures, state = make_pictures(), torch.rand(2, 2, 3)
    expected = pooled(pictures, state)
    assert torch.equal(tokens(pictures, state), expected)
    assert tokens.attention is not None
    with torch.no_grad():
        tokens.attention.gate.fill_(1.0)
    assert not torch.allclose(tokens(pictures, state), expected, atol=1e-3)


def test_one_cell_is_its_own_mean(aligned: Path) -> None:
    """G20: K = 1."""
    found = []
    for pooling in ("avg", "grid"):
        options = {"pooling": pooling, "grid_size": (1, 1), "fusion": {"cells": (1, 1)}}
        encoder = make_encoder(make_encoder_config("direct", **options)).eval()
        found.append(encoder(make_pictures(), torch.zeros(2, 2, 3)))
    torch.testing.assert_close(found[0], found[1])


# Distilled encoders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": MODELS[::-1]}, "another order: distil one for these models"),
        ({"models": MODELS[:2]}, "another models: distil"),
        (
            {"models": (replace(MODELS[0], backbone="dinov3_vit_b16", overrides={}), *MODELS[1:])},
            "distilled encoder's croco is croco_v2_vitl16, and the policy's is dinov3_vit_b16",
        ),
        ({"grid": (4, 4)}, "trained with grid 2x4, and policy.encoder.fusion.grid is 4x4"),
        ({"cells": None}, "trained with cells 1x2, and policy.encoder.fusion.cells is null"),
    ],
)
def test_an_encoder_of_others_is_refused(
    changes: dict[str, Any], message: str, aligned: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make_encoder_config("aligned_pooled", aligned, fusion=changes)


def test_models_with_other_weights_are_refused(aligned: Path) -> None:
    models = (*MODELS[:2], replace(MODELS[2], weights_seed=7), MODELS[3])
    config = make_encoder_config("aligned_pooled", aligned, fusion={"models": models})
    with pytest.raises(ValueError, match="reads dinov3 with fingerprint"):
        make_encoder(config)


def test_weights_that_are_missing_are_told_by_model() -> None:
    towers = Towers([MODELS[1], replace(MODELS[0], weights="weights/none")], grid=GRID)
    with pytest.raises(WeightsError, match="set weights of croco in policy"):
        towers.load_pretrained()


def test_another_encoder_than_a_policy_began_with_is_refused(tmp_path: Path) -> None:
    write_aligned(tmp_path / "x")
    config = make_encoder_config("aligned_pooled", tmp_path / "x")
    shutil.rmtree(tmp_path / "x")
    write_aligned(tmp_path / "x", seed=1)
    with pytest.raises(ValueError, match=r"another distilled encoder.*weights_sha256"):
        make_encoder(config)
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        make_encoder(config)


def test_a_window_is_the_policys_or_refused(tmp_path: Path) -> None:
    write_aligned(tmp_path / "x", input_mode="window", window=3)
    config = make_encoder_config("dual_stream_pooled", tmp_path / "x")
    with pytest.raises(ValueError, match=r"windows of 3 pictures, and policy.n_obs_steps is 2"):
        make_encoder(config)
    with pytest.raises(ValueError, match="take dual_stream_pooled"):
        make_encoder_config("dual_stream_tokens", tmp_path / "x")
    encoder = make_encoder(config, n_obs_steps=3).eval()
    assert encoder.aligned is not None
    pictures, state = make_pictures(n_obs_steps=3), torch.rand(2, 3, 3)
    found = encoder(pictures, state)
    # Three states and direct streams, and one embedding, of two cameras.
    assert found.shape == (2, encoder.dim) == (2, 3 * (3 + 2 * 6) + 2 * 6)
    flat = {camera: each.flatten(0, 1) for camera, each in pictures.items()}
    tokens = encoder.aligned.fuse(encoder.read_frames(flat)["left_camera"])
    whole = encoder.aligned.finish(tokens.unflatten(0, (2, 3)).flatten(1, 2)).pooled
    adapted = encoder.window_adapters["left_camera"](whole)
    torch.testing.assert_close(found[:, -6:], adapted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "single", "use_model": "clip"}, "one of croco, vggt, dinov3, da3"),
        ({"scheme": "aligned_pooled"}, "needs aligned, the folder of a distilled encoder"),
        ({"models": (MODELS[0], MODELS[0])}, "two models are called croco"),
        ({"cells": (3, 4)}, "cells must be at most the grid's tokens, 2x4"),
    ],
)
def test_fusions_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_fusion(**{"scheme": "direct", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "dinov3_vit_b16"}, "backbone is of one backbone, and fusion has models"),
        ({"overrides": {"depth": 2}}, "overrides is of one backbone"),
        ({"pooling": "class_token"}, "pooled by spatial_softmax, avg or grid"),
        ({"pooling": "grid", "grid_size": (2, 2)}, "at most what is read.*1x2"),
        ({"tuning": "lora"}, "take no lora"),
        ({"tuning": "aligned"}, "scheme direct reads none"),
    ],
)
def test_keys_that_do_not_go_with_a_fusion(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(fusion=make_fusion("direct"), **{"pooling": "avg", **options})


def test_a_layer_off_the_grid_is_refused() -> None:
    small = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
    models = [ModelConfig("cnn", "timm:convnext_tiny", "random", layer=0, overrides=small)]
    with pytest.raises(ValueError, match=r"has 16x32 tokens, and the models must share a grid of"):
        Towers(models, grid=GRID).read(torch.rand(1, 3, 32, 64))


# Policies


@pytest.mark.parametrize("kind", ["joint", "heads", "unified"])
@pytest.mark.parametrize("use_state", [True, False])
def test_the_state_counts_unless_told_otherwise(kind: str, use_state: bool) -> None:
    space = ActionSpaceConfig(kind=kind)  # type: ignore[arg-type]
    encoder = make_encoder_config("direct", use_state=use_state)
    policy = make_policy(encoder, action_space=space).eval()
    batch = make_batch(policy.config, 2, task="one")
    noise = [noise_generator(0, row) for row in range(2)]
    first = policy.predict_chunk(batch.images, batch.state, noise, "one")
    noise = [noise_generator(0, row) for row in range(2)]
    second = policy.predict_chunk(batch.images, batch.state + 0.5, noise, "one")
    assert torch.equal(first, second) != use_state
    assert policy.compute_loss(batch, torch.Generator().manual_seed(0)).isfinite()


def test_a_policy_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cameras or the joint state, and has neither"):
        replace(make_config(), cameras={}, encoder=EncoderConfig(use_state=False))
    with pytest.raises(ValueError, match="a fusion needs cameras"):
        make_policy(make_encoder_config("direct"), cameras={})


def write_checkpoint(folder: Path, encoder: EncoderConfig) -> ChunkPolicy:
    policy = make_policy(encoder).eval()
    prepare_checkpoint(folder, policy=policy, tasks={"one": make_entry(policy.config)})
    save_weights(folder, policy, {})
    return policy


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_holds_all_of_it(scheme: str, tmp_path: Path) -> None:
    """G23, without the folder of the distilled encoder."""
    made_of = write_aligned(tmp_path / "x")
    policy = write_checkpoint(tmp_path / "policy", make_encoder_config(scheme, tmp_path / "x"))
    shutil.rmtree(tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "policy").policy
    batch = make_batch(policy.config, 2)
    ours, theirs = (
        each.predict_action(batch.images, batch.state, [noise_generator(0, i) for i in range(2)])
        for each in (policy, loaded)
    )
    assert torch.equal(ours, theirs)
    fusion = loaded.config.encoder.fusion
    assert fusion is not None
    known = None if scheme in ("single", "direct") else plain(made_of)
    assert plain(fusion.aligned_config) == known
    config = parse(PolicyConfig, plain(policy.config), source="again", prefix="policy")
    assert plain(config) == plain(loaded.config)


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        *((scheme, {}) for scheme in SCHEMES),
        ("dual_stream_pooled", {"input_mode": "window", "window": 3}),
    ],
)
def test_in_a_closed_loop_each_picture_is_read_once(
    scheme: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And actions are those of whole windows of pictures."""
    write_aligned(tmp_path / "x", **changes)
    write_checkpoint(tmp_path / "policy", make_encoder_config(scheme, tmp_path / "x"))
    agent = load_agent({"device": "cpu"}, tmp_path / "policy")
    policy, config, read = agent.policy, agent.policy.config, Towers.read
    n_pictures = 0

    def count(towers: Towers, images: Tensor) -> Tensor:
        nonlocal n_pictures
        n_pictures += len(images)
        return read(towers, images)

    def of_whole_windows(replan: int) -> Tensor:
        pictures = {
            camera: np.stack([resize_rgb(o["observation"][camera]["rgb"], size) for o in window])
            for camera, size in config.cameras.items()
        }
        state = np.stack([o["joint_action"]["vector"] for o in window]).astype(np.float32)
        return policy.predict_action(
            {camera: torch.from_numpy(each)[None] for camera, each in pictures.items()},
            torch.from_numpy(state)[None],
            [noise_generator(7, replan)],
        )[0]

    robot = Robot(seed=7)
    window = [robot.get_obs()] * config.n_obs_steps
    agent.observe(window[-1], seed=7)
    for replan in range(3):
        with monkeypatch.context() as patched:
            patched.setattr(Towers, "read", count)
            (actions,) = agent.act()
        np.testing.assert_allclose(actions, of_whole_windows(replan).numpy(), atol=1e-5)
        for action in actions:
            robot.take_action(action)
            window = [*window[1:], robot.get_obs()]
            agent.observe(window[-1])
    assert not np.allclose(robot.actions[0], robot.actions[-1])
    # The first frame, and after each of two chunks as many as a window has, of two cameras.
    assert n_pictures == 2 * (1 + 2 * config.n_obs_steps)


def test_xpolicylab_gets_the_actions_of_one_process(tmp_path: Path, aligned: Path) -> None:
    write_checkpoint(tmp_path, make_encoder_config("dual_stream_tokens", aligned))
    expected = play_in_one_process(Agent(load_checkpoint(tmp_path)), Robot(seed=100007))
    robot = Robot(seed=100007)
    play_as_robotwin(robot, CLIENTS["july"](Model({"checkpoint_path": tmp_path, "device": "cpu"})))
    np.testing.assert_array_equal(robot.actions, expected.actions)


def test_a_checkpoint_without_the_teachers_mean_is_refused(tmp_path: Path, aligned: Path) -> None:
    write_checkpoint(tmp_path, make_encoder_config("aligned_pooled", aligned))
    path = tmp_path / "model.safetensors"
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    (mean,) = [name for name in tensors if name.endswith("teacher_mean")]
    del tensors[mean]
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match="teacher_mean"):
        load_checkpoint(tmp_path)


def test_models_are_dealt_by_size_and_run_in_turn(tmp_path: Path) -> None:
    towers = Towers(MODELS, grid=GRID, cells=CELLS)
    pictures = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        expected = towers.read(pictures)
        for in_turn in (False, True):
            towers.place(["cpu", "cpu:0"], in_turn=in_turn)
            assert torch.equal(towers.read(pictures), expected)
    assert set(towers.placed().values()) == {"cpu", "cpu:0"}
    sizes = {name: sum(each.numel() for each in towers[name].parameters()) for name in towers.names}
    largest = max(sizes, key=lambda name: sizes[name])
    alone = [name for name, home in towers.placed().items() if home == towers.placed()[largest]]
    assert sum(sizes[name] for name in alone) < sum(sizes.values())
    # Placed is placed.
    assert next(torch.nn.Sequential(towers).double().parameters()).dtype == torch.float32

    write_checkpoint(tmp_path, make_encoder_config("direct"))
    args = {"device": "cpu", "model_devices": "[cpu, cpu]", "models_in_turn": True}
    agent = load_agent(args, tmp_path)
    assert agent is not None
