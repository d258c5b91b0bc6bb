"""Tokens and attention as pictures: colours by principal components, heat over what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

OUTER_PERCENT = 1.0
"""Of the tokens that may lie beyond the ends of a colour's range."""
COLOUR_SHARE = 0.75
"""Of the colours of tokens; the rest is the picture in grey."""
HEAT_SHARE = 0.65


@dataclass(frozen=True)
class TokenColours:
    """The three main directions of a set of tokens, as red, green and blue."""

    mean: NDArray[np.float64]
    """(C,)."""
    axes: NDArray[np.float64]
    """(3, C), orthonormal; zero where the tokens have fewer directions."""
    low: NDArray[np.float64]
    """(3,): what is drawn as 0."""
    high: NDArray[np.float64]
    """(3,): what is drawn as 1."""
    share: float
    """Of the tokens' variance that the three directions hold, 0 to 1."""

    def __call__(self, tokens: Floats) -> NDArray[np.float32]:
        """Tokens (..., C) to RGB (..., 3) in [0, 1]."""
        along = (tokens.astype(np.float64) - self.mean) @ self.axes.T
        spread = self.high - self.low
        flat = spread <= 0
        scaled = (along - self.low) / np.where(flat, 1.0, spread)
        return np.where(flat, 0.5, scaled).clip(0, 1).astype(np.float32)


def fit_colours(tokens: Floats) -> TokenColours:
    """Colours in which these tokens (N, C) differ most.

    The largest number of each direction is positive, so that the same tokens in another order, or
    a few others, have the same colours. A few tokens far off do not dim all others.
    """
    from scipy.linalg import eigh

    tokens = tokens.astype(np.float64)
    mean = tokens.mean(axis=0)
    centred = tokens - mean
    width = tokens.shape[1]
    count = min(3, width)
    variance, found = eigh(
        centred.T @ centred / len(tokens), subset_by_index=[width - count, width - 1]
    )
    total = float(centred.var(axis=0).sum())
    axes = np.zeros((3, width))
    axes[:count] = found[:, ::-1].T
    variance = np.append(variance[::-1], np.zeros(3 - count))
    axes[variance <= 1e-12 * max(total, 1e-300)] = 0
    largest = axes[np.arange(3), np.abs(axes).argmax(axis=1)]
    axes *= np.where(largest < 0, -1.0, 1.0)[:, None]
    low, high = np.percentile(centred @ axes.T, [OUTER_PERCENT, 100 - OUTER_PERCENT], axis=0)
    share = float(variance.clip(min=0).sum() / total) if total > 0 else 0.0
    return TokenColours(mean, axes, low, high, min(1.0, share))


def draw_tokens(picture: Array, colours: Floats) -> Array:
    """The picture (H, W, 3) in grey under the colours (h, w, 3), in [0, 1], of its tokens."""
    return _blend(picture, 255 * _enlarged(colours, picture), COLOUR_SHARE)


def draw_attention(picture: Array, attention: Floats, highest: float) -> Array:
    """The picture (H, W, 3) in grey under the heat of attention (h, w); `highest` is brightest."""
    heat = _enlarged(attention / highest if highest > 0 else attention, picture)
    levels = (255 * heat).round().astype(np.uint8)
    drawn = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return _blend(picture, drawn.astype(np.float32), HEAT_SHARE)


def _enlarged(values: Floats, picture: Array) -> NDArray[np.float32]:
    """Of the picture's size, in [0, 1]: each token in the middle of what it stands for."""
    height, width = picture.shape[:2]
    values = np.ascontiguousarray(values, np.float32)
    # A cubic curve overshoots, and would draw places darker than any token there is.
    enlarged = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32).clip(0, 1)


def _blend(picture: Array, drawn: NDArray[np.float32], share: float) -> Array:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    return (share * drawn + (1 - share) * grey).round().astype(np.uint8)
