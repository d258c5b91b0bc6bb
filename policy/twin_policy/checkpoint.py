"""A trained policy as a folder: weights, config, normaliser, specs, provenance. No pickle.

Config, normaliser and specs are fixed when a run starts; each save replaces the weights, whose
header holds the digest of the other three, so that files of two runs cannot be mixed unseen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from twin_policy.config import PolicyConfig
from twin_policy.diffusion import DiffusionPolicy
from twin_policy.files import write_atomically, write_text
from twin_policy.normalizer import Normalizer
from twin_policy.parsing import parse, plain, read_yaml
from twin_policy.specs import ActionSpec, ObsSpec

FORMAT_VERSION = 1
WEIGHTS, PROVENANCE = "model.safetensors", "provenance.json"
FIXED = ("config.yaml", "normalizer.json", "specs.json")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy ready to act, and where it comes from."""

    policy: DiffusionPolicy
    """In evaluation mode."""
    obs_spec: ObsSpec
    action_spec: ActionSpec
    provenance: dict[str, Any]


def prepare_checkpoint(
    folder: Path, *, policy: DiffusionPolicy, obs_spec: ObsSpec, action_spec: ActionSpec
) -> None:
    """Writes the files that do not change during a run."""
    specs = {"observation": plain(obs_spec), "action": plain(action_spec)}
    config = {"format_version": FORMAT_VERSION, "policy": plain(policy.config)}
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text(folder / "normalizer.json", json.dumps(policy.normalizer.to_dict(), indent=1))
    write_text(folder / "specs.json", json.dumps(specs, indent=1))


def save_weights(folder: Path, policy: DiffusionPolicy, provenance: dict[str, Any]) -> None:
    """Replaces weights and provenance; a reader sees the old ones or the new ones."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()
    }
    header = {
        "format": "twinbench-policy",
        "format_version": str(FORMAT_VERSION),
        "fixed_files_sha256": _digest(folder),
        "steps": str(provenance.get("steps", "")),
    }
    write_text(folder / PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True))
    write_atomically(folder / WEIGHTS, lambda part: save_file(tensors, str(part), metadata=header))


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Reads a checkpoint folder.

    Raises:
        FileNotFoundError: no such folder.
        CheckpointError: a missing or broken file, another format version, files of two runs,
            weights that do not fit the config.
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
    _check_header(folder)
    config = parse(
        PolicyConfig, stored.get("policy"), source=str(folder / "config.yaml"), prefix="policy"
    )
    specs = _read_json(folder / "specs.json")
    obs_spec, action_spec = (
        parse(kind, specs.get(part), source=str(folder / "specs.json"), prefix=part)
        for kind, part in ((ObsSpec, "observation"), (ActionSpec, "action"))
    )
    assert isinstance(obs_spec, ObsSpec)
    assert isinstance(action_spec, ActionSpec)
    normalizer = _read_normalizer(folder, obs_spec, action_spec)
    policy = DiffusionPolicy(
        config,
        normalizer,
        state_dim=obs_spec.state_dim,
        action_dim=action_spec.dim,
        gripper_dims=action_spec.gripper_dims,
    )
    try:
        policy.load_state_dict(load_file(str(folder / WEIGHTS)))
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit config.yaml: {error}") from error
    policy.to(device).eval().requires_grad_(False)
    return Checkpoint(policy, obs_spec, action_spec, _read_json(folder / PROVENANCE))


def _read_normalizer(folder: Path, obs_spec: ObsSpec, action_spec: ActionSpec) -> Normalizer:
    path = folder / "normalizer.json"
    try:
        normalizer = Normalizer.from_dict(_read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a normaliser: {error!r}") from error
    for kind, part, dim in (
        ("states", normalizer.state, obs_spec.state_dim),
        ("actions", normalizer.action, action_spec.dim),
    ):
        if len(part.scale) != dim:
            raise CheckpointError(
                f"{path}: normalises {kind} of {len(part.scale)} dimensions, specs.json says {dim}"
            )
    return normalizer


def _check_version(folder: Path, version: object) -> None:
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format version {version!r}, this TwinBench reads "
            f"{FORMAT_VERSION}: use the TwinBench that wrote it, or train again"
        )


def _check_header(folder: Path) -> None:
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
