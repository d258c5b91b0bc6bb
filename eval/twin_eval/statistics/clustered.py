"""Several trainings of each variant on the same scenes: a scene is one draw, not one a training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from twin_eval.statistics.intervals import check_confidence, normal_quantile

PSEUDO_SCENES = (1.0, -1.0)
"""Differences of made-up scenes that `clustered_difference_interval` adds."""


def sign_flip_p_value(differences: Sequence[int]) -> float:
    """Two-sided p-value of the exact test that A and B are exchangeable on each scene.

    If they are, each scene's difference is as likely to have the other sign: the distribution of
    the sum over all flips is counted out (Fisher 1935). With one training it is the exact McNemar
    test. 1 if nothing differs.

    Args:
        differences: for each scene, in how many trainings A succeeded minus the same of B.
    """
    sizes = np.abs(_whole(differences))
    observed = abs(int(np.sum(_whole(differences))))
    if observed == 0:
        return 1.0
    reach = int(sizes.sum())
    # Probability of each sum from -reach to reach.
    sums = np.zeros(2 * reach + 1)
    sums[reach] = 1.0
    for size in sizes[sizes > 0]:
        sums = (np.roll(sums, size) + np.roll(sums, -size)) / 2
    return min(1.0, 2 * float(sums[reach + observed :].sum()))


def clustered_p_value(differences: Sequence[int], trainings: int) -> float:
    """Two-sided p-value of the test that A and B succeed equally often on scenes like these.

    With one training, `sign_flip_p_value`. With several, A may win few scenes in all trainings and
    lose many in one: then the rates can be equal though no flip is fair, and flips alone would
    reject too often. So it is the larger one of that p-value and of the smallest level at which
    `clustered_difference_interval` leaves 0 out.

    Raises:
        ValueError: as `clustered_difference_interval`.
    """
    flips = sign_flip_p_value(differences)
    whole = _checked(differences, trainings)
    if trainings == 1 or whole.size < 2:
        return flips
    centre, error, step = _centre(whole, trainings)
    excess = max(0.0, abs(centre) - step) / error
    return max(flips, 2 * float(stdtr(whole.size - 1, -excess)))


def clustered_difference_interval(
    differences: Sequence[int], trainings: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval for the rate of A minus that of B, over scenes like these, for these trainings.

    Student's t over the scenes' mean differences, with two scenes added of which A wins one and B
    the other in every training (as Agresti and Min 2005 do for one training): without them it has
    no width where nothing was seen to differ. Half a scene wider each way, as the mean moves in
    steps. (-1, 1) if there are less than two scenes. tests/eval/test_statistics_clustered.py checks
    the coverage.

    Args:
        differences: for each scene, in how many trainings A succeeded minus the same of B.
        trainings: of each of the two.

    Raises:
        ValueError: if a difference is larger than the number of trainings.
    """
    check_confidence(confidence)
    whole = _checked(differences, trainings)
    if whole.size < 2:
        return -1.0, 1.0
    centre, error, step = _centre(whole, trainings)
    half = float(stdtrit(whole.size - 1, 0.5 + confidence / 2)) * error + step
    return max(-1.0, centre - half), min(1.0, centre + half)


def clustered_rate_interval(
    successes: Sequence[int], trials: Sequence[int], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval for a success rate over scenes like these, for these trainings.

    Wilson's, with the number of independent episodes that would have the variance seen between
    scenes: one a scene if it decides the outcome, and at most all that were played, as where it
    says nothing. The trainings are taken as given: how much they disagree widens nothing. With one
    training it is Wilson's itself. (0, 1) if there are no trials.

    Args:
        successes: of each scene, over the trainings.
        trials: scored episodes of each scene, at most one a training.

    Raises:
        ValueError: if a count is impossible.
    """
    won, tried = _whole(successes).astype(float), _whole(trials).astype(float)
    if won.shape != tried.shape or np.any(won < 0) or np.any(won > tried):
        raise ValueError(
            f"successes of each scene must lie in [0, trials]: got {list(successes)} of "
            f"{list(trials)}"
        )
    won, tried = won[tried > 0], tried[tried > 0]
    quantile = normal_quantile(confidence)
    if not tried.size:
        return 0.0, 1.0
    scenes = float(tried.sum() ** 2 / (tried**2).sum())
    rate = float(won.sum() / tried.sum())
    if np.all(tried == 1):
        effective = scenes
    else:
        effective = min(float(tried.sum()), scenes / _between_scenes(won, tried))
        quantile = float(stdtrit(max(1.0, scenes - 1), 0.5 + confidence / 2))
    return _wilson(rate, effective, quantile)


def mean_interval(
    estimates: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Interval for the mean of quantities that were estimated independently, as those of tasks.

    Squares the distances to each end and adds them (Howe 1974; Zou and Donner 2008).

    Raises:
        ValueError: if there are none, or not as many of both.
    """
    if not estimates or len(estimates) != len(intervals):
        raise ValueError(
            f"each estimate needs an interval: got {len(estimates)} and {len(intervals)}"
        )
    centre = math.fsum(estimates) / len(estimates)
    below, above = (
        math.hypot(
            *(value - interval[end] for value, interval in zip(estimates, intervals, strict=True))
        )
        / len(estimates)
        for end in (0, 1)
    )
    return centre - below, centre + above


def _centre(differences: np.ndarray, trainings: int) -> tuple[float, float, float]:
    """Mean difference with the made-up scenes, its standard error, and half a scene."""
    values = np.concatenate([differences / trainings, PSEUDO_SCENES])
    return (
        float(values.mean()),
        float(values.std()) / math.sqrt(values.size),
        0.5 / len(differences),
    )


def _checked(differences: Sequence[int], trainings: int) -> np.ndarray:
    whole = _whole(differences)
    if trainings < 1 or np.any(np.abs(whole) > trainings):
        raise ValueError(
            f"a scene's difference is at most the number of trainings, {trainings}: got "
            f"{int(np.abs(whole).max(initial=0))}"
        )
    return whole


def _between_scenes(won: np.ndarray, tried: np.ndarray) -> float:
    """Variance between scenes over that of scenes which decide their outcome, in (0, 1].

    One scene that is always won and one that never is are added, so that it is 1 where all
    outcomes were the same.
    """
    usual = tried.mean()
    won, tried = np.append(won, [usual, 0.0]), np.append(tried, [usual, usual])
    rate = won.sum() / tried.sum()
    spread = ((won - rate * tried) ** 2).sum() / (tried**2).sum()
    return min(1.0, float(spread / (rate * (1 - rate))))


def _wilson(rate: float, n: float, z: float) -> tuple[float, float]:
    """The score interval, of a number of episodes that need not be whole."""
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if rate == 0 else (centre - half) / scale
    high = 1.0 if rate == 1 else (centre + half) / scale
    return low, high


def _whole(counts: Sequence[int]) -> np.ndarray:
    values = np.asarray(counts)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"counts must be whole numbers: got {list(counts)}")
    return values.astype(np.int64)
