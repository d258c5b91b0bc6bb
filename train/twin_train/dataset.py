"""Episodes in memory, at the policy's sizes, and the training windows cut from them by index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from twin_env.episodes import Episode, EpisodeFileError, read_episode
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import Batch
from twin_policy.images import resize_rgb
from twin_policy.normalizer import DimensionNormalizer, Normalizer


@dataclass(frozen=True)
class Transitions:
    """Frames of several episodes laid end to end; each frame t has the action that follows it."""

    images: Mapping[str, torch.Tensor]
    """Camera to uint8 RGB (n, H, W, 3), contiguous, at the policy's size."""
    state: torch.Tensor
    """float32 (n, D): vector[t]."""
    action: torch.Tensor
    """float32 (n, D): vector[t + 1]."""
    lengths: tuple[int, ...]
    """Transitions of each episode."""
    paths: tuple[Path, ...]
    source_shapes: Mapping[str, tuple[int, int, int]]
    """Camera to the (H, W, 3) in the files."""
    fingerprint: str
    """Hash of the files' contents, in order."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """First transition of each episode."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)


def load_transitions(
    paths: Sequence[Path], cameras: Mapping[str, tuple[int, int]], *, threads: int, quiet: bool
) -> Transitions:
    """Decodes and resizes every picture once, in parallel threads.

    The last frame of an episode gives an action only.

    Raises:
        EpisodeFileError: a faulty file, a missing camera, too short an episode, or one that
            disagrees with the first in joints or picture sizes.
    """
    episodes = [read_episode(path) for path in paths]
    _check_alike(episodes, cameras)
    lengths = tuple(episode.n_frames - 1 for episode in episodes)
    images = {
        camera: np.empty((sum(lengths), *size, 3), np.uint8) for camera, size in cameras.items()
    }
    begins = np.concatenate([[0], np.cumsum(lengths)])

    def fill(index: int) -> None:
        for camera, size in cameras.items():
            rows = images[camera][begins[index] : begins[index + 1]]
            for row, picture in zip(rows, episodes[index].each_rgb(camera), strict=False):
                row[...] = resize_rgb(picture, size)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        work = pool.map(fill, range(len(episodes)))
        for _ in tqdm(work, "decoding episodes", len(episodes), unit="episode", disable=quiet):
            pass
    vectors = [episode.vector.astype(np.float32) for episode in episodes]
    return Transitions(
        images={camera: torch.from_numpy(pixels) for camera, pixels in images.items()},
        state=torch.from_numpy(np.concatenate([vector[:-1] for vector in vectors])),
        action=torch.from_numpy(np.concatenate([vector[1:] for vector in vectors])),
        lengths=lengths,
        paths=tuple(paths),
        source_shapes={camera: episodes[0].image_shapes[camera] for camera in cameras},
        fingerprint=fingerprint(paths),
    )


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of the files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _check_alike(episodes: Sequence[Episode], cameras: Mapping[str, tuple[int, int]]) -> None:
    first = episodes[0]
    for episode in episodes:
        if episode.n_frames < 2:
            raise EpisodeFileError(
                episode.path, "joint_action/vector", "one frame is no transition"
            )
        if episode.vector.shape[1] != first.vector.shape[1]:
            raise EpisodeFileError(
                episode.path,
                "joint_action/vector",
                f"has {episode.vector.shape[1]} joints, {first.path.name} has "
                f"{first.vector.shape[1]}",
            )
        for camera in cameras:
            shape = episode.shape_of(camera)
            if shape != first.image_shapes[camera]:
                raise EpisodeFileError(
                    episode.path,
                    f"observation/{camera}/rgb",
                    f"is {shape}, {first.path.name} has {first.image_shapes[camera]}",
                )


class Windows:
    """Training windows of some of the episodes: one for each of their frames."""

    def __init__(
        self,
        data: Transitions,
        episodes: Sequence[int],
        *,
        n_obs_steps: int,
        horizon: int,
    ) -> None:
        self.data = data
        before, after = n_obs_steps - 1, horizon - n_obs_steps
        parts, valids = [], []
        for episode in episodes:
            begin, length = int(data.starts[episode]), data.lengths[episode]
            offsets = np.arange(-before, after + 1)
            steps = np.arange(length)[:, None] + offsets
            valids.append((steps >= 0) & (steps < length))
            parts.append(begin + steps.clip(0, length - 1))
        self.steps = torch.from_numpy(np.concatenate(parts))
        """int64 (n, H): the transition of each step, edges repeated."""
        self.valid = torch.from_numpy(np.concatenate(valids))
        """bool (n, H): False on padding."""
        self.n_obs_steps = n_obs_steps

    def __len__(self) -> int:
        return len(self.steps)

    def batch(self, rows: NDArray[np.int64] | Sequence[int]) -> Batch:
        """The windows of these rows, gathered in one copy a camera."""
        chosen = torch.as_tensor(np.asarray(rows))
        steps = self.steps[chosen]
        observed = steps[:, : self.n_obs_steps]
        flat = observed.reshape(-1)
        shape = observed.shape
        return Batch(
            images={
                camera: pixels.index_select(0, flat.to(pixels.device)).unflatten(0, shape)
                for camera, pixels in self.data.images.items()
            },
            state=self.data.state[observed],
            action=self.data.action[steps],
            valid=self.valid[chosen],
        )


def split_episodes(n: int, *, val_ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Episode indices for training and for validation, which is empty with one episode only."""
    n_val = 0 if n < 2 or val_ratio == 0 else min(n - 1, max(1, round(n * val_ratio)))
    order = np.random.default_rng(seed).permutation(n)
    return sorted(order[n_val:].tolist()), sorted(order[:n_val].tolist())


def fit_normalizer(
    windows: Windows, config: PolicyConfig, gripper_dims: Sequence[int]
) -> Normalizer:
    """Statistics of the training windows; of the valid steps only."""
    state = windows.data.state.double().numpy()
    action = windows.data.action.double().numpy()
    steps, valid = windows.steps.numpy(), windows.valid.numpy()
    present = steps[:, windows.n_obs_steps - 1]
    if config.action_representation == "relative":
        reference = state[present]
        reference[:, list(gripper_dims)] = 0
        targets = (action[steps] - reference[:, None])[valid]
    else:
        targets = action[present]
    return Normalizer(
        DimensionNormalizer.fit(state[present], config.normalizer),
        DimensionNormalizer.fit(targets, config.normalizer),
    )


def rows_of_step(step: int, *, n: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Which windows make up a training step: shuffled epochs, as a function of the step alone.

    A batch that reaches over the end of an epoch continues with the next one.
    """
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = wanted // n
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, int(epoch)]).permutation(n)
        mine = epochs == epoch
        rows[mine] = order[wanted[mine] % n]
    return rows
