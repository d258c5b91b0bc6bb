"""How a policy is trained: the `train` part of a policy's YAML, and finding that YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from twin_policy.config import PolicyConfig
from twin_policy.names import unknown
from twin_policy.parsing import parse, read_yaml, set_keys, set_values


@dataclass(frozen=True)
class EMAConfig:
    """The moving average that is evaluated and stored."""

    schedule: Literal["power", "ratio"] = "power"
    """`power`: 1 - n^-power, for long runs. `ratio`: (1 + n) / (10 + n), for short ones."""
    power: float = 0.75
    max_decay: float = 0.9999

    def __post_init__(self) -> None:
        _check_range(self, 0.0, 1.0, "max_decay", "power")


@dataclass(frozen=True)
class FineTuningConfig:
    """The second stage: the whole network goes on learning, at rates of its own.

    Its optimiser starts anew, with a warm-up of its own; the moving average goes on.
    """

    num_steps: int
    lr: float
    backbone_lr: float | None = None
    """Of the cameras' backbones; the same as `lr`, if null."""
    lr_warmup_steps: int = 500

    def __post_init__(self) -> None:
        _check_positive(self, "num_steps")
        _check_range(self, 0.0, math.inf, "lr", "backbone_lr", "lr_warmup_steps")


@dataclass(frozen=True)
class Stage:
    """Steps that share one optimiser: [begin, end), counted from the start of the run."""

    begin: int
    end: int
    lr: float
    backbone_lr: float | None
    lr_warmup_steps: int
    freeze_backbone: bool


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    num_steps: int
    """Optimiser steps; those of `fine_tuning` come after them."""
    batch_size: int = 64
    """Windows of one process in one forward pass: see `grad_accum_steps`."""
    grad_accum_steps: int = 1
    """Batches of a process whose gradients make up one step: a step sees batch_size *
    grad_accum_steps * processes windows."""
    noise_draws: int = 1
    """Noise samples for each encoded observation."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Of the forward pass; weights, their average and the optimiser stay float32. `fp16` scales
    the loss and skips the steps that overflow; it needs a GPU."""
    lr: float = 1e-4
    backbone_lr: float | None = None
    """Of what `policy.encoder.tuning` lets learn of the backbones, but for LoRA's adapters; the
    same as `lr`, if null."""
    freeze_backbone: bool = False
    """The cameras' backbones keep the weights that they start with until `fine_tuning`, and then
    learn as `policy.encoder.tuning` says."""
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-6
    lr_scheduler: Literal["cosine", "constant_with_warmup"] = "cosine"
    lr_warmup_steps: int = 500
    grad_clip_norm: float | None = None
    ema: EMAConfig = field(default_factory=EMAConfig)
    fine_tuning: FineTuningConfig | None = None
    seed: int = 0
    val_ratio: float = 0.1
    """Share of the episodes kept for validation, at least one where there are two."""
    val_windows: int = 128
    """How many validation windows of each task are sampled actions for."""
    log_every: int = 50
    val_every: int = 1000
    checkpoint_every: int = 1000
    image_cache_mb: float = 400.0
    """10^6 bytes of decoded pictures that each process keeps; others are decoded on the fly. With
    `features` the same of those, and what is beyond is read from their files."""
    features: str | None = None
    """Of a frozen tower, instead of running it in training: a feature store, or a folder of them;
    or `auto`, those beside the data, extracted first where they are missing. Null: it runs."""
    noop_filter_rad: float | None = None
    """Leave out transitions in which no joint's target is farther than this (rad) from it."""
    wandb: str | None = None
    """A Weights & Biases project that the figures go to as well."""

    def __post_init__(self) -> None:
        _check_positive(
            self,
            "num_steps",
            "batch_size",
            "grad_accum_steps",
            "noise_draws",
            "val_windows",
            "log_every",
            "val_every",
            "checkpoint_every",
        )
        not_negative = (
            "lr",
            "backbone_lr",
            "lr_warmup_steps",
            "eps",
            "weight_decay",
            "grad_clip_norm",
            "image_cache_mb",
            "noop_filter_rad",
            "seed",
        )
        _check_range(self, 0.0, math.inf, *not_negative)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), and are {self.betas}")
        if not 0 <= self.val_ratio < 1:
            raise ValueError(f"val_ratio must be in [0, 1), and is {self.val_ratio}")
        if self.freeze_backbone and self.backbone_lr is not None:
            raise ValueError(
                f"backbone_lr is {self.backbone_lr}, but freeze_backbone lets no backbone learn: "
                "set fine_tuning.backbone_lr, or freeze_backbone to false"
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        first = Stage(
            0, self.num_steps, self.lr, self.backbone_lr, self.lr_warmup_steps, self.freeze_backbone
        )
        if (tuning := self.fine_tuning) is None:
            return (first,)
        end = self.num_steps + tuning.num_steps
        rates = (tuning.lr, tuning.backbone_lr, tuning.lr_warmup_steps)
        return first, Stage(self.num_steps, end, *rates, freeze_backbone=False)

    @property
    def total_steps(self) -> int:
        """Of all stages."""
        return self.stages[-1].end


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, and is {getattr(config, name)}")


def _check_range(config: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            allowed = f"in [{low:g}, {high:g}]" if high < math.inf else f"at least {low:g}"
            raise ValueError(f"{name} must be {allowed}, and is {value}")


@dataclass(frozen=True)
class RunConfig:
    """A policy and its training: one YAML under `task_configs/policies/`."""

    policy: PolicyConfig
    train: TrainConfig


def config_folder() -> Path:
    """`task_configs/policies` of the current directory, else of the source tree."""
    here = Path("task_configs") / "policies"
    return here if here.is_dir() else Path(__file__).parents[2] / here


def load_run_config(
    name: str,
    assignments: list[str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Reads a policy config by name or path and applies `key=value` assignments.

    Args:
        settings: dotted keys to values, set before the assignments.

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
    values = set_keys(set_values(read_yaml(path), settings or {}), assignments or [])
    return parse(RunConfig, values, source=str(path))
