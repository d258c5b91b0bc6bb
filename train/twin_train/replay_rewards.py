"""Reward rules of replay data: sparse success, stages, a function of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_fields import EpisodeFileError
from twin_env.names import unknown
from twin_env.replay_files import GROUP, SPARSE, ReplayEpisode, sparse_labels

STAGES = "stages"

Labels = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Reward float32 (T,) and terminal bool (T,)."""


@dataclass(frozen=True)
class RewardRule:
    """What makes the rewards of an episode."""

    name: str
    """As it is written into files; a function's carries the digest of its file."""
    label: Callable[[ReplayEpisode], Labels]


def find_rule(text: str) -> RewardRule:
    """`sparse`, `stages` or `FILE.py:function`.

    Raises:
        ValueError: none of these.
        FileNotFoundError: no such file.
    """
    rules = {SPARSE: _label_sparse, STAGES: _label_stages}
    if text in rules:
        return RewardRule(text, rules[text])
    if ":" in text or text.endswith(".py"):
        return _own_rule(text)
    raise unknown("reward rule", text, [*rules, "FILE.py:function"])


def _label_sparse(episode: ReplayEpisode) -> Labels:
    reward, _, _ = sparse_labels(episode.n_transitions, episode.about.outcome)
    return reward, episode.terminal


def _label_stages(episode: ReplayEpisode) -> Labels:
    """Each new stage, success the last of them, pays the same: at most 1 in all."""
    n_stages = episode.about.n_stages
    if episode.stage is None or not n_stages:
        raise EpisodeFileError(
            episode.path,
            f"{GROUP}/stage",
            "missing, and rewards by stages need it: record the episodes with "
            f"`twinbench eval {episode.about.task} expert_replay --rollouts all`",
        )
    if episode.about.outcome == "success" and episode.stage[-1] != n_stages:
        raise EpisodeFileError(
            episode.path,
            f"{GROUP}/stage",
            f"a success reaches the last stage, {n_stages}, and this one ends at "
            f"{episode.stage[-1]}: give --reward {SPARSE}",
        )
    return np.diff(episode.stage.astype(np.float32)) / np.float32(n_stages), episode.terminal


def _own_rule(text: str) -> RewardRule:
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise ValueError(f"a reward function is FILE.py:function: got {text!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with the reward function {name}")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"twinbench_reward_{digest}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look their module up.
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        offered = [word for word, value in vars(module).items() if callable(value)]
        raise unknown(f"function of {path}", name, offered)

    def label(episode: ReplayEpisode) -> Labels:
        return _labels_of(function, text, episode)

    return RewardRule(f"{path.name}:{name}@{digest}", label)


def _labels_of(
    function: Callable[[ReplayEpisode], Any], text: str, episode: ReplayEpisode
) -> Labels:
    try:
        found = function(episode)
    except Exception as error:
        raise EpisodeFileError(
            episode.path, f"reward {text}", f"failed: {type(error).__name__}: {error}"
        ) from error
    given, terminal = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    n = episode.n_transitions
    reward = _array(episode, text, given, "a reward", np.float32)
    if not np.isfinite(reward).all():
        at = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise EpisodeFileError(episode.path, f"reward {text}", f"is not finite at transition {at}")
    if terminal is None:
        return reward, episode.terminal
    ends = _array(episode, text, terminal, "whether it is terminal", np.bool_)
    if ends[: n - 1].any():
        at = int(np.flatnonzero(ends)[0])
        rule = f"only the last transition, {n - 1}, may be terminal, and {at} is"
        raise EpisodeFileError(episode.path, f"reward {text}", rule)
    return reward, ends


def _array(
    episode: ReplayEpisode, text: str, given: Any, what: str, kind: type[np.generic]
) -> NDArray[Any]:
    n = episode.n_transitions
    try:
        values = np.asarray(given, kind)
    except (TypeError, ValueError):
        values = np.empty(0, kind)
    if values.shape != (n,):
        got = f"shape {np.shape(given)}" if isinstance(given, np.ndarray | list) else repr(given)
        rule = f"must return {what} for each of {n} transitions, and returned {got}"
        raise EpisodeFileError(episode.path, f"reward {text}", rule)
    return values
