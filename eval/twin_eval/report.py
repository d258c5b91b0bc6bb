"""Records in, tables out: pure functions, never a rerun."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from twin_eval.records import EpisodeRecord
from twin_eval.statistics import wilson_interval

EPISODE_COLUMNS = (
    "task",
    "policy",
    "index",
    "seed",
    "outcome",
    "steps",
    "clamped_actions",
    "reason",
    "instruction",
    "policy_seed",
    "attempts",
    "video",
    "wall_s",
)


@dataclass(frozen=True)
class SummaryRow:
    """One policy on one task. Errors are neither successes nor failures and not in `n`."""

    task: str
    policy: str
    n: int
    """Scored episodes: successes and failures."""
    successes: int
    rate: float | None
    """successes / n; None (an empty cell) if nothing could be scored."""
    wilson_low: float
    """Lower end of the 95% Wilson interval of the rate."""
    wilson_high: float
    errors: int
    """Episodes that crashed, beside the `n`."""
    mean_steps: float | None
    """Mean actions of the scored episodes."""
    wall_s: float
    """Wall time of all episodes added up (with W workers, about W times the run's), seconds."""


def summarise(records: Sequence[EpisodeRecord]) -> list[SummaryRow]:
    """One row for each (task, policy), in the order of their first records."""
    groups: dict[tuple[str, str], list[EpisodeRecord]] = {}
    for record in records:
        groups.setdefault((record.task, record.policy), []).append(record)
    return [_summary_row(task, policy, group) for (task, policy), group in groups.items()]


def _summary_row(task: str, policy: str, records: Sequence[EpisodeRecord]) -> SummaryRow:
    scored = [record for record in records if record.outcome != "error"]
    n = len(scored)
    successes = sum(record.outcome == "success" for record in scored)
    low, high = wilson_interval(successes, n)
    return SummaryRow(
        task=task,
        policy=policy,
        n=n,
        successes=successes,
        rate=round(successes / n, 4) if n else None,
        wilson_low=round(low, 4),
        wilson_high=round(high, 4),
        errors=len(records) - n,
        mean_steps=round(sum(record.steps for record in scored) / n, 1) if n else None,
        wall_s=round(sum(record.wall_s for record in records), 2),
    )


def episodes_csv(records: Sequence[EpisodeRecord]) -> str:
    """One line an episode, in the order of the plan."""
    ordered = sorted(records, key=lambda record: (record.task, record.policy, record.index))
    return _csv(EPISODE_COLUMNS, [asdict(record) for record in ordered])


def summary_csv(rows: Sequence[SummaryRow]) -> str:
    """One line for each (task, policy)."""
    return _csv([field.name for field in fields(SummaryRow)], [asdict(row) for row in rows])


def format_rate(row: SummaryRow) -> str:
    """E.g. `85.0% [70.9, 92.9]`."""
    interval = f"[{100 * row.wilson_low:.1f}, {100 * row.wilson_high:.1f}]"
    return f"- {interval}" if row.rate is None else f"{100 * row.rate:.1f}% {interval}"


def summary_text(rows: Sequence[SummaryRow]) -> str:
    """The summary as a Markdown table that also reads well in a terminal."""
    header = ("task", "policy", "n", "successes", "rate [95% interval]", "errors", "mean steps")
    body = [
        (
            row.task,
            row.policy,
            str(row.n),
            str(row.successes),
            format_rate(row),
            str(row.errors),
            "-" if row.mean_steps is None else f"{row.mean_steps:.0f}",
        )
        for row in rows
    ]
    widths = [max(3, *(len(line[i]) for line in [header, *body])) for i in range(len(header))]
    numeric = {2, 3, 5, 6}

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if i in numeric else "-" * width for i, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *(line(cells) for cells in body)])


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
