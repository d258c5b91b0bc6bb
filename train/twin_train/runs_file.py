"""The file of runs that `train-many` is given: read, checked, and resolved config by config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twin_env.episodes import list_episodes, read_episode
from twin_policy.config import EncoderConfig
from twin_policy.names import unknown
from twin_policy.parsing import parse
from twin_train.config import RunConfig, load_run_config
from twin_train.feature_use import AUTO
from twin_train.run import resolve_config
from twin_train.sharing import Cameras

VERSION = 1
ENV_CONFIG = "demo_clean"


@dataclass(frozen=True)
class RunSpec:
    """One training as the file of runs has it."""

    name: str
    task: str
    policy: str
    """A policy config: a name or a path."""
    data: str
    """Folder of the task's episodes, or a store."""
    out: str
    """The checkpoint's folder."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the policy config to values."""
    env_config: str = ENV_CONFIG
    episodes: int | None = None
    """The first so many; null: all."""

    @property
    def source(self) -> Path:
        return Path(self.data)

    @property
    def folder(self) -> Path:
        return Path(self.out)


@dataclass(frozen=True)
class RunsFile:
    """The file of runs, version 1."""

    version: int
    runs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class PlannedRun:
    """A run whose config was read."""

    spec: RunSpec
    config: RunConfig
    """As `twinbench train` would have it."""
    resolved: RunConfig
    """With what it leaves open decided."""

    @property
    def encoder(self) -> EncoderConfig:
        return self.resolved.policy.encoder

    @property
    def shares_features(self) -> bool:
        return bool(self.resolved.policy.cameras) and self.config.train.features == AUTO


def read_runs(path: Path) -> tuple[RunSpec, ...]:
    """The runs of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, an unknown or missing key, another version, a name or folder twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of runs {path}: `twinbench sweep` writes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if isinstance(values, dict) and values.get("version") != VERSION:
        raise ValueError(
            f"{path}: version must be {VERSION}, and is {values.get('version')!r}: write it with "
            "this TwinBench"
        )
    runs = parse(RunsFile, values, source=str(path)).runs
    for key in ("name", "out"):
        found = [getattr(run, key) for run in runs]
        if twice := sorted({each for each in found if found.count(each) > 1}):
            raise ValueError(f"{path}: two runs have the {key} {twice[0]}: give each its own")
    for run in runs:
        if run.episodes is not None and run.episodes < 1:
            raise ValueError(f"{path}: {run.name}: episodes must be at least 1: {run.episodes}")
    return runs


def choose(specs: Sequence[RunSpec], only: Sequence[str] | None) -> tuple[RunSpec, ...]:
    """Those named, in the order of the file; all, if None.

    Raises:
        ValueError: an unknown name, with the nearest match.
    """
    names = [spec.name for spec in specs]
    for name in only or ():
        if name not in names:
            raise unknown("run", name, names)
    return tuple(spec for spec in specs if only is None or spec.name in only)


def plan_runs(
    specs: Sequence[RunSpec],
) -> tuple[dict[str, PlannedRun], dict[str, Exception]]:
    """Name to run, and name to why its config cannot be."""
    planned, faults = {}, {}
    resolved: dict[str, RunConfig | Exception] = {}
    for spec in specs:
        try:
            config = load_run_config(spec.policy, settings=spec.set)
        except Exception as error:  # noqa: BLE001 one run's fault is no other's
            faults[spec.name] = error
            continue
        # Once for all training seeds and tasks: where there is no network, a hub is waited for.
        key = repr((config.policy, config.train.features))
        if key not in resolved:
            resolved[key] = _try_resolving(config)
        found = resolved[key]
        if isinstance(found, Exception):
            faults[spec.name] = found
        else:
            planned[spec.name] = PlannedRun(spec, config, replace(found, train=config.train))
    return planned, faults


def _try_resolving(config: RunConfig) -> RunConfig | Exception:
    try:
        return resolve_config(config)
    except Exception as error:  # noqa: BLE001 as above
        return error


def camera_sets(runs: Sequence[PlannedRun]) -> dict[Path, list[Cameras]]:
    """Folder of episodes to the cameras of the stores that serve all runs: few, and wide.

    Two sizes of one camera are in two stores. A run that wants a camera that was not recorded is
    left out, so that it fails alone.
    """
    sets: dict[Path, list[dict[str, tuple[int, int]]]] = {}
    recorded = {run.spec.source: _recorded_cameras(run.spec.source) for run in runs}
    for run in runs:
        wanted = run.resolved.policy.cameras
        there = recorded[run.spec.source]
        if there is not None and not wanted.keys() <= there:
            continue
        known = sets.setdefault(run.spec.source, [])
        for each in known:
            if all(each.get(camera, size) == size for camera, size in wanted.items()):
                each.update(wanted)
                break
        else:
            known.append(dict(wanted))
    return {source: list(each) for source, each in sets.items()}


def _recorded_cameras(source: Path) -> set[str] | None:
    """None where nothing can be read; that is said when a run needs it."""
    try:
        return set(read_episode(list_episodes(source)[0]).cameras)
    except (ValueError, OSError):
        return None
