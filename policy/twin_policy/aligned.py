"""The distilled encoder: maps of several frozen models to one embedding in a teacher's space."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twin_policy.files import write_atomically, write_text
from twin_policy.fusion import make_fusion
from twin_policy.fusion_config import AlignedConfig, AlignedModel, Size
from twin_policy.parsing import ConfigError, parse, plain

WEIGHTS, CONFIG = "aligned.safetensors", "aligned.json"
FORMAT, FORMAT_VERSION = "twinbench-aligned", 1
TEACHER_MEAN = "teacher_mean"
STATISTICS = (TEACHER_MEAN, "feature_mean", "feature_scale")
FINDINGS = "findings"
"""Among the metrics: what was found wrong with it, such as a collapse."""
LOGGER = logging.getLogger(__name__)


class AlignedError(ValueError):
    """A folder holds no distilled encoder, a damaged one, or one of other models."""


@dataclass(frozen=True)
class AlignedOutput:
    """What the distilled encoder makes of pictures, or of windows of them."""

    tokens: Tensor
    """float (N, K, D): fused, and put into context where there are such layers; K of a window are
    those of all its pictures, the oldest one first."""
    pooled: Tensor
    """float (N, D)."""
    projected: Tensor
    """float (N, E), of any length: its direction is that of the centred teacher."""
    weights: Tensor | None = None
    """float (N, K, M): each model's share in each fused token; None where the fusion has none, or
    the tokens were fused before."""


class ContextLayer(nn.Module):
    """A transformer layer, normalised before its parts; tokens carry their own positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, K, D) to the same."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        mixed: Tensor = tokens + self.mlp(tokens)
        return mixed


class TokenPool(nn.Module):
    """(N, K, D) to (N, D): the mean, or a learned share of each token that starts as the mean."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.score: nn.Linear | None = None
        if kind == "attention":
            self.score = nn.Linear(dim, 1, bias=False)
            nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.score is None:
            return tokens.mean(1)
        return torch.einsum("nkx, nkd -> nd", self.score(tokens).softmax(1), tokens)


class AlignedEncoder(nn.Module):
    """Adapters, fusion, context, pooling and projector, as `AlignedConfig` says.

    What it reads is `Towers.read`'s: maps of the models side by side along the channels.
    """

    teacher_mean: Tensor
    """float (E,): mean of the teacher's unit embeddings over the training frames, 0 if it was not
    centred; not a number until `set_teacher_mean`."""
    feature_mean: Tensor
    """float (sum C,): of the models' features over training frames, which is taken away; 0 unless
    `set_feature_statistics`."""
    feature_scale: Tensor
    """float (sum C,): their standard deviation, which they are divided by; 1 unless set."""

    def __init__(self, config: AlignedConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        hidden = config.hidden_dim or dim
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, dim),
                nn.LayerNorm(dim),
            )
            for width in config.widths
        )
        self.fusion = make_fusion(config.fusion, len(config.models), dim)
        self.context = nn.Sequential(
            *(ContextLayer(dim, config.context_heads) for _ in range(config.context_layers))
        )
        self.pool = TokenPool(dim, config.pooling)
        between = config.projector_hidden_dim or dim
        self.projector = nn.Sequential(
            nn.Linear(dim, between), nn.GELU(), nn.Linear(between, config.embedding_dim)
        )
        self.register_buffer("feature_mean", torch.zeros(sum(config.widths)))
        self.register_buffer("feature_scale", torch.ones(sum(config.widths)))
        self.register_buffer(TEACHER_MEAN, torch.full((config.embedding_dim,), torch.nan))

    def forward(self, read: Tensor, keep: Tensor | None = None) -> AlignedOutput:
        """
        Args:
            read: what the models gave, float (N, sum C, h, w); of windows (N, w, sum C, h, w), the
                oldest picture first.
            keep: bool (N, M): models that are not left out; all by default.

        Raises:
            ValueError: not what it was trained to read.
        """
        window = self.config.window if self.config.input_mode == "window" else 0
        if read.ndim != (5 if window else 4) or (window and read.shape[1] != window):
            wanted = f"windows of {window} pictures (N, {window}, sum C, h, w)"
            raise ValueError(
                f"the distilled encoder reads {wanted if window else 'pictures (N, sum C, h, w)'}, "
                f"and these are {tuple(read.shape)}: give those, or distil with another input_mode"
            )
        if window:
            keep = None if keep is None else keep.repeat_interleave(window, dim=0)
            read = read.flatten(0, 1)
        return self.embed(self.tokens_of(read), keep)

    def tokens_of(self, maps: Tensor) -> Tensor:
        """Maps (N, sum C, h, w), checked and standardised, as tokens (N, h * w, sum C)."""
        channels, grid = sum(self.config.widths), self.config.read_grid
        if maps.shape[1:] != (channels, *grid):
            raise ValueError(
                f"the distilled encoder reads maps of {channels} channels, "
                f"{' + '.join(map(str, self.config.widths))}, on {grid[0]}x{grid[1]} cells, and "
                f"these are {tuple(maps.shape[1:])}: give its models, grid and cells"
            )
        tokens = rearrange(maps, "n c h w -> n (h w) c")
        return (tokens - self.feature_mean) / self.feature_scale

    def embed(self, tokens: Tensor, keep: Tensor | None = None) -> AlignedOutput:
        """As `forward`, of any K of the tokens that `tokens_of` gave, (N, K, sum C), at the same
        places in all models; of windows, their pictures one after another (N * w, K, sum C)."""
        fused, weights = self._fuse(tokens, keep)
        if self.config.input_mode == "window":
            fused = rearrange(fused, "(n w) k d -> n (w k) d", w=self.config.window)
            if weights is not None:
                weights = rearrange(weights, "(n w) k m -> n (w k) m", w=self.config.window)
        return replace(self.finish(fused), weights=weights)

    def fuse(self, maps: Tensor) -> Tensor:
        """Maps of pictures (N, sum C, h, w) to fused tokens (N, K, D), each picture by itself."""
        return self._fuse(self.tokens_of(maps), None)[0]

    def _fuse(self, tokens: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fused tokens, and weights (N, K, M)."""
        parts = tokens.split(list(self.config.widths), dim=-1)
        adapted = torch.stack(
            [adapt(part) for adapt, part in zip(self.adapters, parts, strict=True)], dim=1
        )
        weights = self.fusion.weights(adapted, keep)
        if weights is not None:
            weights = weights.expand(len(tokens), tokens.shape[1], len(parts))
        return self.fusion(adapted, keep), weights

    def finish(self, tokens: Tensor) -> AlignedOutput:
        """Of fused tokens (N, K, D): those of one picture, or of a window's side by side."""
        tokens = self.context(tokens)
        pooled = self.pool(tokens)
        return AlignedOutput(tokens, pooled, self.projector(pooled))

    def set_teacher_mean(self, mean: Tensor) -> None:
        """What targets were centred by, float (E,)."""
        self.teacher_mean.copy_(mean)

    def set_feature_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """What each channel is standardised by: most of a channel may be the same in every
        picture, which would hide what differs from the adapters' norms."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(scale)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        mean = state_dict.get(prefix + TEACHER_MEAN)
        if mean is not None and not bool(torch.isfinite(mean).all()):
            rest[-1].append(f"{prefix}{TEACHER_MEAN} is not finite: the statistics are missing")

    # Files

    def save(self, folder: Path) -> AlignedConfig:
        """Writes weights, then config; returns the config with the weights' SHA-256.

        Raises:
            ValueError: the teacher's mean is not set.
        """
        if not bool(torch.isfinite(self.teacher_mean).all()):
            raise ValueError(
                f"{TEACHER_MEAN} is not set: targets can only be rebuilt with it: call "
                "set_teacher_mean first, with zeros if the teacher was not centred"
            )
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        folder = Path(folder)
        write_atomically(folder / WEIGHTS, lambda part: save_file(tensors, str(part)))
        self.config = replace(self.config, weights_sha256=_sha256(folder / WEIGHTS))
        stored = {"format": FORMAT, "version": FORMAT_VERSION, **plain(self.config)}
        write_text(folder / CONFIG, json.dumps(stored, indent=1))
        return self.config

    @classmethod
    def load(cls, folder: Path) -> AlignedEncoder:
        """In evaluation mode, with no gradients; a collapsed one is loaded with a warning.

        Raises:
            FileNotFoundError: no such folder.
            AlignedError: not a distilled encoder, or a damaged one; statistics are missing.
        """
        folder = Path(folder)
        if not folder.is_dir():
            where = "" if folder.is_absolute() else f" in {Path.cwd()}"
            raise FileNotFoundError(
                f"no folder {folder}{where} of a distilled encoder: make one with `twinbench "
                "distill`, or give its path"
            )
        config = _read_config(folder)
        if (found := _sha256(folder / WEIGHTS)) != config.weights_sha256:
            raise AlignedError(
                f"{folder / WEIGHTS} has SHA-256 {found[:12]}, and {CONFIG} says "
                f"{config.weights_sha256[:12]}: they are of two saves, or one is damaged: run the "
                "same `twinbench distill` again"
            )
        with torch.random.fork_rng(devices=[]):
            encoder = cls(config)
        try:
            tensors = load_file(str(folder / WEIGHTS))
            if lacking := [name for name in STATISTICS if name not in tensors]:
                raise AlignedError(
                    f"{folder / WEIGHTS} lacks {', '.join(lacking)}: the statistics of its "
                    "training are missing, so what it sees and predicts means nothing: distil anew"
                )
            encoder.load_state_dict(tensors)
        except (RuntimeError, SafetensorError) as error:
            raise AlignedError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
        for said in config.metrics.get(FINDINGS, ()):
            LOGGER.warning("distilled encoder %s: %s", folder, said)
        return encoder.eval().requires_grad_(False)

    def check_matches(
        self,
        models: Sequence[AlignedModel],
        *,
        grid: Size,
        cells: Size | None,
        window: int | None = None,
    ) -> None:
        """Raises `AlignedError`, with the reason, unless it was trained to read these.

        Args:
            models: `Towers.aligned_models()`.
            window: pictures of an observation; None: not asked.
        """
        remedy = "give what it was distilled with, or distil anew"
        ours, theirs = ([each.name for each in found] for found in (self.config.models, models))
        if ours != theirs:
            what = "order" if sorted(ours) == sorted(theirs) else "models"
            raise AlignedError(
                f"another {what}: the distilled encoder reads {', '.join(ours)}, and these are "
                f"{', '.join(theirs)}: {remedy}"
            )
        for own, other in zip(self.config.models, models, strict=True):
            for name in ("backbone", "width", "layer", "preprocessing", "fingerprint"):
                mine, given = plain(getattr(own, name)), plain(getattr(other, name))
                if mine != given:
                    raise AlignedError(
                        f"the distilled encoder reads {own.name} with {name} {mine}, and this one "
                        f"has {given}: {remedy}"
                    )
        places = {"grid": grid, "cells": cells}
        if self.config.input_mode == "window" and window is not None:
            places["window"] = window  # type: ignore[assignment]
        for name, given in places.items():
            if (mine := plain(getattr(self.config, name))) != plain(given):
                raise AlignedError(
                    f"the distilled encoder was trained with {name} {mine}, and here it is "
                    f"{plain(given)}: {remedy}"
                )


def _read_config(folder: Path) -> AlignedConfig:
    path = folder / CONFIG
    for each in (path, folder / WEIGHTS):
        if not each.is_file():
            raise AlignedError(
                f"{folder} holds no distilled encoder: {each.name} is missing: make one with "
                f"`twinbench distill ... --out {folder}`"
            )
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, version = stored.pop("format"), stored.pop("version")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise AlignedError(f"{path} was not written by `twinbench distill`: {error!r}") from error
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise AlignedError(
            f"{path} is {kind} of version {version}, and this reads {FORMAT} of version "
            f"{FORMAT_VERSION}: distil anew"
        )
    try:
        return parse(AlignedConfig, stored, source=str(path))
    except ConfigError as error:
        raise AlignedError(str(error)) from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
