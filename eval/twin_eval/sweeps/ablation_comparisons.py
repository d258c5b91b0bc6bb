"""Which variants of a sweep are told apart: scene by scene, over the training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from twin_eval.report.comparison import ALL_TASKS, NOT_TOLD_APART, differences
from twin_eval.statistics import (
    PairCounts,
    clustered_difference_interval,
    clustered_p_value,
    compact_letter_display,
    holm,
    mean_interval,
    paired_difference_interval,
)
from twin_eval.sweeps.ablation_cells import AblationCell
from twin_eval.sweeps.ablation_runs import Result
from twin_eval.sweeps.spec import Sweep

Trainings = Mapping[int, Result]
"""Training seed to its run, of one variant on one task."""


@dataclass(frozen=True, kw_only=True)
class AblationComparison:
    """Two variants on the scenes of one task (or of all), with the same training seeds."""

    task: str
    """Its name, or `all tasks`."""
    a: str
    """Label of a variant."""
    b: str
    trainings: int
    """Training seeds of each of the two that are compared."""
    partial: str = ""
    """Which training seeds it rests on (`on training seed 0 only`); empty if on all that the sweep
    asks for, each evaluated to its end."""
    n: int
    """Scenes on which all these trainings were scored."""
    left_out: int
    """Scenes with an error, or that not all of them played."""
    a_ahead: int
    """Scenes on which more trainings of A succeeded."""
    b_ahead: int
    difference: float | None
    """Rate of A minus rate of B (of all tasks: mean over tasks); None without scenes."""
    low: float
    """Lower end of its interval, for this comparison alone."""
    high: float
    agree: int
    """Training seeds in which the difference has the sign that it has over all."""
    p: float | None
    """Two-sided, of `clustered_p_value`; for this comparison alone."""
    p_holm: float | None = None
    """Adjusted over all comparisons on single tasks, or over those on all tasks."""
    winner: str = ""
    """Label of the better variant; empty if they are not told apart."""
    verdict: str = ""
    remark: str = ""


@dataclass(frozen=True)
class _Scenes:
    """Two variants on one task: in how many trainings A won minus B, scene by scene."""

    counts: list[int]
    by_training: list[float]
    """Difference of the rates, training by training."""
    left_out: int
    interval: tuple[float, float]


def compare_variants(
    sweep: Sweep, results: Sequence[Result], *, confidence: float = 0.95
) -> list[AblationComparison]:
    """Each variant with the baseline, or all pairs without one: on each task, then on all.

    Holm's adjustment is over all comparisons on single tasks, whatever the pair; those on all tasks
    are adjusted among themselves.
    """
    table: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        key = (result.run.variant.label, result.run.task)
        table.setdefault(key, {})[result.run.seed] = result
    labels = [variant.label for variant in sweep.variants]
    if sweep.baseline is None:
        pairs = list(combinations(labels, 2))
    else:
        pairs = [(label, sweep.baseline) for label in labels if label != sweep.baseline]

    def compare(tasks: Sequence[str], a: str, b: str) -> AblationComparison:
        ours, theirs = ({task: table[label, task] for task in tasks} for label in (a, b))
        return _compare(a, b, ours, theirs, confidence)

    single = [compare([task], a, b) for task in sweep.tasks for a, b in pairs]
    pooled = [compare(sweep.tasks, a, b) for a, b in pairs] if len(sweep.tasks) > 1 else []
    return [*_conclude(single, confidence), *_conclude(pooled, confidence)]


def _compare(
    a: str,
    b: str,
    ours: Mapping[str, Trainings],
    theirs: Mapping[str, Trainings],
    confidence: float,
) -> AblationComparison:
    """Without a verdict, unless nothing can be compared. Both map tasks to trainings."""
    tasks = list(ours)
    empty = AblationComparison(
        task=tasks[0] if len(tasks) == 1 else ALL_TASKS,
        a=a,
        b=b,
        trainings=0,
        n=0,
        left_out=0,
        a_ahead=0,
        b_ahead=0,
        difference=None,
        low=-1.0,
        high=1.0,
        agree=0,
        p=None,
    )
    seeds, partial = _common_seeds(ours, theirs)
    if not seeds:
        return replace(empty, verdict="not there yet")
    for task in tasks:
        used = [each[task][seed] for each in (ours, theirs) for seed in seeds]
        changes = [c for one in used[1:] for c in differences(used[0].environment, one.environment)]
        if changes:
            why = f"{task}: they were not played in the same environment ({changes[0]})"
            return replace(empty, verdict="not comparable", remark=why)
    scenes = [_pair_up(ours[task], theirs[task], seeds, confidence) for task in tasks]
    left_out = sum(one.left_out for one in scenes)
    if not all(one.counts for one in scenes):
        return replace(empty, left_out=left_out, verdict="no common scenes")
    counts = [count for one in scenes for count in one.counts]
    means = [fmean(one.counts) / len(seeds) for one in scenes]
    difference = fmean(means)
    low, high = mean_interval(means, [one.interval for one in scenes])
    by_training = [fmean(each) for each in zip(*(s.by_training for s in scenes), strict=True)]
    return replace(
        empty,
        trainings=len(seeds),
        partial=partial,
        n=len(counts),
        left_out=left_out,
        a_ahead=sum(count > 0 for count in counts),
        b_ahead=sum(count < 0 for count in counts),
        difference=difference,
        low=low,
        high=high,
        agree=sum(one * difference > 0 for one in by_training),
        # Where tasks have not as many scenes each, the sum may point elsewhere than the mean.
        p=clustered_p_value(counts, len(seeds)) if sum(counts) * difference > 0 else 1.0,
    )


def _common_seeds(
    ours: Mapping[str, Trainings], theirs: Mapping[str, Trainings]
) -> tuple[list[int], str]:
    """Training seeds that both have on all tasks: the finished ones, or else what has begun.

    With the words for that these are not all of the sweep's, or not finished.
    """
    everything = [*ours.values(), *theirs.values()]
    begun = [
        seed
        for seed in everything[0]
        if all(seed in each and each[seed].records for each in everything)
    ]
    finished = [seed for seed in begun if all(each[seed].finished for each in everything)]
    seeds = finished or begun
    if len(finished) == len(everything[0]):
        return seeds, ""
    words = f"on training seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
    if finished:
        return seeds, f"{words} only"
    return seeds, "so far" if len(seeds) == len(everything[0]) else f"{words} so far"


def _pair_up(a: Trainings, b: Trainings, seeds: Sequence[int], confidence: float) -> _Scenes:
    scored = [(a[seed].scored, b[seed].scored) for seed in seeds]
    everyone = [each for pair in scored for each in pair]
    common = [scene for scene in everyone[0] if all(scene in each for each in everyone)]
    played = {
        (record.seed, record.noise_seed)
        for each in (a, b)
        for seed in seeds
        for record in each[seed].records
    }
    signs = [[one[scene] - other[scene] for scene in common] for one, other in scored]
    counts = [sum(each) for each in zip(*signs, strict=True)]
    if len(seeds) == 1:
        one, other = ([each[scene] for scene in common] for each in scored[0])
        interval = paired_difference_interval(
            PairCounts.from_outcomes(one, other), confidence=confidence
        )
    else:
        interval = clustered_difference_interval(counts, len(seeds), confidence=confidence)
    return _Scenes(
        counts=counts,
        by_training=[fmean(each) for each in signs] if common else [],
        left_out=len(played) - len(common),
        interval=interval,
    )


def _conclude(
    comparisons: Sequence[AblationComparison], confidence: float
) -> list[AblationComparison]:
    """The comparisons with adjusted p-values, and verdicts by these."""
    tested = [one for one in comparisons if one.p is not None]
    adjusted = dict(zip(map(id, tested), holm([one.p or 0.0 for one in tested]), strict=True))
    return [
        _judge(one, adjusted[id(one)], 1 - confidence, len(tested)) if id(one) in adjusted else one
        for one in comparisons
    ]


def _judge(one: AblationComparison, p_holm: float, alpha: float, among: int) -> AblationComparison:
    assert one.difference is not None  # it was tested
    if p_holm <= alpha:
        winner = one.a if one.difference > 0 else one.b
        verdict = f"{winner} better {one.partial}".rstrip()
        if one.agree < one.trainings:
            verdict += ", but not in each training seed"
        return replace(one, p_holm=p_holm, winner=winner, verdict=verdict)
    alone = one.p is not None and one.p <= alpha and among > 1
    return replace(
        one,
        p_holm=p_holm,
        verdict=f"{NOT_TOLD_APART} {one.partial}".rstrip(),
        remark=f"told apart if it were the only comparison, not among {among}" if alone else "",
    )


def marks(
    sweep: Sweep, cells: Sequence[AblationCell], comparisons: Iterable[AblationComparison]
) -> dict[tuple[str, str], str]:
    """What stands behind the rate of (variant, task).

    With a baseline: an arrow where the variant is better or worse than it. Without one: letters,
    two that share one were not told apart; none where not every pair was compared. A partial
    comparison gives neither: the rate that it would stand behind is of other episodes.
    """
    by_task: dict[str, list[AblationComparison]] = {}
    for one in comparisons:
        by_task.setdefault(one.task, []).append(one)
    shown: dict[tuple[str, str], str] = {}
    for task, group in by_task.items():
        if sweep.baseline is not None:
            arrows = {
                one.a: "↑" if one.winner == one.a else "↓"
                for one in group
                if one.winner and not one.partial
            }
            shown |= {(label, task): arrow for label, arrow in arrows.items()}
        elif len(sweep.variants) > 2 and all(one.n and not one.partial for one in group):
            rates = {c.variant.label: c.rate or 0.0 for c in cells if c.task == task}
            names = sorted(rates, key=lambda label: -rates[label])
            different = [(one.a, one.b) for one in group if one.winner]
            letters = compact_letter_display(names, different)
            shown |= {(label, task): letter for label, letter in letters.items()}
    return shown
