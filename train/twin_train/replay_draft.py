"""One episode on its way into a folder of replay data: from a demonstration, or a replay file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from twin_env.episodes import Episode, EpisodeFileError, read_episode
from twin_env.episodes_layouts import STABLE_JOINTS
from twin_env.episodes_pictures import encode_jpeg
from twin_env.names import unknown
from twin_env.replay_files import (
    ReplayAbout,
    ReplayEpisode,
    ReplayFrames,
    is_replay,
    read_replay,
    sparse_labels,
    write_replay,
)
from twin_train.layout_episodes import LAST

DEMONSTRATION = "demonstration"
"""The source that episodes have which say of none."""


@dataclass(frozen=True)
class Draft:
    """What will be written, and what is to be said about it."""

    episode: ReplayEpisode
    """With the path of what it was made of."""
    frames: ReplayFrames
    instructions: Sequence[str]
    remarks: Sequence[str] = ()
    """What was left out or made up."""

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all.

        Raises:
            EpisodeFileError: it breaks a rule of the format.
        """
        episode = self.episode
        write_replay(
            path,
            frames=self.frames,
            action=episode.action,
            reward=episode.reward,
            terminal=episode.terminal,
            truncated=episode.truncated,
            stage=episode.stage,
            about=episode.about,
            instructions=self.instructions,
        )


def read_draft(
    path: Path, *, task: str | None, seed: int | None = None, cameras: Sequence[str] = ()
) -> Draft:
    """A replay episode as it is, or a demonstration, a success, as one; pictures keep their bytes.

    Args:
        task: of a demonstration.
        seed: of its scene, where it is known.
        cameras: those to keep; all by default.

    Raises:
        EpisodeFileError: not an episode, or none from which a transition can be made.
    """
    plain = read_episode(path)
    if plain.layout == "stable" and is_replay(path):
        replay, frames = read_replay(path), plain.n_frames
        remarks: list[str] = []
        joints = replay.vector
    else:
        replay, joints, remarks = _of_demonstration(plain, task=task, seed=seed)
        frames = len(joints)
    for camera in cameras:
        plain.shape_of(camera)
    pictures = {name: _jpegs(plain, name, frames, remarks) for name in cameras or plain.cameras}
    return Draft(
        replay,
        ReplayFrames(split_joints(joints, plain.left_arm), pictures),
        plain.instructions,
        remarks,
    )


def split_joints(vector: NDArray[np.float64], left_arm: int) -> dict[str, NDArray[np.float64]]:
    """The parts of a vector (T, Da) as an episode file keeps them, and itself."""
    ends = [left_arm, left_arm + 1, vector.shape[1] - 1]
    parts = np.split(vector, ends, axis=1)
    values = [part[:, 0] if n % 2 else part for n, part in enumerate(parts)]
    return {**dict(zip(STABLE_JOINTS, values, strict=True)), "vector": vector}


def _of_demonstration(
    plain: Episode, *, task: str | None, seed: int | None
) -> tuple[ReplayEpisode, NDArray[np.float64], list[str]]:
    vector, action, remarks = plain.vector, plain.action, []
    if plain.layout == "main":
        if _keeps_last_frame(plain):
            vector = np.concatenate([vector, action[-1:]])
        else:
            action = action[:-1]
            remarks.append(
                "the main layout has no picture after the last action: that transition is left "
                "out, and the one before it is the success"
            )
    if len(action) < 1:
        raise EpisodeFileError(plain.path, "frames", "too few for one transition: leave it out")
    if task is None:
        raise ValueError(f"{plain.path} does not say whose task it is: give --task TASK")
    reward, terminal, truncated = sparse_labels(len(action), "success")
    about = ReplayAbout(task=task, outcome="success", seed=seed, source=DEMONSTRATION)
    episode = ReplayEpisode(
        plain.path, action, reward, terminal, truncated, stage=None, vector=vector, about=about
    )
    return episode, vector, remarks


def _keeps_last_frame(plain: Episode) -> bool:
    """Whether `twinbench data convert` made the file, which puts the last pictures aside."""
    with h5py.File(plain.path, "r") as file:
        return all(f"{LAST}/observation/{camera}/rgb" in file for camera in plain.cameras)


def _jpegs(plain: Episode, camera: str, n_frames: int, remarks: list[str]) -> list[bytes]:
    stored = plain.stored_pictures(camera)
    if n_frames > len(stored):
        with h5py.File(plain.path, "r") as file:
            stored.append(bytes(file[f"{LAST}/observation/{camera}/rgb"][0]))
    if any(not isinstance(picture, bytes) for picture in stored):
        remarks.append("pictures that were plain arrays are JPEGs now")
    return [
        picture if isinstance(picture, bytes) else encode_jpeg(picture, "swapped")
        for picture in stored[:n_frames]
    ]


@dataclass(frozen=True)
class Shape:
    """What all episodes of a folder must have in common."""

    task: str
    left_arm: int
    right_arm: int
    cameras: dict[str, tuple[int, int, int]]
    """(H, W, 3) of each."""

    def differences(self, other: Shape) -> list[str]:
        """What is otherwise in `other`, in words."""
        said = []
        if self.task != other.task:
            said.append(f"task {other.task}, not {self.task}")
        arms = [f"{each.left_arm} + {each.right_arm} joints" for each in (self, other)]
        if arms[0] != arms[1]:
            said.append(f"arms of {arms[1]}, not {arms[0]}")
        if self.cameras != other.cameras:
            here, there = (describe_cameras(each.cameras) for each in (self, other))
            choose = " (`twinbench replay create --cameras` chooses)"
            remedy = choose if self.cameras.keys() != other.cameras.keys() else ""
            said.append(f"cameras {there}, not {here}{remedy}")
        return said


def shape_of(path: Path, task: str, cameras: Sequence[str] = ()) -> Shape:
    """The shape of an episode file, of whatever layout.

    Raises:
        EpisodeFileError: not an episode, or without one of the cameras.
    """
    plain = read_episode(path)
    for camera in cameras:
        if camera not in plain.cameras:
            reason = str(unknown("camera", camera, plain.cameras))
            raise EpisodeFileError(path, "observation", reason)
    names = cameras or plain.cameras
    shapes = {name: plain.image_shapes[name] for name in sorted(names)}
    return Shape(task, plain.left_arm, plain.right_arm, shapes)


def describe_cameras(cameras: dict[str, tuple[int, int, int]]) -> str:
    return ", ".join(f"{name} {shape[0]}x{shape[1]}" for name, shape in cameras.items())


def relabelled(
    draft: Draft,
    *,
    reward: NDArray[np.float32],
    terminal: NDArray[np.bool_],
    rule: str,
) -> Draft:
    """The same with other rewards and another end: what is not terminal is cut off."""
    truncated = np.zeros(len(terminal), bool)
    truncated[-1] = not terminal[-1]
    episode = replace(
        draft.episode,
        reward=reward,
        terminal=terminal,
        truncated=truncated,
        about=replace(draft.episode.about, reward_rule=rule),
    )
    return replace(draft, episode=episode)
