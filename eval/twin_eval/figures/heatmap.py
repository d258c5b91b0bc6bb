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
CELL_IN, CELL_AT_MOST_IN, GAP_IN, SMALL_PT = 1.24, 1.7, 0.4, 7.3
LINE_IN, WIDEST_IN = 0.145, 10.4
"""Of a small line; of grids beside each other."""
HEADING_IN, SCALE_IN, COLUMN_LINES = 0.3, 0.34, 3


@dataclass(frozen=True)
class HeatCell:
    """What one field shows."""

    rate: float | None
    """None: nothing is known, the field is hatched."""
    mark: str
    """Behind the rate."""
    lines: tuple[str, ...]
    """Small words below it, or below "missing"."""


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
    red, green, blue, _ = SHADES(rate)
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return to_hex(SHADES(rate)), LIGHT if luminance < 0.24 else DARK


def heatmap_figure(panels: Sequence[HeatPanel], title: str, note: str) -> Figure:
    """The grids below each other, or side by side where they are narrow."""
    grids = [_Grid(panel, alone=len(panels) == 1) for panel in panels]
    needed = [grid.width + GAP_IN for grid in grids]
    beside = max(n for n in range(1, len(grids) + 1) if n == 1 or sum(needed[:n]) <= WIDEST_IN)
    sheet_width = max(WIDTH_IN, sum(needed[:beside]) - GAP_IN + 2 * MARGIN_IN, *needed)
    places: list[tuple[float, float]] = []
    left = top = band = 0.0
    for grid in grids:
        if left and left + grid.width > sheet_width - 2 * MARGIN_IN + 1e-6:
            left, top, band = 0.0, top + band + GAP_IN, 0.0
        places.append((left, top))
        left, band = left + grid.width + GAP_IN, max(band, grid.height)
    sheet = Sheet(top + band + SCALE_IN + 0.12, title=title, note=note, width=sheet_width)
    for grid, place in zip(grids, places, strict=True):
        axes = sheet.axes(MARGIN_IN + place[0], place[1], grid.width, grid.height)
        axes.set(xlim=(0, grid.width), ylim=(grid.height, 0), xticks=[], yticks=[])
        grid.draw(axes)
    _draw_scale(sheet, top + band + 0.16)
    return sheet.figure


class _Grid:
    """A panel's measures, inches, and its drawing."""

    def __init__(self, panel: HeatPanel, *, alone: bool) -> None:
        self.panel = panel
        widest = max(width_in(words, LABEL_PT) for words in (*panel.rows, panel.row_axis))
        self.room = min(max(widest, 0.5), 3.0) + 0.18
        spare = (WIDTH_IN - 2 * MARGIN_IN - self.room) / len(panel.columns) if alone else CELL_IN
        self.cell = min(max(CELL_IN, spare), CELL_AT_MOST_IN)
        lines = max((len(cell.lines) for cell in panel.cells.values()), default=0)
        self.row = 0.36 + LINE_IN * lines
        self.heads = [self._break(words) for words in panel.columns]
        self.words = 0.16 * max(map(len, self.heads))
        self.head = HEADING_IN * bool(panel.title) + 0.2 * bool(panel.column_axis) + self.words
        self.head += 0.08
        self.width = self.room + self.cell * len(panel.columns)
        self.height = self.head + self.row * len(panel.rows)

    def _break(self, words: str) -> list[str]:
        """Lines of a column's head, broken at underlines too."""
        lines = wrap(words.replace("_", "_ "), LABEL_PT, self.cell - 0.08)
        lines = [line.replace("_ ", "_") for line in lines][:COLUMN_LINES]
        return [shorten(line, LABEL_PT, self.cell - 0.04) for line in lines]

    def draw(self, axes: Axes) -> None:
        panel, head = self.panel, self.head
        if panel.title:
            axes.text(0, 0.02, panel.title, va="top", fontsize=PANEL_PT, weight="bold", color=INK)
        look: dict[str, Any] = {"va": "bottom", "fontsize": LABEL_PT}
        if panel.column_axis:
            above = head - 0.13 - self.words
            axes.text(self.room, above, panel.column_axis, color=MUTED, **look)
        axes.text(0, head - 0.06, panel.row_axis, color=MUTED, **look)
        look |= {"color": INK, "linespacing": 1.1}
        for column, lines in enumerate(self.heads):
            middle = self.room + self.cell * (column + 0.5)
            axes.text(middle, head - 0.06, "\n".join(lines), ha="center", **look)
        look["va"] = "center"
        for row, label in enumerate(panel.rows):
            top = head + self.row * row
            words = shorten(label, LABEL_PT, self.room - 0.12)
            axes.text(0, top + self.row / 2, words, **look)
            for column in range(len(panel.columns)):
                cell = panel.cells.get((row, column))
                self._draw_cell(axes, self.room + self.cell * column, top, cell)

    def _draw_cell(self, axes: Axes, left: float, top: float, cell: HeatCell | None) -> None:
        place = (left + 0.015, top + 0.015)
        size = (self.cell - 0.03, self.row - 0.03)
        middle = left + self.cell / 2
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL_PT}
        if cell is None or cell.rate is None:
            hatched = {"facecolor": TRACK, "edgecolor": HATCH, "hatch": "////", "linewidth": 0}
            axes.add_patch(Rectangle(place, *size, **hatched))  # type: ignore[arg-type]
            box = {"boxstyle": "round,pad=0.2", "facecolor": TRACK, "linewidth": 0}
            words = "\n".join(["missing", *(cell.lines if cell else ())])
            axes.text(middle, top + self.row / 2, words, color=MUTED, bbox=box, **look)
            return
        face, colour = shade(cell.rate)
        axes.add_patch(Rectangle(place, *size, facecolor=face, linewidth=0))
        rate = f"{100 * cell.rate:.1f}".removesuffix(".0") + f"% {cell.mark}"
        look["color"] = colour
        bold = look | {"fontsize": 10.5, "weight": "bold"}
        axes.text(middle, top + 0.185, rate.strip(), **bold)
        for line, words in enumerate(cell.lines):
            below = top + 0.36 + LINE_IN * line
            axes.text(middle, below, shorten(words, SMALL_PT, self.cell - 0.06), **look)


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
