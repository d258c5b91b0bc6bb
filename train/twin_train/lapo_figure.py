"""The picture of a LAPO run: losses, values against returns, the latent space, action errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twin_policy.files import write_atomically
from twin_policy.lapo_config import LapoConfig
from twin_train.figure import BLUE, GREY, ORANGE, series, smoothed

GREEN, PINK = "#009E73", "#CC79A7"


def draw_lapo(log: list[dict[str, float]], path: Path, *, title: str, lapo: LapoConfig) -> None:
    """Draws a run's log (`twin_train.log`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 2)
    _lines(panels[0][0], log, (("vae_loss", "VAE", BLUE), ("critic_loss", "critic", ORANGE)))
    panels[0][0].set(ylabel="loss (normalised)", yscale="log")
    values = (
        ("val_v_success", "V, episodes that succeed", GREEN),
        ("val_v_failure", "V, episodes that fail", PINK),
        ("v", "V in training", GREY),
    )
    _lines(panels[0][1], log, values)
    for bound in (lapo.min_v, lapo.max_v):
        panels[0][1].axhline(bound, color="black", linewidth=0.8, linestyle=":")
    panels[0][1].set(ylabel="value (dotted: its bounds)")
    shares = (
        ("better", "actions better than expected", BLUE),
        ("clamped", "targets beyond the bounds", ORANGE),
    )
    _lines(panels[1][0], log, shares)
    panels[1][0].set(ylabel="share", ylim=(-0.02, 1.02))
    twin = panels[1][0].twinx()
    twin.plot(*series(log, "val_active_units"), color=GREEN, linewidth=1.6, marker=".")
    twin.set_ylabel(f"active latent units of {lapo.latent_dim}", color=GREEN)
    twin.set_ylim(-0.02 * lapo.latent_dim, 1.02 * lapo.latent_dim)
    twin.spines[["top"]].set_visible(False)
    errors = [
        ("val_mean_abs", f"acting by: {lapo.act_with}", BLUE),
        ("val_prior_mean_abs", "the prior's mean", ORANGE),
    ]
    _lines(panels[1][1], log, errors[1:] if lapo.act_with == "prior_mean" else errors)
    panels[1][1].set(ylabel="distance from successes' actions (rad)", ylim=(0, None))
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25, linewidth=0.6)
        panel.set_xlim(left=0)
        if panel.get_legend_handles_labels()[0]:
            # The latent units are on an axis of their own, which `best` would not look at.
            place = "center right" if panel is panels[1][0] else "best"
            panel.legend(frameon=False, fontsize=9, loc=place)
    for panel in panels[1]:
        panel.set_xlabel("step")
    figure.suptitle(title, fontsize=11)
    write_atomically(path, lambda part: figure.savefig(part, dpi=150))


def _lines(panel: Any, log: list[dict[str, float]], named: Sequence[tuple[str, str, str]]) -> None:
    for key, label, color in named:
        steps, values = series(log, key)
        if len(steps) > 20:
            steps, values = smoothed(steps, values)
        if len(steps):
            marker = "." if len(steps) <= 20 else ""
            panel.plot(steps, values, color=color, linewidth=1.6, label=label, marker=marker)
