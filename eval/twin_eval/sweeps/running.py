"""Runs the jobs of a sweep until nothing is left to do; what fails takes little with it."""

from __future__ import annotations

import fcntl
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin_eval.sweeps.executor import Ended, Executor
from twin_eval.sweeps.jobs import LOGS, Job, JobEnd, Rates, append_end
from twin_eval.sweeps.outcomes import Outcomes
from twin_eval.sweeps.progress import Progress
from twin_eval.sweeps.schedule import Loss, Schedule

logger = logging.getLogger(__name__)

JOBS_LOCK = ".jobs.lock"
WAIT_S = 0.5
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EARLY_TABLE_SHARE = 0.05
"""At most this share of the time is spent on tables before the end."""
ORPHANS_S = 600.0


class StillAtWork(ValueError):
    """Jobs of a sweep that was killed have not ended."""


@dataclass(frozen=True)
class Failure:
    """A run that did not get its evaluation."""

    run: str
    loss: Loss


@contextmanager
def jobs_lock(folder: Path, *, patience_s: float = ORPHANS_S) -> Iterator[int]:
    """A lock that jobs of the sweep in `folder` inherit, so that it is free when all have ended.

    Raises:
        StillAtWork: jobs of a killed sweep hold it for longer than `patience_s`.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    with (folder / LOGS / JOBS_LOCK).open("a") as lock:
        deadline, told = time.monotonic() + patience_s, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StillAtWork(
                        f"jobs of a sweep that was killed still work in {folder}: end them, or "
                        "wait, and run the same command again"
                    ) from error
            if not told:
                logger.warning("waiting for jobs of a killed sweep to save and end ...")
                told = True
            time.sleep(0.1)
        yield lock.fileno()


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that grows with each Ctrl-C, SIGTERM and SIGHUP."""
    received: list[int] = []
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in STOPS}
    for number in STOPS:
        signal.signal(number, lambda received_number, _frame: received.append(received_number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Runner:
    """One session of a sweep.

    Args:
        begin: called with a job before it starts.
        write_table: called now and then when an evaluation has finished.
        folder: of the sweep, which the caller holds.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        executor: Executor,
        outcomes: Outcomes,
        *,
        rates: Rates,
        progress: Progress,
        begin: Callable[[Job], object] = lambda job: None,
        write_table: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder, self._schedule, self._executor = folder, schedule, executor
        self._outcomes, self._rates, self._progress = outcomes, rates, progress
        self._begin, self._write_table = begin, write_table
        self._began_s: dict[str, float] = {}
        self._no_table_before_s = 0.0
        self._asked = 0

    def run(self) -> None:
        """Runs all jobs that can be run.

        Raises:
            KeyboardInterrupt: it was asked to stop, and all jobs have ended.
        """
        with asked_to_stop() as stops:
            try:
                while True:
                    if not stops:
                        self._fill()
                    if not self._executor.running:
                        break
                    for ended in self._executor.wait(WAIT_S):
                        self._end(ended, stopping=bool(stops))
                    self._hear()
                    self._pass_on(len(stops))
                    self._progress.show(self._status())
            finally:
                self._executor.kill()
                self._progress.close()
        if stops:
            raise KeyboardInterrupt
        assert not self._schedule.pending, "jobs wait for what no job gives"

    def _fill(self) -> None:
        while len(self._executor.running) < self._executor.slots:
            if (job := self._schedule.next()) is None:
                return
            self._begin(job)
            if job.report is not None:
                job.report.unlink(missing_ok=True)
            self._executor.submit(job, self._outcomes.log_of(job.name))
            self._began_s[job.name] = time.monotonic()
            self._progress.say(f"started  {job.name}{_runs_text(job)}")

    def _end(self, ended: Ended, *, stopping: bool) -> None:
        end = self._outcomes.conclude(ended, stopping=stopping)
        append_end(self._folder, end)
        self._rates.learn(end)
        self._progress.ended(end)
        job = ended.job
        if end.state == "done":
            self._schedule.arrive(job.gives)
        elif end.state == "failed" and job.gives:
            self._schedule.lose(job.gives, Loss(job.kind, end.reason, job.name))
        for run, each in end.runs.items():
            good = f"{job.run_gives} {run}"
            if each.state == "done":
                self._schedule.arrive([good])
            elif each.state == "failed":
                self._schedule.lose([good], Loss(job.kind, each.reason, job.name))
        if not stopping:
            self._put_back(job, end)
        if job.kind == "evaluate" and end.state == "done":
            self._write_early_table()

    def _put_back(self, job: Job, end: JobEnd) -> None:
        """Runs that a job did not come to, because another one broke its process, come again."""
        over = [run for run, each in end.runs.items() if each.state != "interrupted"]
        if (left := job.without(over)).runs:
            self._schedule.add(left)
            self._progress.more(1)
            self._progress.say(f"{job.name}: once more, for {len(left.runs)} runs left of it")

    def _hear(self) -> None:
        """Runs of a training that goes on may be finished, and can be evaluated."""
        for job in self._executor.running:
            if job.kind == "train":
                done = self._outcomes.trained_meanwhile(job)
                self._schedule.arrive(f"{job.run_gives} {run}" for run in done)

    def _pass_on(self, asked: int) -> None:
        if asked > 0 and self._asked == 0:
            self._progress.say(
                "stopping: jobs save what they have and end; once more to end them at once ..."
            )
            self._executor.interrupt()
        if asked > 1:
            self._executor.kill()
        self._asked = asked

    def _write_early_table(self) -> None:
        began_s = time.monotonic()
        if began_s < self._no_table_before_s:
            return
        try:
            self._write_table()
        except (ValueError, OSError) as error:
            self._progress.say(f"no table yet: {error}")
        now_s = time.monotonic()
        self._no_table_before_s = now_s + (now_s - began_s) / EARLY_TABLE_SHARE

    def _status(self) -> str:
        running = [job.name for job in self._executor.running]
        waiting = len(self._schedule.pending)
        parts = [f"{waiting} to come" if waiting else "the last jobs", self._left()]
        return f"at work: {', '.join(running)}; " + ", ".join(filter(None, parts))

    def _left(self) -> str:
        """Time to the end, if the pace of all work that is left is known."""
        now_s, total_s = time.monotonic(), 0.0
        for job in [*self._executor.running, *self._schedule.pending]:
            if (expected_s := self._rates.expected_s(job)) is None:
                return ""
            spent_s = now_s - self._began_s.get(job.name, now_s)
            total_s += max(0.0, expected_s - spent_s)
        return self._progress.left(total_s / self._executor.slots)


def failures_of(runs: Mapping[str, Sequence[str]], schedule: Schedule) -> list[Failure]:
    """Runs that will not get what they need, and why.

    Args:
        runs: name to what it is to get, the last of which counts; a run that is itself the reason
            for the loss of one of them is not blocked by anything.
    """
    failed = []
    for run, goods in runs.items():
        lost = [schedule.lost[good] for good in goods if good in schedule.lost]
        if goods[-1] in schedule.lost:
            own = next((loss for loss in lost if not loss.blocked), lost[-1])
            failed.append(Failure(run, own))
    return failed


def _runs_text(job: Job) -> str:
    return f" ({len(job.runs)} runs)" if len(job.runs) > 1 else ""
