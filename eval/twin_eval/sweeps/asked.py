"""Whether what a sweep's folder holds was made by what the sweep asks for now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twin_env.config import load_env_config
from twin_eval.environments import EnvironmentSpec
from twin_eval.journal import RUN_NAME, JournalError, read_definition
from twin_eval.policies import digest_checkpoint, find_policy
from twin_eval.records import EpisodeRecord
from twin_eval.seed_plan import SEEDS_PER_GROUP
from twin_eval.sweeps.plan import policy_folder, read_played
from twin_eval.sweeps.spec import Sweep, SweepRun
from twin_eval.sweeps.trainings import (
    WEIGHTS,
    changed_keys,
    checkpoint_folder,
    define_run,
    describe_run,
    evaluation_folder,
    run_folder,
)

NOISE_SEED = 0
"""Of all evaluations of a sweep."""


class Asked:
    """What a sweep asks of the runs in `folder`."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep, self._folder = sweep, folder
        self._environments: dict[str, str] = {}
        self.definitions: dict[str, dict[str, Any]] = {
            run.name: define_run(describe_run(sweep, folder, run)) for run in sweep.runs
        }
        """Run to what its training is to be."""

    def training_changes(self, run: SweepRun) -> list[str]:
        """What differs from what the run was trained by, key by key; none if it was not."""
        return changed_keys(run_folder(self._folder, run), self.definitions[run.name])

    def evaluation_changes(self, run: SweepRun) -> list[str]:
        """What differs from what its evaluation was made by; none if nothing was played.

        How many episodes there are does not count: more of them are added to those that are there.
        """
        place = evaluation_folder(self._folder, run)
        played = read_played(self._folder, run)
        if not played:
            return []
        try:
            definition = read_definition(place)
        except (JournalError, OSError):
            return []  # `twinbench eval` will say what is wrong.
        then = _describe(definition, played)
        now = self._asked(run, then)
        return [
            f"{key}: {then[key]!r} there, {now[key]!r} now"
            for key in now
            if key in then and then[key] != now[key]
        ]

    def _asked(self, run: SweepRun, then: Mapping[str, Any]) -> dict[str, Any]:
        """What an evaluation is to be, of the keys in `then`: some cost more than others."""
        sweep = self._sweep
        asked: dict[str, Any] = {
            "task": run.task,
            "config": Path(sweep.config).stem,
            "evaluate.seed": sweep.evaluation_seed,
            "noise seed": NOISE_SEED,
        }
        if policy := _policy_name(sweep, run):
            asked["evaluate.policy"] = policy
        if "contents of config" in then and (digest := self._environment(run.task)):
            asked["contents of config"] = digest
        if "checkpoint" in then and (digest := self._newer_checkpoint(run)):
            asked["checkpoint"] = digest
        return asked

    def _environment(self, task: str) -> str:
        """Digest of the environment config; empty where it cannot be told."""
        if task not in self._environments:
            config = self._sweep.config
            try:
                spec = EnvironmentSpec(
                    task=task, config_name=Path(config).stem, config=load_env_config(config)
                )
                self._environments[task] = spec.fingerprint()["config"]
            except (ValueError, OSError, ImportError, KeyError):
                self._environments[task] = ""
        return self._environments[task]

    def _newer_checkpoint(self, run: SweepRun) -> str:
        """Digest of the run's checkpoint if it changed after the evaluation began; else empty.

        A digest takes as long as reading all weights, so that an older file is taken for the one
        that was evaluated.
        """
        checkpoint = checkpoint_folder(self._folder, run)
        began = (evaluation_folder(self._folder, run) / RUN_NAME).stat().st_mtime_ns
        weights = checkpoint / WEIGHTS
        if not weights.is_file() or weights.stat().st_mtime_ns <= began:
            return ""
        return digest_checkpoint(checkpoint)


def _describe(definition: Mapping[str, Any], played: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """What an evaluation was made by, as far as its folder says."""
    arguments, environment = definition.get("usr_args"), definition.get("environment")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    environment = environment if isinstance(environment, Mapping) else {}
    groups = sorted({record.seed // SEEDS_PER_GROUP - 1 for record in played})
    told = {
        "task": arguments.get("task_name"),
        "config": definition.get("config"),
        "contents of config": environment.get("config"),
        "evaluate.seed": groups[0] if len(groups) == 1 else groups,
        "evaluate.policy": definition.get("policy"),
        "noise seed": definition.get("noise_seed"),
        "checkpoint": definition.get("checkpoint"),
    }
    return {key: value for key, value in told.items() if value is not None}


def _policy_name(sweep: Sweep, run: SweepRun) -> str:
    """Name of the folder that evaluates; empty where there is none."""
    try:
        return find_policy(policy_folder(sweep, run.variant)).name
    except ValueError:
        return ""
