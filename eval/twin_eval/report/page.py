"""The report as one self-contained HTML page: no request to anywhere, not even for a font."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from twin_eval.records import OUTCOMES, EpisodeRecord
from twin_eval.report import robustness
from twin_eval.report.comparison import ALL_TASKS, Comparison, letters
from twin_eval.report.comparison_tables import HEADER, NUMERIC, footnotes, rows_of, say
from twin_eval.report.robustness import ConfigChange
from twin_eval.report.runs import Evidence, Run
from twin_eval.report.tables import SummaryRow, cell_of, group_by_cell, name_tasks, title_of
from twin_eval.statistics import wilson_interval

TEMPLATES = Path(__file__).with_name("page_files")
WORST_OF_CELL, WORST_OF_ALL = 2, 12
EPISODES_AT_MOST = 20_000
"""Rows of the page's table; all are in episodes.csv."""


def render_page(
    evidence: Evidence,
    rows: Sequence[SummaryRow],
    comparisons: Sequence[Comparison],
    changes: Sequence[ConfigChange],
    drawings: Mapping[str, str],
    notes: Sequence[str],
    *,
    out: Path,
    confidence: float,
    embed_videos: bool,
) -> str:
    """The page's text; videos are linked relative to `out`."""
    records = evidence.records
    names = name_tasks(cell_of(record)[:2] for record in records)
    videos = find_videos(evidence)
    return page_template("page.html.j2").render(
        title=title_of(rows),
        facts=_facts(rows, records, confidence),
        notes=notes,
        confidence=f"{100 * confidence:g}%",
        alpha=f"{1 - confidence:.3g}",
        outcomes=OUTCOMES,
        headline=_headline(rows, comparisons, confidence),
        sentences=_sentences(comparisons, names),
        told=_told_apart(comparisons),
        comparison_header=[(word, place in NUMERIC) for place, word in enumerate(HEADER)],
        comparison_rows=rows_of(comparisons),
        numeric=NUMERIC,
        footnotes=footnotes(comparisons, confidence=confidence),
        robustness=_robustness(changes, confidence),
        drawings={name: Markup(svg) for name, svg in drawings.items()},
        worst=_worst(records, names, videos, out, embed=embed_videos),
        errors=_errors(records, names),
        episodes=_episode_data(records, names, videos, out),
        shown=min(len(records), EPISODES_AT_MOST),
        total=len(records),
        tasks=list(names.values()),
        policies=list(dict.fromkeys(row.policy for row in rows)),
        sessions=describe_sessions([run for _, run in evidence.runs]),
        cells=[_cell(label, run, names) for label, run in evidence.runs],
    )


def page_template(name: str) -> jinja2.Template:
    """A template of `page_files`; what is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _robustness(changes: Sequence[ConfigChange], confidence: float) -> dict[str, Any] | None:
    """The table of configs beside the clean one, if there are several."""
    if not changes:
        return None
    return {
        "header": [
            (word, place in robustness.NUMERIC) for place, word in enumerate(robustness.HEADER)
        ],
        "rows": robustness.robustness_rows(changes),
        "numeric": robustness.NUMERIC,
        "footnotes": robustness.robustness_notes(changes, confidence=confidence),
    }


def find_videos(evidence: Evidence) -> dict[tuple[str, str, str, int], Path]:
    """The videos that exist, by cell and episode."""
    found = {}
    for label, run in evidence.runs:
        for record in run.records:
            path = run.folder / record.video
            if record.video and path.is_file():
                found[(record.task, record.config, label, record.index)] = path
    return found


def _facts(rows: Sequence[SummaryRow], records: Sequence[EpisodeRecord], confidence: float) -> str:
    """The line under the title."""
    errors = sum(row.errors for row in rows)
    configs = ", ".join(dict.fromkeys(row.config for row in rows))
    tasks = ", ".join(dict.fromkeys(row.task for row in rows))
    parts = [
        tasks if len(tasks) <= 80 else "",
        configs,
        _count(len(records), "episode"),
        f"{_count(errors, 'error')} among them" if errors else "no errors",
        f"{100 * confidence:g}% intervals",
    ]
    return " · ".join(part for part in parts if part)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _headline(
    rows: Sequence[SummaryRow], comparisons: Sequence[Comparison], confidence: float
) -> dict[str, Any]:
    """Success rates: a line a task, a column a policy, and a line of all tasks."""
    names = name_tasks((row.task, row.config) for row in rows)
    policies = list(dict.fromkeys(row.policy for row in rows))
    shown = letters(comparisons)
    by_cell = {(row.task, row.config, row.policy): row for row in rows}
    lines = []
    for (task, config), name in names.items():
        cells = [by_cell.get((task, config, policy)) for policy in policies]
        marks = shown.get((task, config), {})
        lines.append(
            {
                "task": name,
                "cells": [
                    row
                    and _headline_cell(
                        row.successes, row.n, row.errors, marks.get(row.policy, ""), confidence
                    )
                    for row in cells
                ],
            }
        )
    watched = any(one.test == "sequential" for one in comparisons)
    # Where one task was stopped early, a sum over tasks would weigh them by chance.
    if len(names) > 1 and len(by_cell) == len(names) * len(policies) and not watched:
        marks = shown.get((ALL_TASKS, ""), {})
        sums = [[row for row in rows if row.policy == policy] for policy in policies]
        lines.append(
            {
                "task": ALL_TASKS,
                "cells": [
                    _headline_cell(
                        sum(row.successes for row in group),
                        sum(row.n for row in group),
                        sum(row.errors for row in group),
                        marks.get(policy, ""),
                        confidence,
                    )
                    for policy, group in zip(policies, sums, strict=True)
                ],
            }
        )
    return {"policies": policies, "lines": lines, "letters": bool(shown)}


def _headline_cell(
    successes: int, n: int, errors: int, letter: str, confidence: float
) -> dict[str, Any]:
    low, high = wilson_interval(successes, n, confidence=confidence)
    return {
        "rate": f"{100 * successes / n:.1f}%" if n else "–",
        "interval": f"{100 * low:.1f} to {100 * high:.1f}",
        "count": f"{successes} of {n}",
        "errors": _count(errors, "error") if errors else "",
        "letters": letter,
    }


def _sentences(
    comparisons: Sequence[Comparison], names: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Comparisons in words, by task; only those on all tasks, where tasks were pooled."""
    pooled = [one for one in comparisons if one.task == ALL_TASKS]
    groups: dict[str, list[Comparison]] = {}
    for one in pooled or comparisons:
        name = names.get((one.task, one.config), one.task.capitalize())
        groups.setdefault(name, []).append(one)
    return [
        {"task": name, "items": [(say(one), bool(one.winner)) for one in group]}
        for name, group in groups.items()
    ]


def _told_apart(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons on single tasks were conclusive; empty where each is told in words."""
    single = [one for one in comparisons if one.task != ALL_TASKS]
    if len(single) == len(comparisons):
        return ""
    told = sum(bool(one.winner) for one in single)
    return f"Of {len(single)} comparisons on single tasks, {told} tell the two apart:"


def _worst(
    records: Sequence[EpisodeRecord],
    names: Mapping[tuple[str, str], str],
    videos: Mapping[tuple[str, str, str, int], Path],
    out: Path,
    *,
    embed: bool,
) -> list[dict[str, Any]]:
    """Filmed failures and errors that got least far: two of a cell, first the worst of each."""

    def progress(record: EpisodeRecord) -> tuple[float, int]:
        return record.stages_reached / max(1, len(record.stages)), record.steps

    ranked = []
    for group in group_by_cell(records).values():
        filmed = [r for r in group if r.outcome != "success" and (*cell_of(r), r.index) in videos]
        filmed.sort(key=lambda record: (*progress(record), record.index))
        ranked += [(rank, record) for rank, record in enumerate(filmed[:WORST_OF_CELL])]
    ranked.sort(key=lambda item: (item[0], *progress(item[1]), *cell_of(item[1])))
    worst = []
    for _, record in ranked[:WORST_OF_ALL]:
        path = videos[(*cell_of(record), record.index)]
        worst.append(
            {
                "record": record,
                "task": names[cell_of(record)[:2]],
                "stage": _stage(record),
                "source": _embedded(path) if embed else _link(path, out),
            }
        )
    return worst


def _embedded(path: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _link(path: Path, out: Path) -> str:
    return quote(os.path.relpath(path.resolve(), out.resolve()).replace(os.sep, "/"))


def _stage(record: EpisodeRecord) -> str:
    if not record.stages:
        return ""
    return f"{record.stages_reached}/{len(record.stages)} {record.stage}".strip()


def _errors(
    records: Sequence[EpisodeRecord], names: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Reasons of errors, the commonest first, with the scenes on which they happened."""
    groups: dict[tuple[str, ...], list[EpisodeRecord]] = {}
    for record in records:
        if record.outcome == "error":
            groups.setdefault((*cell_of(record), record.reason), []).append(record)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "count": len(group),
            "task": names[cell_of(group[0])[:2]],
            "policy": group[0].policy,
            "reason": group[0].reason,
            "seeds": ", ".join(str(record.seed) for record in group[:8])
            + (", …" if len(group) > 8 else ""),
        }
        for _, group in ordered
    ]


def _episode_data(
    records: Sequence[EpisodeRecord],
    names: Mapping[tuple[str, str], str],
    videos: Mapping[tuple[str, str, str, int], Path],
    out: Path,
) -> Markup:
    """What the page's script shows as a table: rows of numbers and of places in a list of words."""
    words: dict[str, int] = {}

    def word(text: str) -> int:
        return words.setdefault(text, len(words))

    rows = []
    for record in records[:EPISODES_AT_MOST]:
        video = videos.get((*cell_of(record), record.index))
        rows.append(
            [
                word(names[cell_of(record)[:2]]),
                word(record.policy),
                record.index,
                record.seed,
                word(record.outcome),
                word(_stage(record)),
                record.steps,
                word(_link(video, out) if video else ""),
                word(record.reason),
                word(record.instruction),
                round(record.wall_s, 1),
            ]
        )
    text = json.dumps({"words": list(words), "rows": rows}, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def describe_sessions(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each process that worked on these runs, once, with how many of the episodes are its."""
    counts: dict[str, int] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for record in run.records:
            counts[record.session] = counts.get(record.session, 0) + 1
        for session in run.sessions:
            facts.setdefault(str(session["session"]), session)
    return [
        {
            "id": key,
            "episodes": counts.get(key, 0),
            "started": session.get("started", ""),
            "host": session.get("host", ""),
            "machine": f"{session.get('platform', '')}, {session.get('cores', '?')} cores",
            "commit": _commit(session.get("git")),
            "versions": _versions(session),
            "command": " ".join(map(str, session.get("command", ()))),
        }
        for key, session in sorted(facts.items())
    ]


def _versions(session: Mapping[str, Any]) -> str:
    versions = {"python": session.get("python", "?"), **session.get("versions", {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _commit(state: Any) -> str:
    if not isinstance(state, Mapping) or "commit" not in state:
        return "no checkout"
    return str(state["commit"])[:12] + (" with changes" if state.get("dirty") else "")


def _cell(label: str, run: Run, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Where a cell's policy came from."""
    task, config, _ = run.cell
    session = run.sessions[-1] if run.sessions else {}
    return {
        "task": names.get((task, config), task),
        "policy": label,
        "folder": str(run.folder),
        "finished": f"{len(run.records)} of {run.planned}",
        "checkpoint": run.records[0].checkpoint,
        "checkpoint_path": session.get("checkpoint_path") or "",
        "training": ", ".join(filter(None, [session.get("training"), run.weights])),
        "commit": _commit(session.get("policy_git")),
        "noise_seed": run.definition.get("noise_seed", ""),
    }
