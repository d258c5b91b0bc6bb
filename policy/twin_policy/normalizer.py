"""States and actions to one scale and back, with idle dimensions frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twin_policy.config import NormalizerConfig

ROBOTWIN_RANGE_FLOOR = 1e-4


class DimensionNormalizer(nn.Module):
    """An affine map of each dimension; `normalize(x) = x * scale + offset`.

    A frozen dimension carries no information worth learning (its range in training is below the
    floor, so scaling it up would amplify jitter): it normalises to 0 whatever comes, and
    unnormalises to its mean in training.
    """

    scale: Tensor
    offset: Tensor
    mean: Tensor
    frozen: Tensor

    def __init__(
        self,
        *,
        scale: NDArray[np.float64],
        offset: NDArray[np.float64],
        mean: NDArray[np.float64],
        frozen: NDArray[np.bool_],
    ) -> None:
        super().__init__()
        # Not persistent: the statistics are stored as JSON, beside the weights.
        for name, value in (("scale", scale), ("offset", offset), ("mean", mean)):
            tensor = torch.from_numpy(np.array(value, np.float32))
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("frozen", torch.from_numpy(np.array(frozen, bool)), persistent=False)
        self._exact = {
            "scale": np.asarray(scale, np.float64).tolist(),
            "offset": np.asarray(offset, np.float64).tolist(),
            "mean": np.asarray(mean, np.float64).tolist(),
            "frozen": np.asarray(frozen, bool).tolist(),
        }

    @classmethod
    def fit(
        cls,
        values: NDArray[np.float64],
        config: NormalizerConfig,
        *,
        frozen: NDArray[np.bool_] | None = None,
    ) -> DimensionNormalizer:
        """Statistics of `values` (n, D), of the training split only.

        Args:
            frozen: which dimensions to freeze, if their range in `values` is not what decides.
        """
        low, high, mean = values.min(0), values.max(0), values.mean(0)
        span = high - low
        if config.mode == "robotwin":
            idle, frozen = span < ROBOTWIN_RANGE_FLOOR, np.zeros(len(span), bool)
        elif frozen is None:
            idle = frozen = span < config.range_floor
        else:
            idle = frozen | (span == 0)
        if config.mode == "zscore":
            deviation = values.std(0)
            scale = np.where(idle, 1.0, 1.0 / np.where(idle, 1.0, deviation))
            return cls(scale=scale, offset=-mean * scale, mean=mean, frozen=frozen)
        scale = np.where(idle, 1.0, 2.0 / np.where(idle, 1.0, span))
        offset = np.where(idle, -low, -1.0 - scale * low)
        return cls(scale=scale, offset=offset, mean=mean, frozen=frozen)

    def normalize(self, values: Tensor) -> Tensor:
        """(..., D) in physical units to (..., D): over the training data in [-1, 1], or with
        `zscore` of mean 0 and deviation 1."""
        return (values * self.scale + self.offset).masked_fill(self.frozen, 0.0)

    def unnormalize(self, values: Tensor) -> Tensor:
        """(..., D), normalised, to physical units."""
        return torch.where(self.frozen, self.mean, (values - self.offset) / self.scale)

    def to_dict(self) -> dict[str, list[Any]]:
        return self._exact

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> DimensionNormalizer:
        return cls(
            scale=np.asarray(stored["scale"], np.float64),
            offset=np.asarray(stored["offset"], np.float64),
            mean=np.asarray(stored["mean"], np.float64),
            frozen=np.asarray(stored["frozen"], bool),
        )


class Normalizer(nn.Module):
    """The two maps of a policy."""

    def __init__(self, state: DimensionNormalizer, action: DimensionNormalizer) -> None:
        super().__init__()
        self.state = state
        self.action = action

    @classmethod
    def identity(cls, state_dim: int, action_dim: int) -> Normalizer:
        """Statistics of data that already lies in [-1, 1]."""

        def unit(dim: int) -> DimensionNormalizer:
            zeros = np.zeros(dim)
            return DimensionNormalizer(
                scale=np.ones(dim), offset=zeros, mean=zeros, frozen=np.zeros(dim, bool)
            )

        return cls(unit(state_dim), unit(action_dim))

    def to_dict(self) -> dict[str, dict[str, list[Any]]]:
        return {"state": self.state.to_dict(), "action": self.action.to_dict()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Normalizer:
        return cls(
            DimensionNormalizer.from_dict(stored["state"]),
            DimensionNormalizer.from_dict(stored["action"]),
        )
