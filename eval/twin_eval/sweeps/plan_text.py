"""The plan of a sweep for people: how much work of each kind, what is shared, what it costs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from twin_eval.live import duration_text
from twin_eval.sweeps.jobs import Job, Kind, Rates
from twin_eval.sweeps.plan import Standing
from twin_eval.sweeps.schedule import Loss, losses_text
from twin_eval.sweeps.spec import Sweep, SweepRun
from twin_eval.sweeps.trainings import Tower, TrainingPlan, checkpoint_folder

BYTES_A_PARAMETER = 24
"""Of a checkpoint, its best version and the training state: six copies in float32."""


def plan_text(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun],
    trainings: TrainingPlan,
    standing: Standing,
    jobs: Sequence[Job],
    *,
    failed: Mapping[str, Loss],
    rates: Rates,
    slots: int,
) -> str:
    """How much work there is, how much of it is done, and what the rest will take.

    Args:
        failed: run to why nothing is done for it.
    """
    names = {run.name for run in runs}
    towers = [tower for tower in trainings.towers if names.intersection(tower.runs)]
    lines = [f"{sweep.name}: {sweep.question}", describe_size(sweep, runs), ""]
    lines += _table(_rows(sweep, runs, towers, standing, jobs, rates))
    able = [run for run in runs if run.name not in failed]
    lines += ["", *_features_lines(towers), *_trainings_lines(able, trainings, jobs)]
    lines.append(_disk_line(folder, runs, towers, trainings, standing, set(failed)))
    lines.append(_time_line(jobs, rates, slots))
    if failed:
        lines += ["", f"{len(failed)} of {len(runs)} runs are left out:", losses_text(failed)]
    return "\n".join(lines)


def describe_size(sweep: Sweep, runs: Sequence[SweepRun]) -> str:
    """How many runs of what."""
    variants = len({run.variant.label for run in runs})
    return (
        f"{_count(variants, 'variant')} x {_count(len(sweep.tasks), 'task')} x "
        f"{_count(len(sweep.seeds), 'training seed')} = {_count(len(runs), 'run')}; each learns "
        f"from {sweep.learnt_from} and is evaluated on the same "
        f"{_count(sweep.episodes, 'scene')} of its task"
    )


def _rows(
    sweep: Sweep,
    runs: Sequence[SweepRun],
    towers: Sequence[Tower],
    standing: Standing,
    jobs: Sequence[Job],
    rates: Rates,
) -> list[tuple[str, ...]]:
    tasks = sorted({run.task for run in runs})
    there = [standing.demonstrations[task] for task in tasks]
    wanted = [count if sweep.demonstrations is None else sweep.demonstrations for count in there]
    recorded = sum(map(min, there, wanted))
    played = sum(min(standing.episodes.get(run.name, 0), sweep.episodes) for run in runs)
    counts: list[tuple[str, Kind, int, int]] = [
        ("demonstrations" if sweep.data is None else "episodes", "collect", sum(wanted), recorded),
        ("passes of features", "prepare", len(towers), sum(tower.ready for tower in towers)),
        ("trainings", "train", len(runs), sum(run.name in standing.trained for run in runs)),
        ("evaluation episodes", "evaluate", len(runs) * sweep.episodes, played),
    ]
    rows: list[tuple[str, ...]] = []
    for what, kind, total, done in counts:
        times: list[float | None] = [rates.expected_s(job) for job in jobs if job.kind == kind]
        if kind == "prepare" and any(t.pictures is None and not t.ready for t in towers):
            times = [None]
        rows.append((what, str(total), str(done), _expected(times)))
    return rows


def _expected(times: Sequence[float | None]) -> str:
    if not times:
        return "-"
    known = [time for time in times if time is not None]
    return duration_text(sum(known)) if len(known) == len(times) else "unknown"


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [("work", "in all", "done", "expected for the rest"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return [
        "  ".join(
            [f"{line[0]:<{widths[0]}}"]
            + [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]


def _features_lines(towers: Sequence[Tower]) -> list[str]:
    lines = []
    for tower in towers:
        pictures = "pictures not yet recorded"
        if tower.pictures is not None:
            pictures = f"{tower.pictures:,} pictures"
        layers = ", ".join(map(str, tower.layers))
        size = f" ({_size(tower.bytes)})" if tower.bytes is not None else ""
        there = ": there already" if tower.ready else ""
        lines.append(
            f"features of {tower.backbone} on {tower.task}: one pass over {pictures}, layers "
            f"{layers}{size}, serves {_count(len(tower.runs), 'training')}{there}"
        )
    return lines


def _trainings_lines(
    runs: Sequence[SweepRun], trainings: TrainingPlan, jobs: Sequence[Job]
) -> list[str]:
    known = [trainings.runs[run.name] for run in runs]
    live = [each.live_backbone for each in known if not each.features]
    chunks = sum(job.kind == "train" for job in jobs)
    from_features = sum(each.features for each in known)
    parts = [f"{from_features} from features"] if from_features else []
    for kind in ("frozen", "tuned", "none"):
        text = f"with a {kind} backbone in each step" if kind != "none" else "without a tower"
        parts += [f"{live.count(kind)} {text}"] if kind in live else []
    left = f"; what is left of them in {_count(chunks, 'process')}" if chunks else ""
    return [f"trainings: {', '.join(parts)}{left}"] if parts else []


def _disk_line(
    folder: Path,
    runs: Sequence[SweepRun],
    towers: Sequence[Tower],
    trainings: TrainingPlan,
    standing: Standing,
    failed: set[str],
) -> str:
    features = [tower.bytes for tower in towers if not tower.ready]
    parts, need = [], 0
    if features:
        known = sum(size or 0 for size in features)
        need += known
        text = _size(known) if None not in features else "unknown before demonstrations are there"
        parts.append(f"features {text}")
    left = [run for run in runs if run.name not in standing.trained | failed]
    if left:
        size, how = _checkpoint_bytes(folder, runs, left, trainings, standing)
        need += size
        parts.append(f"checkpoints {how}")
    free = shutil.disk_usage(_existing(folder)).free
    short = ": TOO LITTLE" if need > free else ""
    return f"disk: {', '.join(parts) or 'nothing to come'}; {_size(free)} are free{short}"


def _checkpoint_bytes(
    folder: Path,
    runs: Sequence[SweepRun],
    left: Sequence[SweepRun],
    trainings: TrainingPlan,
    standing: Standing,
) -> tuple[int, str]:
    """As large as those that are there, else by the parameters that learn."""
    there = [checkpoint_folder(folder, run) for run in runs if run.name in standing.trained]
    if there:
        sizes = [sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in there]
        size = len(left) * sum(sizes) // len(sizes)
        return size, f"about {_size(size)}"
    learning = [trainings.runs[run.name].learning_parameters for run in left]
    if None in learning:
        return 0, "unknown before the first is there"
    size = sum(BYTES_A_PARAMETER * (count or 0) for count in learning)
    return size, f"about {_size(size)}, and frozen towers"


def _time_line(jobs: Sequence[Job], rates: Rates, slots: int) -> str:
    times = [rates.expected_s(job) for job in jobs]
    if not jobs:
        return "time: nothing is left to do but the table"
    total_s = sum(time for time in times if time is not None)
    at_once = f", {_count(slots, 'job')} at a time" if slots > 1 else ""
    if None in times:
        said = f"at least {duration_text(total_s / slots)}; " if total_s else ""
        return f"time: {said}unknown where no such work has been done yet in a sweep here{at_once}"
    return f"time: about {duration_text(total_s / slots)}{at_once}"


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _size(size: int | None) -> str:
    value = float(size or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
