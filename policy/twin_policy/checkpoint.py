"""A trained policy as a folder: weights, config, normalisers, specs, provenance. No pickle.

Config, normalisers and specs are fixed when a run starts; each save replaces the weights, whose
header holds the digest of the other three, so that files of two runs cannot be mixed unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from twin_policy.config import PolicyConfig
from twin_policy.diffusion import ChunkPolicy
from twin_policy.files import write_atomically, write_text
from twin_policy.names import unknown
from twin_policy.normalizer import Normalizer
from twin_policy.parsing import differences, parse, plain, read_yaml
from twin_policy.policies import TaskSpec, create_policy, statistics_group
from twin_policy.specs import TaskEntry

FORMAT_VERSION = 2
WEIGHTS, PROVENANCE = "model.safetensors", "provenance.json"
FIXED = ("config.yaml", "normalizer.json", "specs.json")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy ready to act, and where it comes from."""

    policy: ChunkPolicy
    """In evaluation mode."""
    tasks: Mapping[str, TaskEntry]
    """What it was trained on, and what it sees and gives there."""
    provenance: dict[str, Any]

    def entry(self, task: str | None = None) -> TaskEntry:
        """Of the task named, or of the only one there is.

        A policy without tasks (`kind: joint`) does for any name: what it sees and gives counts.

        Raises:
            ValueError: none of the tasks, with the nearest match; none named of several.
        """
        if len(self.tasks) == 1 and (not task or self.policy.config.action_space.kind == "joint"):
            (only,) = self.tasks.values()
            return only
        if not task or task not in self.tasks:
            raise unknown("task", task or "", self.tasks)
        return self.tasks[task]


def prepare_checkpoint(
    folder: Path, *, policy: ChunkPolicy, tasks: Mapping[str, TaskEntry]
) -> None:
    """Writes the files that do not change during a run."""
    specs = {"tasks": {task: plain(entry) for task, entry in tasks.items()}}
    normalizers = {
        _group(policy.config, task, entry): policy.joints_of(task).normalizer.to_dict()
        for task, entry in tasks.items()
    }
    config = {"format_version": FORMAT_VERSION, "policy": plain(policy.config)}
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text(folder / "normalizer.json", json.dumps(normalizers, indent=1))
    write_text(folder / "specs.json", json.dumps(specs, indent=1))


def is_prepared(folder: Path) -> bool:
    """Whether weights are there that belong to the files that do not change."""
    files = [folder / name for name in (*FIXED, WEIGHTS)]
    if not all(file.is_file() for file in files):
        return False
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            return (file.metadata() or {}).get("fixed_files_sha256") == _digest(folder)
    except Exception:  # noqa: BLE001 safetensors' own errors derive from Exception alone
        return False


def _group(config: PolicyConfig, task: str, entry: TaskEntry) -> str:
    return statistics_group(config, task, entry.action_spec.layout, entry.embodiment)


def save_weights(folder: Path, policy: ChunkPolicy, provenance: dict[str, Any]) -> None:
    """Replaces weights, then provenance: what the provenance says was trained is there.

    Stopped between the two, the folder is refused until it is saved again.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in policy.deployable_state().items()
    }
    header = {
        "format": "twinbench-policy",
        "format_version": str(FORMAT_VERSION),
        "fixed_files_sha256": _digest(folder),
        "steps": str(provenance.get("steps", "")),
    }
    write_atomically(folder / WEIGHTS, lambda part: save_file(tensors, str(part), metadata=header))
    write_text(folder / PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True))


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Reads a checkpoint folder.

    Raises:
        FileNotFoundError: no such folder.
        CheckpointError: a missing or broken file, another format version, files of two runs or
            of two saves, weights that do not fit the config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {folder}")
    for name in (*FIXED, PROVENANCE, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: not a whole checkpoint: {name} is missing: make one with "
                f"`bash train.sh TASK POLICY --out {folder}`"
            )
    stored = read_yaml(folder / "config.yaml")
    _check_version(folder, stored.get("format_version"))
    provenance = _read_json(folder / PROVENANCE)
    _check_header(folder, steps=str(provenance.get("steps", "")))
    config = parse(
        PolicyConfig, stored.get("policy"), source=str(folder / "config.yaml"), prefix="policy"
    )
    tasks = _read_tasks(folder, config)
    normalizers = _read_normalizers(folder, config, tasks)
    specs = {
        task: TaskSpec(entry.action_spec.layout, normalizers[task], entry.embodiment)
        for task, entry in tasks.items()
    }
    # Fresh weights, soon replaced, take nothing from the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        try:
            policy = create_policy(config, specs)
        except ValueError as error:
            raise CheckpointError(f"{folder / 'config.yaml'}: {error}") from error
    try:
        policy.load_state_dict(load_file(str(folder / WEIGHTS)))
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit config.yaml: {error}") from error
    policy.to(device).eval().requires_grad_(False)
    return Checkpoint(policy, tasks, provenance)


def _read_tasks(folder: Path, config: PolicyConfig) -> dict[str, TaskEntry]:
    path = folder / "specs.json"
    stored = _read_json(path).get("tasks")
    if not isinstance(stored, dict) or not stored:
        raise CheckpointError(f"{path}: must hold at least one task under 'tasks'")
    tasks = {
        task: parse(TaskEntry, entry, source=str(path), prefix=f"tasks.{task}")
        for task, entry in stored.items()
    }
    for task, entry in tasks.items():
        expected = TaskEntry.describe(
            config,
            layout=entry.action_spec.layout,
            cameras=entry.obs_spec.cameras,
            embodiment=entry.embodiment,
        )
        changed = differences(plain(expected), plain(entry), task)
        changed += differences(sorted(config.cameras), sorted(entry.obs_spec.cameras), "cameras")
        if changed:
            raise CheckpointError(f"{path}: does not fit config.yaml: {'; '.join(changed)}")
    return tasks


def _read_normalizers(
    folder: Path, config: PolicyConfig, tasks: Mapping[str, TaskEntry]
) -> dict[str, Normalizer]:
    """The normaliser of each task; tasks of a statistics group get the same one."""
    path = folder / "normalizer.json"
    stored = _read_json(path)
    groups: dict[str, Normalizer] = {}
    for task, entry in tasks.items():
        group = _group(config, task, entry)
        try:
            groups.setdefault(group, Normalizer.from_dict(stored[group]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {group}: not a normaliser: {error!r}") from error
        for kind, part, dim in (
            ("states", groups[group].state, entry.obs_spec.state_dim),
            ("actions", groups[group].action, entry.action_spec.dim),
        ):
            if len(part.scale) != dim:
                raise CheckpointError(
                    f"{path}: {group}: normalises {kind} of {len(part.scale)} dimensions, "
                    f"specs.json says {dim} for {task}"
                )
    return {task: groups[_group(config, task, entry)] for task, entry in tasks.items()}


def _check_version(folder: Path, version: object) -> None:
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format version {version!r}, this TwinBench reads "
            f"{FORMAT_VERSION}: use the TwinBench that wrote it, or train again"
        )


def _check_header(folder: Path, *, steps: str) -> None:
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            header = file.metadata() or {}
    except Exception as error:  # safetensors' own errors derive from Exception alone
        raise CheckpointError(f"{folder / WEIGHTS}: not a whole file: {error}") from error
    if header.get("format") != "twinbench-policy":
        raise CheckpointError(f"{folder / WEIGHTS}: not written by TwinBench")
    if header.get("fixed_files_sha256") != _digest(folder):
        raise CheckpointError(
            f"{folder}: {', '.join(FIXED)} are not those that these weights were trained with"
        )
    written = header.get("steps")  # Not of each checkpoint known.
    if written and written != steps:
        raise CheckpointError(
            f"{folder}: {WEIGHTS} is of step {written}, {PROVENANCE} of step {steps or 'unknown'}: "
            "a save was cut short: run the same training again, which goes on from its last whole "
            "save"
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in FIXED:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: must hold an object")
    return loaded
