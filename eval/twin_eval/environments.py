"""What an evaluation runs in: a task of a backend with its config, as a picklable description."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """One task in one simulator. Workers build their environments from it."""

    task: str
    config_name: str
    """Name of the environment config, e.g. `demo_clean`."""
    config: Mapping[str, Any]
    """Its contents, passed to `setup_demo`."""
    backend: str = "embedded"
    provider: str = "twin_env"
    """Module with `make_env` and `environment_fingerprint`, as `twin_env` has them."""

    def make(self) -> Any:
        """A new `TaskEnv`, not yet set up."""
        return importlib.import_module(self.provider).make_env(self.task, self.backend)

    def fingerprint(self) -> dict[str, str]:
        """Part name -> digest of everything that decides what an episode looks like."""
        module = importlib.import_module(self.provider)
        return dict(module.environment_fingerprint(self.task, dict(self.config), self.backend))
