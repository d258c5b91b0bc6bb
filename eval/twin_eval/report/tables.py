"""Tables of episodes and of success rates: records in, CSV and Markdown out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from twin_eval.records import PARTS, EpisodeRecord
from twin_eval.statistics import clopper_pearson_interval, wilson_interval

Cell = tuple[str, str, str]
"""Task, config, policy."""

TIME_COLUMNS = (
    "wall_s",
    "cpu_s",
    *(f"{part}_{kind}_s" for part in PARTS for kind in ("wall", "cpu")),
)
"""What a repetition may change: wall and CPU times, in all and by part."""
EPISODE_COLUMNS = (
    "task",
    "config",
    "policy",
    "checkpoint",
    "index",
    "seed",
    "noise_seed",
    "outcome",
    "steps",
    "success_step",
    "stages_reached",
    "stage",
    "sim_time_s",
    "clamped_actions",
    "reason",
    "instruction",
    "layout",
    "actions_digest",
    "video",
    "attempts",
    "session",
    *TIME_COLUMNS,
)


@dataclass(frozen=True)
class SummaryRow:
    """One cell: a policy on a task. Errors are neither successes nor failures and not in `n`."""

    task: str
    config: str
    policy: str
    n: int
    """Scored episodes: successes and failures."""
    successes: int
    rate: float | None
    """successes / n; None (an empty cell) if nothing could be scored."""
    wilson_low: float
    """Lower end of the Wilson interval of the rate."""
    wilson_high: float
    clopper_pearson_low: float
    """Lower end of the exact interval, which is wider."""
    clopper_pearson_high: float
    errors: int
    """Episodes that crashed, beside the `n`."""
    mean_steps: float | None
    """Mean actions of the scored episodes."""
    median_success_step: float | None
    """Median actions until success, of the successes; None without any."""
    clamped_actions: int
    """Actions of all episodes that lay beyond what the arms can do and were clamped."""
    wall_s: float
    """Wall time of all episodes added up (with W workers, about W times the run's), seconds."""
    weights: str = ""
    """Where the weights of the policy's pretrained network came from; empty if not told."""


def cell_of(record: EpisodeRecord) -> Cell:
    """The cell that the episode belongs to."""
    return record.task, record.config, record.policy


def success_step(record: EpisodeRecord) -> int:
    """Actions until success, which ends an episode."""
    return record.steps if record.success_step is None else record.success_step


def group_by_cell(records: Iterable[EpisodeRecord]) -> dict[Cell, list[EpisodeRecord]]:
    """The episodes of each cell, cells in the order of their first records."""
    groups: dict[Cell, list[EpisodeRecord]] = {}
    for record in records:
        groups.setdefault(cell_of(record), []).append(record)
    return groups


def summarise(records: Sequence[EpisodeRecord], *, confidence: float = 0.95) -> list[SummaryRow]:
    """One row for each cell, in the order of their first records."""
    return [_summary_row(cell, group, confidence) for cell, group in group_by_cell(records).items()]


def _summary_row(cell: Cell, records: Sequence[EpisodeRecord], confidence: float) -> SummaryRow:
    task, config, policy = cell
    scored = [record for record in records if record.outcome != "error"]
    n = len(scored)
    steps = [success_step(record) for record in scored if record.outcome == "success"]
    low, high = wilson_interval(len(steps), n, confidence=confidence)
    exact_low, exact_high = clopper_pearson_interval(len(steps), n, confidence=confidence)
    return SummaryRow(
        task=task,
        config=config,
        policy=policy,
        n=n,
        successes=len(steps),
        rate=round(len(steps) / n, 6) if n else None,
        wilson_low=round(low, 6),
        wilson_high=round(high, 6),
        clopper_pearson_low=round(exact_low, 6),
        clopper_pearson_high=round(exact_high, 6),
        errors=len(records) - n,
        mean_steps=round(sum(record.steps for record in scored) / n, 1) if n else None,
        median_success_step=float(median(steps)) if steps else None,
        clamped_actions=sum(record.clamped_actions for record in records),
        wall_s=round(sum(record.wall_s for record in records), 2),
    )


def clamped_note(rows: Sequence[SummaryRow]) -> str:
    """Whose actions were clamped, and how many; empty if nobody's."""
    names = name_tasks((row.task, row.config) for row in rows)
    told = [
        f"{row.policy} on {names[row.task, row.config]} {row.clamped_actions:,}"
        for row in rows
        if row.clamped_actions
    ]
    return f"Actions beyond the joint limits, clamped: {'; '.join(told)}." if told else ""


def episodes_csv(records: Sequence[EpisodeRecord]) -> str:
    """One line an episode, in the order of the plan; times come last."""
    ordered = sorted(records, key=lambda record: (*cell_of(record), record.index))
    return csv_text(EPISODE_COLUMNS, [episode_row(record) for record in ordered])


def episode_row(record: EpisodeRecord) -> dict[str, Any]:
    """Values of the `EPISODE_COLUMNS`."""
    row = asdict(record)
    row["stage"] = record.stage
    row["layout"] = json.dumps(record.layout, sort_keys=True) if record.layout else ""
    row["wall_s"], row["cpu_s"] = record.wall_s, record.cpu_s
    for part, (wall_s, cpu_s) in record.times.items():
        row[f"{part}_wall_s"], row[f"{part}_cpu_s"] = wall_s, cpu_s
    return row


def summary_csv(rows: Sequence[SummaryRow]) -> str:
    """One line for each cell."""
    return csv_text([field.name for field in fields(SummaryRow)], [asdict(row) for row in rows])


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file; None is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def format_rate(row: SummaryRow) -> str:
    """E.g. `85.0% [70.9, 92.9]`."""
    interval = f"[{100 * row.wilson_low:.1f}, {100 * row.wilson_high:.1f}]"
    return f"{100 * row.successes / row.n:.1f}% {interval}" if row.n else f"- {interval}"


def name_tasks(cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What to call each (task, config): the config is named where there are several."""
    known = dict.fromkeys(cells)
    several = len({config for _, config in known}) > 1
    return {(task, config): f"{task} ({config})" if several else task for task, config in known}


def title_of(rows: Sequence[SummaryRow]) -> str:
    """E.g. `act on beat_block_hammer` or `3 policies on 5 tasks, in 2 configs`."""
    policies, tasks, configs = (
        list(dict.fromkeys(getattr(row, name) for row in rows))
        for name in ("policy", "task", "config")
    )
    who = policies[0] if len(policies) == 1 else f"{len(policies)} policies"
    what = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    return f"{who} on {what}" + (f", in {len(configs)} configs" if len(configs) > 1 else "")


def summary_text(rows: Sequence[SummaryRow], *, confidence: float = 0.95) -> str:
    """The summary as a Markdown table that also reads well in a terminal."""
    names = name_tasks((row.task, row.config) for row in rows)
    interval = f"rate [{100 * confidence:g}% interval]"
    header = ("task", "policy", "n", "successes", interval, "errors", "mean steps")
    body = [
        (
            names[row.task, row.config],
            row.policy,
            str(row.n),
            str(row.successes),
            format_rate(row),
            str(row.errors),
            "-" if row.mean_steps is None else f"{row.mean_steps:.0f}",
        )
        for row in rows
    ]
    return markdown_table(header, body, numeric={2, 3, 5, 6})


def markdown_table(
    header: Sequence[str], body: Sequence[Sequence[str]], *, numeric: Iterable[int] = ()
) -> str:
    """A table with padded columns; those at `numeric` are aligned to the right."""
    right = set(numeric)
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in body]
    widths = [
        max(3, *(len(line[i]) for line in [list(header), *lines])) for i in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if i in right else "-" * width for i, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *(line(cells) for cells in lines)])
