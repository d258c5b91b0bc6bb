"""Batches for LAPO: action chunks with the observations on either side, by episode and step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from twin_env.episodes import list_episodes
from twin_env.replay_files import is_replay, read_replay, sparse_labels
from twin_policy.action_space import JointLayout
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import Batch
from twin_policy.lapo_policy import LapoBatch
from twin_policy.normalizer import Normalizer
from twin_train.dataset import Transitions, Windows, fit_normalizer, split_episodes
from twin_train.features import FrameFeatures, SideBySide
from twin_train.loading import CameraPictures
from twin_train.replay_output import keys_there
from twin_train.store import Store, is_store

LOGGER = logging.getLogger(__name__)
DEMONSTRATION = "demonstration"


@dataclass(frozen=True)
class Rewards:
    """What an episode earned, and how it ended."""

    reward: NDArray[np.float32]
    """(T,)."""
    terminal: bool
    """Nothing follows the last transition; otherwise only the recording ended there."""
    success: bool
    source: str
    action: NDArray[np.float64] | None = None
    """(T, Da) as given; None: the next drive targets."""


def read_rewards(data: Path, store: Store) -> list[Rewards]:
    """Of each episode of the store, from the files that it was made of.

    Plain episodes are taken for demonstrations, and so for successes.

    Raises:
        ValueError: `data` is a store, which holds no rewards; some of the files hold rewards and
            others none; no frame follows an episode's last action.
        EpisodeFileError: a file that breaks a rule of the format.
    """
    if is_store(data):
        raise ValueError(
            f"{data} is a store, which holds no rewards: give the folder of replay episodes"
        )
    paths = {path.name: path for path in list_episodes(data)}
    if (wanted := len(keys_there(data))) > len(paths):
        LOGGER.warning(
            "%s holds %d of the %d episodes that were to be there: give the command that made it "
            "once more, or learn from these",
            data,
            len(paths),
            wanted,
        )
    ours = [(each, paths[each.source]) for each in store.episodes]
    labelled = [is_replay(path) for _, path in ours]
    if any(labelled) and not all(labelled):
        plain = ours[labelled.index(False)][1]
        raise ValueError(
            f"{data} holds episodes with rewards and others without, such as {plain.name}: make "
            f"one replay folder of them with `twinbench replay create {data} --out FOLDER`"
        )
    if cut := [each for each in store.episodes if each.n_frames != each.n_transitions + 1]:
        raise ValueError(
            f"{cut[0].source} of {data} has no frame after its last action, in the {cut[0].layout} "
            "layout, and what an action led to is learnt from: make a replay folder with "
            f"`twinbench replay create {data} --out FOLDER`"
        )
    if not any(labelled):
        return [
            Rewards(sparse_labels(each.n_transitions, "success")[0], True, True, DEMONSTRATION)
            for each, _ in ours
        ]
    found = []
    for _, path in ours:
        each = read_replay(path)
        success = each.about.outcome == "success"
        ended = bool(each.terminal[-1])
        found.append(Rewards(each.reward, ended, success, each.about.source, each.action))
    return found


@dataclass
class Frames:
    """All frames of some episodes laid end to end, T+1 of each."""

    images: Mapping[str, CameraPictures]
    state: NDArray[np.float32]
    """(n, D)."""
    read: Mapping[str, FrameFeatures | SideBySide] = field(default_factory=dict)


class ReplayWindows:
    """Every step of some episodes as the start of an action chunk.

    Next observations are found by episode and step, so none is ever another episode's.
    """

    def __init__(
        self,
        frames: Frames,
        windows: Windows,
        *,
        rewards: Sequence[Rewards],
        episodes: Sequence[int],
        discount: float,
    ) -> None:
        """
        Args:
            frames: of all episodes.
            windows: the chunks of these episodes, without pictures.
            rewards: of all episodes.
            episodes: positions, as in `windows`.
        """
        self.frames, self.windows = frames, windows
        self.horizon = windows.steps.shape[1]
        starts = windows.data.starts
        before, after, returns, discounts, future, owner = [], [], [], [], [], []
        for episode in episodes:
            length = windows.data.lengths[episode]
            first = int(starts[episode]) + episode
            steps = np.arange(length)
            ends = np.minimum(steps + self.horizon, length)
            before.append(first + steps)
            after.append(first + ends)
            earned = rewards[episode]
            returns.append(chunk_returns(earned.reward, self.horizon, discount))
            over = (ends == length) & earned.terminal
            discounts.append(np.where(over, 0.0, discount ** (ends - steps)))
            future.append(chunk_returns(earned.reward, length, discount))
            owner.append(np.full(length, episode))
        self.before: NDArray[np.int64] = np.concatenate(before)
        """(n,) frame of each chunk's observation."""
        self.after: NDArray[np.int64] = np.concatenate(after)
        """(n,) frame after each chunk, the episode's last one where the chunk reaches beyond."""
        self.reward = np.concatenate(returns).astype(np.float32)
        """(n,) discounted, until then."""
        self.discount = np.concatenate(discounts).astype(np.float32)
        """(n,) of what follows: 0 after a terminal, never after a truncation."""
        self.future = np.concatenate(future).astype(np.float32)
        """(n,) discounted rewards until the episode's end: Monte-Carlo returns."""
        self.owner: NDArray[np.int64] = np.concatenate(owner)
        """(n,) position of the episode."""

    def __len__(self) -> int:
        return len(self.before)

    def use_features(self, read: Mapping[str, FrameFeatures | SideBySide]) -> None:
        """Batches hold these from now on, instead of pictures."""
        self.frames = Frames({}, self.frames.state, read)

    def observed(self, rows: NDArray[np.int64] | Sequence[int]) -> Batch:
        """The chunks of these rows, and the observations before them alone."""
        chosen = np.asarray(rows)
        here = self.before[chosen][:, None]
        chunks = self.windows.batch(chosen)
        return Batch(
            images={name: pictures.take(here) for name, pictures in self.frames.images.items()},
            state=torch.from_numpy(self.frames.state[here]),
            action=chunks.action,
            valid=chunks.valid,
            read={name: frames.take(here) for name, frames in self.frames.read.items()},
        )

    def batch(self, rows: NDArray[np.int64] | Sequence[int]) -> LapoBatch:
        """The chunks of these rows."""
        chosen = np.asarray(rows)
        chunks = self.windows.batch(chosen)
        here, there = self.before[chosen][:, None], self.after[chosen][:, None]
        images, state, read = (self.frames.images, self.frames.state, self.frames.read)
        return LapoBatch(
            images={camera: pictures.take(here) for camera, pictures in images.items()},
            next_images={camera: pictures.take(there) for camera, pictures in images.items()},
            state=torch.from_numpy(state[here]),
            next_state=torch.from_numpy(state[there]),
            action=chunks.action,
            valid=chunks.valid,
            reward=torch.from_numpy(self.reward[chosen]),
            discount=torch.from_numpy(self.discount[chosen]),
            read={camera: frames.take(here) for camera, frames in read.items()},
            next_read={camera: frames.take(there) for camera, frames in read.items()},
        )


def chunk_returns(reward: NDArray[np.float32], steps: int, discount: float) -> NDArray[np.float64]:
    """Discounted sum of the next `steps` rewards from each step on, within the episode: (T,)."""
    total = np.zeros(len(reward) + 1)
    for step in reversed(range(len(reward))):
        total[step] = reward[step] + discount * total[step + 1]
    ends = np.minimum(np.arange(len(reward)) + steps, len(reward))
    beyond: NDArray[np.float64] = discount ** (ends - np.arange(len(reward))) * total[ends]
    returns: NDArray[np.float64] = total[:-1] - beyond
    return returns


@dataclass(frozen=True)
class ReplayData:
    """The episodes of a run, split."""

    training: ReplayWindows
    validation: ReplayWindows | None
    split: tuple[list[int], list[int]]
    rewards: Sequence[Rewards]
    normalizer: Normalizer

    @property
    def has_failures(self) -> bool:
        """Among those that are learnt from."""
        return not all(self.rewards[episode].success for episode in self.split[0])

    @property
    def each(self) -> list[ReplayWindows]:
        return [self.training, *([] if self.validation is None else [self.validation])]

    def counts(self) -> dict[str, dict[str, int]]:
        """Source to how many of its episodes succeeded and failed."""
        found: dict[str, dict[str, int]] = {}
        for each in self.rewards:
            counted = found.setdefault(each.source, {"successes": 0, "failures": 0})
            counted["successes" if each.success else "failures"] += 1
        return found


def cut_replay(
    store: Store,
    rewards: Sequence[Rewards],
    config: PolicyConfig,
    *,
    images: Mapping[str, CameraPictures],
    val_ratio: float,
    seed: int,
) -> ReplayData:
    """Splits the episodes and cuts their chunks.

    Args:
        images: camera to the pictures of all frames.

    Raises:
        ValueError: actions of another length than the robot's vector; no success to learn from.
    """
    assert config.lapo is not None
    vectors = [each.vector.astype(np.float32) for each in store.episodes]
    actions = [
        episode.action if earned.action is None else earned.action
        for episode, earned in zip(store.episodes, rewards, strict=True)
    ]
    transitions = Transitions(
        images={},
        state=torch.from_numpy(
            np.concatenate([v[: len(a)] for v, a in zip(vectors, actions, strict=True)])
        ),
        action=torch.from_numpy(np.concatenate(actions).astype(np.float32)),
        lengths=tuple(len(each) for each in actions),
    )
    train, val = split_by_outcome(rewards, val_ratio=val_ratio, seed=seed)
    if config.lapo.learn_from == "successes":
        train = [episode for episode in train if rewards[episode].success]
    if not any(rewards[episode].success for episode in train):
        raise ValueError(
            f"none of the {len(train)} training episodes is a success, so there is nothing to "
            "learn: mix in demonstrations with `twinbench replay create DEMOS RUN --out FOLDER`"
        )
    frames = Frames(images, np.concatenate(vectors))

    def cut(episodes: list[int]) -> tuple[Windows, ReplayWindows]:
        windows = Windows(transitions, episodes, n_obs_steps=1, horizon=config.horizon)
        assert config.lapo is not None
        replay = ReplayWindows(
            frames, windows, rewards=rewards, episodes=episodes, discount=config.lapo.discount
        )
        return windows, replay

    windows, training = cut(train)
    layout = JointLayout(store.left_arm, store.right_arm)
    return ReplayData(
        training=training,
        validation=cut(val)[1] if val else None,
        split=(train, val),
        rewards=rewards,
        normalizer=fit_normalizer([windows], config, layout),
    )


def split_by_outcome(
    rewards: Sequence[Rewards], *, val_ratio: float, seed: int
) -> tuple[list[int], list[int]]:
    """As `split_episodes`, of successes and failures apart, so that either part has both."""
    train: list[int] = []
    val: list[int] = []
    for success in (True, False):
        mine = [i for i, each in enumerate(rewards) if each.success == success]
        kept, held = split_episodes(len(mine), val_ratio=val_ratio, seed=seed)
        train += [mine[i] for i in kept]
        val += [mine[i] for i in held]
    return sorted(train), sorted(val)
