"""Which policy is better, by how much, how sure: all pairs of policies on all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from twin_env.names import unknown
from twin_eval.records import EpisodeRecord
from twin_eval.report.runs import Evidence, Stop
from twin_eval.report.tables import Cell, group_by_cell
from twin_eval.statistics import (
    PairCounts,
    anytime_p_values,
    compact_letter_display,
    holm,
    mcnemar_exact,
    paired_difference_interval,
)

ALL_TASKS = "all tasks"
"""Task of the comparisons that pool the scenes of all tasks."""
NOT_TOLD_APART = "not told apart"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two policies on the scenes of one task (or of all) that both were scored on."""

    task: str
    config: str
    """Empty for all tasks."""
    a: str
    b: str
    n: int
    """Pairs: common scenes, with the same noise, neither of which ended in an error."""
    errors: int
    """Common scenes left out because at least one of the two ended in an error."""
    unmatched: int
    """Episodes of either left out because the other did not play that scene."""
    both: int
    only_a: int
    """Scenes on which A succeeded and B failed."""
    only_b: int
    neither: int
    difference: float | None
    """Rate of A minus rate of B; None without pairs."""
    low: float
    """Lower end of the paired interval, for this comparison alone."""
    high: float
    test: str
    """`mcnemar`; `sequential` where the evaluation watched and might stop; `none`."""
    p: float | None
    """Two-sided, for this comparison alone."""
    p_holm: float | None = None
    """Adjusted over the whole table; None for sequential ones, each of which has its own alpha."""
    winner: str = ""
    """Name of the better policy; empty if they are not told apart."""
    verdict: str = ""
    """The conclusion in words."""
    remark: str = ""
    """What else to know of it."""


@dataclass(frozen=True)
class _Pairs:
    """Outcomes of two policies on one task, scene by scene in the order of the plan."""

    a: list[bool] = field(default_factory=list)
    b: list[bool] = field(default_factory=list)
    errors: int = 0
    unmatched: int = 0
    other_words: int = 0
    """Pairs whose two instructions differ."""


def order_policies(records: Sequence[EpisodeRecord]) -> list[str]:
    """Names of the policies, that with the highest mean rate over its tasks first."""
    rates: dict[str, list[float]] = {}
    for (_, _, policy), group in group_by_cell(records).items():
        scored = [record.outcome == "success" for record in group if record.outcome != "error"]
        rates.setdefault(policy, []).append(sum(scored) / len(scored) if scored else 0.0)
    return sorted(rates, key=lambda policy: (-sum(rates[policy]) / len(rates[policy]), policy))


def compare(
    evidence: Evidence, *, confidence: float = 0.95, baseline: str | None = None
) -> list[Comparison]:
    """All pairs of policies on each task, then on all tasks together; or all with `baseline`.

    Holm's adjustment is over all comparisons on single tasks, whatever the pair: a reader may pick
    any verdict of the table, and the probability that one of them is wrong is at most
    1 - `confidence`. The comparisons on all tasks are adjusted among themselves.

    Raises:
        ValueError: if there is no policy called `baseline`.
    """
    policies = order_policies(evidence.records)
    if baseline is not None and baseline not in policies:
        raise unknown("policy", baseline, policies)
    if baseline is None:
        pairs = list(combinations(policies, 2))
    else:
        pairs = [(policy, baseline) for policy in policies if policy != baseline]
    cells = group_by_cell(evidence.records)
    single: list[Comparison] = []
    pooled: list[Comparison] = []
    for a, b in pairs:
        ours = [
            _compare_cells(evidence, cells, cell, (*cell[:2], b), confidence)
            for cell in cells
            if cell[2] == a and (*cell[:2], b) in cells
        ]
        single += ours
        counted = [one for one in ours if one.n]
        if len(counted) > 1 and all(one.test == "mcnemar" for one in counted):
            pooled.append(_pool(counted, confidence))
    by_task = sorted(single, key=lambda one: (one.task, one.config))
    return [*conclude(by_task, confidence), *conclude(pooled, confidence)]


def _compare_cells(
    evidence: Evidence,
    cells: Mapping[Cell, Sequence[EpisodeRecord]],
    ours: Cell,
    theirs: Cell,
    confidence: float,
) -> Comparison:
    """Two policies on one task, without a verdict unless it was reached sequentially."""
    names: dict[str, Any] = {"task": ours[0], "config": ours[1], "a": ours[2], "b": theirs[2]}
    changes = differences(
        evidence.environments.get(ours, {}), evidence.environments.get(theirs, {})
    )
    if changes:
        return Comparison(
            **names,
            **_numbers(PairCounts(0, 0, 0, 0), confidence),
            errors=0,
            unmatched=len(cells[ours]) + len(cells[theirs]),
            test="none",
            p=None,
            verdict="not comparable",
            remark=f"they were not played in the same environment ({'; '.join(changes)})",
        )
    stop = _find_stop(evidence, ours, theirs)
    until = stop.stopped_at if stop else None
    ours_until, theirs_until = (
        [record for record in cells[cell] if until is None or record.index < until]
        for cell in (ours, theirs)
    )
    comparison = compare_pairs(names, ours_until, theirs_until, confidence)
    if not (stop and comparison.n):
        return comparison
    return _watched(comparison, _pair_up(ours_until, theirs_until), stop)


def compare_pairs(
    names: Mapping[str, Any],
    a: Sequence[EpisodeRecord],
    b: Sequence[EpisodeRecord],
    confidence: float,
) -> Comparison:
    """A's episodes beside B's, scene by scene, without a verdict; `names` are the fields that say
    whose they are."""
    pairs = _pair_up(a, b)
    counts = PairCounts.from_outcomes(pairs.a, pairs.b)
    return Comparison(
        **names,
        **_numbers(counts, confidence),
        errors=pairs.errors,
        unmatched=pairs.unmatched,
        test="mcnemar" if counts.n else "none",
        p=mcnemar_exact(counts.only_a, counts.only_b) if counts.n else None,
        verdict="" if counts.n else "no common scenes",
        remark=f"the instructions differ on {pairs.other_words} scenes"
        if pairs.other_words
        else "",
    )


def _find_stop(evidence: Evidence, ours: Cell, theirs: Cell) -> Stop | None:
    for stop in evidence.stops:
        if {(stop.task, stop.config, stop.a), (stop.task, stop.config, stop.b)} == {ours, theirs}:
            return stop
    return None


def _watched(comparison: Comparison, pairs: _Pairs, stop: Stop) -> Comparison:
    """The comparison with the conclusion of the sequential test."""
    signs = [a - b for a, b in zip(pairs.a, pairs.b, strict=True) if a != b]
    winner = {"a": stop.a, "b": stop.b}.get(stop.winner, "")
    remark = (
        f"watched from the first pair on and stopped when the e-value reached {1 / stop.alpha:.3g} "
        f"(it is {stop.e_value:.3g}); wrong with a probability of at most {stop.alpha:.3g} on this "
        "task. Rates and interval are computed as if n had been fixed: after such a stop they lean "
        "towards the winner"
        if winner
        else f"watched from the first pair on; the e-value is {stop.e_value:.3g}, and "
        f"{1 / stop.alpha:.3g} would have been needed"
    )
    return replace(
        comparison,
        test="sequential",
        p=float(anytime_p_values(signs)[-1]) if signs else 1.0,
        winner=winner,
        verdict=f"{winner} better" if winner else "not decided",
        remark="; ".join(filter(None, [comparison.remark, remark])),
    )


def _pair_up(a: Sequence[EpisodeRecord], b: Sequence[EpisodeRecord]) -> _Pairs:
    """Scenes with the same seed of scene and of noise, in the order of A's plan."""
    theirs = {(record.seed, record.noise_seed): record for record in b}
    common = [
        (record, theirs[record.seed, record.noise_seed])
        for record in sorted(a, key=lambda record: record.index)
        if (record.seed, record.noise_seed) in theirs
    ]
    scored = [pair for pair in common if "error" not in (pair[0].outcome, pair[1].outcome)]
    return _Pairs(
        a=[one.outcome == "success" for one, _ in scored],
        b=[other.outcome == "success" for _, other in scored],
        errors=len(common) - len(scored),
        unmatched=len(a) + len(b) - 2 * len(common),
        other_words=sum(one.instruction != other.instruction for one, other in scored),
    )


def _pool(comparisons: Sequence[Comparison], confidence: float) -> Comparison:
    """The comparisons of one pair taken together; each scene counts once."""

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in comparisons)

    counts = PairCounts(total("both"), total("only_a"), total("only_b"), total("neither"))
    return Comparison(
        task=ALL_TASKS,
        config="",
        a=comparisons[0].a,
        b=comparisons[0].b,
        **_numbers(counts, confidence),
        errors=total("errors"),
        unmatched=total("unmatched"),
        test="mcnemar",
        p=mcnemar_exact(counts.only_a, counts.only_b),
    )


def _numbers(counts: PairCounts, confidence: float) -> dict[str, Any]:
    low, high = paired_difference_interval(counts, confidence=confidence)
    return {
        "n": counts.n,
        "both": counts.both,
        "only_a": counts.only_a,
        "only_b": counts.only_b,
        "neither": counts.neither,
        "difference": counts.difference if counts.n else None,
        "low": low,
        "high": high,
    }


def conclude(comparisons: Sequence[Comparison], confidence: float) -> list[Comparison]:
    """The comparisons with adjusted p-values, and verdicts by these."""
    alpha = 1 - confidence
    tested = [one for one in comparisons if one.test == "mcnemar"]
    adjusted = dict(zip(map(id, tested), holm([one.p or 0.0 for one in tested]), strict=True))
    return [
        _judge(one, adjusted[id(one)], alpha, len(tested)) if id(one) in adjusted else one
        for one in comparisons
    ]


def _judge(one: Comparison, p_holm: float, alpha: float, among: int) -> Comparison:
    if p_holm <= alpha:
        winner = one.a if one.only_a > one.only_b else one.b
        return replace(one, p_holm=p_holm, winner=winner, verdict=f"{winner} better")
    alone = (
        f"told apart if it were the only comparison, not among {among}"
        if one.p is not None and one.p <= alpha
        else ""
    )
    remark = "; ".join(filter(None, [one.remark, alone]))
    return replace(one, p_holm=p_holm, verdict=NOT_TOLD_APART, remark=remark)


def letters(comparisons: Iterable[Comparison]) -> dict[tuple[str, str], dict[str, str]]:
    """Letters by (task, config) and policy: two that share one were not told apart.

    Only for tasks with three or more policies, every two of which were compared.
    """
    by_task: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        by_task.setdefault((one.task, one.config), []).append(one)
    displays = {}
    for task, group in by_task.items():
        names = list(dict.fromkeys(name for one in group for name in (one.a, one.b)))
        complete = len(group) == len(names) * (len(names) - 1) // 2
        if len(names) >= 3 and complete and all(one.n for one in group):
            different = [(one.a, one.b) for one in group if one.winner]
            displays[task] = compact_letter_display(names, different)
    return displays


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What is not the same in both, by key."""
    return [
        f"{key}: {one.get(key)}, {other.get(key)}"
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]
