"""Replay data from demonstrations, from the rollouts of evaluations, from other replay data; and
several folders of replay data as one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin_env.episodes import EpisodeFileError, episode_number, list_episodes
from twin_env.episodes_folders import holds_episodes
from twin_env.files import replacing
from twin_env.replay_files import is_replay, read_replay
from twin_env.replay_folders import content_digest, read_manifest
from twin_train.replay_draft import Shape, read_draft, relabelled, shape_of
from twin_train.replay_output import Made, ReplayFolderError, keys_there, make
from twin_train.replay_rewards import RewardRule

DEMONSTRATIONS, REPLAY = "demonstrations", "replay"
ROLLOUTS, JOURNAL, COLLECTION = "rollouts", "journal.jsonl", "collection.json"
DUPLICATES = "the same content as another"

Tick = Callable[[], object]


@dataclass(frozen=True)
class Source:
    """A folder of episodes that replay data is made of."""

    folder: Path
    kind: str
    """`DEMONSTRATIONS` or `REPLAY`."""
    episodes: Sequence[Path]
    task: str | None = None
    """As a collection says it; None where the episodes do, or nobody."""
    seeds: Mapping[int, int] = field(default_factory=dict)
    """Episode number -> seed of the scene, of demonstrations that say so."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Its `replay.json`, where there is one."""


@dataclass(frozen=True)
class Item:
    """One episode of a source."""

    source: Source
    path: Path
    digest: str
    task: str
    reward_rule: str


def find_sources(paths: Sequence[Path], *, episodes: int | None = None) -> list[Source]:
    """The folders of episodes that words of a command line mean.

    Args:
        episodes: the first so many of each.

    Raises:
        FileNotFoundError: no episodes there.
        ReplayFolderError: an evaluation without rollouts; a folder that is named twice.
    """
    sources: dict[Path, Source] = {}
    for path in paths:
        for folder in _folders_of(path):
            if folder.resolve() in sources:
                raise ReplayFolderError(f"{folder} is named twice: name it once")
            sources[folder.resolve()] = _read_source(folder, episodes)
    return list(sources.values())


def _folders_of(path: Path) -> list[Path]:
    if (path / ROLLOUTS / "data").is_dir():
        return [path / ROLLOUTS]
    if holds_episodes(path):
        return [path]
    below = sorted(found.parent for found in path.glob(f"**/{ROLLOUTS}/data"))
    if own := [folder for folder in below if not _is_set_aside(folder.relative_to(path))]:
        return own
    if any(path.glob(f"**/{JOURNAL}")):
        raise ReplayFolderError(
            f"{path} is an evaluation that kept no rollouts: evaluate again with --rollouts all "
            "and another --out"
        )
    return [path]  # `list_episodes` says what is there instead.


def _is_set_aside(folder: Path) -> bool:
    """Whether it is of a run that made room for another (`--if-changed set-aside`)."""
    return any(re.search(r"\.aside\d+$", part) for part in folder.parts)


def _read_source(folder: Path, most: int | None) -> Source:
    paths = list_episodes(folder)
    replay = is_replay(paths[0])
    return Source(
        folder=folder,
        kind=REPLAY if replay else DEMONSTRATIONS,
        episodes=paths[:most],
        task=None if replay else _task_of_collection(folder),
        seeds={} if replay else _seeds_of(folder, len(paths)),
        manifest=read_manifest(folder) or {},
    )


def _task_of_collection(folder: Path) -> str | None:
    path = folder / COLLECTION
    if not path.is_file():
        return None
    try:
        task = json.loads(path.read_text(encoding="utf-8"))["environment"]["task"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(task)


def _seeds_of(folder: Path, n: int) -> dict[int, int]:
    """RoboTwin's `seed.txt`: one number an episode, in their order."""
    path = folder / "seed.txt"
    words = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if len(words) < n or not all(word.isdigit() for word in words):
        return {}
    return dict(enumerate(map(int, words)))


def read_items(
    sources: Sequence[Source], *, task: str | None = None, tick: Tick = lambda: None
) -> tuple[list[Item], int]:
    """The different episodes of the sources, in order, and how many were there once more.

    Raises:
        EpisodeFileError: a file is no episode.
        ValueError: a task that nobody names.
    """
    found: dict[str, Item] = {}
    duplicates = 0
    for source in sources:
        for path in source.episodes:
            digest = content_digest(path)
            if digest in found:
                duplicates += 1
            else:
                found[digest] = Item(source, path, digest, *_task_and_rule(source, path, task))
            tick()
    return list(found.values()), duplicates


def in_their_places(items: Sequence[Item], there: Sequence[str]) -> list[Item]:
    """Those that a folder has already first, as it has them: any source may have more by now.

    Args:
        there: their digests. Where one of them is of no item, the order stays.
    """
    by_digest = {item.digest: item for item in items}
    if not by_digest.keys() >= set(there):
        return list(items)
    known = [by_digest[digest] for digest in there]
    return [*known, *(item for item in items if item.digest not in set(there))]


def _task_and_rule(source: Source, path: Path, task: str | None) -> tuple[str, str]:
    if is_replay(path):
        about = read_replay(path).about
        if task is not None and about.task != task:
            raise EpisodeFileError(path, "replay@task", f"is {about.task}, and --task is {task}")
        return about.task, about.reward_rule
    known = source.task or task
    if known is None:
        raise ValueError(f"{source.folder} does not say of which task it is: give --task TASK")
    if task not in (None, known):
        raise ValueError(f"{source.folder} is of the task {known}, and --task is {task}")
    return known, ""


def check_alike(items: Sequence[Item], cameras: Sequence[str] = ()) -> Shape:
    """The shape that all of them have.

    Raises:
        ReplayFolderError: one has another.
    """
    first = shape_of(items[0].path, items[0].task, cameras)
    for item in items[1:]:
        if differences := first.differences(shape_of(item.path, item.task, cameras)):
            raise ReplayFolderError(
                f"{item.path} is not like {items[0].path}: {'; '.join(differences)}: one folder "
                "holds one task, one robot and one set of cameras"
            )
    return first


def create(
    sources: Sequence[Source],
    out: Path,
    *,
    rule: RewardRule,
    task: str | None = None,
    cameras: Sequence[str] = (),
    tick: Tick = lambda: None,
) -> Made:
    """Makes replay data of the sources' episodes, with rewards by the rule.

    Args:
        task: of demonstrations that do not say.
        cameras: those to keep; all by default.
        tick: called twice an episode: when it was read first, and when it is there.

    Raises:
        EpisodeFileError: an episode of which no replay data can be made; those before it stay.
        ReplayFolderError: they do not go together, or `out` holds something else.
    """
    _check_out(sources, out)
    items, duplicates = read_items(sources, task=task, tick=tick)
    items = in_their_places(items, keys_there(out))
    check_alike(items, cameras)

    def write(number: int, path: Path) -> Sequence[str]:
        item = items[number]
        seed = item.source.seeds.get(episode_number(item.path) or 0)
        draft = read_draft(item.path, task=item.task, seed=seed, cameras=cameras)
        reward, terminal = rule.label(draft.episode)
        relabelled(draft, reward=reward, terminal=terminal, rule=rule.name).write(path)
        return draft.remarks

    how = {"command": "create", "reward": rule.name, "cameras": list(cameras)}
    return make(
        out,
        how,
        [item.digest for item in items],
        write,
        sources=_provenance(sources, items),
        left_out=_left_out(sources, duplicates),
        tick=tick,
    )


def merge(sources: Sequence[Source], out: Path, *, tick: Tick = lambda: None) -> Made:
    """Puts folders of replay data into one: by hard links where the file system has them.

    Raises:
        EpisodeFileError: a file that is no replay episode.
        ReplayFolderError: they do not go together, or `out` holds something else.
    """
    for source in sources:
        for path in source.episodes:
            read_replay(path)
    _check_out(sources, out)
    items, duplicates = read_items(sources, tick=tick)
    items = in_their_places(items, keys_there(out))
    check_alike(items)
    rules = {item.reward_rule: item.path for item in items}
    if len(rules) > 1:
        told = ", ".join(f"{rule} ({path})" for rule, path in rules.items())
        raise ReplayFolderError(
            f"different reward rules: {told}: `twinbench replay create FOLDER... --reward RULE` "
            "labels them alike"
        )

    def write(number: int, path: Path) -> Sequence[str]:
        link_or_copy(items[number].path, path)
        return ()

    return make(
        out,
        {"command": "merge"},
        [item.digest for item in items],
        write,
        sources=_provenance(sources, items),
        left_out=_left_out(sources, duplicates),
        tick=tick,
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Gives an episode and its sentences another place."""
    sentences = source.parent.parent / "instructions" / f"{source.stem}.json"
    if sentences.is_file():
        beside = target.parent.parent / "instructions" / f"{target.stem}.json"
        with replacing(beside) as temporary:
            shutil.copyfile(sentences, temporary)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _check_out(sources: Sequence[Source], out: Path) -> None:
    for source in sources:
        if out.resolve() in (source.folder.resolve(), source.folder.resolve() / "data"):
            raise ReplayFolderError(f"--out {out} is a source itself: name another folder")


def _left_out(sources: Sequence[Source], duplicates: int) -> dict[str, int]:
    counts = {DUPLICATES: duplicates} if duplicates else {}
    for source in sources:
        for reason, count in source.manifest.get("left_out", {}).items():
            counts[reason] = counts.get(reason, 0) + int(count)
    return counts


def _provenance(sources: Sequence[Source], items: Sequence[Item]) -> list[dict[str, Any]]:
    told = []
    for source in sources:
        digests = [item.digest for item in items if item.source is source]
        whole = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        one = {
            "kind": source.kind,
            "path": str(source.folder),
            "episodes": len(digests),
            "digest": whole,
        }
        if source.manifest.get("sources"):
            one["sources"] = source.manifest["sources"]
        told.append(one)
    return told
