"""How a policy is trained: the `train` part of a policy's YAML, and finding that YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from twin_policy.config import PolicyConfig
from twin_policy.names import unknown
from twin_policy.parsing import parse, read_yaml, set_keys


@dataclass(frozen=True)
class EMAConfig:
    """The moving average that is evaluated and stored."""

    schedule: Literal["power", "ratio"] = "power"
    """`power`: 1 - n^-power, for long runs. `ratio`: (1 + n) / (10 + n), for short ones."""
    power: float = 0.75
    max_decay: float = 0.9999


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    num_steps: int
    batch_size: int = 64
    noise_draws: int = 1
    """Noise samples for each encoded observation."""
    lr: float = 1e-4
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-6
    lr_warmup_steps: int = 500
    grad_clip_norm: float | None = None
    ema: EMAConfig = field(default_factory=EMAConfig)
    seed: int = 0
    val_ratio: float = 0.1
    """Share of the episodes kept for validation, at least one where there are two."""
    val_windows: int = 128
    """How many validation windows are sampled actions for."""
    log_every: int = 50
    val_every: int = 1000
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in (
            "num_steps",
            "batch_size",
            "noise_draws",
            "val_windows",
            "log_every",
            "val_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, and is {getattr(self, name)}")
        if not 0 <= self.val_ratio < 1:
            raise ValueError(f"val_ratio must be in [0, 1), and is {self.val_ratio}")


@dataclass(frozen=True)
class RunConfig:
    """A policy and its training: one YAML under `task_configs/policies/`."""

    policy: PolicyConfig
    train: TrainConfig


def config_folder() -> Path:
    """`task_configs/policies` of the current directory, else of the source tree."""
    here = Path("task_configs") / "policies"
    return here if here.is_dir() else Path(__file__).parents[2] / here


def load_run_config(name: str, assignments: list[str] | None = None) -> RunConfig:
    """Reads a policy config by name or path and applies `key=value` assignments.

    Raises:
        ValueError: no such config, with the nearest match; or something wrong in it.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = config_folder() / f"{name}.yaml"
        if not path.is_file():
            known = [found.stem for found in config_folder().glob("*.yaml")]
            raise unknown("policy config", name, known)
    elif not path.is_file():
        raise FileNotFoundError(f"no policy config {path}")
    values: dict[str, Any] = set_keys(read_yaml(path), assignments or [])
    return parse(RunConfig, values, source=str(path))
