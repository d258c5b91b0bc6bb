"""Synthetic episodes and run folders for the tests of tables, figures and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twin_eval.records import EpisodeRecord, Outcome, record_to_dict

STAGES = ("grasped", "lifted", "over the block", "struck")
STEP_LIM = 60


def make_record(index: int = 0, outcome: Outcome = "success", **changes: Any) -> EpisodeRecord:
    """An episode of task `reach_number` by policy `scripted`, with `changes`."""
    values: dict[str, Any] = {
        "session": "20260101T000000Z-abc123",
        "task": "reach_number",
        "config": "demo_clean",
        "policy": "scripted",
        "checkpoint": "none",
        "index": index,
        "seed": 100_000 + index,
        "noise_seed": 100_000 + index,
        "outcome": outcome,
        "reason": "" if outcome == "success" else "because, of\nthis",
        "steps": 10,
        "clamped_actions": 2,
        "success_step": 10 if outcome == "success" else None,
        "instruction": "reach",
        "actions_digest": "0123456789abcdef",
        "times": {"setup": [0.2, 0.1], "action": [0.3, 0.2]},
        "attempts": 1,
        "video": "",
    }
    return EpisodeRecord(**{**values, **changes})


def make_cell(
    task: str, policy: str, rate: float, *, n: int = 40, errors: int = 0, **changes: Any
) -> list[EpisodeRecord]:
    """`n` episodes of a made-up policy: the same scenes for all, luck by policy and task.

    The first of the `errors` errors is episode 3; they are ten apart.
    """
    luck = np.random.default_rng([ord(letter) for letter in f"{task} {policy}"])
    records = []
    for index in range(n):
        scene = np.random.default_rng(index)
        place = [float(value) for value in scene.uniform((-0.25, -0.1), (0.25, 0.12))]
        won = bool(luck.uniform() < rate)
        fast = int(luck.integers(20, STEP_LIM))
        reached = len(STAGES) if won else int(luck.integers(0, len(STAGES)))
        broken = index % 10 == 3 and index < 10 * errors
        outcome: Outcome = "error" if broken else "success" if won else "failure"
        values: dict[str, Any] = {
            "task": task,
            "policy": policy,
            "steps": fast if won and not broken else STEP_LIM,
            "success_step": fast if won and not broken else None,
            "stages": STAGES,
            "stages_reached": 0 if broken else reached,
            "layout": {"block": [*place, 0.76], "hammer": [0.0, -0.06, 0.78]},
            "instruction": f"strike the block, way {index % 5}",
            "reason": {"success": "", "failure": "step limit", "error": "the worker died"}[outcome],
        }
        records.append(make_record(index, outcome, **{**values, **changes}))
    return records


def write_run(
    folder: Path,
    records: Sequence[EpisodeRecord],
    *,
    planned: int | None = None,
    environment: Mapping[str, str] | None = None,
    session: Mapping[str, Any] | None = None,
    definition: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder with these episodes, as an evaluation leaves it."""
    folder.mkdir(parents=True)
    definition = {
        "environment": dict(
            environment or {"task": records[0].task if records else "", "sapien": "3"}
        ),
        "policy": records[0].policy if records else "",
        "label": records[0].policy if records else "",
        "usr_args": {"instruction_type": "unseen"},
        "checkpoint": "none",
        "noise_seed": 0,
        **(definition or {}),
    }
    text = json.dumps({"definition": definition, "planned": planned or len(records)})
    (folder / "run.json").write_text(text)
    start = {
        "kind": "session",
        "session": "20260101T000000Z-abc123",
        "started": "2026-01-01T00:00:00+00:00",
        "host": "bench",
        "platform": "Linux",
        "cores": 2,
        "python": "3.11.2",
        "versions": {"numpy": "2.0", "sapien": "3.0.3"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "command": ["twinbench", "eval", "reach_number", "scripted"],
        "checkpoint_path": None,
        "training": "",
        "policy_git": {},
        **(session or {}),
    }
    lines = [start, *({"kind": "episode", **record_to_dict(record)} for record in records)]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
