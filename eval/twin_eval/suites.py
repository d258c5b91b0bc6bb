"""What the user asks to have compared: tasks, configs and policies, from a YAML file or words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from twin_env.config import config_folder
from twin_env.names import unknown
from twin_eval.journal import is_set_aside

SUITE_KEYS = ("tasks", "configs", "episodes", "seed", "policies")
POLICY_KEYS = ("label", "policy", "checkpoint", "set")


@dataclass(frozen=True, kw_only=True)
class PolicyChoice:
    """One policy of a comparison."""

    label: str
    """How tables and folders call it."""
    policy: str
    """Name of a folder in `policy/`, or a path to one."""
    checkpoint: str | None = None
    """Its checkpoint, `{task}` standing for the task; None for the default one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of its `deploy_policy.yml`."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks and configs that belong together, and perhaps the policies to compare on them."""

    name: str
    tasks: tuple[str, ...]
    configs: tuple[str, ...] = ("demo_clean",)
    episodes: int | None = None
    seed: int | None = None
    policies: tuple[PolicyChoice, ...] = ()


def parse_policy(word: str) -> PolicyChoice:
    """`[LABEL=]POLICY[@CHECKPOINT]`; without a label, the folder's name is it.

    Raises:
        ValueError: if the word is empty or the label could not name a folder.
    """
    head, _, checkpoint = word.partition("@")
    label, equals, policy = head.rpartition("=")
    choice = PolicyChoice(
        label=label if equals else Path(policy).name,
        policy=policy,
        checkpoint=checkpoint or None,
    )
    if not policy:
        raise ValueError(f"a policy is given as [LABEL=]POLICY[@CHECKPOINT]: got {word!r}")
    _check_label(choice.label)
    return choice


def load_suite(name_or_path: str) -> Suite:
    """The suite at a path, here or below `task_configs/`; its name is the file's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, or a value of the wrong kind.
    """
    path = _find(name_or_path)
    values = read_mapping(path)
    for key in values:
        if key not in SUITE_KEYS:
            raise unknown(f"key of {path}", key, SUITE_KEYS)
    suite = Suite(
        name=path.stem,
        tasks=_names(path, values, "tasks"),
        configs=_names(path, values, "configs") if "configs" in values else ("demo_clean",),
        episodes=_whole(path, values, "episodes", least=1),
        seed=_whole(path, values, "seed", least=0),
        policies=tuple(_policy(path, entry) for entry in _list(path, values, "policies")),
    )
    check_labels(suite.policies)
    return suite


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must map keys to values: got {type(values).__name__}")
    return values


def check_labels(policies: Sequence[PolicyChoice]) -> None:
    """Raises ValueError if two policies would be called the same."""
    labels = [choice.label for choice in policies]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"two policies are called {label!r}: give each a label of its own, "
                f"LABEL={label}@CHECKPOINT"
            )


def _find(name_or_path: str) -> Path:
    name = Path(name_or_path)
    places = [name, config_folder() / name, config_folder() / "suites" / f"{name}.yaml"]
    for place in places:
        if place.is_file():
            return place
    known = sorted(path.stem for path in (config_folder() / "suites").glob("*.yaml"))
    raise FileNotFoundError(f"there is no suite {name_or_path}; suites here: {', '.join(known)}")


def _names(path: Path, values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = values.get(key)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{path}: {key} must be a list of names: got {names!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {key} names something twice: {names}")
    return tuple(names)


def _list(path: Path, values: Mapping[str, Any], key: str) -> list[Any]:
    entries = values.get(key) or []
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {key} must be a list: got {entries!r}")
    return entries


def _whole(path: Path, values: Mapping[str, Any], key: str, *, least: int) -> int | None:
    number = values.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{path}: {key} must be a whole number of at least {least}: got {number}")
    return number


def _policy(path: Path, entry: Any) -> PolicyChoice:
    if isinstance(entry, str):
        return parse_policy(entry)
    if not isinstance(entry, dict) or "policy" not in entry:
        raise ValueError(
            f"{path}: a policy is a word or a mapping with `policy`, and perhaps label, "
            f"checkpoint and set: got {entry!r}"
        )
    for key in entry:
        if key not in POLICY_KEYS:
            raise unknown(f"key of a policy in {path}", key, POLICY_KEYS)
    checkpoint, settings = entry.get("checkpoint"), entry.get("set") or {}
    if not (checkpoint is None or isinstance(checkpoint, str)):
        raise ValueError(f"{path}: a checkpoint is a path: got {checkpoint!r}; put it in quotes")
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: set must map settings to values: got {settings!r}")
    label = str(entry.get("label") or Path(entry["policy"]).name)
    _check_label(label)
    return PolicyChoice(
        label=label,
        policy=str(entry["policy"]),
        checkpoint=checkpoint,
        settings=settings,
    )


def _check_label(label: str) -> None:
    if not label or label in {".", ".."} or "/" in label or is_set_aside(label):
        raise ValueError(
            f"a policy's label names a folder, and must not end in .aside and a number: "
            f"got {label!r}; give LABEL=POLICY"
        )
