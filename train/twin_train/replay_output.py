"""The folder of replay data that a command makes: whose it is, what is there already, the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin_env.episodes_folders import holds_episodes
from twin_env.files import locked, write_text
from twin_env.replay_files import ReplayEpisode, read_replay_folder
from twin_env.replay_folders import Sources, describe_folder, write_manifest

CLAIM = "creation.json"
"""In the folder: by what it is made, so that the same command goes on and another is refused."""
CLAIM_VERSION = 1


class ReplayFolderError(ValueError):
    """A folder holds something else, or what it is to be made of does not go together."""


@dataclass(frozen=True)
class Made:
    """What became of a folder."""

    folder: Path
    episodes: Sequence[ReplayEpisode]
    written: int
    """By this call; the others were there."""
    left_out: Mapping[str, int]
    """Reason -> episodes."""
    remarks: Mapping[str, int]
    """What was left out of episodes or made up -> how many of those that this call wrote."""


def episode_path(folder: Path, number: int) -> Path:
    return folder / "data" / f"episode{number}.hdf5"


def keys_there(out: Path) -> list[str]:
    """What the episodes of a folder that a command began stand for; none where it does not say."""
    try:
        return list(json.loads((out / CLAIM).read_text(encoding="utf-8"))["episodes"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # `owned` says what is wrong with it.


@contextmanager
def owned(out: Path, how: Mapping[str, Any], keys: Sequence[str]) -> Iterator[None]:
    """Holds `out` for a command that makes episode N of what `keys[N]` stands for.

    A folder that the same command began goes on, also where its sources have more by now.

    Raises:
        ReplayFolderError: it holds something else.
        FolderInUseError: another process works there.
    """
    (out / "data").mkdir(parents=True, exist_ok=True)
    with locked(out):
        _claim(out, how, list(keys))
        for torn in (out / "data").glob(".*.part.hdf5"):
            torn.unlink()
        yield


def _claim(out: Path, how: Mapping[str, Any], keys: list[str]) -> None:
    path = out / CLAIM
    claim = {"format_version": CLAIM_VERSION, "how": dict(how), "episodes": keys}
    if not path.is_file():
        if holds_episodes(out):
            raise ReplayFolderError(
                f"{out} holds episodes that no `twinbench replay` put there (no {CLAIM}): give "
                "another --out"
            )
    else:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            old, before = dict(found["how"]), list(found["episodes"])
        except (ValueError, KeyError, TypeError) as error:
            raise ReplayFolderError(f"{path} is damaged ({error!r}): give another --out") from error
        changes = [
            f"{key}: {old.get(key)!r} there, {how.get(key)!r} now"
            for key in sorted({*old, *how})
            if old.get(key) != how.get(key)
        ]
        if not changes and before != keys[: len(before)]:
            changes = [f"other episodes: {len(before)} there, {len(keys)} now, and not the same"]
        if changes:
            raise ReplayFolderError(
                f"{out} holds other replay data:\n  "
                + "\n  ".join(changes)
                + "\nGive another --out, or delete that folder to make it anew."
            )
    write_text(path, json.dumps(claim, indent=1) + "\n")


def finish(out: Path, *, sources: Sources, left_out: Mapping[str, int]) -> list[ReplayEpisode]:
    """Reads back all that is there, and writes `replay.json`."""
    episodes = read_replay_folder(out)
    write_manifest(out, describe_folder(episodes, sources=sources, left_out=left_out))
    return episodes


def make(
    out: Path,
    how: Mapping[str, Any],
    keys: Sequence[str],
    write: Callable[[int, Path], Sequence[str]],
    *,
    sources: Sources,
    left_out: Mapping[str, int],
    tick: Callable[[], object] = lambda: None,
) -> Made:
    """Makes the episodes that are not there.

    Args:
        keys: one an episode; equal only for what is the same.
        write: makes episode N at a path, and returns what is to be said of it.
        tick: called after each episode.

    Raises:
        ReplayFolderError: the folder holds something else.
    """
    remarks: dict[str, int] = {}
    written = 0
    with owned(out, how, keys):
        for number in range(len(keys)):
            path = episode_path(out, number)
            if not path.exists():
                for remark in write(number, path):
                    remarks[remark] = remarks.get(remark, 0) + 1
                written += 1
            tick()
        episodes = finish(out, sources=sources, left_out=left_out)
    return Made(out, episodes, written, left_out, remarks)
