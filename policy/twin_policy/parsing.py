"""Plain YAML to frozen dataclasses: unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from twin_policy.names import unknown

Record = TypeVar("Record")
Made = TypeVar("Made")


class ConfigError(ValueError):
    """A configuration file holds something it must not; the message names file and key."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: not YAML, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, and is {type(loaded).__name__}")
    return loaded


def parse(cls: type[Record], values: Any, *, source: str, prefix: str = "") -> Record:
    """Builds the dataclass `cls` from a mapping, field by field.

    A class with other names for some of its keys lists them in `OTHER_NAMES`, and says what they
    mean in `translate`.

    Args:
        source: the file, for messages.
        prefix: where in the file the mapping stands, as in `policy.encoder`.

    Raises:
        ConfigError: an unknown key (with its nearest match), a missing one, a wrong type, or a
            combination of values that `cls` refuses.
    """
    where = f" in {prefix!r}" if prefix else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: {prefix or 'the file'} must be a mapping, and is {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known = [*fields, *getattr(cls, "OTHER_NAMES", ())]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: {unknown(f'key{where}', str(key), known)}")
    translate = getattr(cls, "translate", dict)
    values = _named(prefix, source, lambda: translate(values))
    parsed: dict[str, Any] = {}
    for name, field in fields.items():
        path = f"{prefix}.{name}" if prefix else name
        if name in values:
            parsed[name] = _convert(hints[name], values[name], source, path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: key {path!r} is missing")
    return _named(prefix, source, lambda: cls(**parsed))


def _named(prefix: str, source: str, make: Callable[[], Made]) -> Made:
    """What `make` gives; what it refuses is said to stand at `prefix` in the file `source`."""
    try:
        return make()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{source}: {prefix + ': ' if prefix else ''}{error}") from error


def plain(record: Any) -> Any:
    """A dataclass as YAML and JSON hold it: mappings, lists and scalars."""
    if dataclasses.is_dataclass(record):
        return {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    return record


def set_keys(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """A copy of `values` with dotted `key=value` assignments applied; values are read as YAML.

    Raises:
        ConfigError: no equals sign, or a path through something that is not a mapping.
    """
    changed: dict[str, Any] = plain(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, as in train.batch_size=64: {assignment!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {path}: {text!r} is not a YAML value") from error
        changed = set_values(changed, {path.strip(): value}, said="--set ")
    return changed


def set_values(
    values: Mapping[str, Any], settings: Mapping[str, Any], *, said: str = ""
) -> dict[str, Any]:
    """A copy of `values` with dotted keys set.

    Args:
        said: what stands before a key where the user wrote it, for messages.

    Raises:
        ConfigError: a path through something that is not a mapping.
    """
    changed: dict[str, Any] = plain(values)
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{said}{path}: {parent!r} holds a value, not a mapping")
        place[last] = plain(value)
    return changed


def differences(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two plain mappings, with both values."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        found: list[str] = []
        for key in dict.fromkeys([*left, *right]):
            path = f"{prefix}.{key}" if prefix else str(key)
            found += differences(left.get(key), right.get(key), path)
        return found
    return [] if left == right else [f"{prefix}: {left!r} -> {right!r}"]


def _convert(hint: Any, value: Any, source: str, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(arguments, value, source, path)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, source=source, prefix=path)
    if origin is typing.Literal:
        # YAML 1.1 reads an unquoted no as false.
        if value is False and "no" in arguments:
            return "no"
        if value not in arguments:
            raise ConfigError(f"{source}: {unknown(f'value of {path!r}', str(value), arguments)}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, source, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {path!r} must be a mapping, and is {value!r}")
        return {str(k): _convert(arguments[1], v, source, f"{path}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, source, path)


def _convert_union(arguments: tuple[Any, ...], value: Any, source: str, path: str) -> Any:
    """Of one kind of value or null, or of several scalars."""
    if value is None and type(None) in arguments:
        return None
    choices = [choice for choice in arguments if choice is not type(None)]
    if len(choices) == 1:
        return _convert(choices[0], value, source, path)
    if type(value) in choices:
        return value
    allowed = " or ".join(choice.__name__ for choice in choices)
    raise ConfigError(f"{source}: {path!r} must be {allowed}, and is {value!r}")


def _convert_tuple(arguments: tuple[Any, ...], value: Any, source: str, path: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{source}: {path!r} must be a list, and is {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise ConfigError(f"{source}: {path!r} must have {len(arguments)} entries: {value!r}")
    return tuple(
        _convert(hint, item, source, f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, source: str, path: str) -> Any:
    # YAML 1.1 reads "1e-4", without a dot, as text.
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{source}: {path!r} must be {hint.__name__}, and is {value!r}")
