"""Figures of summaries: success rates with their intervals and n, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from twin_env.files import replacing
from twin_eval.report import SummaryRow

INK = "#22272e"
MUTED = "#8b949e"
PALETTE = ("#2f6db3", "#d9792b", "#3a9a6d", "#a0539b", "#b8433f", "#6b7280")


def success_figure(rows: Sequence[SummaryRow], title: str) -> Figure:
    """One line a policy: the rate as a point, its 95% Wilson interval as a bar, n beside it."""
    height = 1.25 + 0.62 * len(rows)
    figure = Figure(figsize=(7.6, height), dpi=160, facecolor="white")
    axes = figure.subplots()
    several_tasks = len({row.task for row in rows}) > 1
    for place, row in enumerate(rows):
        colour = PALETTE[place % len(PALETTE)]
        low, high = 100 * row.wilson_low, 100 * row.wilson_high
        axes.plot([0, 100], [place, place], color="#eef0f3", linewidth=13, zorder=1)
        axes.plot(
            [low, high],
            [place, place],
            color=colour,
            alpha=0.38,
            linewidth=13,
            zorder=2,
            solid_capstyle="butt",
        )
        if row.rate is not None:
            axes.plot(
                [100 * row.rate],
                [place],
                "o",
                color=colour,
                markersize=11,
                zorder=3,
                markeredgecolor="white",
                markeredgewidth=1.8,
                clip_on=False,
            )
        errors = f", {row.errors} error{'s' * (row.errors > 1)}" if row.errors else ""
        rate = "no score" if row.rate is None else f"{100 * row.rate:.1f}".removesuffix(".0") + "%"
        axes.text(
            104, place - 0.02, rate, va="bottom", ha="left", fontsize=12, color=INK, weight="bold"
        )
        axes.text(
            104,
            place + 0.06,
            f"{row.successes} of n = {row.n}{errors}",
            va="top",
            ha="left",
            fontsize=8.5,
            color=MUTED if not row.errors else PALETTE[4],
        )
    labels = [f"{row.task}\n{row.policy}" if several_tasks else row.policy for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=11, color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.6)
    axes.set_xlim(-1.5, 101.5)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)], color=MUTED)
    axes.tick_params(length=0)
    axes.grid(axis="x", color="white", linewidth=1.2, zorder=2.5)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.suptitle(
        title, x=0.02, y=1 - 0.12 / height, ha="left", va="top", fontsize=12.5, color=INK
    )
    axes.set_xlabel(
        "success rate on unseen seeds; bars: 95% Wilson interval; errors are not in n",
        fontsize=8.5,
        color=MUTED,
        loc="left",
    )
    figure.subplots_adjust(left=0.205, right=0.77, top=1 - 0.48 / height, bottom=0.62 / height)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    with replacing(path) as temporary, matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        figure.savefig(temporary, format="png")
