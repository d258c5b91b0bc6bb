"""Which job of a sweep comes next, and what a failure takes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from twin_eval.sweeps.jobs import Job, Kind

WHAT: dict[Kind, str] = {
    "collect": "recording demonstrations",
    "scenes": "settling the scenes",
    "prepare": "preparing the data",
    "train": "training",
    "evaluate": "evaluation",
}


@dataclass(frozen=True)
class Loss:
    """Something that will not be there."""

    kind: Kind
    """Of the job that failed first."""
    reason: str
    job: str = ""
    """Its name; empty if it was known before any job ran."""
    blocked: bool = False
    """Whether what gives it was never tried."""
    foreseen: bool = False
    """Whether training has said beforehand that it cannot be."""

    def __str__(self) -> str:
        if self.foreseen:
            return f"cannot be trained: {self.reason}"
        text = f"{WHAT[self.kind]} failed: {self.reason}"
        return f"blocked: {text}" if self.blocked else text


class Schedule:
    """Jobs that wait, and what they wait for."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.pending = sorted(jobs, key=lambda job: job.rank)
        self.lost: dict[str, Loss] = {}
        self._awaited = {good for job in self.pending for good in _all_gives(job)}

    def next(self) -> Job | None:
        """The first job that can start, which no longer waits; None if none can."""
        for job in self.pending:
            if not self._awaited.intersection(_all_needs(job)):
                self.pending.remove(job)
                return job
        return None

    def add(self, job: Job) -> None:
        """One more job, for what is still awaited."""
        self.pending = sorted([*self.pending, job], key=lambda each: each.rank)

    def arrive(self, goods: Iterable[str]) -> None:
        """These are there now."""
        self._awaited.difference_update(goods)

    def lose(self, goods: Iterable[str], loss: Loss) -> None:
        """These will never be there: jobs that need them are dropped, or do less."""
        blocked = Loss(loss.kind, loss.reason, loss.job, blocked=True)
        lost, why = set(goods), loss
        while lost:
            self.lost |= {good: why for good in lost if good not in self.lost}
            jobs, self.pending = self.pending, []
            lost, why = set(), blocked
            for job in jobs:
                left = self._what_is_left(job)
                lost.update(set(_all_gives(job)) - set(_all_gives(left) if left else []))
                self.pending += [left] if left else []

    def _what_is_left(self, job: Job) -> Job | None:
        """What a job can do still."""
        if self.lost.keys() & set(job.needs):
            return None
        runs = [run for run in job.runs if f"{job.run_needs} {run}" in self.lost]
        if len(runs) == len(job.runs) > 0:
            return None
        return job.without(runs) if runs else job


def losses_text(lost: Mapping[str, Loss], where: Callable[[Loss], str] = lambda loss: "") -> str:
    """Runs and why each is lost, those of one reason together; `where` is said behind it."""
    by_reason: dict[str, list[str]] = {}
    for name, loss in lost.items():
        by_reason.setdefault(f"{loss}{where(loss)}", []).append(name)
    return "\n".join(
        "\n".join([*(f"  {name}" for name in names), f"    {reason}"])
        for reason, names in by_reason.items()
    )


def _all_needs(job: Job) -> list[str]:
    return [*job.needs, *(f"{job.run_needs} {run}" for run in job.runs if job.run_needs)]


def _all_gives(job: Job) -> list[str]:
    return [*job.gives, *(f"{job.run_gives} {run}" for run in job.runs if job.run_gives)]
