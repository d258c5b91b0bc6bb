"""The ablation as CSV: cells, comparisons and episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from twin_eval.report.tables import EPISODE_COLUMNS, csv_text, episode_row
from twin_eval.sweeps.ablation_comparisons import AblationComparison
from twin_eval.sweeps.ablation_runs import Result
from twin_eval.sweeps.ablation_tables import Ablation

COLUMNS = (
    "task",
    "rate",
    "low",
    "high",
    "n",
    "successes",
    "errors",
    "trainings",
    "finished",
    "lowest_seed_rate",
    "highest_seed_rate",
    "seed_rates",
    "mark",
    "train_seconds",
    "inference_ms",
    "learning_parameters",
    "action_error_rad",
    "weights",
)


def ablation_csv(ablation: Ablation) -> str:
    """One line for each variant and task; a column for each axis of the grid."""
    taken = {"variant", *COLUMNS}
    axes = {axis: f"axis {axis}" if axis in taken else axis for axis in ablation.sweep.axes}
    rows = []
    for cell in ablation.cells:
        row = {
            **{name: getattr(cell, name) for name in COLUMNS if hasattr(cell, name)},
            **{axes[axis]: value for axis, value in cell.variant.values.items()},
            "variant": cell.variant.label,
            "lowest_seed_rate": cell.lowest,
            "highest_seed_rate": cell.highest,
            "seed_rates": "; ".join(f"{seed}: {rate:.4f}" for seed, rate in cell.seed_rates),
            "mark": ablation.marks.get((cell.variant.label, cell.task), ""),
        }
        rows.append(_rounded(row))
    return csv_text(["variant", *axes.values(), *COLUMNS], rows)


def comparisons_csv(comparisons: Iterable[AblationComparison]) -> str:
    """One line for each comparison, all fields."""
    columns = [field.name for field in fields(AblationComparison)]
    return csv_text(columns, [_rounded(asdict(one)) for one in comparisons])


def sweep_episodes_csv(results: Iterable[Result]) -> str:
    """One line for each episode, with its variant and the seed of the training."""
    place = EPISODE_COLUMNS.index("policy") + 1
    columns = [*EPISODE_COLUMNS[:place], "variant", "training_seed", *EPISODE_COLUMNS[place:]]
    rows = [
        {
            **episode_row(record),
            "variant": result.run.variant.label,
            "training_seed": result.run.seed,
        }
        for result in results
        for record in result.records
    ]
    return csv_text(columns, rows)


def _rounded(row: Mapping[str, object]) -> dict[str, object]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
