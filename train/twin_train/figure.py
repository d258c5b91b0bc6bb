"""The picture of a training run: loss and sampled-action error over the steps."""

from __future__ import annotations

from pathlib import Path

from twin_policy.files import write_atomically


def draw_losses(log: list[dict[str, float]], path: Path, *, title: str) -> None:
    """Draws the lines of a training log to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, series in (
        (left, {"loss": "training loss", "val_loss": "validation loss"}),
        (right, {"val_mean_abs": "mean over joints", "val_max_dim_abs": "worst joint"}),
    ):
        for key, label in series.items():
            points = [(line["step"], line[key]) for line in log if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." * (len(points) < 9))
        axes.set_xlabel("step")
        axes.set_yscale("log")
        if axes.lines:
            axes.legend(frameon=False)
    left.set_ylabel("normalised squared error")
    right.set_ylabel("sampled-action error on validation (rad)")
    figure.suptitle(title)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120))
