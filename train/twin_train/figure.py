"""The picture of a training run: losses, and the error of sampled actions, over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from twin_policy.files import write_atomically

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
OF_TASKS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Told apart by colour-blind readers too (Okabe and Ito's palette)."""
SMOOTHED_SHARE = 0.02
"""Of the run: the window of the moving mean through the training loss."""

Log = list[dict[str, float]]


def draw_losses(log: Log, path: Path, *, title: str, stages: Sequence[int] = ()) -> None:
    """Draws the lines of a training log to a PNG.

    Args:
        stages: steps at which a stage of the training ends and the next one begins.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 3.4), layout=ConstrainedLayoutEngine(wspace=0.08))
    FigureCanvasAgg(figure)
    has_validation = any("val_mean_abs" in line for line in log)
    panels = figure.subplots(1, 2 if has_validation else 1, squeeze=False)[0]
    _draw_loss(panels[0], log)
    if has_validation:
        _draw_error(panels[1], log)
    for axes in panels:
        axes.set_xlabel("training step")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        for step in stages:
            axes.axvline(step, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    write_atomically(path, lambda part: figure.savefig(part, dpi=150))


def _draw_loss(axes: Any, log: Log) -> None:
    steps, losses = series(log, "loss")
    if len(steps) > 20:
        axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.8)
        steps, losses = smoothed(steps, losses)
    axes.plot(steps, losses, color=BLUE, linewidth=1.6, label="training", marker=_dots(steps))
    steps, losses = series(log, "val_loss")
    if len(steps):
        axes.plot(
            steps, losses, color=ORANGE, linewidth=1.6, label="validation", marker=_dots(steps)
        )
    axes.set_ylabel("denoising loss (normalised)")


def _draw_error(axes: Any, log: Log) -> None:
    tasks = sorted({key for line in log for key in line if key.startswith("val_mean_abs/")})
    for key, color in zip(tasks, cycle(OF_TASKS), strict=False):
        steps, errors = series(log, key)
        name = key.partition("/")[2]
        axes.plot(steps, errors, color=color, linewidth=1.0, label=name, marker=_dots(steps))
    steps, worst = series(log, "val_max_dim_abs")
    axes.plot(steps, worst, color=GREY, linewidth=1.2, label="worst joint", marker=_dots(steps))
    steps, errors = series(log, "val_mean_abs")
    axes.plot(steps, errors, color=ORANGE, linewidth=1.6, label="mean", marker=_dots(steps))
    best = int(np.argmin(errors))
    if math.isfinite(errors[best]):
        axes.plot(
            steps[best],
            errors[best],
            marker="*",
            color="black",
            markersize=11,
            linestyle="none",
            zorder=5,
            label=f"best: {errors[best]:.4f} rad, step {steps[best]:,.0f}",
        )
    axes.set_ylabel("validation action error (rad)")


def series(log: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines that have the key."""
    points = [(line["step"], line[key]) for line in log if key in line]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A moving mean, without the ends that it cannot reach."""
    width = max(3, round(SMOOTHED_SHARE * len(values)))
    half = width // 2
    kernel = np.full(2 * half + 1, 1 / (2 * half + 1))
    return steps[half : len(steps) - half], np.convolve(values, kernel, mode="valid")


def _dots(steps: np.ndarray) -> str:
    """Markers where few points make a line."""
    return "." if len(steps) <= 20 else ""
