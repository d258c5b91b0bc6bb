"""What a change of scene costs a policy: each config beside the clean one, scene by scene.

Objects of a seed stand in the same places in every config, so the same policy on the same seeds is
a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from twin_eval.records import EpisodeRecord
from twin_eval.report.comparison import (
    NOT_TOLD_APART,
    Comparison,
    compare_pairs,
    conclude,
    differences,
)
from twin_eval.report.comparison_tables import format_difference, format_p
from twin_eval.report.runs import Evidence
from twin_eval.report.tables import csv_text, group_by_cell, markdown_table

REFERENCE = "demo_clean"
HEADER = (
    "task",
    "policy",
    "config",
    "n",
    "left out",
    "lost",
    "gained",
    "change",
    "p",
    "p (Holm)",
    "verdict",
)
NUMERIC = {3, 4, 5, 6, 7, 8, 9}
COLUMNS = (
    *("task", "policy", "config", "reference", "n", "errors", "unmatched", "both", "gained"),
    *("lost", "neither", "change", "low", "high", "p", "p_holm", "verdict", "remark"),
)


@dataclass(frozen=True, kw_only=True)
class ConfigChange:
    """One policy on one task in another config than the reference."""

    policy: str
    comparison: Comparison
    """A is the config, B the reference: only A is what was gained, only B what was lost."""


def compare_configs(
    evidence: Evidence, *, confidence: float = 0.95, reference: str = REFERENCE
) -> list[ConfigChange]:
    """Each policy and task in each config beside the reference; none where that was not played.

    Holm's adjustment is over the whole table.
    """
    cells = group_by_cell(evidence.records)
    policies: list[str] = []
    found: list[Comparison] = []
    for (task, config, policy), records in sorted(cells.items()):
        clean = cells.get((task, reference, policy))
        if config == reference or clean is None:
            continue
        one = compare_pairs(
            {"task": task, "config": config, "a": config, "b": reference},
            records,
            clean,
            confidence,
        )
        environments = [
            dict(evidence.environments.get((task, name, policy), {}))
            for name in (config, reference)
        ]
        for environment in environments:
            environment.pop("config", None)  # It is what they differ in.
        changes = differences(*environments)
        if len(_checkpoints(records) | _checkpoints(clean)) > 1:
            changes.append("the checkpoints differ")
        if changes:
            one = replace(
                one, test="none", p=None, verdict="not comparable", remark="; ".join(changes)
            )
        policies.append(policy)
        found.append(one)
    return [
        ConfigChange(policy=policy, comparison=_in_words(one))
        for policy, one in zip(policies, conclude(found, confidence), strict=True)
    ]


def _checkpoints(records: Sequence[EpisodeRecord]) -> set[str]:
    return {record.checkpoint for record in records}


def _in_words(one: Comparison) -> Comparison:
    verdict = {one.a: "better", one.b: "worse"}.get(one.winner, one.verdict)
    return replace(one, verdict=verdict)


def robustness_csv(changes: Sequence[ConfigChange]) -> str:
    """One line a change."""
    rows = []
    for change in changes:
        row = asdict(change.comparison)
        row |= {"policy": change.policy, "reference": row["b"], "change": row["difference"]}
        row |= {"gained": row["only_a"], "lost": row["only_b"]}
        rows.append({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    return csv_text(COLUMNS, rows)


def robustness_rows(changes: Sequence[ConfigChange]) -> list[tuple[str, ...]]:
    """The cells under `HEADER`."""
    return [
        (
            one.task,
            change.policy,
            one.a,
            str(one.n),
            str(one.errors + one.unmatched),
            str(one.only_b),
            str(one.only_a),
            format_difference(one),
            format_p(one.p),
            format_p(one.p_holm),
            one.verdict,
        )
        for change in changes
        for one in (change.comparison,)
    ]


def robustness_text(changes: Sequence[ConfigChange]) -> str:
    """A Markdown table that also reads well in a terminal."""
    return markdown_table(HEADER, robustness_rows(changes), numeric=NUMERIC)


def robustness_notes(changes: Sequence[ConfigChange], *, confidence: float) -> list[str]:
    """What the columns mean, and what is special about single lines."""
    reference = changes[0].comparison.b
    level, alpha = f"{100 * confidence:g}%", f"{1 - confidence:.3g}"
    return [
        f"Each config beside {reference}, the same policy on the same scenes; left out: scenes "
        "with an error, or that the expert can do in one of the two only.",
        f"lost: scenes done in {reference} and not in the config; gained: the other way round; "
        f"change: in percentage points with its paired {level} interval, for one line each.",
        "p: exact McNemar test. p (Holm): adjusted over this table; "
        f'"worse" and "better" want at most {alpha}; "{NOT_TOLD_APART}" does not mean equal.',
        *(
            f"{one.task}, {change.policy}, {one.a}: {one.remark}."
            for change in changes
            for one in (change.comparison,)
            if one.remark
        ),
    ]


def robustness_markdown(changes: Sequence[ConfigChange], *, confidence: float) -> str:
    """The table and what it means."""
    notes = "\n".join(f"- {note}" for note in robustness_notes(changes, confidence=confidence))
    return f"{robustness_text(changes)}\n\n{notes}\n"
