"""The tasks' ids in gymnasium's registry, whichever of the two packages is imported first."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from os import PathLike
from types import ModuleType
from typing import Any

from twin_env.backends import list_tasks

EMBEDDED, ROBOTWIN = "TwinBench", "RoboTwin"
"""Namespaces of the ids."""
_ENTRY_POINT = "twin_env.gym_env:TwinBenchEnv"


def register_tasks() -> None:
    """Registers each task of the embedded simulator as `TwinBench/<task>-v0`."""
    for task in list_tasks():
        _register(f"{EMBEDDED}/{task}-v0", {"task": task})


def register_robotwin(root: str | PathLike[str]) -> list[str]:
    """Registers each task of a RoboTwin checkout as `RoboTwin/<task>-v0`; returns the ids.

    An id's environment needs what that checkout needs: its Python packages and assets. Tasks that
    both simulators have are reached by their `TwinBench/` ids too, with `backend="robotwin",
    robotwin_root=root`.

    Raises:
        ValueError: no checkout there, or the ids belong to another one.
    """
    tasks = list_tasks("robotwin", root=root)
    kwargs = {"backend": "robotwin", "robotwin_root": str(root)}
    return [_register(f"{ROBOTWIN}/{task}-v0", {"task": task, **kwargs}) for task in tasks]


def register_when_imported() -> None:
    """Registers the tasks now if gymnasium is loaded, else as soon as it is.

    gymnasium 1.0 dropped its entry point for plugins, and importing it here would make everybody
    who does without it pay for it.
    """
    if "gymnasium" in sys.modules:
        register_tasks()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())


class _AfterGymnasium(MetaPathFinder):
    """Finds gymnasium as Python would, and has the tasks registered once it is executed."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            # On the instance: the loader stays what it is for everybody else.
            loader: Any = spec.loader
            loader.exec_module = _then_register(loader.exec_module)
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        register_tasks()

    return execute_and_register


def _register(name: str, kwargs: dict[str, Any]) -> str:
    import gymnasium

    there = gymnasium.registry.get(name)
    if there is None:
        gymnasium.register(name, entry_point=_ENTRY_POINT, kwargs=kwargs)
    elif there.kwargs != kwargs:
        raise ValueError(
            f"{name} is registered with {there.kwargs}, so not with {kwargs}; one process knows "
            "one RoboTwin checkout"
        )
    return name
