"""A run's folder of rollouts, made to agree with its journal."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twin_env.episodes_fields import EpisodeFileError
from twin_env.episodes_folders import episode_number
from twin_env.replay_files import ReplayEpisode, read_replay
from twin_env.replay_folders import describe_folder, write_manifest
from twin_eval.records import EpisodeRecord
from twin_eval.rollouts import FOLDER, RolloutMode

logger = logging.getLogger(__name__)

ERRORS = "ended in an error"
UNRECORDED = "played without being recorded"


@dataclass(frozen=True)
class Settled:
    """What a folder of rollouts holds, and what it does not."""

    folder: Path
    episodes: Sequence[ReplayEpisode]
    left_out: Mapping[str, int]
    """Reason -> how many of the run's episodes that were asked for."""

    def __str__(self) -> str:
        ends = Counter(episode.about.outcome for episode in self.episodes)
        line = f"{ends['success']} successes and {ends['failure']} failures in {self.folder}"
        for reason, count in self.left_out.items():
            line += f"; {count} left out: {reason}"
        if UNRECORDED in self.left_out:
            line += " (what is in the journal is not played again: give another --out)"
        return line


def sweep_torn(run_folder: Path) -> None:
    """Removes what a kill left half written."""
    for torn in (run_folder / FOLDER / "data").glob(".*.part.hdf5"):
        torn.unlink()


def settle(run_folder: Path, records: Sequence[EpisodeRecord], mode: RolloutMode) -> Settled:
    """Removes files of episodes that the journal has not, or not so: attempts that were killed
    before their line was written. Writes `replay.json` for the rest."""
    folder = run_folder / FOLDER
    by_index = {record.index: record for record in records}
    kept: dict[int, ReplayEpisode] = {}
    for path in (folder / "data").glob("episode*.hdf5"):
        index = episode_number(path)
        if index is None:
            continue
        try:
            episode = read_replay(path)
        except EpisodeFileError as error:
            logger.warning("a rollout cannot be read: %s", error)
            continue
        if index in by_index and _is_of(episode, by_index[index]):
            kept[index] = episode
        else:
            path.unlink()
    missing = [r for r in records if r.index not in kept and mode.wants(r.index)]
    left_out = {
        ERRORS: sum(record.outcome == "error" for record in missing),
        UNRECORDED: sum(mode.keeps(record.index, record.outcome) for record in missing),
    }
    episodes = [kept[index] for index in sorted(kept)]
    if episodes:
        origins = {(r.policy, r.checkpoint, r.config) for r in records if r.index in kept}
        sources = [
            {"kind": "evaluation", "policy": policy, "checkpoint": checkpoint, "config": config}
            for policy, checkpoint, config in sorted(origins)
        ]
        write_manifest(folder, describe_folder(episodes, sources=sources, left_out=left_out))
    return Settled(folder, episodes, {reason: n for reason, n in left_out.items() if n})


def _is_of(episode: ReplayEpisode, record: EpisodeRecord) -> bool:
    digest = hashlib.sha256(episode.action.tobytes()).hexdigest()[:16]
    return (episode.about.outcome, episode.about.seed, digest) == (
        record.outcome,
        record.seed,
        record.actions_digest,
    )
