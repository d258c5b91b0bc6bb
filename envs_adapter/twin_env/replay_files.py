"""Replay episodes: a stable-layout episode file with actions, rewards and how it ended beside it.

The format, version 1: `FOLDER/data/episode{N}.hdf5` with T+1 frames as `twin_env.episodes` reads
them, and one group more, `replay`: `action` float64 (T, Da), absolute joint targets in the order of
`joint_action/vector`; `reward` float32 (T,); `terminal` and `truncated` bool (T,); `stage` int16
(T+1,) where known, how many stages were reached by that frame. What `ReplayAbout` has are the
group's attributes. The next observation of transition t is frame t+1 of the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_fields import EpisodeFileError, opened
from twin_env.episodes_folders import list_episodes
from twin_env.episodes_layouts import (
    STABLE_JOINTS,
    check_pictures,
    find_pictures,
    read_stable_joints,
)
from twin_env.files import replacing, write_text

FORMAT, VERSION = "twinbench-replay", 1
GROUP = "replay"
OUTCOMES = ("success", "failure")
SPARSE = "sparse"
"""The reward rule of what was recorded and not labelled otherwise: 1 on a success's last action."""

ReplayOutcome = Literal["success", "failure"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ReplayAbout:
    """Whose episode it is; the attributes of an episode's `replay` group."""

    task: str
    outcome: ReplayOutcome
    seed: int | None = None
    """Of the scene; None where it is not known."""
    noise_seed: int | None = None
    """Of the policy's own randomness; None where there was none or it is not known."""
    source: str
    """The policy's label in its evaluation, or `demonstration`, `synthetic`, ..."""
    checkpoint: str | None = None
    """Digest of the policy's checkpoint; None where there is none or it is not known."""
    reward_rule: str = SPARSE
    """What made the rewards: `sparse`, `stages`, `FILE.py:function`."""
    n_stages: int | None = None
    """How many stages the task has; None where it tells none."""


@dataclass(frozen=True)
class ReplayEpisode:
    """One episode's transitions; its pictures are read by `twin_env.episodes.read_episode`."""

    path: Path
    action: NDArray[np.float64]
    """(T, Da) absolute joint targets, as given: before the simulator cuts them to its limits."""
    reward: NDArray[np.float32]
    """(T,)."""
    terminal: Bools
    """(T,): whether nothing follows the transition; at most the last one."""
    truncated: Bools
    """(T,): whether only the recording ended there; at most the last one."""
    stage: NDArray[np.int16] | None
    """(T+1,) how many stages were reached by each frame; None where the simulator tells none."""
    vector: NDArray[np.float64]
    """(T+1, Da) joint drive targets in rad, grippers in [0, 1] with 1 open."""
    about: ReplayAbout

    @property
    def n_transitions(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class ReplayFrames:
    """What the T+1 frames of an episode hold, as it is written."""

    joints: Mapping[str, NDArray[np.float64]]
    """`left_arm` (T+1, n), `left_gripper` (T+1,), `right_arm`, `right_gripper`, `vector`."""
    pictures: Mapping[str, Sequence[bytes]]
    """Camera -> T+1 JPEGs, as `twin_env.episodes_pictures` knows them."""


def is_replay(path: str | Path) -> bool:
    """Whether an episode file holds a `replay` group.

    Raises:
        EpisodeFileError: not HDF5, or cut short.
    """
    with opened(Path(path)) as file:
        return GROUP in file


def read_replay(path: str | Path) -> ReplayEpisode:
    """Reads and checks one episode's transitions; no picture is decoded.

    Raises:
        FileNotFoundError: no such file.
        EpisodeFileError: the first rule of the format that it breaks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no episode file {path}")
    with opened(path) as file:
        episode, faults = _read(path, file)
    for fault in faults:
        raise fault
    assert episode is not None
    return episode


def find_faults(path: Path) -> list[EpisodeFileError]:
    """Every rule of the format that a file breaks, as far as it can be read."""
    try:
        with opened(path) as file:
            return _read(path, file)[1]
    except EpisodeFileError as error:
        return [error]


def read_replay_folder(folder: str | Path) -> list[ReplayEpisode]:
    """All episodes in a folder, in the order of their numbers.

    Raises:
        FileNotFoundError: there are none.
        EpisodeFileError: one of them is no replay episode.
    """
    return [read_replay(path) for path in list_episodes(folder)]


def write_replay(
    path: str | Path,
    *,
    frames: ReplayFrames,
    action: NDArray[np.float64],
    reward: NDArray[np.float32],
    terminal: Bools,
    truncated: Bools,
    about: ReplayAbout,
    stage: NDArray[np.int16] | None = None,
    instructions: Sequence[str] = (),
) -> None:
    """Writes one episode, whole or not at all; the arrays are those of `ReplayEpisode`.

    Raises:
        EpisodeFileError: it breaks a rule of the format; nothing is written.
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        "action": np.asarray(action, np.float64),
        "reward": np.asarray(reward, np.float32),
        "terminal": np.asarray(terminal, bool),
        "truncated": np.asarray(truncated, bool),
    }
    if stage is not None:
        arrays["stage"] = np.asarray(stage, np.int16)
    with replacing(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for camera, jpegs in frames.pictures.items():
                width = max(map(len, jpegs), default=1)
                file[f"observation/{camera}/rgb"] = np.array(list(jpegs), dtype=f"S{width}")
            for name in (*STABLE_JOINTS, "vector"):
                file[f"joint_action/{name}"] = np.asarray(frames.joints[name], np.float64)
            group = file.create_group(GROUP)
            for name, values in arrays.items():
                group[name] = values
            group.attrs.update({"format": FORMAT, "version": VERSION})
            group.attrs.update(_attributes(about))
        with opened(temporary) as file:
            for fault in _read(path, file)[1]:
                raise fault
    if instructions:
        beside = path.parent.parent / "instructions" / f"{path.stem}.json"
        write_text(beside, json.dumps({"seen": list(instructions)}, ensure_ascii=False) + "\n")


def sparse_labels(n: int, outcome: str) -> tuple[NDArray[np.float32], Bools, Bools]:
    """Reward, terminal and truncated (n,) of an episode that nobody labelled otherwise: a success
    is paid and ends there, a failure ran out of steps."""
    reward, terminal, truncated = np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, bool)
    if outcome == "success":
        reward[-1], terminal[-1] = 1.0, True
    else:
        truncated[-1] = True
    return reward, terminal, truncated


def _attributes(about: ReplayAbout) -> dict[str, Any]:
    values = {field.name: getattr(about, field.name) for field in fields(about)}
    return {name: value for name, value in values.items() if value is not None}


# Reading and its rules ------------------------------------------------------------------------


def _read(path: Path, file: h5py.File) -> tuple[ReplayEpisode | None, list[EpisodeFileError]]:
    """The episode if it breaks no rule, and the rules that it breaks."""
    group = file.get(GROUP)
    if not isinstance(group, h5py.Group):
        reason = (
            "missing: a plain episode, without rewards; make replay data of its folder with "
            "`twinbench replay create FOLDER --out OUT`"
        )
        return None, [EpisodeFileError(path, GROUP, reason)]
    faults: list[EpisodeFileError] = []

    def fault(field: str, reason: str) -> None:
        faults.append(EpisodeFileError(path, field, reason))

    found, version = group.attrs.get("format"), group.attrs.get("version")
    if (found, version) != (FORMAT, VERSION):
        rule = f"this TwinBench reads {FORMAT} {VERSION}, and it is {found} {version}"
        fault(GROUP, f"{rule}: read it with the TwinBench that wrote it, or record it again")
        return None, faults
    about = _read_about(group, fault)
    try:
        vector = read_stable_joints(path, file).vector
        for field in find_pictures(path, file, "stable").values():
            check_pictures(path, file, field, layout="stable", n_frames=len(vector))
    except EpisodeFileError as error:
        return None, [*faults, error]
    arrays = {
        name: _read_array(group, name, kinds, fault)
        for name, kinds in (("action", "f"), ("reward", "f"), ("terminal", "b"), ("truncated", "b"))
    }
    stage = _read_array(group, "stage", "iu", fault) if "stage" in group else None
    for field, reason in _broken_rules(vector, arrays, stage, about):
        fault(f"{GROUP}/{field}", reason)
    if faults:
        return None, faults
    assert about is not None
    episode = ReplayEpisode(
        path=path,
        action=np.asarray(arrays["action"], np.float64),
        reward=np.asarray(arrays["reward"], np.float32),
        terminal=np.asarray(arrays["terminal"], bool),
        truncated=np.asarray(arrays["truncated"], bool),
        stage=None if stage is None else np.asarray(stage, np.int16),
        vector=vector,
        about=about,
    )
    return episode, []


def _read_about(group: h5py.Group, fault: Any) -> ReplayAbout | None:
    kinds = {"task": str, "outcome": str, "source": str, "checkpoint": str, "reward_rule": str}
    values: dict[str, Any] = {}
    for field in fields(ReplayAbout):
        kind = kinds.get(field.name, int)
        if field.name not in group.attrs:
            if field.name in ("task", "outcome", "source"):
                fault(f"{GROUP}@{field.name}", "missing: record or create the episode again")
            continue
        value = group.attrs[field.name]
        if not isinstance(value, str if kind is str else (int, np.integer)):
            fault(f"{GROUP}@{field.name}", f"must be {kind.__name__}, and is {value!r}")
            continue
        values[field.name] = kind(value)
    if values.get("outcome", OUTCOMES[0]) not in OUTCOMES:
        found = values.pop("outcome")
        fault(f"{GROUP}@outcome", f"must be success or failure, and is {found!r}")
    return ReplayAbout(**values) if {"task", "outcome", "source"} <= values.keys() else None


def _read_array(group: h5py.Group, name: str, kinds: str, fault: Any) -> NDArray[Any] | None:
    found = group.get(name)
    names = {"f": "real numbers", "b": "bool", "iu": "whole numbers"}[kinds]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in kinds:
        held = found.dtype if isinstance(found, h5py.Dataset) else "missing"
        fault(f"{GROUP}/{name}", f"must hold {names}, and is {held}: create the folder again")
        return None
    return np.asarray(found[()])


def _broken_rules(
    vector: NDArray[np.float64],
    arrays: Mapping[str, NDArray[Any] | None],
    stage: NDArray[Any] | None,
    about: ReplayAbout | None,
) -> Iterator[tuple[str, str]]:
    """Field and reason of each."""
    n, width = len(vector) - 1, vector.shape[1]
    if n < 1:
        yield "action", "an episode needs two frames or more, and has one: leave it out"
        return
    sound = {}
    for name, values in arrays.items():
        shape = (n, width) if name == "action" else (n,)
        if values is None:
            continue
        if values.shape != shape:
            rule = f"{n + 1} frames of {width} joints have {n} transitions: must have shape {shape}"
            yield name, f"{rule}, and has {values.shape}"
        elif values.dtype.kind == "f" and not np.isfinite(values).all():
            yield name, f"is not finite at transition {np.argwhere(~np.isfinite(values))[0][0]}"
        else:
            sound[name] = values
    if {"terminal", "truncated"} <= sound.keys():
        yield from _broken_ends(sound["terminal"], sound["truncated"], about)
    if stage is not None:
        yield from _broken_stages(stage, n + 1, about)


def _broken_ends(
    terminal: Bools, truncated: Bools, about: ReplayAbout | None
) -> Iterator[tuple[str, str]]:
    last = len(terminal) - 1
    for name, ends in (("terminal", terminal), ("truncated", truncated)):
        if early := np.flatnonzero(ends[:-1]).tolist():
            yield name, f"is set at transition {early[0]}, and only the last, {last}, may be"
    if terminal[-1] and truncated[-1]:
        yield "truncated", "the last transition is terminal too: it must be one of the two"
    if not (terminal[-1] or truncated[-1]):
        yield "terminal", "the last transition is neither terminal nor truncated: it must be one"
    elif about and about.outcome == "success" and not terminal[-1]:
        yield "terminal", "a success must end as terminal, and this one is truncated"


def _broken_stages(
    stage: NDArray[Any], n_frames: int, about: ReplayAbout | None
) -> Iterator[tuple[str, str]]:
    if stage.shape != (n_frames,):
        yield "stage", f"must have shape ({n_frames},), one a frame, and has {stage.shape}"
        return
    if fallen := np.flatnonzero(np.diff(stage.astype(np.int64)) < 0).tolist():
        yield "stage", f"falls after frame {fallen[0]}, and a stage that was reached stays so"
    most = about.n_stages if about and about.n_stages is not None else None
    if stage.min() < 0 or (most is not None and stage.max() > most):
        bound = "" if most is None else f" to {most}"
        yield "stage", f"must be from 0{bound}, and is from {stage.min()} to {stage.max()}"
