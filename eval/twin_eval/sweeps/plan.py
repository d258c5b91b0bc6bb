"""From a sweep to its jobs: what there is to do, what is there already, what is shared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twin_eval.journal import JournalError, read_journal, read_planned
from twin_eval.policies import list_policies
from twin_eval.records import EpisodeRecord
from twin_eval.sweeps.jobs import Job
from twin_eval.sweeps.spec import Sweep, SweepRun, Variant
from twin_eval.sweeps.trainings import (
    RUNS,
    TrainingPlan,
    checkpoint_folder,
    count_demonstrations,
    data_folder,
    evaluation_folder,
    lacks,
)

DATA, SCENES = "demonstrations of", "scenes of"
PREPARED, CHECKPOINT, EVALUATION = "features of", "checkpoint of", "evaluation of"


@dataclass(frozen=True, kw_only=True)
class Means:
    """How jobs are cut and what they may use."""

    slots: int = 1
    """Jobs at once: so many chunks of trainings there are at least."""
    threads: int = 1
    """CPU threads of a training, where it is given as many as a slot has."""
    workers: int = 1
    """Simulator processes of a job that needs them."""
    collect: bool = True
    """Whether demonstrations may be recorded."""
    retry_errors: bool = False
    """Play evaluation episodes that ended in an error again."""


@dataclass
class Standing:
    """How far a sweep is, by its results."""

    demonstrations: dict[str, int] = field(default_factory=dict)
    """Of each task, recorded."""
    trained: set[str] = field(default_factory=set)
    """Names of runs whose checkpoint is finished."""
    episodes: dict[str, int] = field(default_factory=dict)
    """Of each run's evaluation, played."""
    evaluated: set[str] = field(default_factory=set)
    """Names of runs whose evaluation is finished."""


def look(
    sweep: Sweep,
    folder: Path,
    runs: Iterable[SweepRun],
    trainings: TrainingPlan,
    *,
    retry_errors: bool = False,
) -> Standing:
    """How far the sweep in `folder` is."""
    standing = Standing(
        demonstrations={task: count_demonstrations(sweep, task) for task in sweep.tasks}
    )
    for run in runs:
        if is_trained(folder, run, trainings):
            standing.trained.add(run.name)
        played = read_played(folder, run)
        standing.episodes[run.name] = len(played)
        if is_evaluated(sweep, played, planned=read_length(folder, run), strict=retry_errors):
            standing.evaluated.add(run.name)
    return standing


def is_trained(folder: Path, run: SweepRun, trainings: TrainingPlan) -> bool:
    """Whether the run's checkpoint is finished."""
    return not lacks(checkpoint_folder(folder, run), trainings.runs[run.name].total_steps)


def read_played(folder: Path, run: SweepRun) -> list[EpisodeRecord]:
    """Finished episodes of the run's evaluation; none where they cannot be read."""
    try:
        return read_journal(evaluation_folder(folder, run))
    except JournalError:
        return []  # `twinbench eval` will say what is wrong.


def read_length(folder: Path, run: SweepRun) -> int:
    """How many episodes the run's evaluation plans; 0 if it has not begun."""
    try:
        return read_planned(evaluation_folder(folder, run))
    except ValueError:
        return 0


def is_evaluated(
    sweep: Sweep, played: Sequence[EpisodeRecord], *, planned: int, strict: bool = False
) -> bool:
    """Whether all episodes are there and one was scored; `strict`: and none ended in an error."""
    ours = [record for record in played if record.index < sweep.episodes]
    errors = sum(record.outcome == "error" for record in ours)
    if planned < sweep.episodes or len(ours) < sweep.episodes:
        return False
    return errors == 0 if strict else errors < len(ours)


def policy_folder(sweep: Sweep, variant: Variant) -> str:
    """The folder in `policy/` that evaluates a variant.

    Raises:
        ValueError: no folder's name begins that of the policy config.
    """
    if sweep.policy_folder is not None:
        return sweep.policy_folder
    stem = Path(variant.policy).stem
    fitting = [name for name in list_policies() if stem.startswith(name)]
    if not fitting:
        raise ValueError(
            f"no folder in policy/ has a name that {stem} begins with "
            f"({', '.join(list_policies())}): say which one evaluates, as in "
            "`evaluate: {policy: clip_dp}`"
        )
    return max(fitting, key=len)


def make_jobs(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun],
    trainings: TrainingPlan,
    standing: Standing,
    means: Means,
    *,
    alone: Collection[str] = (),
) -> list[Job]:
    """Jobs for what is missing of these runs, in the order in which they should begin.

    Args:
        alone: names of runs that get a training process of their own.

    Raises:
        ValueError: demonstrations are missing that may not be recorded; no policy evaluates.
    """
    ranks = {run.name: 10 * place for place, run in enumerate(runs)}
    todo = [run for run in runs if run.name not in standing.evaluated]
    untrained = [run for run in todo if run.name not in standing.trained]
    jobs: list[Job] = []
    for task in sweep.tasks:
        ours = [run for run in untrained if run.task == task]
        if ours:
            rank = ranks[ours[0].name]
            jobs += _collect_jobs(sweep, task, standing, means, rank=rank)
            jobs.append(_prepare_job(folder, task, ours, trainings, means, rank=rank + 2))
        to_play = [run for run in todo if run.task == task]
        if to_play:
            jobs.append(_scenes_job(sweep, task, means, rank=ranks[to_play[0].name] + 1))
    chunks = cut_chunks(untrained, trainings, slots=means.slots, alone=alone)
    counts = dict.fromkeys(sweep.tasks, 0)
    for chunk in chunks:
        task = chunk[0].task
        counts[task] += 1
        name = f"train/{task}/{counts[task]}"
        jobs.append(
            _train_job(folder, name, chunk, trainings, means, rank=ranks[chunk[0].name] + 3)
        )
    jobs += [
        _evaluate_job(sweep, folder, run, trainings, standing, means, rank=ranks[run.name] + 4)
        for run in todo
    ]
    return sorted(jobs, key=lambda job: job.rank)


def cut_chunks(
    runs: Sequence[SweepRun],
    trainings: TrainingPlan,
    *,
    slots: int,
    alone: Collection[str] = (),
) -> list[list[SweepRun]]:
    """Runs that one process trains: of one task and seed, and from the same features.

    A run that has a live backbone is alone, as it shares nothing, and so are those in `alone`,
    such as runs that broke the process of others before. The others are cut further while
    there are fewer chunks than slots.
    """
    towers = {name: number for number, tower in enumerate(trainings.towers) for name in tower.runs}
    groups: dict[object, list[SweepRun]] = {}
    for run in runs:
        training = trainings.runs[run.name]
        apart = run.name in alone or not training.features
        shared = run.name if apart else towers.get(run.name, run.name)
        key = (run.task, run.seed, run.variant.policy, shared)
        groups.setdefault(key, []).append(run)
    pieces = -(-slots // max(1, len(groups)))
    chunks = []
    for group in groups.values():
        size = -(-len(group) // pieces)
        chunks += [group[begin : begin + size] for begin in range(0, len(group), size)]
    return chunks


def _collect_jobs(
    sweep: Sweep, task: str, standing: Standing, means: Means, *, rank: int
) -> list[Job]:
    missing = (sweep.demonstrations or 1) - standing.demonstrations[task]
    if missing <= 0:
        return []
    if sweep.data is not None:
        raise ValueError(
            f"{data_folder(sweep, task)} holds {standing.demonstrations[task]} episodes, and the "
            f"sweep learns from {sweep.learnt_from}: name another folder as data, or fill it, as "
            "with `twinbench replay create`"
        )
    words = ("collect", task, "--config", sweep.config, "--episodes", str(sweep.demonstrations))
    if not means.collect:
        raise ValueError(
            f"{missing} demonstrations of {task} are missing: leave out --no-collect, or record "
            f"them with `twinbench {' '.join(words)}`"
        )
    return [
        Job(
            name=f"collect/{task}",
            kind="collect",
            words=(*words, "--workers", str(means.workers)),
            rank=rank,
            gives=(f"{DATA} {task}",),
            units=missing,
            rate_keys=(f"collect {task}", "collect"),
        )
    ]


def _scenes_job(sweep: Sweep, task: str, means: Means, *, rank: int) -> Job:
    words = ("plan", task, "--config", sweep.config, "--n", str(sweep.episodes))
    seed = ("--seed", str(sweep.evaluation_seed))
    return Job(
        name=f"scenes/{task}",
        kind="scenes",
        words=(*words, *seed, "--workers", str(means.workers), "--quiet"),
        rank=rank,
        gives=(f"{SCENES} {task}",),
        # Most plans are there, and then this takes a moment.
        units=0,
    )


def _prepare_job(
    folder: Path,
    task: str,
    runs: Sequence[SweepRun],
    trainings: TrainingPlan,
    means: Means,
    *,
    rank: int,
) -> Job:
    names = tuple(run.name for run in runs)
    towers = [
        tower
        for tower in trainings.towers
        if tower.task == task and not tower.ready and not set(names).isdisjoint(tower.runs)
    ]
    name = f"prepare/{task}"
    backbones = "+".join(sorted({tower.backbone for tower in towers}))
    return Job(
        name=name,
        kind="prepare",
        words=_train_words(folder, means, "--prepare"),
        rank=rank,
        needs=(f"{DATA} {task}",),
        runs=names,
        run_gives=PREPARED,
        report=_report(folder, name),
        gpu=bool(towers),
        units=sum(tower.pictures or 0 for tower in towers),
        rate_keys=(f"prepare {backbones}",),
    )


def _train_job(
    folder: Path,
    name: str,
    chunk: Sequence[SweepRun],
    trainings: TrainingPlan,
    means: Means,
    *,
    rank: int,
) -> Job:
    known = [trainings.runs[run.name] for run in chunk]
    learns_from = "features" if known[0].features else f"{known[0].live_backbone} backbone"
    what = f"train {chunk[0].variant.policy} {learns_from}"
    return Job(
        name=name,
        kind="train",
        words=_train_words(folder, means),
        rank=rank,
        runs=tuple(run.name for run in chunk),
        run_needs=PREPARED,
        run_gives=CHECKPOINT,
        report=_report(folder, name),
        gpu=True,
        units=sum((each.total_steps or 0) - each.steps_done for each in known),
        rate_keys=(what if known[0].features else f"{what} {known[0].backbone}",),
    )


def _evaluate_job(
    sweep: Sweep,
    folder: Path,
    run: SweepRun,
    trainings: TrainingPlan,
    standing: Standing,
    means: Means,
    *,
    rank: int,
) -> Job:
    policy = policy_folder(sweep, run.variant)
    words = ["eval", run.task, policy, "--config", sweep.config]
    words += ["--checkpoint", str(checkpoint_folder(folder, run))]
    words += ["--out", str(evaluation_folder(folder, run))]
    words += ["--episodes", str(sweep.episodes), "--seed", str(sweep.evaluation_seed)]
    words += ["--workers", str(means.workers), "--videos", "off", "--no-report", "--quiet"]
    words += ["--retry-errors"] if means.retry_errors else []
    backbone = trainings.runs[run.name].backbone
    keys = (f"evaluate {run.task} {policy} {backbone}", f"evaluate {run.task}", "evaluate")
    return Job(
        name=f"evaluate/{run.name}",
        kind="evaluate",
        words=tuple(words),
        rank=rank,
        needs=(f"{SCENES} {run.task}",),
        runs=(run.name,),
        run_needs=CHECKPOINT,
        run_gives=EVALUATION,
        gpu=True,
        units=max(1, sweep.episodes - standing.episodes.get(run.name, 0)),
        rate_keys=keys,
    )


def _train_words(folder: Path, means: Means, *words: str) -> tuple[str, ...]:
    return ("train-many", str(folder / RUNS), *words, "--threads", str(means.threads))


def _report(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.report.jsonl"
