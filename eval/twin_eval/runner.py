"""Runs the planned episodes of one policy in worker processes and writes each into the journal."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from twin_env.workers import Died, Done, WorkerPool
from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import EpisodeRequest, run_episode
from twin_eval.journal import Journal, JournalError
from twin_eval.policies import import_policy
from twin_eval.records import EpisodeRecord

ATTEMPTS = 2
"""An episode whose worker died is tried once more, alone of all outcomes."""

EPISODE_TIMEOUT_S = 3600.0
"""A worker that is silent for so long counts as dead."""


class PolicyLoadError(ValueError):
    """The policy could not be loaded, so there is nothing to evaluate."""


@dataclass(frozen=True)
class LoadFailure:
    """What a worker returns when it could not load the policy."""

    message: str


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """A policy as a worker loads it."""

    name: str
    folder: Path
    usr_args: Mapping[str, Any]
    """What `get_model` receives."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """All that a worker needs to know; the same for every episode of the run."""

    environment: EnvironmentSpec
    policy: PolicySpec
    folder: Path
    """The run's folder, for videos."""


def plan_requests(
    seeds: Sequence[int], *, instruction_type: str, videos: int
) -> list[EpisodeRequest]:
    """The fixed list of episodes; the first `videos` of them are filmed."""
    return [
        EpisodeRequest(
            index=index,
            seed=seed,
            instruction_type=instruction_type,
            video=f"videos/episode{index:03d}_seed{seed}.mp4" if index < videos else "",
        )
        for index, seed in enumerate(seeds)
    ]


def run_requests(
    run: RunSpec,
    requests: Sequence[EpisodeRequest],
    journal: Journal,
    *,
    workers: int,
    progress: Callable[[EpisodeRecord], None] = lambda record: None,
) -> None:
    """Runs every request that the journal does not have yet; `progress` hears of each new record.

    Raises:
        JournalError: if the journal has an episode on another seed than the plan's.
        PolicyLoadError: if the policy does not load.
    """
    seeds = {record.index: record.seed for record in journal.records}
    for request in requests:
        if seeds.get(request.index, request.seed) != request.seed:
            raise JournalError(
                f"{journal.folder}: episode {request.index} was run on seed "
                f"{seeds[request.index]}, and the plan says {request.seed}: give another --out"
            )
    waiting = [request for request in requests if request.index not in seeds]
    for torn in (run.folder / "videos").glob(".*.part.mp4"):
        torn.unlink()
    target = functools.partial(evaluate_episode, run)
    for attempt in range(1, ATTEMPTS + 1):
        if not waiting:
            return
        jobs = [dataclasses.replace(request, attempt=attempt) for request in waiting]
        waiting = []
        with WorkerPool(min(workers, len(jobs)), target, job_timeout_s=EPISODE_TIMEOUT_S) as pool:
            for request, outcome in pool.run(jobs):
                if isinstance(outcome, Died) and attempt < ATTEMPTS:
                    waiting.append(request)
                    continue
                record = _to_record(run, request, outcome)
                journal.append(record)
                progress(record)


def evaluate_episode(run: RunSpec, request: EpisodeRequest) -> EpisodeRecord | LoadFailure:
    """Runs in a worker: one episode, with the policy that this process loaded once."""
    try:
        module, model = load_model(run.policy)
    except (ValueError, FileNotFoundError) as error:
        return LoadFailure(str(error))
    film = None
    if request.video:
        from twin_eval.video import Film

        title = f"{run.environment.task} | {run.policy.name} | seed {request.seed}"
        film = Film(run.folder / request.video, title)
    record = run_episode(
        run.environment,
        module,
        model,
        request,
        policy_name=run.policy.name,
        policy_seed=int(run.policy.usr_args["seed"]),
        watch=film.watch if film else lambda env: env,
    )
    if film and not film.finish(record):
        record = dataclasses.replace(record, video="")
    return record


def check_policy_loads(policy: PolicySpec) -> None:
    """Loads the policy once in a process of its own, before anything expensive is begun.

    Raises:
        PolicyLoadError: if it does not load.
    """
    with WorkerPool(1, try_loading) as pool:
        for _, outcome in pool.run([policy]):
            if isinstance(outcome, Died):
                raise PolicyLoadError(f"loading policy {policy.name!r}: {outcome.reason}")
            if not isinstance(outcome, Done):
                raise PolicyLoadError(
                    f"policy {policy.name!r} failed while loading:\n{outcome.traceback_text}"
                )
            if outcome.value is not None:
                raise PolicyLoadError(outcome.value.message)


def try_loading(policy: PolicySpec) -> LoadFailure | None:
    """Runs in a worker."""
    try:
        load_model(policy)
    except (ValueError, FileNotFoundError) as error:
        return LoadFailure(str(error))
    return None


def load_model(policy: PolicySpec) -> tuple[ModuleType, Any]:
    """The policy's module and its model, loaded once a process."""
    return _load_model(policy.folder, json.dumps(dict(policy.usr_args), sort_keys=True))


@functools.lru_cache(maxsize=1)
def _load_model(folder: Path, usr_args: str) -> tuple[ModuleType, Any]:
    module = import_policy(folder)
    return module, module.get_model(json.loads(usr_args))


def _to_record(run: RunSpec, request: EpisodeRequest, outcome: Any) -> EpisodeRecord:
    if isinstance(outcome, Done):
        if isinstance(outcome.value, LoadFailure):
            raise PolicyLoadError(outcome.value.message)
        record: EpisodeRecord = outcome.value
        return record
    if isinstance(outcome, Died):
        reason = f"worker died: {outcome.reason} (attempt {request.attempt} of {ATTEMPTS})"
    else:
        raise PolicyLoadError(
            f"policy {run.policy.name!r} failed outside of an episode, most likely in get_model:\n"
            f"{outcome.traceback_text.rstrip()}"
        )
    return EpisodeRecord(
        task=run.environment.task,
        policy=run.policy.name,
        index=request.index,
        seed=request.seed,
        policy_seed=int(run.policy.usr_args["seed"]),
        outcome="error",
        reason=reason,
        steps=0,
        clamped_actions=0,
        instruction="",
        wall_s=0.0,
        attempts=request.attempt,
        video="",
    )
