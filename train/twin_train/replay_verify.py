"""Whether a folder of replay data is sound, and what there is to learn from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twin_env.episodes import EpisodeFileError, list_episodes, read_episode
from twin_env.replay_files import ReplayEpisode, find_faults, read_replay
from twin_env.replay_folders import content_digest, count_outcomes, read_manifest
from twin_train.replay_draft import Shape, describe_cameras, shape_of
from twin_train.replay_output import keys_there

IDLE_RAD = 1e-3
"""An action that moves no joint by more is idle."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found in a folder."""

    folder: Path
    faults: Sequence[str]
    """Of files and of the folder, each with its remedy where there is one."""
    notes: Sequence[str]
    """What is allowed, and worth knowing before training."""
    episodes: Sequence[ReplayEpisode]
    """Those that are sound."""
    shape: Shape | None
    size_bytes: int

    @property
    def transitions(self) -> int:
        return sum(episode.n_transitions for episode in self.episodes)

    @property
    def returns(self) -> list[float]:
        """Undiscounted, of each episode."""
        return [float(episode.reward.sum(dtype=np.float64)) for episode in self.episodes]

    @property
    def idle(self) -> int:
        """Transitions whose action moves no joint by more than `IDLE_RAD`."""
        return sum(
            int((np.abs(each.action - each.vector[:-1]).max(1) <= IDLE_RAD).sum())
            for each in self.episodes
        )

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        lengths = [episode.n_transitions for episode in self.episodes]
        shape = self.shape
        return {
            "folder": str(self.folder),
            "sound": not self.faults,
            "faults": list(self.faults),
            "notes": list(self.notes),
            "task": shape.task if shape else None,
            "embodiment": [shape.left_arm, shape.right_arm] if shape else None,
            "cameras": {k: list(v) for k, v in shape.cameras.items()} if shape else {},
            "reward_rules": sorted({episode.about.reward_rule for episode in self.episodes}),
            "episodes": len(self.episodes),
            "counts": count_outcomes(self.episodes),
            "transitions": self.transitions,
            "lengths": [min(lengths), max(lengths)] if lengths else None,
            "returns": [min(self.returns), max(self.returns)] if lengths else None,
            "terminal": sum(bool(episode.terminal[-1]) for episode in self.episodes),
            "truncated": sum(bool(episode.truncated[-1]) for episode in self.episodes),
            "idle_transitions": self.idle,
            "size_bytes": self.size_bytes,
        }


def verify(
    folder: Path, *, every_picture: bool = False, tick: Callable[[], object] = lambda: None
) -> Verified:
    """Checks every rule of the format, in every file and among them.

    Args:
        every_picture: decode all pictures, and not three a camera and episode.
        tick: called after each episode.

    Raises:
        FileNotFoundError: no episodes.
    """
    faults: list[str] = []
    sound: list[ReplayEpisode] = []
    shapes: dict[Path, Shape] = {}
    digests: dict[str, Path] = {}
    paths = list_episodes(folder)
    for path in paths:
        found = find_faults(path) or _faults_of_pictures(path, every_picture=every_picture)
        faults += [str(fault) for fault in found]
        if not found:
            episode = read_replay(path)
            sound.append(episode)
            shapes[path] = shape_of(path, episode.about.task)
            twin = digests.setdefault(content_digest(path), path)
            if twin != path:
                faults.append(f"{path}: has the same content as {twin.name}: delete one of them")
        tick()
    first = next(iter(shapes.values()), None)
    faults += _faults_among(sound, shapes)
    faults += _faults_of_manifest(folder, sound, len(paths))
    return Verified(
        folder=folder,
        faults=faults,
        notes=_notes(sound),
        episodes=sound,
        shape=first,
        size_bytes=sum(path.stat().st_size for path in paths),
    )


def _faults_of_pictures(path: Path, *, every_picture: bool) -> list[EpisodeFileError]:
    """One a camera at most: pictures that do not decode, or have another shape than the first."""
    try:
        plain = read_episode(path)
    except EpisodeFileError as error:
        return [error]
    faults = []
    n = plain.n_frames
    for camera in plain.cameras:
        stored = plain.stored_pictures(camera)
        try:
            for frame in range(n) if every_picture else sorted({0, n // 2, n - 1}):
                plain.decode(camera, frame, stored[frame])
        except EpisodeFileError as error:
            faults.append(error)
    return faults


def _faults_among(episodes: Sequence[ReplayEpisode], shapes: Mapping[Path, Shape]) -> list[str]:
    """What does not go together."""
    if not episodes:
        return []
    first, *others = episodes
    faults = []
    for episode in others:
        said = shapes[first.path].differences(shapes[episode.path])
        if episode.about.reward_rule != first.about.reward_rule:
            said.append(
                f"rewards by {episode.about.reward_rule}, not {first.about.reward_rule} "
                "(`twinbench replay create` labels them alike)"
            )
        faults += [f"{episode.path}: has {one}, as {first.path.name}" for one in said]
    return faults


def _faults_of_manifest(folder: Path, episodes: Sequence[ReplayEpisode], n_files: int) -> list[str]:
    remedy = "give the command that made the folder once more"
    if (wanted := len(keys_there(folder))) > n_files:
        return [f"{folder}: {n_files} of its {wanted} episodes are there: {remedy}"]
    try:
        manifest = read_manifest(folder)
    except EpisodeFileError as error:
        return [str(error)]
    if manifest is None:
        return []
    if manifest.get("episodes") != n_files:
        told = manifest.get("episodes")
        return [
            f"{folder}/replay.json: tells of {told} episodes, and there are {n_files}: {remedy}"
        ]
    if len(episodes) == n_files and manifest.get("counts") != count_outcomes(episodes):
        return [f"{folder}/replay.json: its counts are not those of the files: {remedy}"]
    return []


def _notes(episodes: Sequence[ReplayEpisode]) -> list[str]:
    if not episodes:
        return []
    notes = []
    ends = {episode.about.outcome for episode in episodes}
    if "failure" not in ends:
        notes.append(
            "no contrast: every episode is a success, so that an advantage tells speed alone; add "
            "failures, as `twinbench eval TASK POLICY --rollouts all` records them"
        )
    if "success" not in ends:
        notes.append("no contrast: every episode is a failure, and nothing tells what would not be")
    if all(not episode.reward.any() for episode in episodes):
        notes.append("every reward is 0: there is nothing to maximise")
    return notes


def describe(found: Verified) -> str:
    """For the terminal."""
    values = found.to_dict()
    lines = []
    if found.shape is not None:
        shape = found.shape
        width = shape.left_arm + shape.right_arm + 2
        lines += [
            f"task         {shape.task}",
            f"actions      {width} numbers: arms of {shape.left_arm} and {shape.right_arm} joints, "
            "grippers",
            f"cameras      {describe_cameras(shape.cameras)} (height x width)",
            f"rewards      {', '.join(values['reward_rules'])}",
        ]
    if found.episodes:
        lines += ["", *_table(values["counts"]), ""]
        low, high = values["lengths"]
        lines += [
            f"transitions  {found.transitions}, {low} to {high} an episode; "
            f"{values['terminal']} end as terminal, {values['truncated']} are truncated",
            "return       {:g} to {:g}, undiscounted".format(*values["returns"]),
            f"idle         {100 * found.idle / found.transitions:.1f}% of the transitions move no "
            f"joint by more than {IDLE_RAD:g} rad",
        ]
    lines.append(f"on disk      {found.size_bytes / 1e6:.1f} MB")
    lines += [f"note: {note}" for note in found.notes]
    n = len(found.faults)
    lines += [f"fault: {fault}" for fault in found.faults]
    lines.append(f"{n} fault{'s' * (n != 1)}" if n else f"{found.folder}: sound")
    return "\n".join(lines)


def _table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    width = max(len("source"), *map(len, counts))
    rows = [f"{'source':<{width}}  successes  failures"]
    rows += [
        f"{source:<{width}}  {count['success']:>9}  {count['failure']:>8}"
        for source, count in counts.items()
    ]
    if len(counts) > 1:
        both = [sum(count[end] for count in counts.values()) for end in ("success", "failure")]
        rows.append(f"{'all':<{width}}  {both[0]:>9}  {both[1]:>8}")
    return rows
