"""The cells of an ablation table: a variant on a task, its training seeds taken together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from twin_eval.report.comparison import ALL_TASKS
from twin_eval.statistics import clustered_rate_interval, mean_interval
from twin_eval.sweeps.ablation_runs import Result, Scene
from twin_eval.sweeps.spec import Sweep, Variant

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AblationCell:
    """A variant on a task, or on all tasks together."""

    variant: Variant
    task: str
    """Its name, or `all tasks`: the mean over tasks, once each has a rate."""
    rate: float | None
    """Successes of the scored episodes; None if there are none."""
    low: float
    """Lower end of the interval, for these trainings on scenes like these."""
    high: float
    n: int
    """Scored episodes, of all trainings."""
    successes: int
    errors: int
    """Episodes that crashed, beside the `n`."""
    seed_rates: tuple[tuple[int, float], ...]
    """Training seed and its rate, where there is one."""
    trainings: int
    """Training seeds that the sweep asks for."""
    finished_seeds: tuple[int, ...]
    """Training seeds whose evaluation is complete (on every task)."""
    train_seconds: float | None
    """Mean of the trainings, as all below; None where nothing is known."""
    inference_ms: float | None
    """Wall time of the policy for each action taken, milliseconds."""
    learning_parameters: int | None
    action_error_rad: float | None
    """Of sampled actions on the validation windows."""
    weights: str
    """Where the pretrained network's weights came from; empty if not told."""

    @property
    def lowest(self) -> float | None:
        """Rate of the worst training seed."""
        return min((rate for _, rate in self.seed_rates), default=None)

    @property
    def highest(self) -> float | None:
        """Rate of the best training seed."""
        return max((rate for _, rate in self.seed_rates), default=None)

    @property
    def finished(self) -> int:
        """How many training seeds are complete."""
        return len(self.finished_seeds)

    @property
    def complete(self) -> bool:
        """Whether all that the sweep asks for is there."""
        return self.finished == self.trainings


def make_cells(
    sweep: Sweep, results: Sequence[Result], *, confidence: float = 0.95
) -> list[AblationCell]:
    """All variants on all tasks, then on all tasks together where there are several."""
    by_cell: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_cell.setdefault((result.run.task, result.run.variant.label), []).append(result)
    cells = []
    for variant in sweep.variants:
        ours = [
            _make_cell(variant, task, by_cell[task, variant.label], confidence)
            for task in sweep.tasks
        ]
        cells += [*ours, _pool(ours)] if len(ours) > 1 else ours
    return cells


def _make_cell(
    variant: Variant, task: str, results: Sequence[Result], confidence: float
) -> AblationCell:
    scenes: dict[Scene, list[bool]] = {}
    for result in results:
        for scene, won in result.scored.items():
            scenes.setdefault(scene, []).append(won)
    n = sum(map(len, scenes.values()))
    successes = sum(map(sum, scenes.values()))
    low, high = clustered_rate_interval(
        [sum(won) for won in scenes.values()],
        [len(won) for won in scenes.values()],
        confidence=confidence,
    )
    records = [record for result in results for record in result.records]
    thinking = [record for record in records if record.steps and "policy" in record.times]
    steps = sum(record.steps for record in thinking)
    seconds = sum(record.times["policy"][0] for record in thinking)
    return AblationCell(
        variant=variant,
        task=task,
        rate=successes / n if n else None,
        low=low,
        high=high,
        n=n,
        successes=successes,
        errors=len(records) - n,
        seed_rates=tuple(
            (result.run.seed, fmean(result.scored.values())) for result in results if result.scored
        ),
        trainings=len(results),
        finished_seeds=tuple(result.run.seed for result in results if result.finished),
        train_seconds=_mean(result.train_seconds for result in results),
        inference_ms=1000 * seconds / steps if steps else None,
        learning_parameters=_first(result.learning_parameters for result in results),
        action_error_rad=_mean(result.action_error_rad for result in results),
        weights=_first(result.weights or None for result in results) or "",
    )


def _pool(cells: Sequence[AblationCell]) -> AblationCell:
    """The mean over tasks, each counting the same; without a rate until every task has one."""
    rates = [cell.rate for cell in cells if cell.rate is not None]
    whole = len(rates) == len(cells)
    intervals = [(cell.low, cell.high) for cell in cells]
    low, high = mean_interval(rates, intervals) if whole else (0.0, 1.0)
    by_task = [dict(cell.seed_rates) for cell in cells]
    seeds = [seed for seed in by_task[0] if all(seed in each for each in by_task)]
    return AblationCell(
        variant=cells[0].variant,
        task=ALL_TASKS,
        rate=fmean(rates) if whole else None,
        low=low,
        high=high,
        n=sum(cell.n for cell in cells),
        successes=sum(cell.successes for cell in cells),
        errors=sum(cell.errors for cell in cells),
        seed_rates=tuple((seed, fmean(each[seed] for each in by_task)) for seed in seeds),
        trainings=cells[0].trainings,
        finished_seeds=tuple(
            seed
            for seed in cells[0].finished_seeds
            if all(seed in cell.finished_seeds for cell in cells)
        ),
        train_seconds=_mean(cell.train_seconds for cell in cells),
        inference_ms=_mean(cell.inference_ms for cell in cells),
        learning_parameters=_first(cell.learning_parameters for cell in cells),
        action_error_rad=_mean(cell.action_error_rad for cell in cells),
        weights=_first(cell.weights or None for cell in cells) or "",
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
