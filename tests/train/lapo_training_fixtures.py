"""Replay episodes whose every number and picture tells where it belongs, and a config for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from training_fixtures import CAMERAS, SHAPE

from twin_env.episodes_pictures import encode_recorded
from twin_env.replay_files import (
    ReplayAbout,
    ReplayFrames,
    ReplayOutcome,
    sparse_labels,
    write_replay,
)

HORIZON, DISCOUNT = 3, 0.9
LIT = 16
"""Green of a frame: this times its number."""

CONFIG = f"""\
policy:
  cameras: {{head_camera: [24, 32], left_camera: [12, 16]}}
  n_obs_steps: 1
  horizon: {HORIZON}
  n_action_steps: {HORIZON}
  encoder: {{backbone: small_cnn, spatial_softmax_num_keypoints: 4, color_jitter: 0.1,
    state_noise: 0.05}}
  normalizer: {{mode: zscore}}
  lapo: {{latent_dim: 4, hidden_dim: 16, n_layers: 2, feature_dim: 8, discount: {DISCOUNT}}}
train:
  num_steps: 12
  batch_size: 8
  lr: 1e-3
  lr_warmup_steps: 2
  grad_clip_norm: 10.0
  weight_decay: 1e-2
  val_ratio: 0.25
  val_windows: 8
  log_every: 4
  val_every: 6
  checkpoint_every: 4
"""


@dataclass(frozen=True)
class Played:
    """One episode to be written."""

    length: int
    outcome: ReplayOutcome = "success"
    ended: bool | None = None
    """Whether the last transition is terminal; as the outcome has it, if None."""
    reward: NDArray[np.float32] | None = None
    """(T,); sparse, if None."""
    source: str = "dp"


SOME = (
    Played(7, source="demonstration"),
    Played(6),
    Played(5, "failure"),
    Played(8, "failure"),
    Played(6),
    Played(7, "failure"),
)


def vector_of(episode: int, frame: int) -> NDArray[np.float64]:
    """(14,); the right arm is idle, and grippers are open."""
    vector = np.zeros(14)
    vector[:6] = 10 * episode + frame + 0.1 * np.arange(6)
    vector[[6, 13]] = 1.0
    return vector


def action_of(episode: int, step: int) -> NDArray[np.float64]:
    """(14,); not where the robot is found next."""
    action = vector_of(episode, step + 1)
    action[:6] += 0.3
    return action


def color_of(episode: int, frame: int) -> tuple[int, int, int]:
    return (40 * episode, LIT * frame, 0)


def write_replays(folder: Path, played: tuple[Played, ...] = SOME) -> Path:
    """`folder/data/episode{N}.hdf5`, with pictures as `color_of` has them; returns `folder`."""
    for episode, each in enumerate(played):
        length = each.length
        vectors = np.stack([vector_of(episode, frame) for frame in range(length + 1)])
        jpegs = [
            encode_recorded(np.full((*SHAPE, 3), color_of(episode, frame), np.uint8))
            for frame in range(length + 1)
        ]
        reward, terminal, truncated = sparse_labels(length, each.outcome)
        if each.ended is not None:
            terminal[-1], truncated[-1] = each.ended, not each.ended
        write_replay(
            folder / "data" / f"episode{episode}.hdf5",
            frames=ReplayFrames(joints_of(vectors), dict.fromkeys(CAMERAS, jpegs)),
            action=np.stack([action_of(episode, step) for step in range(length)]),
            reward=reward if each.reward is None else each.reward,
            terminal=terminal,
            truncated=truncated,
            about=ReplayAbout(task="toy", outcome=each.outcome, source=each.source),
        )
    return folder


def joints_of(vectors: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "left_arm": vectors[:, :6],
        "left_gripper": vectors[:, 6],
        "right_arm": vectors[:, 7:13],
        "right_gripper": vectors[:, 13],
        "vector": vectors,
    }
