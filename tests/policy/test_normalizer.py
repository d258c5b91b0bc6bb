"""Normaliser and resizing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from twin_policy.config import NormalizerConfig
from twin_policy.images import resize_rgb
from twin_policy.normalizer import DimensionNormalizer, Normalizer

COLUMNS = np.array([[0, 10, 4], [5, 5, 5], [1, 1.00005, 1], [0, -2, 2]], np.float64).T


def test_robotwins_rule() -> None:
    """G8."""
    fitted = DimensionNormalizer.fit(COLUMNS, NormalizerConfig(mode="robotwin"))
    torch.testing.assert_close(fitted.scale, torch.tensor([0.2, 1, 1, 0.5]))
    torch.testing.assert_close(fitted.offset, torch.tensor([-1.0, -5, -1, 0]))


def test_min_max_reaches_both_ends_and_comes_back() -> None:
    fitted = DimensionNormalizer.fit(COLUMNS, NormalizerConfig())
    normal = fitted.normalize(torch.tensor(COLUMNS, dtype=torch.float32))
    assert normal[:, [0, 3]].amin().item() == pytest.approx(-1)
    assert normal[:, [0, 3]].amax().item() == pytest.approx(1)
    back = fitted.unnormalize(normal).numpy()
    np.testing.assert_allclose(back[:, [0, 3]], COLUMNS[:, [0, 3]], atol=1e-6)


def test_idle_dimensions_are_frozen_whatever_comes() -> None:
    rng = np.random.default_rng(0)
    data = np.stack([rng.uniform(-1, 1, 100), 0.7 + rng.uniform(-2e-4, 2e-4, 100)], 1)
    fitted = DimensionNormalizer.fit(data, NormalizerConfig())
    assert fitted.frozen.tolist() == [False, True]
    jittered = torch.tensor([[0.5, 0.7], [0.5, 0.72]])
    normal = fitted.normalize(jittered)
    assert torch.equal(normal[0], normal[1])
    assert normal[0, 1] == 0
    acted = fitted.unnormalize(torch.tensor([[0.1, 0.9], [0.1, -0.9]]))
    assert torch.equal(acted[0], acted[1])
    assert acted[0, 1].item() == pytest.approx(data[:, 1].mean(), abs=1e-6)


def test_json_keeps_every_bit() -> None:
    rng = np.random.default_rng(1)
    fitted = DimensionNormalizer.fit(rng.normal(size=(50, 5)), NormalizerConfig())
    both = Normalizer(fitted, fitted)
    again = Normalizer.from_dict(json.loads(json.dumps(both.to_dict())))
    for name in ("scale", "offset", "mean", "frozen"):
        assert torch.equal(getattr(both.state, name), getattr(again.state, name))
    assert both.state_dict() == {}


def test_resizing_takes_any_memory_layout() -> None:
    rng = np.random.default_rng(2)
    picture = rng.integers(256, size=(48, 64, 3), dtype=np.uint8)
    small = resize_rgb(picture, (24, 32))
    blocks = picture.reshape(24, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(small - blocks).max() <= 0.5
    awkward = np.asfortranarray(picture)
    awkward.flags.writeable = False
    np.testing.assert_array_equal(resize_rgb(awkward, (24, 32)), small)
    np.testing.assert_array_equal(resize_rgb(picture[:, ::-1], (24, 32)), small[:, ::-1])
    same = resize_rgb(awkward, (48, 64))
    np.testing.assert_array_equal(same, picture)
    assert same.flags.c_contiguous
    assert same.flags.writeable


def test_resizing_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="uint8"):
        resize_rgb(np.zeros((4, 4, 3), np.float32), (2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        resize_rgb(np.zeros((4, 4), np.uint8), (2, 2))
