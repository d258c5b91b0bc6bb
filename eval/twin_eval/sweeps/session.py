"""One call of `twinbench sweep`: looks at what there is, plans the rest, and runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin_env.backends import list_tasks
from twin_env.config import load_env_config
from twin_env.files import locked
from twin_env.names import unknown
from twin_eval.policies import find_policy
from twin_eval.sweeps import trainings as training
from twin_eval.sweeps.asked import Asked
from twin_eval.sweeps.executor import LocalExecutor
from twin_eval.sweeps.jobs import LOGS, Job, Rates, failures, rates_below, read_ends
from twin_eval.sweeps.outcomes import Outcomes
from twin_eval.sweeps.plan import (
    CHECKPOINT,
    EVALUATION,
    PREPARED,
    Means,
    Standing,
    look,
    make_jobs,
    policy_folder,
)
from twin_eval.sweeps.plan_text import plan_text
from twin_eval.sweeps.progress import Progress
from twin_eval.sweeps.running import Failure, Runner, failures_of, jobs_lock
from twin_eval.sweeps.schedule import Loss, Schedule, losses_text
from twin_eval.sweeps.spec import Sweep, SweepRun


@dataclass(frozen=True)
class Prospect:
    """What a session would do."""

    runs: Sequence[SweepRun]
    trainings: training.TrainingPlan
    standing: Standing
    jobs: Sequence[Job]
    failed: Mapping[str, Loss]
    """Run to why nothing is done for it."""
    definitions: Mapping[str, Mapping[str, Any]]
    """Run to what it is asked to be."""
    rates: Rates = field(default_factory=Rates)


def choose_runs(sweep: Sweep, only: Sequence[str]) -> list[SweepRun]:
    """Runs of these variants, or of all.

    Raises:
        ValueError: there is no variant of that label.
    """
    labels = [variant.label for variant in sweep.variants]
    for label in only:
        if label not in labels:
            raise unknown("variant", label, labels)
    return [run for run in sweep.runs if not only or run.variant.label in only]


def check_names(sweep: Sweep) -> None:
    """Looks up what jobs would look up hours later.

    Raises:
        ValueError: an unknown task, config or policy folder.
    """
    load_env_config(sweep.config)
    known = list_tasks()
    for task in sweep.tasks:
        if task not in known:
            raise unknown("task", task, known)
    for variant in sweep.variants:
        find_policy(policy_folder(sweep, variant))


def foresee(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun],
    runs_file: Path,
    means: Means,
    *,
    retry_failed: bool = False,
    command: Sequence[str] = training.TWINBENCH,
) -> Prospect:
    """What is there and what is left; `runs_file` is written for `train-many`.

    Raises:
        ValueError: a run was trained or evaluated by other settings than the sweep has now; or as
            `make_jobs`.
    """
    asked = Asked(sweep, folder)
    definitions = asked.definitions
    _check_unchanged(folder, runs, asked)
    # All runs of the sweep: those left out now use the same stores and features another time.
    trainings, _ = training.plan_trainings(sweep, folder, sweep.runs, runs_file, command=command)
    standing = look(sweep, folder, runs, trainings, retry_errors=retry_failed)
    failed = {
        run.name: Loss("train", " ".join(error.split()), foreseen=True)
        for run in runs
        if (error := trainings.runs[run.name].error) is not None
    }
    if not retry_failed:
        failed = {**_failed_before(folder, runs, standing, definitions), **failed}
    able = [run for run in runs if run.name not in failed]
    ends = read_ends(folder)
    crashed = {name for end in ends for name, run in end.runs.items() if run.crashed}
    jobs = make_jobs(sweep, folder, able, trainings, standing, means, alone=crashed)
    rates = rates_below(folder.parent)
    return Prospect(runs, trainings, standing, jobs, failed, definitions, rates)


def _check_unchanged(folder: Path, runs: Sequence[SweepRun], asked: Asked) -> None:
    trained = [(training.run_folder(folder, run), asked.training_changes(run)) for run in runs]
    _refuse(folder, trained, "trainings", "train")
    evaluated = [
        (training.evaluation_folder(folder, run), asked.evaluation_changes(run)) for run in runs
    ]
    _refuse(folder, evaluated, "evaluations", "evaluate")


def _refuse(
    folder: Path, changes: Sequence[tuple[Path, Sequence[str]]], what: str, verb: str
) -> None:
    """Refuses results if something of what they were made by has changed, key by key."""
    changed = [(place, keys) for place, keys in changes if keys]
    if changed:
        place, keys = changed[0]
        raise ValueError(
            f"{folder} holds {len(changed)} {what} by other settings, such as {place}:\n  "
            + "\n  ".join(keys)
            + "\nGive another --out, rename the sweep's file, or delete that folder and the like "
            f"to {verb} anew."
        )


def _failed_before(
    folder: Path,
    runs: Sequence[SweepRun],
    standing: Standing,
    definitions: Mapping[str, Mapping[str, Any]],
) -> dict[str, Loss]:
    """Runs that failed in an earlier session, as they are asked for now."""
    names = {run.name for run in runs}
    lost = {}
    for (kind, name), end in failures(read_ends(folder)).items():
        over = {"train": standing.trained, "evaluate": standing.evaluated}.get(kind)
        if over is None or name in over or name not in names:
            continue
        if end.definition == training.digest(definitions[name]):
            lost[name] = Loss(kind, f"{end.reason} (earlier; --retry-failed tries again)")
    return lost


def show_plan(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun],
    means: Means,
    *,
    retry_failed: bool = False,
    command: Sequence[str] = training.TWINBENCH,
) -> str:
    """The plan, without a change to the sweep's folder."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / training.RUNS
        prospect = foresee(
            sweep, folder, runs, path, means, retry_failed=retry_failed, command=command
        )
    return describe(sweep, folder, prospect, means)


def describe(sweep: Sweep, folder: Path, prospect: Prospect, means: Means) -> str:
    """The plan for people."""
    return plan_text(
        sweep,
        folder,
        prospect.runs,
        prospect.trainings,
        prospect.standing,
        prospect.jobs,
        failed=prospect.failed,
        rates=prospect.rates,
        slots=means.slots,
    )


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """The folder of a sweep, for one session alone; gives the descriptor that jobs hold.

    Raises:
        FolderInUseError: another session is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), jobs_lock(folder) as descriptor:
        yield descriptor


def run_session(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun],
    means: Means,
    *,
    hold: int,
    devices: Sequence[str] = (),
    retry_failed: bool = False,
    command: Sequence[str] = training.TWINBENCH,
    accepted: Callable[[], object] = lambda: None,
    write_table: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = lambda text: None,
) -> list[Failure]:
    """Does what is left of these runs.

    Args:
        hold: what `held` gave.
        accepted: called once the sweep fits what the folder holds, before the first job.
        write_table: called now and then, with the evaluations that there are.

    Returns:
        Runs that failed, or were blocked by what failed.

    Raises:
        KeyboardInterrupt: it was asked to stop, and all jobs have ended.
    """
    runs_file = folder / training.RUNS
    prospect = foresee(
        sweep, folder, runs, runs_file, means, retry_failed=retry_failed, command=command
    )
    accepted()
    say(describe(sweep, folder, prospect, means))
    schedule = Schedule(prospect.jobs)
    digests = {name: training.digest(each) for name, each in prospect.definitions.items()}

    def begin(job: Job) -> None:
        for run in job.runs if job.kind == "train" else ():
            training.write_definition(folder / "runs" / run, prospect.definitions[run])

    Runner(
        folder,
        schedule,
        LocalExecutor(means.slots, devices=devices, command=command, hold=hold),
        Outcomes(sweep, folder, prospect.trainings, digests),
        rates=prospect.rates,
        progress=Progress(len(prospect.jobs)),
        begin=begin,
        write_table=write_table,
    ).run()
    known = [Failure(name, loss) for name, loss in prospect.failed.items()]
    goods = (PREPARED, CHECKPOINT, EVALUATION)
    wanted = {run.name: [f"{good} {run.name}" for good in goods] for run in runs}
    return known + failures_of(wanted, schedule)


def failures_text(failed: Sequence[Failure], total: int, folder: Path) -> str:
    """The list of what failed, with the logs that say more."""

    def where(loss: Loss) -> str:
        return f" ({folder / LOGS / loss.job}.log)" if loss.job else ""

    lost = {failure.run: failure.loss for failure in failed}
    return f"{len(failed)} of {total} runs failed:\n{losses_text(lost, where)}"
