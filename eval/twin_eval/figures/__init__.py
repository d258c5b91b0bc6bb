"""Figures of episodes and comparisons, drawn without a display; each shows its n."""

from twin_eval.figures.differences import difference_figure
from twin_eval.figures.heatmap import HeatCell, HeatPanel, heatmap_figure
from twin_eval.figures.positions import position_figure
from twin_eval.figures.sheet import inline_svg, save_figure
from twin_eval.figures.stages import stage_figure
from twin_eval.figures.success import success_figure
from twin_eval.figures.times import time_figure

__all__ = [
    "HeatCell",
    "HeatPanel",
    "difference_figure",
    "heatmap_figure",
    "inline_svg",
    "position_figure",
    "save_figure",
    "stage_figure",
    "success_figure",
    "time_figure",
]
