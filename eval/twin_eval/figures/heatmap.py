"""Success rates as a heat map: settings against tasks, or one setting against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from twin_eval.figures.sheet import (
    INK,
    LABEL_PT,
    MARGIN_IN,
    MUTED,
    PANEL_PT,
    TRACK,
    WIDTH_IN,
    Sheet,
    shorten,
    width_in,
    wrap,
)

SHADES = LinearSegmentedColormap.from_list("rates", ["#eff4fa", "#8fb6de", "#1d4a80"])
DARK, LIGHT = "#1a2027", "#fdfdfe"
"""Words on light and on dark shades; other than ink and paper, which a page may turn round."""
HATCH = "#b4bcc6"
CELL_IN, ROW_IN, GAP_IN, SMALL_PT = 1.02, 0.62, 0.35, 7.3
HEADING_IN, SCALE_IN, COLUMN_LINES = 0.3, 0.34, 3


@dataclass(frozen=True)
class HeatCell:
    """What one field shows."""

    rate: float | None
    """None: nothing is known, the field is hatched."""
    mark: str
    """Behind the rate."""
    lines: tuple[str, ...]
    """Small words below it."""


@dataclass(frozen=True)
class HeatPanel:
    """One grid."""

    title: str
    """Empty: none."""
    row_axis: str
    """What the rows are values of."""
    rows: tuple[str, ...]
    column_axis: str
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], HeatCell]
    """Row and column to what is shown; what is not there is hatched."""


def shade(rate: float) -> tuple[str, str]:
    """Colours of the field and of the words on it."""
    return to_hex(SHADES(rate)), LIGHT if rate > 0.6 else DARK


def heatmap_figure(panels: Sequence[HeatPanel], title: str, note: str) -> Figure:
    """The grids below each other, or side by side where they are narrow."""
    rooms = [_label_room(panel) for panel in panels]
    widths = [
        room + CELL_IN * len(panel.columns) for room, panel in zip(rooms, panels, strict=True)
    ]
    heights = [_head_in(panel) + ROW_IN * len(panel.rows) for panel in panels]
    sheet_width = max(WIDTH_IN, max(widths) + 2 * MARGIN_IN)
    places: list[tuple[float, float]] = []
    left = top = 0.0
    band = 0.0
    for width, height in zip(widths, heights, strict=True):
        if left and left + width > sheet_width - 2 * MARGIN_IN:
            left, top, band = 0.0, top + band + GAP_IN, 0.0
        places.append((left, top))
        left, band = left + width + GAP_IN, max(band, height)
    sheet = Sheet(top + band + SCALE_IN + 0.12, title=title, note=note, width=sheet_width)
    for panel, place, room, width, height in zip(
        panels, places, rooms, widths, heights, strict=True
    ):
        axes = sheet.axes(MARGIN_IN + place[0], place[1], width, height)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        _draw_panel(axes, panel, room)
    _draw_scale(sheet, top + band + 0.16)
    return sheet.figure


def _label_room(panel: HeatPanel) -> float:
    widest = max(width_in(words, LABEL_PT) for words in (*panel.rows, panel.row_axis))
    return min(max(widest, 0.5), 3.0) + 0.18


def _column_labels(panel: HeatPanel) -> list[list[str]]:
    """Lines of each column's head, broken at underlines too."""
    labels = []
    for words in panel.columns:
        lines = wrap(words.replace("_", "_ "), LABEL_PT, CELL_IN - 0.08)
        lines = [line.replace("_ ", "_") for line in lines][:COLUMN_LINES]
        labels.append([shorten(line, LABEL_PT, CELL_IN - 0.04) for line in lines])
    return labels


def _head_in(panel: HeatPanel) -> float:
    """Height above the first row."""
    lines = max(map(len, _column_labels(panel)))
    return HEADING_IN * bool(panel.title) + 0.2 * bool(panel.column_axis) + 0.16 * lines + 0.08


def _draw_panel(axes: Axes, panel: HeatPanel, room: float) -> None:
    head = _head_in(panel)
    if panel.title:
        axes.text(0, 0.02, panel.title, va="top", fontsize=PANEL_PT, weight="bold", color=INK)
    labels = _column_labels(panel)
    if panel.column_axis:
        above = head - 0.08 - 0.16 * max(map(len, labels)) - 0.05
        axes.text(room, above, panel.column_axis, va="bottom", fontsize=LABEL_PT, color=MUTED)
    look: dict[str, Any] = {"va": "bottom", "fontsize": LABEL_PT}
    axes.text(0, head - 0.06, panel.row_axis, color=MUTED, **look)
    for column, lines in enumerate(labels):
        middle = room + CELL_IN * (column + 0.5)
        axes.text(
            middle, head - 0.06, "\n".join(lines), ha="center", color=INK, linespacing=1.1, **look
        )
    for row, label in enumerate(panel.rows):
        top = head + ROW_IN * row
        axes.text(
            0,
            top + ROW_IN / 2,
            shorten(label, LABEL_PT, room - 0.12),
            va="center",
            fontsize=LABEL_PT,
            color=INK,
        )
        for column in range(len(panel.columns)):
            cell = panel.cells.get((row, column))
            _draw_cell(axes, room + CELL_IN * column, top, cell)


def _draw_cell(axes: Axes, left: float, top: float, cell: HeatCell | None) -> None:
    box: dict[str, Any] = {
        "xy": (left + 0.015, top + 0.015),
        "width": CELL_IN - 0.03,
        "height": ROW_IN - 0.03,
    }
    middle = left + CELL_IN / 2
    lines = cell.lines if cell else ()
    if cell is None or cell.rate is None:
        axes.add_patch(
            Rectangle(**box, facecolor=TRACK, edgecolor=HATCH, hatch="////", linewidth=0)
        )
        words, colour = "missing", MUTED
        look: dict[str, Any] = {"boxstyle": "round,pad=0.15", "facecolor": TRACK, "linewidth": 0}
        axes.text(
            middle,
            top + ROW_IN / 2,
            "\n".join([words, *lines]),
            ha="center",
            va="center",
            fontsize=SMALL_PT,
            color=colour,
            bbox=look,
        )
        return
    face, colour = shade(cell.rate)
    axes.add_patch(Rectangle(**box, facecolor=face, linewidth=0))
    rate = f"{100 * cell.rate:.1f}".removesuffix(".0") + f"% {cell.mark}"
    axes.text(
        middle,
        top + (0.17 if lines else ROW_IN / 2),
        rate.strip(),
        ha="center",
        va="center",
        fontsize=10.5,
        weight="bold",
        color=colour,
    )
    for place, words in enumerate(lines):
        axes.text(
            middle,
            top + 0.335 + 0.145 * place,
            shorten(words, SMALL_PT, CELL_IN - 0.06),
            ha="center",
            va="center",
            fontsize=SMALL_PT,
            color=colour,
        )


def _draw_scale(sheet: Sheet, top: float) -> None:
    """Which shade is which rate."""
    steps, width = 50, 2.0
    axes = sheet.axes(MARGIN_IN, top, width + 1.0, 0.14)
    axes.set(xlim=(0, width + 1.0), ylim=(1, 0), xticks=[], yticks=[])
    for step in range(steps):
        colour, _ = shade((step + 0.5) / steps)
        box = Rectangle((0.28 + width * step / steps, 0), width / steps, 1, facecolor=colour)
        box.set_edgecolor(colour)
        axes.add_patch(box)
    look: dict[str, Any] = {"va": "center", "fontsize": SMALL_PT, "color": MUTED}
    axes.text(0.22, 0.5, "0%", ha="right", **look)
    axes.text(0.28 + width + 0.06, 0.5, "100%", ha="left", **look)
