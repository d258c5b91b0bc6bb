"""Plays the planned episodes in worker processes and writes each into its cell's journal."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from twin_env.workers import Asked, Died, Done, Raised, WorkerPool, next_event
from twin_eval.cells import (
    Job,
    Limits,
    Played,
    PolicyLoadError,
    SimulatorError,
    SimulatorFailure,
    Work,
    loaded_policy,
    play,
)
from twin_eval.episode import EpisodeRequest, record_of_loss
from twin_eval.inference import (
    Batch,
    LoadedPolicy,
    LoadFailure,
    PolicyKey,
    PolicySpec,
    Question,
    Refusal,
    policy_key,
    serve,
)
from twin_eval.journal import JournalError
from twin_eval.records import EpisodeRecord
from twin_eval.rollout_folder import sweep_torn

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""An episode whose process was lost is tried once more, alone of all outcomes."""

Inference = Literal["worker", "shared", "shared_if_possible"]
"""Where a policy computes: a copy in each worker, or one process that serves all of them."""


def run_works(
    works: Sequence[Work],
    *,
    workers: int,
    gpus: Sequence[str] = (),
    inference: Inference = "worker",
    limits: Limits | None = None,
    retry_errors: bool = False,
    progress: Callable[[Work, EpisodeRecord], None] = lambda work, record: None,
    wanted: Callable[[Work, EpisodeRequest], bool] = lambda work, request: True,
    order: Callable[[Iterable[tuple[Work, EpisodeRequest]]], Iterable[tuple[Work, EpisodeRequest]]]
    | None = None,
) -> None:
    """Plays every request that its journal does not have yet.

    Results do not depend on the number of workers: what is played is fixed beforehand and no
    episode knows of another.

    Args:
        gpus: the workers see one of these each, a policy's own process the first.
        retry_errors: play again what ended in an error.
        progress: hears of each new record, after it was written.
        wanted: asked just before a request is dispatched; False leaves it out.
        order: in which requests are dispatched; work by work unless given.

    Raises:
        JournalError: if a journal has an episode on another seed than the plan's.
        PolicyLoadError: if a policy does not load, or cannot be shared.
    """
    todo = [(work, request) for work in works for request in _missing(work, retry_errors)]
    for work in works:
        for torn in (work.cell.folder / "videos").glob(".*.part.mp4"):
            torn.unlink()
        sweep_torn(work.cell.folder)
    if not todo:
        return
    limits = limits or Limits()
    _Run(
        deque(order(todo) if order else todo),
        workers=min(workers, len(todo)),
        gpus=gpus,
        inference=inference,
        limits=limits,
        progress=progress,
        wanted=wanted,
    ).run()


@dataclass(frozen=True)
class _Loss:
    reason: str
    blamed: bool
    """Whether the episode may have been the reason."""


class _Run:
    """The episodes under way, and the questions that wait for a shared policy."""

    def __init__(
        self,
        queue: deque[tuple[Work, EpisodeRequest]],
        *,
        workers: int,
        gpus: Sequence[str],
        inference: Inference,
        limits: Limits,
        progress: Callable[[Work, EpisodeRecord], None],
        wanted: Callable[[Work, EpisodeRequest], bool],
    ) -> None:
        self._queue = queue
        self._workers, self._gpus = workers, gpus
        self._shared = inference != "worker"
        self._must_share = inference == "shared"
        self._limits = limits
        self._progress = progress
        self._wanted = wanted
        self._under_way: dict[Job, Work] = {}
        self._free = list(range(workers))
        self._loaded: dict[PolicyKey, LoadedPolicy] = {}
        self._served: dict[PolicyKey, PolicySpec] = {}
        """Policies that the shared process holds."""
        self._asking: dict[Job, Question] = {}
        self._asked: tuple[Batch, list[Job]] | None = None
        self._stale: dict[Job, str] = {}
        """Episodes whose history was lost with the policy's process, with the reason."""
        self._lost: dict[Job, _Loss] = {}
        """Those of them that have been told."""

    def run(self) -> None:
        with ExitStack() as stack:
            if self._shared:
                self._server = stack.enter_context(
                    WorkerPool(1, serve, job_timeout_s=self._limits.episode_s, gpus=self._gpus)
                )
                self._load_shared()
            self._simulators = stack.enter_context(
                WorkerPool(
                    self._workers,
                    play,
                    job_timeout_s=self._limits.episode_s,
                    max_memory_mb=self._limits.worker_mb,
                    gpus=self._gpus,
                )
            )
            pools = [self._simulators, *([self._server] if self._shared else [])]
            while self._fill():
                self._ask_policy()
                event = next_event(*pools)
                assert event is not None
                pool, job, what = event
                if pool is self._simulators:
                    self._hear(job, what)
                else:
                    self._answer(what)

    def _fill(self) -> bool:
        """Gives work to idle workers; False when nothing is left or under way."""
        while self._simulators.idle and self._queue:
            work, request = self._queue.popleft()
            if not self._wanted(work, request):
                continue
            policy = work.cell.policy
            loaded = self._loaded.get(policy_key(policy))
            job = Job(
                cell=work.cell,
                request=request,
                session=work.journal.session,
                step_limit_s=self._limits.step_s,
                n_obs_steps=loaded.n_obs_steps if loaded else None,
                env_index=self._free.pop(),
            )
            self._under_way[job] = work
            self._simulators.submit(job)
        return bool(self._under_way)

    def _hear(self, job: Job, what: Any) -> None:
        """A worker asks, or its episode is over."""
        if isinstance(what, Asked):
            stale = self._stale.pop(job, "")
            if stale and what.question.seed is None:
                self._refuse(job, stale, blamed=False)
            else:
                self._asking[job] = what.question
            return
        work = self._under_way.pop(job)
        self._free.append(job.env_index)
        self._asking.pop(job, None)
        self._stale.pop(job, None)
        loss = self._lost.pop(job, None)
        if isinstance(what, Died):
            loss = _Loss(f"worker died: {_cause(what)}", blamed=True)
        attempt = job.request.attempt
        if loss and not (loss.blamed and attempt == ATTEMPTS):
            again = dataclasses.replace(job.request, attempt=attempt + loss.blamed)
            self._queue.appendleft((work, again))
            return
        if loss:
            reason = f"{loss.reason} (attempt {attempt} of {ATTEMPTS})"
            record = record_of_loss(job.cell.environment, job.request, job.identity, reason)
        else:
            record = _take(what, job, work)
        work.journal.append(record)
        self._progress(work, record)

    # The shared policy ----------------------------------------------------------------------

    def _load_shared(self) -> None:
        policies = {policy_key(work.cell.policy): work.cell.policy for work, _ in self._queue}
        for key, policy in policies.items():
            self._server.submit(Batch(policy))
            _, outcome = self._server.next_outcome()
            loaded = loaded_policy(outcome, policy)
            if loaded.n_obs_steps is None and self._must_share:
                raise PolicyLoadError(
                    f"policy {policy.name!r} cannot serve several simulators at once: its model "
                    "lacks observe, act, reset and n_obs_steps (twin_eval.inference); give "
                    "--inference worker"
                )
            self._loaded[key] = loaded

    def _ask_policy(self) -> None:
        """Hands the waiting questions to the policy's process, if it is idle."""
        if self._asked is not None or not self._asking:
            return
        first = next(iter(self._asking))
        jobs = [first]
        # One that was lost with its policy is asked alone: it may have been the reason.
        if first.request.attempt == 1:
            key = policy_key(first.cell.policy)
            jobs = [
                job
                for job in self._asking
                if job.request.attempt == 1 and policy_key(job.cell.policy) == key
            ]
        questions = [self._asking.pop(job) for job in jobs]
        policy = first.cell.policy
        batch = Batch(policy, questions, self._limits.step_s, self._done_with())
        self._served[policy_key(policy)] = policy
        self._asked = (batch, jobs)
        self._server.submit(batch)

    def _done_with(self) -> list[PolicySpec]:
        """Policies that the shared process may forget: no episode is left that needs them."""
        if len(self._served) < 2:
            return []
        needed = {policy_key(work.cell.policy) for work in self._under_way.values()}
        needed |= {policy_key(policy) for policy in self._left}
        done = [key for key in self._served if key not in needed]
        return [self._served.pop(key) for key in done]

    @property
    def _left(self) -> list[PolicySpec]:
        """Policies of the episodes that wait."""
        return list({id(w.cell): w.cell.policy for w, _ in self._queue}.values())

    def _answer(self, what: Any) -> None:
        assert self._asked is not None
        _, jobs = self._asked
        self._asked = None
        if isinstance(what, Done) and isinstance(what.value, list):
            for job, answer in zip(jobs, what.value, strict=True):
                if job in self._under_way:
                    self._simulators.answer(job, answer)
            return
        if isinstance(what, Died):
            lost = f"the policy's process died: {_cause(what)}"
        else:
            lost = f"the policy's process failed: {getattr(what, 'error_text', what)}"
        logger.warning("%s; %d episodes are played again", lost, len(jobs))
        # All its histories are lost: also of those that are not asking just now.
        for job in jobs:
            self._refuse(job, lost, blamed=True)
        self._stale = {job: lost for job in self._under_way if job not in self._lost}
        for job, question in list(self._asking.items()):
            if question.seed is None:
                del self._asking[job]
                self._refuse(job, lost, blamed=False)

    def _refuse(self, job: Job, reason: str, *, blamed: bool) -> None:
        """Ends an episode whose policy was lost; `blamed` ones have used up an attempt."""
        if job in self._under_way:
            self._lost[job] = _Loss(reason, blamed)
            self._simulators.answer(job, Refusal(reason))


def _missing(work: Work, retry_errors: bool) -> list[EpisodeRequest]:
    seeds = {record.index: (record.seed, record.noise_seed) for record in work.journal.records}
    for request in work.requests:
        planned = (request.seed, request.noise_seed)
        if seeds.get(request.index, planned) != planned:
            raise JournalError(
                f"{work.journal.folder}: episode {request.index} was run on seeds (scene, noise) "
                f"{seeds[request.index]}, and the plan says {planned}: give another --out"
            )
    done = {
        record.index
        for record in work.journal.records
        if not (retry_errors and record.outcome == "error")
    }
    return [request for request in work.requests if request.index not in done]


def _cause(death: Died) -> str:
    return death.reason + (f", at {death.where}" if death.where else "")


def _take(what: Done | Raised, job: Job, work: Work) -> EpisodeRecord:
    """What a worker returned; a failure outside of the episode can only be the policy's."""
    if isinstance(what, Raised):
        raise PolicyLoadError(
            f"policy {job.cell.policy.name!r} failed outside of an episode, most likely in "
            f"get_model:\n{what.traceback_text.rstrip()}"
        )
    if isinstance(what.value, LoadFailure):
        raise PolicyLoadError(what.value.message)
    if isinstance(what.value, SimulatorFailure):
        raise SimulatorError(what.value.message)
    played: Played = what.value
    work.journal.describe_session(renderer=played.renderer)
    return played.record
