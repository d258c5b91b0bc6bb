"""Episodes of a toy in which the pictures decide where the arm goes, and a config to learn it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from twin_env.episodes import write_episode
from twin_train.log import LOG, read_log
from twin_train.loop import Result

Run = Callable[..., Result]
"""The fixture `run`: a folder, assignments to the config, and other arguments of `train_run`."""

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


def write_config(path: Path, *, encoder: str) -> Path:
    """`CONFIG` with another `policy.encoder`, which is YAML; returns `path`."""
    values = yaml.safe_load(CONFIG)
    values["policy"]["encoder"] = yaml.safe_load(encoder)
    path.write_text(yaml.safe_dump(values))
    return path


def make_frame(vector: np.ndarray, color: tuple[int, int, int], *, arm: int = 6) -> dict[str, Any]:
    """`arm`: joints of each arm, without its gripper."""
    picture = np.empty((*SHAPE, 3), np.uint8)
    picture[...] = color
    return {
        "observation": {camera: {"rgb": picture} for camera in CAMERAS},
        "joint_action": {
            "left_arm": vector[:arm],
            "left_gripper": vector[arm],
            "right_arm": vector[arm + 1 : -1],
            "right_gripper": vector[-1],
            "vector": vector,
        },
    }


def write_episodes(
    folder: Path, count: int, n_frames: int = N_FRAMES, *, arm: int = 6
) -> list[Path]:
    """Episode e: red is 40 e; joint 0 holds 100 e + t, the right arm is idle."""
    for episode in range(count):
        frames = []
        for step in range(n_frames + episode):
            vector = np.zeros(2 * arm + 2)
            vector[: arm + 1] = 100 * episode + step
            vector[-1] = 1.0
            frames.append(make_frame(vector, (40 * episode, step, 0), arm=arm))
        write_episode(folder / "data" / f"episode{episode}.hdf5", frames)
    (folder / "seed.txt").write_text(" ".join(str(100 + e) for e in range(count)) + " ")
    return [folder / "data" / f"episode{episode}.hdf5" for episode in range(count)]


def stop_after(steps: int) -> Callable[[], bool]:
    """True at the call that comes after so many."""
    calls = iter(range(steps + 1))
    return lambda: next(calls) == steps


def compare_runs(whole: Path, parts: Path) -> None:
    """The same weights, bit for bit, and the same losses."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_log(whole / LOG) == read_log(parts / LOG)
