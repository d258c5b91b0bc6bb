"""Where a checkpoint comes from: data, networks, settings, versions."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from twin_policy.diffusion import ChunkPolicy
from twin_policy.parsing import plain
from twin_train.config import RunConfig
from twin_train.store import Store

RANDOM_WEIGHTS = "random weights"


def describe(
    config: RunConfig,
    *,
    tasks: Mapping[str, Mapping[str, Any]],
    parameters: Mapping[str, Any],
    backbone_weights: Mapping[str, Any],
    processes: int = 1,
) -> dict[str, Any]:
    """Of a run with a resolved config.

    Args:
        tasks: what `describe_data` says of each.
        parameters: counts of the parts; `learning` are those that get gradients.
    """
    train = config.train
    return {
        "tasks": dict(tasks),
        "parameters": dict(parameters),
        "backbone": _describe_backbone(config),
        "backbone_weights": dict(backbone_weights),
        "train_config": plain(train),
        "processes": processes,
        "effective_batch_size": train.batch_size * train.grad_accum_steps * processes,
        "mixed_precision": train.mixed_precision,
        "versions": {
            "python": platform.python_version(),
            **{
                package: metadata.version(package)
                for package in ("torch", "accelerate", "diffusers", "numpy")
            },
        },
        "git": _git_revision(),
    }


def _describe_backbone(config: RunConfig) -> dict[str, Any]:
    """What is read of which network, and what of it learns."""
    names = ("backbone", "tag", "layer", "pooling", "feature_dim", "tuning", "image_normalization")
    encoder = config.policy.encoder
    found = {name: getattr(encoder, name) for name in names}
    return found if encoder.fusion is None else found | {"fusion": plain(encoder.fusion)}


def describe_data(
    data: Path,
    store: Store,
    *,
    split: tuple[Sequence[int], Sequence[int]],
    n_windows: int,
    policy: ChunkPolicy,
    task: str,
) -> dict[str, Any]:
    """Of a task's episodes.

    Args:
        data: the folder of episodes, or the store.
        split: positions of the episodes for training and for validation.
        n_windows: of the training part.
    """
    names = [episode.source for episode in store.episodes]
    train, val = ([names[index] for index in part] for part in split)
    action = policy.joints_of(task).normalizer.action
    return {
        "data_folder": str(data),
        "data_sha256": store.fingerprint,
        "embodiment": store.embodiment,
        "transitions": sum(episode.n_transitions for episode in store.episodes),
        "train_windows": n_windows,
        "train_episodes": train,
        "val_episodes": val,
        "episode_seeds": _read_seeds(data)[: len(names)],
        "frozen_action_dims": torch.nonzero(action.frozen).flatten().tolist(),
    }


def _read_seeds(data: Path) -> list[int]:
    """Scene seeds of the recorded episodes, from `seed.txt` beside them."""
    for folder in (data, data.parent):
        path = folder / "seed.txt"
        if path.is_file():
            return [int(word) for word in path.read_text(encoding="utf-8").split()]
    return []


def _git_revision() -> str:
    """Commit of the source tree, with `-dirty` if it was changed; empty outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
