"""LAPO small enough to build in milliseconds, and batches of noise for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from twin_policy.action_space import JointLayout
from twin_policy.config import EncoderConfig, NormalizerConfig, PolicyConfig
from twin_policy.lapo import Lapo, Transition
from twin_policy.lapo_config import LapoConfig
from twin_policy.lapo_policy import LapoBatch, LapoPolicy
from twin_policy.normalizer import Normalizer
from twin_policy.policies import TaskSpec, create_policy
from twin_policy.specs import TaskEntry

LAYOUT = JointLayout(6, 6)
HORIZON, LATENT_DIM, FEATURE_DIM = 3, 4, 8
SIZE = (12, 16)
CAMERAS = dict.fromkeys(("left_camera", "right_camera", "head_camera"), SIZE)
SOURCE_SHAPE = (24, 32, 3)
SMALL = {"latent_dim": LATENT_DIM, "hidden_dim": 16, "n_layers": 2, "feature_dim": FEATURE_DIM}


def make_lapo(*, feature_dim: int = FEATURE_DIM, action_dim: int = 6, **changes: Any) -> Lapo:
    torch.manual_seed(0)
    config = LapoConfig(**SMALL | changes)
    return Lapo(config, feature_dim=feature_dim, action_dim=action_dim)


def make_config(
    *, lapo: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None, **changes: Any
) -> PolicyConfig:
    """`lapo`, `encoder`: changes of those parts."""
    parts: dict[str, Any] = {
        "cameras": dict(CAMERAS),
        "n_obs_steps": 1,
        "horizon": HORIZON,
        "n_action_steps": HORIZON,
        "encoder": EncoderConfig(
            **{"backbone": "small_cnn", "spatial_softmax_num_keypoints": 4} | (encoder or {})
        ),
        "normalizer": NormalizerConfig(mode="zscore"),
        "lapo": LapoConfig(**SMALL | (lapo or {})),
    }
    return PolicyConfig(**parts | changes)


def make_policy(config: PolicyConfig) -> LapoPolicy:
    """With fresh weights, for data that are normalised already."""
    torch.manual_seed(0)
    identity = Normalizer.identity(LAYOUT.dim, LAYOUT.dim)
    policy = create_policy(config, {"toy": TaskSpec(LAYOUT, identity, "aloha")})
    assert isinstance(policy, LapoPolicy)
    return policy


def make_entry(config: PolicyConfig) -> TaskEntry:
    shapes = dict.fromkeys(config.cameras, SOURCE_SHAPE)
    return TaskEntry.describe(config, layout=LAYOUT, cameras=shapes, embodiment="aloha")


def make_batch(config: PolicyConfig, size: int = 6, seed: int = 0) -> LapoBatch:
    """The last row's chunk reaches beyond its episode, which is a success."""
    generator = torch.Generator().manual_seed(seed)

    def pictures() -> dict[str, Tensor]:
        return {
            camera: torch.randint(256, (size, 1, *shape, 3), generator=generator, dtype=torch.uint8)
            for camera, shape in config.cameras.items()
        }

    def numbers(steps: int) -> Tensor:
        return 2 * torch.rand((size, steps, LAYOUT.dim), generator=generator) - 1

    valid = torch.ones((size, config.horizon), dtype=torch.bool)
    valid[-1, 1:] = False
    reward, discount = torch.zeros(size), torch.full((size,), 0.99)
    reward[-1], discount[-1] = 1.0, 0.0
    return LapoBatch(
        images=pictures(),
        next_images=pictures(),
        state=numbers(1),
        next_state=numbers(1),
        action=numbers(config.horizon),
        valid=valid,
        reward=reward,
        discount=discount,
    )


def make_transition(size: int = 5, action_dim: int = 6, **changes: Any) -> Transition:
    generator = torch.Generator().manual_seed(1)
    made = Transition(
        action=torch.randn((size, action_dim), generator=generator),
        valid=torch.ones((size, action_dim), dtype=torch.bool),
        reward=torch.rand(size, generator=generator) / 2,
        discount=torch.full((size,), 0.9),
    )
    return dataclasses.replace(made, **changes)
