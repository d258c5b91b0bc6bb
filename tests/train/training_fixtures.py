"""Episodes of a toy in which the pictures decide where the arm goes, and a config to learn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twin_env.episodes import write_episode

CAMERAS = ("head_camera", "left_camera", "right_camera")
SHAPE = (24, 32)
N_FRAMES = 12

CONFIG = """\
policy:
  cameras: {head_camera: [24, 32], left_camera: [12, 16]}
  n_obs_steps: 2
  horizon: 8
  n_action_steps: 4
  encoder: {backbone: small_cnn, spatial_softmax_num_keypoints: 4, color_jitter: 0.1}
  denoiser: {name: mlp, diffusion_step_embed_dim: 8, hidden_dim: 32, n_blocks: 1}
  noise_scheduler: {prediction_type: sample}
train:
  num_steps: 12
  batch_size: 8
  noise_draws: 2
  lr: 1e-3
  lr_warmup_steps: 2
  ema: {schedule: ratio, max_decay: 0.99}
  val_windows: 4
  log_every: 2
  val_every: 6
  checkpoint_every: 4
"""


def make_frame(vector: np.ndarray, color: tuple[int, int, int]) -> dict[str, Any]:
    picture = np.empty((*SHAPE, 3), np.uint8)
    picture[...] = color
    return {
        "observation": {camera: {"rgb": picture} for camera in CAMERAS},
        "joint_action": {
            "left_arm": vector[:6],
            "left_gripper": vector[6],
            "right_arm": vector[7:13],
            "right_gripper": vector[13],
            "vector": vector,
        },
    }


def write_episodes(folder: Path, count: int, n_frames: int = N_FRAMES) -> list[Path]:
    """Episode e: red is 40 e; joint 0 holds 100 e + t, the right arm is idle."""
    for episode in range(count):
        frames = []
        for step in range(n_frames + episode):
            vector = np.zeros(14)
            vector[:7] = 100 * episode + step
            vector[13] = 1.0
            frames.append(make_frame(vector, (40 * episode, step, 0)))
        write_episode(folder / "data" / f"episode{episode}.hdf5", frames)
    (folder / "seed.txt").write_text(" ".join(str(100 + e) for e in range(count)) + " ")
    return [folder / "data" / f"episode{episode}.hdf5" for episode in range(count)]
