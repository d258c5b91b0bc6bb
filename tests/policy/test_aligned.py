"""The distilled encoder: where fusions start, windows, its folder, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twin_policy.aligned import CONFIG, WEIGHTS, AlignedEncoder, AlignedError
from twin_policy.fusion import ConcatFusion, MeanFusion, balance_penalty, make_fusion
from twin_policy.fusion_config import AlignedConfig, AlignedModel

MODELS = tuple(
    AlignedModel(name, f"{name}_net", width, "final", {"size": [32, 48]}, f"print of {name}")
    for name, width in (("croco", 4), ("vggt", 6), ("dinov3", 3))
)


def make_config(**changes: Any) -> AlignedConfig:
    settings: dict[str, Any] = {"grid": (4, 6), "cells": (2, 3), "dim": 8, "embedding_dim": 10}
    return AlignedConfig(models=MODELS, **settings | changes)


def make_encoder(seed: int = 0, **changes: Any) -> AlignedEncoder:
    """Nothing of it is where it starts."""
    torch.manual_seed(seed)
    encoder = AlignedEncoder(make_config(**changes))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    encoder.set_teacher_mean(torch.rand(10))
    return encoder.eval()


def make_maps(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn((count, 13, 2, 3), generator=torch.Generator().manual_seed(seed))


def test_one_token_is_its_own_pool() -> None:
    """G20: with K = 1 there is nothing to pool."""
    encoder = AlignedEncoder(make_config(cells=(1, 1), pooling="attention", fusion="moe"))
    found = encoder(torch.randn(3, 13, 1, 1))
    torch.testing.assert_close(found.pooled, found.tokens[:, 0])
    torch.testing.assert_close(found.weights, torch.full((3, 1, 3), 1 / 3))


@pytest.mark.parametrize("fusion", ["weighted", "moe", "mean", "concat"])
def test_a_model_left_out_has_no_say(fusion: Any) -> None:
    encoder, maps = make_encoder(fusion=fusion), make_maps()
    keep = torch.tensor([[True, False, True], [True, True, True]])
    disturbed = maps.clone()
    disturbed[0, 4:10] = 7.0
    found, same = encoder(maps, keep), encoder(disturbed, keep)
    torch.testing.assert_close(found.projected, same.projected)
    whole = encoder(maps)
    torch.testing.assert_close(found.projected[1], whole.projected[1])
    assert not torch.allclose(found.projected[0], whole.projected[0], atol=1e-3)
    if fusion != "concat":
        assert found.weights[0, :, 1].abs().max() == 0
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 6))


def test_concat_starts_as_the_mean() -> None:
    features = torch.randn(2, 3, 5, 8)
    keep = torch.tensor([[True, True, False], [True, True, True]])
    concat, mean = ConcatFusion(3, 8), MeanFusion()
    torch.testing.assert_close(concat(features), mean(features))
    torch.testing.assert_close(concat(features, keep), mean(features, keep))
    assert type(make_fusion("mean", 3, 8)) is MeanFusion


def test_balance_is_one_when_balanced_and_m_when_one_has_all() -> None:
    assert float(balance_penalty(torch.full((5, 2, 4), 0.25))) == pytest.approx(1)
    assert float(balance_penalty(torch.eye(4)[:1].expand(6, 4))) == pytest.approx(4)


@pytest.mark.parametrize("options", [{}, {"pooling": "attention", "context_layers": 1}])
def test_two_steps_are_one(options: dict[str, Any]) -> None:
    encoder = make_encoder(context_heads=2, fusion="moe", **options)
    maps = make_maps()
    whole, steps = encoder(maps), encoder.finish(encoder.fuse(maps))
    for name in ("tokens", "pooled", "projected"):
        torch.testing.assert_close(getattr(whole, name), getattr(steps, name))
    assert whole.tokens.shape == (2, 6, 8)
    assert whole.projected.shape == (2, 10)


def test_a_window_is_its_pictures_tokens_side_by_side() -> None:
    encoder = make_encoder(input_mode="window", window=2)
    maps = make_maps(4)
    whole = encoder(maps.unflatten(0, (2, 2)))
    fused = encoder.fuse(maps)
    steps = encoder.finish(fused.reshape(2, 12, 8))
    torch.testing.assert_close(whole.projected, steps.projected)
    assert whole.weights.shape == (2, 12, 3)
    with pytest.raises(ValueError, match=r"windows of 2 pictures .* another input_mode"):
        encoder(maps)
    with pytest.raises(ValueError, match=r"pictures \(N, sum C, h, w\)"):
        make_encoder()(maps.unflatten(0, (2, 2)))


def test_other_maps_are_refused() -> None:
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"13 channels, 4 \+ 6 \+ 3, on 2x3 cells"):
        encoder(torch.randn(2, 13, 3, 2))
    with pytest.raises(ValueError, match="13 channels"):
        encoder.fuse(torch.randn(2, 12, 2, 3))


def test_folder_gives_it_back(tmp_path: Path) -> None:
    encoder = make_encoder(fusion="moe", teacher={"name": "toy"}, metrics={"top1": 0.5})
    saved = encoder.save(tmp_path / "a")
    found = AlignedEncoder.load(tmp_path / "a")
    assert found.config == saved == encoder.config
    assert len(saved.weights_sha256) == 64
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert torch.equal(found(make_maps()).projected, encoder(make_maps()).projected)
    torch.testing.assert_close(found.teacher_mean, encoder.teacher_mean)


def test_missing_statistics_are_refused(tmp_path: Path) -> None:
    fresh = AlignedEncoder(make_config())
    with pytest.raises(ValueError, match="teacher_mean is not set"):
        fresh.save(tmp_path / "a")
    with pytest.raises(RuntimeError, match="statistics are missing"):
        make_encoder().load_state_dict(fresh.state_dict())
    make_encoder().save(tmp_path / "b")
    tensors = load_file(tmp_path / "b" / WEIGHTS)
    del tensors["teacher_mean"]
    save_file(tensors, tmp_path / "b" / WEIGHTS)
    with pytest.raises(AlignedError, match="of two saves, or one is damaged"):
        AlignedEncoder.load(tmp_path / "b")
    stored = json.loads((tmp_path / "b" / CONFIG).read_text())
    stored["weights_sha256"] = sha256((tmp_path / "b" / WEIGHTS).read_bytes()).hexdigest()
    (tmp_path / "b" / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(AlignedError, match=r"lacks teacher_mean: .* distil anew"):
        AlignedEncoder.load(tmp_path / "b")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="twinbench distill"):
        AlignedEncoder.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=f"no folder none in {Path.cwd()} of"):
        AlignedEncoder.load(Path("none"))
    with pytest.raises(AlignedError, match=r"holds no distilled encoder: aligned.json is missing"):
        AlignedEncoder.load(tmp_path)
    make_encoder().save(tmp_path)
    stored = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(stored | {"version": 9}))
    with pytest.raises(AlignedError, match="version 9"):
        AlignedEncoder.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(stored | {"grdi": 9}))
    with pytest.raises(AlignedError, match=r"unknown key 'grdi'; did you mean 'grid'"):
        AlignedEncoder.load(tmp_path)
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(AlignedError, match="not written by"):
        AlignedEncoder.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"models": MODELS[::-1]}, "another order: the distilled encoder reads croco, vggt"),
        ({"models": MODELS[:2]}, "another models"),
        ({"grid": (5, 6)}, r"trained with grid \[4, 6\], and here it is \[5, 6\]"),
        ({"cells": None}, r"trained with cells \[2, 3\], and here it is None"),
        ({"window": 3}, "trained with window 2, and here it is 3"),
        (
            {"models": (*MODELS[:2], replace(MODELS[2], fingerprint="other"))},
            "dinov3 with fingerprint print of dinov3, and this one has other",
        ),
        ({"models": (*MODELS[:2], replace(MODELS[2], layer="2"))}, "dinov3 with layer final"),
    ],
)
def test_what_it_was_not_trained_on_is_refused(changes: dict[str, Any], reason: str) -> None:
    encoder = make_encoder(input_mode="window", window=2)
    matching: dict[str, Any] = {"models": MODELS, "grid": (4, 6), "cells": (2, 3), "window": 2}
    encoder.check_matches(matching.pop("models"), **matching)
    asked = {"models": MODELS, **matching} | changes
    with pytest.raises(AlignedError, match=reason):
        encoder.check_matches(asked.pop("models"), **asked)


def test_frozen_encoder_learns_nothing(tmp_path: Path) -> None:
    """G21, of what is loaded: no gradients, and the numbers stay."""
    make_encoder().save(tmp_path)
    encoder = AlignedEncoder.load(tmp_path)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    head = nn.Linear(8, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=0.1)
    for _ in range(5):
        head(encoder(make_maps()).pooled).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
