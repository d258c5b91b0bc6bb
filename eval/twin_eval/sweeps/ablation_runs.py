"""What a sweep's folder holds of each of its runs: the training's figures and the episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from twin_eval.journal import RUN_NAME, JournalError
from twin_eval.policies import read_training_progress, read_weights_source
from twin_eval.records import EpisodeRecord
from twin_eval.report.runs import Run, load_runs
from twin_eval.sweeps.asked import Asked
from twin_eval.sweeps.spec import Sweep, SweepRun

RUNS, CHECKPOINT, EVALUATION = "runs", "checkpoint", "eval"
"""Folders of a sweep: `runs/TASK/VARIANT/seedS/` with `checkpoint` and `eval`."""

Scene = tuple[int, int]
"""Seed of the scene, and of the policy's noise on it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of the sweep, as far as it has come."""

    run: SweepRun
    wanted: int
    """Episodes of its evaluation."""
    evaluation: Run | None
    """What was evaluated; None if nothing was."""
    problem: str
    """Why its evaluation cannot be read; empty if it can, or there is none."""
    changes: tuple[str, ...] = ()
    """What the sweep asks for now and the run was not made by: such results are left out."""
    training: str
    """A word on a training that has not finished; else empty."""
    weights: str
    """Where the pretrained network's weights came from; empty if not told."""
    train_seconds: float | None
    """What the training took; None where nothing says so, as below."""
    learning_parameters: int | None
    """Parameters that learnt."""
    action_error_rad: float | None
    """Mean absolute error of sampled actions on the validation windows."""

    @cached_property
    def records(self) -> tuple[EpisodeRecord, ...]:
        """The episodes that count: finished ones, as far as the sweep's plan goes."""
        records = self.evaluation.records if self.evaluation else ()
        return tuple(record for record in records if record.index < self.wanted)

    @property
    def finished(self) -> bool:
        """Whether all episodes of the evaluation are there."""
        return len(self.records) == self.wanted

    @cached_property
    def scored(self) -> dict[Scene, bool]:
        """Success by scene, errors left out."""
        return {
            (record.seed, record.noise_seed): record.outcome == "success"
            for record in self.records
            if record.outcome != "error"
        }

    @property
    def environment(self) -> Mapping[str, Any]:
        """Fingerprint of what it was played in."""
        environment = self.evaluation.definition.get("environment") if self.evaluation else None
        return environment or {}


def read_results(sweep: Sweep, folder: Path) -> list[Result]:
    """Every run of the sweep, in its order; those that have not begun too.

    A run whose settings have changed since is as one that has not begun, and says what changed.
    """
    asked = Asked(sweep, folder)
    return [_read(run, sweep.episodes, folder / RUNS / run.name, asked) for run in sweep.runs]


def _read(run: SweepRun, wanted: int, folder: Path, asked: Asked) -> Result:
    if changes := asked.training_changes(run):
        return _left_out(run, wanted, changes)
    changes = asked.evaluation_changes(run)
    evaluation, problem = None, ""
    if (folder / EVALUATION / RUN_NAME).exists() and not changes:
        try:
            (evaluation,) = load_runs([folder / EVALUATION])
        except (JournalError, ValueError, OSError) as error:
            problem = str(error)
    provenance = _read_provenance(folder / CHECKPOINT)
    parameters, validation = provenance.get("parameters"), provenance.get("validation")
    weights = read_weights_source(folder / CHECKPOINT)
    return Result(
        run=run,
        wanted=wanted,
        evaluation=evaluation,
        problem=problem,
        changes=tuple(changes),
        training=read_training_progress(folder / CHECKPOINT),
        weights=weights or (evaluation.weights if evaluation else ""),
        train_seconds=_number(provenance.get("train_seconds")),
        learning_parameters=(
            parameters.get("learning") if isinstance(parameters, Mapping) else None
        ),
        action_error_rad=(
            _number(validation.get("mean_abs")) if isinstance(validation, Mapping) else None
        ),
    )


def _left_out(run: SweepRun, wanted: int, changes: Sequence[str]) -> Result:
    return Result(
        run=run,
        wanted=wanted,
        evaluation=None,
        problem="",
        changes=tuple(changes),
        training="",
        weights="",
        train_seconds=None,
        learning_parameters=None,
        action_error_rad=None,
    )


def _read_provenance(checkpoint: Path) -> Mapping[str, Any]:
    try:
        values = json.loads((checkpoint / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
