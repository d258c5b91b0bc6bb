"""What a sweep is: a YAML with a base and a grid, and the trainings that it asks for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin_env.config import config_folder
from twin_env.names import unknown
from twin_eval.suites import read_mapping

KEYS = (
    "question",
    "policy",
    "tasks",
    "config",
    "data",
    "demonstrations",
    "seeds",
    "set",
    "grid",
    "baseline",
    "evaluate",
)
EVALUATE_KEYS = ("policy", "episodes", "seed")
SEPARATOR = ","


@dataclass(frozen=True)
class Variant:
    """One way to train a policy: a point of the grid."""

    label: str
    """What tables and folders call it, such as `clip_layer=3,feature_dim=64`."""
    values: Mapping[str, str]
    """Axis to what its value is called."""
    policy: str
    """The policy config that it starts from: a name or a path."""
    settings: Mapping[str, Any]
    """Dotted keys of the policy config to the values they are set to."""


@dataclass(frozen=True)
class SweepRun:
    """One training of a variant, and the evaluation of what came of it."""

    variant: Variant
    task: str
    seed: int
    """Of the training."""

    @property
    def name(self) -> str:
        """Its folder below the sweep's `runs`."""
        return f"{self.task}/{self.variant.label}/seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that is to be trained, evaluated and compared."""

    name: str
    question: str
    """What the reader wants to know; the title of the table."""
    tasks: tuple[str, ...]
    config: str
    """Environment config of the demonstrations and of the evaluation."""
    data: str | None
    """Folder of episodes instead of recorded demonstrations; `{task}` in it is the task's name."""
    demonstrations: int | None
    """Of each task, the first ones; None: all that `data` holds."""
    seeds: tuple[int, ...]
    """Of the trainings of each variant."""
    axes: Mapping[str, tuple[str, ...]]
    """Axis to what its values are called, in the order of the file."""
    variants: tuple[Variant, ...]
    baseline: str | None
    """Label of the variant that the others are compared with; None: all with all."""
    policy_folder: str | None
    """Folder in `policy/` (or its path) that evaluates; None: by the policy config's name."""
    episodes: int
    """Of each evaluation."""
    evaluation_seed: int
    """Group of scenes, as `--seed` of `twinbench eval`."""

    @property
    def learnt_from(self) -> str:
        """What each training learns from, in words."""
        if self.data is None:
            return f"{self.demonstrations} demonstrations a task"
        count = "all" if self.demonstrations is None else f"the first {self.demonstrations}"
        return f"{count} episodes of {self.data}"

    @property
    def runs(self) -> tuple[SweepRun, ...]:
        """Seed by seed, so that an early look sees all variants once."""
        return tuple(
            SweepRun(variant, task, seed)
            for seed in self.seeds
            for task in self.tasks
            for variant in self.variants
        )


def load_sweep(name_or_path: str) -> Sweep:
    """The sweep at a path, or of that name in `task_configs/sweeps`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, or a value that means nothing; the message names it.
    """
    path = find_sweep(name_or_path)
    return parse_sweep(read_mapping(path), name=path.stem, source=str(path))


def parse_sweep(values: Mapping[str, Any], *, name: str, source: str) -> Sweep:
    """A sweep from the mapping in its file; `source` is the file, for messages.

    Raises:
        ValueError: as `load_sweep`.
    """
    read = _Reader(values, source)
    read.check_keys("", values, KEYS)
    evaluate = read.mapping("evaluate")
    read.check_keys("evaluate", evaluate, EVALUATE_KEYS)
    base = {"policy": read.text("policy"), **_checked(read, "set", read.mapping("set"))}
    axes = _read_axes(read)
    variants = tuple(_combine(base, axes))
    baseline = read.optional_text("baseline")
    labels = [variant.label for variant in variants]
    if baseline is not None and baseline not in labels:
        raise ValueError(f"{source}: {unknown('variant as baseline', baseline, labels)}")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"{source}: the grid has two variants called {twice}: drop one")
    return Sweep(
        name=name,
        question=read.optional_text("question") or name,
        tasks=tuple(read.names("tasks")),
        config=read.optional_text("config") or "demo_clean",
        data=read.optional_text("data"),
        demonstrations=_read_count(read),
        seeds=tuple(read.seeds()),
        axes={axis: tuple(choices) for axis, choices in axes.items()},
        variants=variants,
        baseline=baseline,
        policy_folder=read.optional_text("policy", evaluate, "evaluate."),
        episodes=read.whole("episodes", evaluate, least=1, default=100),
        evaluation_seed=read.whole("seed", evaluate, least=0, default=0),
    )


def _read_count(read: _Reader) -> int | None:
    if read.values.get("data") is not None and "demonstrations" not in read.values:
        return None
    return read.whole("demonstrations", read.values, least=1, default=50)


Axes = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Axis to what each value is called, to the keys that it sets."""


def _read_axes(read: _Reader) -> Axes:
    """An axis is a dotted key with a list of values, or a name with labelled sets of keys."""
    grid = read.mapping("grid")
    if not grid:
        raise ValueError(f"{read.source}: grid must name at least one axis with its values")
    for key in grid:
        if not (isinstance(key, str) and re.fullmatch(r"[\w.-]+", key)):
            raise ValueError(
                f"{read.source}: an axis of grid is a dotted key or a name of letters, digits, "
                f"_, - and dots, which folders are called by: got {key!r}"
            )
    last = [key.rsplit(".", 1)[-1] for key in grid]
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    for key, choices in grid.items():
        if isinstance(choices, list) and choices:
            name = key.rsplit(".", 1)[-1]
            named = {_word(value): {key: value} for value in choices}
            if len(named) < len(choices):
                raise ValueError(f"{read.source}: grid.{key} has a value twice: {choices}")
            axes[name if last.count(name) == 1 else key] = {
                label: _checked(read, f"grid.{key}", settings) for label, settings in named.items()
            }
        elif isinstance(choices, dict) and choices:
            axes[key] = {
                _word(label): _checked(read, f"grid.{key}.{label}", settings)
                for label, settings in choices.items()
            }
            if len(axes[key]) < len(choices):
                raise ValueError(f"{read.source}: grid.{key} has a label twice: {list(choices)}")
        else:
            raise ValueError(
                f"{read.source}: grid.{key} must be a list of values, or labels with the keys "
                f"that each sets: got {choices!r}"
            )
    _check_apart(read, axes)
    return axes


def _check_apart(read: _Reader, axes: Axes) -> None:
    """No two axes set the same key, or a key and one below it: the last would win in silence."""
    keys = [
        (axis, key)
        for axis, choices in axes.items()
        for key in sorted({key for settings in choices.values() for key in settings})
    ]
    for (axis, key), (other, its) in itertools.combinations(keys, 2):
        if axis != other and (key == its or _is_below(key, its) or _is_below(its, key)):
            raise ValueError(
                f"{read.source}: the axes {axis} and {other} of grid both set "
                f"{key if key == its else f'{key} and {its}'}: make one axis of them, with a label "
                "for each combination"
            )


def _is_below(key: str, other: str) -> bool:
    # `policy` alone is the config to start from.
    return other != "policy" and key.startswith(f"{other}.")


def _combine(base: Mapping[str, Any], axes: Axes) -> Iterator[Variant]:
    for combination in itertools.product(*(choices.items() for choices in axes.values())):
        settings = dict(base)
        values = {}
        for axis, (label, keys) in zip(axes, combination, strict=True):
            settings |= keys
            values[axis] = label
        yield Variant(
            label=SEPARATOR.join(f"{axis}={label}" for axis, label in values.items()),
            values=values,
            policy=settings.pop("policy"),
            settings=settings,
        )


def _checked(read: _Reader, where: str, settings: Any) -> dict[str, Any]:
    """Keys that a variant may set: `policy`, the config to start from, and dotted keys of it."""
    if not isinstance(settings, dict):
        raise ValueError(f"{read.source}: {where} must map keys to values: got {settings!r}")
    for key in settings:
        if key != "policy" and not re.match(r"(policy|train)\.", str(key)):
            raise ValueError(
                f"{read.source}: {where}: a key is `policy` or begins with policy. or train., as "
                f"in policy.encoder.layer: got {key!r}"
            )
        if key == "train.seed":
            raise ValueError(f"{read.source}: {where}: give the seeds of training as `seeds`")
    return settings


def _word(value: Any) -> str:
    """What a value is called in tables and folders."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "x".join(map(_word, value))
    return re.sub(r"[^\w.+: -]", "-", str(value)).strip(" .") or "-"


class _Reader:
    """The values of a sweep file, checked as they are taken out."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def check_keys(self, where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in values:
            if key not in known:
                of = f" of {where}" if where else ""
                raise ValueError(f"{self.source}: {unknown(f'key{of}', key, known)}")

    def mapping(self, key: str) -> dict[str, Any]:
        found = self.values.get(key) or {}
        if not isinstance(found, dict):
            raise ValueError(f"{self.source}: {key} must map keys to values: got {found!r}")
        return found

    def optional_text(
        self, key: str, values: Mapping[str, Any] | None = None, where: str = ""
    ) -> str | None:
        found = (self.values if values is None else values).get(key)
        if found is not None and not isinstance(found, str):
            raise ValueError(f"{self.source}: {where}{key} must be a word: got {found!r}")
        return found

    def text(self, key: str) -> str:
        found = self.optional_text(key)
        if not found:
            raise ValueError(f"{self.source}: {key} is missing")
        return found

    def names(self, key: str) -> list[str]:
        found = self.values.get(key)
        found = [found] if isinstance(found, str) else found
        if not (isinstance(found, list) and found and all(isinstance(x, str) for x in found)):
            raise ValueError(f"{self.source}: {key} must be a list of names: got {found!r}")
        if len(set(found)) < len(found):
            raise ValueError(f"{self.source}: {key} names something twice: {found}")
        return found

    def seeds(self) -> list[int]:
        found = self.values.get("seeds", [0])
        good = isinstance(found, list) and found
        if not (good and all(type(seed) is int and seed >= 0 for seed in found)):
            raise ValueError(f"{self.source}: seeds must be a list of whole numbers: got {found!r}")
        if len(set(found)) < len(found):
            raise ValueError(f"{self.source}: seeds has one twice: {found}")
        return list(found)

    def whole(self, key: str, values: Mapping[str, Any], *, least: int, default: int) -> int:
        found = values.get(key, default)
        if type(found) is not int or found < least:
            raise ValueError(
                f"{self.source}: {key} must be a whole number of at least {least}: got {found!r}"
            )
        return found


def find_sweep(name_or_path: str) -> Path:
    """The file of the sweep at a path, or of that name in `task_configs/sweeps`.

    Raises:
        FileNotFoundError: no such file.
    """
    name = Path(name_or_path)
    folder = config_folder() / "sweeps"
    for place in (name, folder / f"{name}.yaml"):
        if place.is_file():
            return place
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise FileNotFoundError(
        f"there is no sweep {name_or_path}; sweeps here: {', '.join(known) or 'none'}"
    )
