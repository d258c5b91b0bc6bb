"""What is evaluated: cells, the episodes of each, and how a worker plays one."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin_env.task_env import BrokenSimulatorError
from twin_env.workers import Died, Raised, WorkerPool
from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import EpisodeIdentity, EpisodeRequest, run_episode
from twin_eval.inference import (
    LoadedPolicy,
    LoadFailure,
    LocalActor,
    PolicySpec,
    RemoteActor,
    load_model,
    policy_key,
    try_loading,
)
from twin_eval.journal import Journal
from twin_eval.records import EpisodeRecord
from twin_eval.rollouts import Rollout, RolloutMode, RolloutOrigin, rollout_path
from twin_eval.video import Film, VideoMode


class PolicyLoadError(ValueError):
    """The policy could not be loaded, so there is nothing to evaluate."""


class SimulatorError(ValueError):
    """The simulator does not work here, or its pictures cannot be trusted."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When something counts as hung or as too large."""

    episode_s: float = 3600.0
    """Of one episode, loading of the policy included, waiting for a shared policy not."""
    step_s: float = 300.0
    """Between two signs of life: an observation, an action, a chunk of the policy."""
    worker_mb: float | None = None
    """A worker that holds more memory after an episode is replaced."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One policy on one task in one config: what a run folder holds."""

    environment: EnvironmentSpec
    policy: PolicySpec
    folder: Path
    """The run's folder, for videos and rollouts."""
    videos: VideoMode = field(default_factory=VideoMode.none)
    video_cameras: str = "head"
    rollouts: RolloutMode = field(default_factory=RolloutMode.none)


@dataclass(frozen=True)
class Work:
    """A cell with its journal and its fixed list of episodes."""

    cell: Cell
    journal: Journal
    requests: Sequence[EpisodeRequest]


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One episode as a worker is told; compared by identity."""

    cell: Cell
    request: EpisodeRequest
    session: str
    step_limit_s: float
    check_renderer: bool = True
    n_obs_steps: int | None = None
    """Of a policy in another process; None if the worker is to load it."""
    env_index: int = 0
    """By which that process tells simulators apart."""

    @property
    def identity(self) -> EpisodeIdentity:
        policy = self.cell.policy
        return EpisodeIdentity(
            session=self.session, policy=policy.name, checkpoint=policy.checkpoint
        )


@dataclass(frozen=True)
class Played:
    """What a worker returns of an episode."""

    record: EpisodeRecord
    renderer: dict[str, Any]
    """What the check of this worker's renderer found."""


@dataclass(frozen=True)
class SimulatorFailure:
    """What a worker returns whose simulator does not work or does not draw what it should."""

    message: str


def play(job: Job) -> Played | LoadFailure | SimulatorFailure:
    """Runs in a worker: one episode, with the policy that this process loaded once."""
    cell, request = job.cell, job.request
    renderer: dict[str, Any] = {}
    if job.check_renderer and cell.environment.has_canary:
        renderer, complaint = _check_renderer(cell.environment.provider, cell.environment.backend)
        if complaint:
            return SimulatorFailure(complaint)
    if job.n_obs_steps is not None:
        actor: LocalActor | RemoteActor = RemoteActor(job.env_index, job.n_obs_steps)
    else:
        try:
            actor = LocalActor(*load_model(cell.policy))
        except (ValueError, FileNotFoundError) as error:
            return LoadFailure(str(error))
    film = None
    if cell.videos.wants(request.index):
        # Absolute: a policy may work in another directory.
        path = (
            cell.folder.absolute() / "videos" / f"episode{request.index:03d}_seed{request.seed}.mp4"
        )
        title = f"{cell.environment.task} | {cell.policy.name} | seed {request.seed}"
        film = Film(path, title, cameras=cell.video_cameras)

    rollout = _rollout_of(cell, request) if cell.rollouts.wants(request.index) else None
    try:
        record = run_episode(
            cell.environment,
            actor,
            request,
            job.identity,
            film=film,
            keep_video=functools.partial(cell.videos.keeps, request.index),
            rollout=rollout,
            keep_rollout=functools.partial(cell.rollouts.keeps, request.index),
            step_limit_s=job.step_limit_s,
        )
    except BrokenSimulatorError as error:
        return SimulatorFailure(str(error))
    return Played(record, renderer)


def _rollout_of(cell: Cell, request: EpisodeRequest) -> Rollout:
    origin = RolloutOrigin(
        task=cell.environment.task,
        policy=cell.policy.name,
        checkpoint=cell.policy.checkpoint,
        seed=request.seed,
        noise_seed=request.noise_seed,
        instruction=request.instruction,
    )
    # Absolute: a policy may work in another directory.
    return Rollout(rollout_path(cell.folder.absolute(), request.index), origin)


@functools.cache
def _check_renderer(provider: str, backend: str) -> tuple[dict[str, Any], str]:
    """What the provider's check found, and what is wrong (empty if nothing); once a process."""
    module = importlib.import_module(provider)
    if not hasattr(module, "check_renderer"):
        return {}, ""
    try:
        check = module.check_renderer(backend)
    except RuntimeError as error:
        return {}, str(error)
    found = dataclasses.asdict(check)
    return found, "" if check.ok else f"{check.reason}: {check.remedy}"


def check_policies_load(
    policies: Sequence[PolicySpec], *, workers: int, gpus: Sequence[str] = ()
) -> None:
    """Loads each policy once in a process of its own, before anything expensive is begun.

    Raises:
        PolicyLoadError: if one does not load.
    """
    different = list({policy_key(policy): policy for policy in policies}.values())
    with WorkerPool(min(workers, len(different)), try_loading, gpus=gpus) as pool:
        for policy, outcome in pool.run(different):
            loaded_policy(outcome, policy)


def loaded_policy(outcome: Any, policy: PolicySpec) -> LoadedPolicy:
    if isinstance(outcome, Died):
        raise PolicyLoadError(f"loading policy {policy.name!r}: {outcome.reason} {outcome.where}")
    if isinstance(outcome, Raised):
        raise PolicyLoadError(
            f"policy {policy.name!r} failed while loading:\n{outcome.traceback_text.rstrip()}"
        )
    if isinstance(outcome.value, LoadFailure):
        raise PolicyLoadError(outcome.value.message)
    loaded: LoadedPolicy = outcome.value
    return loaded
