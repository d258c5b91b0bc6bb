"""Writes a report into a folder: tables, figures, page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from twin_env.files import write_text
from twin_eval.policies import RANDOM_WEIGHTS
from twin_eval.report.comparison import Comparison, compare, order_policies
from twin_eval.report.comparison_tables import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
)
from twin_eval.report.robustness import (
    ConfigChange,
    compare_configs,
    robustness_csv,
    robustness_markdown,
)
from twin_eval.report.runs import Evidence, Run, gather, label_weights, load_runs
from twin_eval.report.tables import (
    SummaryRow,
    clamped_note,
    episodes_csv,
    summarise,
    summary_csv,
    title_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_NAME = "report.html"
COMPARISON_NAMES = ("comparison.csv", "comparison.md", "comparison.tex")
ROBUSTNESS_NAMES = ("robustness.csv", "robustness.md")
TITLES = {
    "differences": "Paired differences",
    "stages": "How far the episodes get",
    "times": "Time to success",
    "positions": "Success over scene position",
}
WHY_NOT = {
    "stages": "No figure of stages: the simulator told none.",
    "positions": "No figure of scene positions: the simulator told no layout.",
    "times": "No figure of time to success: no episode could be scored.",
}


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    folder: Path
    names: tuple[str, ...]
    """Paths relative to `folder`."""
    rows: tuple[SummaryRow, ...]
    comparisons: tuple[Comparison, ...]
    changes: tuple[ConfigChange, ...]
    """Configs beside the clean one."""
    notes: tuple[str, ...]
    """What a reader must know beside the numbers."""

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / PAGE_NAME

    def __str__(self) -> str:
        plain = [name for name in self.names if not name.startswith("figures/")]
        return ", ".join([*plain, "figures/"] if len(plain) < len(self.names) else plain)


def write_report(
    runs: Sequence[Run | Path],
    out: Path,
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
    embed_videos: bool = False,
    drawn: bool = True,
) -> ReportFiles:
    """Writes all tables, figures and the page into `out`; what an earlier report left there goes.

    Args:
        runs: loaded runs, or folders at or below which they lie.
        baseline: compare each policy with this one only.
        confidence: of all intervals; 1 minus it is the alpha of all verdicts.
        embed_videos: put the worst failures' videos into the page instead of linking them.
        drawn: make figures and page, which take seconds, and not the tables alone.

    Raises:
        JournalError: if there is no run, or one cannot be read.
        ValueError: if no episode is finished, or there is no policy called `baseline`.
    """
    loaded = [run for run in runs if isinstance(run, Run)]
    folders = [run for run in runs if not isinstance(run, Run)]
    evidence = gather([*loaded, *(load_runs(folders) if folders else [])])
    policies = order_policies(evidence.records)
    rows = [
        replace(row, weights=evidence.weights.get((row.task, row.config, row.policy), ""))
        for row in sort_rows(summarise(evidence.records, confidence=confidence), policies)
    ]
    if baseline is not None and baseline not in policies:
        random = label_weights(baseline, RANDOM_WEIGHTS)
        baseline = random if random in policies else baseline
    comparisons = compare(evidence, confidence=confidence, baseline=baseline)
    texts = {"episodes.csv": episodes_csv(evidence.records), "summary.csv": summary_csv(rows)}
    if comparisons:
        tables = (
            comparison_csv(comparisons),
            comparison_markdown(rows, comparisons, confidence=confidence),
            comparison_latex(rows, comparisons, confidence=confidence),
        )
        texts |= dict(zip(COMPARISON_NAMES, tables, strict=True))
    changes = compare_configs(evidence, confidence=confidence)
    if changes:
        texts["robustness.csv"] = robustness_csv(changes)
        texts["robustness.md"] = robustness_markdown(changes, confidence=confidence)
    notes = [*evidence.notes, *filter(None, [clamped_note(rows)])]
    drawings: dict[str, str] = {}
    if drawn:
        from twin_eval.report.page import render_page

        figures = _figures(evidence, rows, comparisons, policies, confidence)
        drawings, missing = _draw(figures, rows, out)
        notes += missing
        texts[PAGE_NAME] = render_page(
            evidence,
            rows,
            comparisons,
            changes,
            drawings,
            notes,
            out=out,
            confidence=confidence,
            embed_videos=embed_videos,
        )
    for name in {*COMPARISON_NAMES, *ROBUSTNESS_NAMES} - set(texts):
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    pictures = [f"figures/{name}{suffix}" for name in drawings for suffix in (".png", ".svg")]
    names = (*sorted(texts, key=lambda name: name != PAGE_NAME), *pictures)
    return ReportFiles(out, names, tuple(rows), tuple(comparisons), tuple(changes), tuple(notes))


def _draw(
    figures: Iterable[tuple[str, Callable[[], Figure | None]]],
    rows: Sequence[SummaryRow],
    out: Path,
) -> tuple[dict[str, str], list[str]]:
    """Saves the figures; returns them by name for the page, and notes on those that are not."""
    from twin_eval.figures import inline_svg, save_figure

    drawings, notes = {}, []
    for name, draw in figures:
        path = out / "figures" / name
        figure = draw()
        if figure is None:
            notes += [WHY_NOT[name]] if name in WHY_NOT else []
            for suffix in (".png", ".svg"):
                path.with_suffix(suffix).unlink(missing_ok=True)
            continue
        for suffix in (".png", ".svg"):
            save_figure(figure, path.with_suffix(suffix))
        svg = path.with_suffix(".svg").read_text(encoding="utf-8")
        drawings[name] = inline_svg(svg, TITLES.get(name, title_of(rows)))
    return drawings, notes


def sort_rows(rows: Sequence[SummaryRow], policies: Sequence[str]) -> list[SummaryRow]:
    """By task and config, then in the order of `policies`."""
    return sorted(rows, key=lambda row: (row.task, row.config, policies.index(row.policy)))


def _figures(
    evidence: Evidence,
    rows: Sequence[SummaryRow],
    comparisons: Sequence[Comparison],
    policies: Sequence[str],
    confidence: float,
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """Name and drawing of each figure, in the order of the page."""
    from twin_eval import figures

    records = evidence.records
    level = {"confidence": confidence}
    yield "success", lambda: figures.success_figure(rows, title_of(rows), **level)
    yield (
        "differences",
        lambda: figures.difference_figure(comparisons, TITLES["differences"], **level),
    )
    yield "stages", lambda: figures.stage_figure(records, policies, TITLES["stages"], **level)
    yield "times", lambda: figures.time_figure(records, policies, TITLES["times"], **level)
    yield "positions", lambda: figures.position_figure(records, policies, TITLES["positions"])
