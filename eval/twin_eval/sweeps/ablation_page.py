"""The ablation's heat map and its one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from twin_eval.figures import HeatCell, HeatPanel, heatmap_figure
from twin_eval.policies import RANDOM_WEIGHTS
from twin_eval.report.page import describe_sessions, page_template
from twin_eval.sweeps.ablation_cells import AblationCell
from twin_eval.sweeps.ablation_runs import Result
from twin_eval.sweeps.ablation_tables import (
    HEADER,
    NUMERIC,
    Ablation,
    comparison_rows,
    cost_rows,
    count,
    facts,
    footnotes,
    notes,
    percent,
    seed_words,
)
from twin_eval.sweeps.spec import SEPARATOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_heatmap(ablation: Ablation) -> Figure:
    """Two axes: a grid for each task. Otherwise variants against tasks."""
    level = f"{100 * ablation.confidence:g}%"
    note = f"success rate with its {level} interval; n: scored episodes; hatched: none"
    if len(ablation.sweep.seeds) > 1:
        note += "; seeds: lowest and highest rate of a training seed"
    if ablation.marks and ablation.sweep.baseline is None:
        note += "; variants that share a letter were not told apart on that task"
    elif ablation.marks:
        note += f"; ↑ ↓: told apart from {ablation.sweep.baseline}"
    return heatmap_figure(make_panels(ablation), ablation.title, note)


def make_panels(ablation: Ablation) -> list[HeatPanel]:
    """What the heat map shows."""
    axes = ablation.sweep.axes
    if len(axes) == 2:
        return [_grid(ablation, task) for task in ablation.tasks]
    variants = ablation.sweep.variants
    labels = [
        ablation.name(v.label).replace(v.label, SEPARATOR.join(v.values.values()))
        if len(axes) == 1
        else ablation.name(v.label)
        for v in variants
    ]
    cells = {
        (row, column): _heat_cell(ablation, ablation.cell(variant.label, task))
        for row, variant in enumerate(variants)
        for column, task in enumerate(ablation.tasks)
    }
    axis = next(iter(axes)) if len(axes) == 1 else "variant"
    return [HeatPanel("", axis, tuple(labels), "", ablation.tasks, cells)]


def _grid(ablation: Ablation, task: str) -> HeatPanel:
    """The values of the first axis below, those of the second beside each other."""
    (down, rows), (across, columns) = ablation.sweep.axes.items()
    cells = {}
    for variant in ablation.sweep.variants:
        place = (rows.index(variant.values[down]), columns.index(variant.values[across]))
        cells[place] = _heat_cell(ablation, ablation.cell(variant.label, task), named=True)
    return HeatPanel(task, down, rows, across, columns, cells)


def _heat_cell(ablation: Ablation, cell: AblationCell, *, named: bool = False) -> HeatCell:
    """`named`: say in the cell where its network has random weights, as no label does."""
    label = cell.variant.label
    errors = count(cell.errors, "error") if cell.errors else ""
    if cell.rate is None:
        return HeatCell(None, "", (errors,) if errors else ())
    random = named and ablation.name(label) != label
    lines = (
        f"{percent(cell.low)} to {percent(cell.high)}",
        f"n = {cell.n}" + ("" if cell.complete else ", unfinished"),
        errors,
        seed_words(cell),
        RANDOM_WEIGHTS if random else "",
    )
    mark = ablation.marks.get((label, cell.task), "")
    return HeatCell(cell.rate, mark, tuple(filter(None, lines)))


def render_ablation(ablation: Ablation, drawing: str) -> str:
    """The page's text; `drawing` is the heat map as an SVG element."""
    cost_header, costs = cost_rows(ablation)
    runs = [result.evaluation for result in ablation.results if result.evaluation]
    variants = ablation.sweep.variants
    several = 0 < len(ablation.random) < len(variants)
    return page_template("ablation.html.j2").render(
        title=ablation.title,
        facts=facts(ablation),
        notes=notes(ablation),
        drawing=Markup(drawing),
        axes=list(ablation.sweep.axes),
        tasks=ablation.tasks,
        lines=[
            {
                "values": list(variant.values.values()),
                "random": several and variant.label in ablation.random,
                "cells": [
                    _cell_facts(ablation, ablation.cell(variant.label, task))
                    for task in ablation.tasks
                ],
            }
            for variant in variants
        ],
        cost_header=cost_header,
        costs=costs,
        cost_words=len(cost_header) - 4,
        comparison_header=[(word, place in NUMERIC) for place, word in enumerate(HEADER)],
        comparison_rows=comparison_rows(ablation, ablation.comparisons),
        told_apart=[bool(one.winner) for one in ablation.comparisons],
        numeric=NUMERIC,
        footnotes=footnotes(ablation),
        runs=[_run_facts(result) for result in ablation.results],
        sessions=describe_sessions(runs),
    )


def _cell_facts(ablation: Ablation, cell: AblationCell) -> Mapping[str, Any] | None:
    if cell.rate is None:
        return None
    return {
        "rate": f"{100 * cell.rate:.1f}%",
        "mark": ablation.marks.get((cell.variant.label, cell.task), ""),
        "interval": f"{100 * cell.low:.1f} to {100 * cell.high:.1f}",
        "count": f"n = {cell.n}" + ("" if cell.complete else ", unfinished"),
        "seeds": seed_words(cell),
        "errors": count(cell.errors, "error") if cell.errors else "",
    }


def _run_facts(result: Result) -> Mapping[str, Any]:
    records = result.records
    return {
        "name": result.run.name,
        "policy": result.run.variant.policy,
        "settings": ", ".join(f"{k}={v}" for k, v in result.run.variant.settings.items()),
        "finished": f"{len(records)} of {result.wanted}",
        "checkpoint": records[0].checkpoint[:16] if records else "",
        "training": result.training,
        "weights": result.weights,
    }
