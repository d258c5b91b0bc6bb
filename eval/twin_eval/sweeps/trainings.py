"""What a sweep asks of training: the runs as `train-many` reads them, and what it says of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twin_env.config import config_folder
from twin_env.files import write_text
from twin_eval.sweeps.spec import Sweep, SweepRun

VERSION = 1
RUNS = "runs.json"
ASKED = "asked.json"
"""In a run's folder: what was asked for when it was first trained."""
CARD, WEIGHTS = "card.md", "model.safetensors"
"""In a checkpoint: the card is written when training has ended, after all else."""
FEATURES = "train.features"
NOT_OF_THE_RESULT = (FEATURES, "train.image_cache_mb", "train.wandb")

MOST_HEADER_BYTES = 100_000_000
"""More is no safetensors file."""

TWINBENCH = (sys.executable, "-m", "twin_eval.cli")


@dataclass(frozen=True)
class Tower:
    """Pictures of one task through one frozen backbone."""

    task: str
    backbone: str
    layers: tuple[Any, ...]
    readouts: tuple[str, ...]
    runs: tuple[str, ...]
    """Names of those that learn from its features."""
    pictures: int | None
    """None: nobody knows before the demonstrations are recorded."""
    bytes: int | None
    """Of the features on disk."""
    ready: bool
    """Whether all of them are there."""


@dataclass(frozen=True)
class Training:
    """What is known of a run before it is trained."""

    name: str
    features: bool
    """Whether it learns from stored features."""
    live_backbone: str
    """`frozen`, `tuned` or `none`: what runs in each step."""
    total_steps: int | None
    steps_done: int
    batch_windows: int | None
    learning_parameters: int | None
    backbone: str
    error: str | None
    """Why it cannot be trained."""


@dataclass(frozen=True)
class TrainingPlan:
    """What `train-many --plan` says."""

    towers: tuple[Tower, ...]
    runs: Mapping[str, Training]


def run_folder(folder: Path, run: SweepRun) -> Path:
    """Of all that belongs to a run of the sweep in `folder`."""
    return folder / "runs" / run.name


def checkpoint_folder(folder: Path, run: SweepRun) -> Path:
    """What training writes."""
    return run_folder(folder, run) / "checkpoint"


def evaluation_folder(folder: Path, run: SweepRun) -> Path:
    """What `twinbench eval` writes."""
    return run_folder(folder, run) / "eval"


def data_folder(sweep: Sweep, task: str) -> Path:
    """What the sweep says, or where `twinbench collect` puts demonstrations."""
    if sweep.data is not None:
        return Path(sweep.data.replace("{task}", task))
    return Path("outputs") / "data" / task / Path(sweep.config).stem


def count_demonstrations(sweep: Sweep, task: str) -> int:
    """How many episodes are there."""
    folder = data_folder(sweep, task)
    return sum(len(list(place.glob("episode*.hdf5"))) for place in (folder, folder / "data"))


def describe_run(sweep: Sweep, folder: Path, run: SweepRun) -> dict[str, Any]:
    """A run as `train-many` reads it."""
    return {
        "name": run.name,
        "task": run.task,
        "policy": run.variant.policy,
        "set": {**run.variant.settings, "train.seed": run.seed},
        "data": str(data_folder(sweep, run.task)),
        "env_config": sweep.config,
        "episodes": sweep.demonstrations,
        "out": str(checkpoint_folder(folder, run)),
    }


def plan_trainings(
    sweep: Sweep,
    folder: Path,
    runs: Iterable[SweepRun],
    path: Path,
    *,
    command: Sequence[str] = TWINBENCH,
) -> tuple[TrainingPlan, list[dict[str, Any]]]:
    """What training says of the runs, and the runs as it was given them in the file `path`.

    Where a run does not say whether it learns from stored features, it does if it can.

    Raises:
        ValueError: training says of no run what it would do.
    """
    entries = [describe_run(sweep, folder, run) for run in runs]
    found = ask(entries, path, command=command)
    frozen = {
        entry["name"]
        for entry in entries
        if FEATURES not in entry["set"]
        and found.runs[entry["name"]].error is None
        and found.runs[entry["name"]].live_backbone == "frozen"
    }
    while frozen:
        chosen = [_with_features(entry) if entry["name"] in frozen else entry for entry in entries]
        found = ask(chosen, path, command=command)
        refused = {name for name in frozen if found.runs[name].error is not None}
        if not refused:
            return found, chosen
        frozen -= refused
        if not frozen:
            found = ask(entries, path, command=command)
    return found, entries


def _with_features(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "set": {**entry["set"], FEATURES: "auto"}}


def ask(
    entries: Sequence[Mapping[str, Any]], path: Path, *, command: Sequence[str] = TWINBENCH
) -> TrainingPlan:
    """Writes the runs to `path`, and reads what `train-many --plan` says of them.

    Raises:
        ValueError: it ends with an error, or leaves a run out.
    """
    write_text(path, json.dumps({"version": VERSION, "runs": list(entries)}, indent=1) + "\n")
    words = [*command, "train-many", str(path), "--plan"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(
            f"`twinbench train-many {path} --plan` failed: {said[-1].removeprefix('error: ')}"
        )
    plan = _read_plan(json.loads(done.stdout[done.stdout.index("{") :]))
    if missing := [entry["name"] for entry in entries if entry["name"] not in plan.runs]:
        raise ValueError(f"`twinbench train-many {path} --plan` says nothing of {missing[0]}")
    return plan


def _read_plan(values: Mapping[str, Any]) -> TrainingPlan:
    """What it says besides is left to others."""
    towers = tuple(
        Tower(
            task=tower["task"],
            backbone=tower["backbone"],
            layers=tuple(tower["layers"]),
            readouts=tuple(tower["readouts"]),
            runs=tuple(tower["runs"]),
            pictures=tower["pictures"],
            bytes=tower["bytes"],
            ready=tower["ready"],
        )
        for tower in values["towers"]
    )
    runs = {
        run["name"]: Training(
            name=run["name"],
            features=bool(run["features"]),
            live_backbone=str(run["live_backbone"]),
            total_steps=run["total_steps"],
            steps_done=run["steps_done"] or 0,
            batch_windows=run["batch_windows"],
            learning_parameters=run["learning_parameters"],
            backbone=run["backbone"] or "",
            error=run["error"],
        )
        for run in values["runs"]
    }
    return TrainingPlan(towers, runs)


# What a run was asked to be -------------------------------------------------------------------


def define_run(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what comes of a run's training: its entry, and the config it starts from."""
    return {
        "task": entry["task"],
        "policy": entry["policy"],
        "episodes": entry["episodes"],
        "env_config": entry["env_config"],
        "set": {key: value for key, value in entry["set"].items() if key not in NOT_OF_THE_RESULT},
        "base": _read_base(str(entry["policy"])),
    }


def digest(definition: Mapping[str, Any]) -> str:
    """12 hex digits over a definition."""
    text = json.dumps(definition, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_definition(folder: Path, definition: Mapping[str, Any]) -> None:
    """Keeps what the run in `folder` is asked to be."""
    write_text(folder / ASKED, json.dumps(definition, indent=1, default=str) + "\n")


def changed_keys(folder: Path, definition: Mapping[str, Any]) -> list[str]:
    """What of a definition differs from what the run in `folder` was trained by; none if it
    was not."""
    begun = (folder / "checkpoint" / "training_state").exists()
    if not (begun or (folder / "checkpoint" / "provenance.json").exists()):
        return []
    try:
        before = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    now = _flat(json.loads(json.dumps(definition, default=str)))
    then = _flat(before)
    return [
        f"{key}: {then.get(key, 'nothing')!r} there, {now.get(key, 'nothing')!r} now"
        for key in sorted({*now, *then})
        if now.get(key) != then.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to what is no mapping."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_base(policy: str) -> dict[str, Any]:
    """The policy config that a run starts from; empty where training will say what is wrong."""
    path = Path(policy)
    if path.suffix not in {".yaml", ".yml"}:
        path = config_folder() / "policies" / f"{policy}.yaml"
    try:
        base = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    own = [key.removeprefix("train.") for key in NOT_OF_THE_RESULT]
    train = {key: value for key, value in dict(base.get("train") or {}).items() if key not in own}
    return {**base, "train": train}


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """Empty if there is none."""
    try:
        return dict(json.loads((checkpoint / "provenance.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def lacks(checkpoint: Path, total: int | None) -> str:
    """What a checkpoint lacks of a training of so many steps; empty if it is finished.

    As `train-many` tells it, and by the weights themselves: those of an earlier save are no result.
    """
    steps = read_provenance(checkpoint).get("steps")
    if total is None or steps != total:
        return f"{steps or 0} of {total or 'unknown'} steps are trained"
    if not (checkpoint / CARD).is_file():
        return f"{CARD} is missing, which ends a training"
    if (written := read_weights_steps(checkpoint)) != str(total):
        return f"{WEIGHTS} is of step {written or 'unknown'}, not {total}"
    return ""


def read_weights_steps(checkpoint: Path) -> str:
    """The step that a checkpoint's weights are of, as their header says; empty if unknown.

    A safetensors file begins with 8 bytes, little-endian: the length of the JSON that follows.
    """
    try:
        with (checkpoint / WEIGHTS).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MOST_HEADER_BYTES:
                return ""
            header = json.loads(stream.read(length))
        return str(header["__metadata__"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
