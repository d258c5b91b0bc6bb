"""`replay.json`: what a folder of replay episodes holds and where it came from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twin_env.episodes import read_episode
from twin_env.episodes_fields import EpisodeFileError
from twin_env.files import write_text
from twin_env.replay_files import FORMAT, VERSION, ReplayEpisode

MANIFEST = "replay.json"

Sources = Sequence[Mapping[str, Any]]
"""What the episodes were made from, one object each: `kind`, `path`, digests, as far as known."""


def describe_folder(
    episodes: Sequence[ReplayEpisode], *, sources: Sources = (), left_out: Mapping[str, int] = {}
) -> dict[str, Any]:
    """What `replay.json` says of episodes that lie in one folder.

    Args:
        left_out: reason -> how many episodes of the sources are not in the folder.
    """
    described: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if episodes:
        first = read_episode(episodes[0].path)
        described |= {
            "task": episodes[0].about.task,
            "embodiment": {"left_arm": first.left_arm, "right_arm": first.right_arm},
            "cameras": {name: list(first.image_shapes[name]) for name in first.cameras},
            "reward_rule": episodes[0].about.reward_rule,
        }
    return described | {
        "episodes": len(episodes),
        "transitions": sum(episode.n_transitions for episode in episodes),
        "counts": count_outcomes(episodes),
        "sources": [dict(source) for source in sources],
        "left_out": {reason: count for reason, count in left_out.items() if count},
    }


def write_manifest(folder: Path, described: Mapping[str, Any]) -> None:
    """Writes `replay.json`, whole or not at all."""
    write_text(folder / MANIFEST, json.dumps(described, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `replay.json` says; None where there is none.

    Raises:
        EpisodeFileError: it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        remedy = "delete it; the command that made the folder writes it anew"
        raise EpisodeFileError(path, "file", f"is no JSON object ({error}): {remedy}") from error


def count_outcomes(episodes: Sequence[ReplayEpisode]) -> dict[str, dict[str, int]]:
    """Source -> how many successes and failures, sources by name."""
    counted = Counter((episode.about.source, episode.about.outcome) for episode in episodes)
    names = sorted({source for source, _ in counted})
    return {
        name: {outcome: counted[name, outcome] for outcome in ("success", "failure")}
        for name in names
    }


def content_digest(path: Path) -> str:
    """16 hex digits over joints and pictures: equal for two files of one episode, however its
    rewards are labelled, and whether they are labelled at all.

    Raises:
        EpisodeFileError: not an episode.
    """
    episode = read_episode(path)
    digest = hashlib.sha256(episode.vector.tobytes())
    for camera in episode.cameras:
        digest.update(camera.encode())
        for stored in episode.stored_pictures(camera):
            picture = stored if isinstance(stored, bytes) else stored.tobytes()
            digest.update(len(picture).to_bytes(8, "big") + picture)
    return digest.hexdigest()[:16]
