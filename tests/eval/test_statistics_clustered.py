"""Several trainings on the same scenes: exact test, intervals, and their coverage by simulation.

Run as a script it prints a table of coverages (minutes).
"""

import sys
from collections.abc import Callable
from itertools import combinations_with_replacement, product

import numpy as np
import pytest

from twin_eval.statistics import (
    clustered_difference_interval,
    clustered_p_value,
    clustered_rate_interval,
    mcnemar_exact,
    mean_interval,
    sign_flip_p_value,
    wilson_interval,
)

RATES = (0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0)
KINDS = ("scene decides, in common", "scene decides", "scene matters", "scene says nothing")


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (9, 1), (3, 12), (7, 7), (40, 60)])
def test_with_one_training_it_is_mcnemars_exact_test(only_a: int, only_b: int) -> None:
    differences = [1] * only_a + [-1] * only_b + [0] * 5
    assert sign_flip_p_value(differences) == pytest.approx(mcnemar_exact(only_a, only_b))


def test_the_p_value_is_that_of_all_flips_counted_one_by_one() -> None:
    differences = [3, -1, 2, 0, 1, 2]
    flips = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([flip >= abs(sum(differences)) for flip in flips])
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_trainings_that_always_agree_say_no_more_than_one() -> None:
    one = [1, 1, 1, 1, 1, -1, 0, 0, 1]
    three = [3 * value for value in one]
    assert sign_flip_p_value(three) == pytest.approx(sign_flip_p_value(one))
    assert clustered_difference_interval(three, 3) == clustered_difference_interval(one, 1)
    won = [value > 0 for value in one]
    low, high = clustered_rate_interval([3 * w for w in won], [3] * 9)
    wilson = wilson_interval(sum(won), 9)
    assert low <= wilson[0]
    assert high >= wilson[1]


def test_with_one_training_the_rates_interval_is_wilsons() -> None:
    for successes in (0, 3, 10):
        won = [1] * successes + [0] * (10 - successes)
        got = clustered_rate_interval(won, [1] * 10)
        assert got == pytest.approx(wilson_interval(successes, 10))
    assert clustered_rate_interval([1, 0, 0], [1, 1, 0]) == pytest.approx(wilson_interval(1, 2))


def test_scenes_that_say_nothing_count_by_their_episodes() -> None:
    generator = np.random.default_rng(0)
    won = generator.binomial(3, 0.5, size=400)
    low, high = clustered_rate_interval(won, [3] * 400)
    wilson = wilson_interval(int(won.sum()), 1200)
    assert high - low == pytest.approx(wilson[1] - wilson[0], rel=0.15)


@pytest.mark.parametrize("trainings", [2, 4])
def test_a_rate_never_rests_on_more_episodes_than_were_played(trainings: int) -> None:
    """Half of the trainings always succeed, half never: all scenes are alike."""
    low, high = clustered_rate_interval([trainings // 2] * 20, [trainings] * 20)
    wilson = wilson_interval(10 * trainings, 20 * trainings)
    assert low < wilson[0]
    assert high > wilson[1]
    assert high - low < 1.1 * (wilson[1] - wilson[0])


def test_nothing_is_known_from_nothing() -> None:
    assert clustered_difference_interval([2], 2) == (-1.0, 1.0)
    assert clustered_rate_interval([], []) == (0.0, 1.0)
    assert clustered_rate_interval([0, 0], [0, 0]) == (0.0, 1.0)
    assert sign_flip_p_value([]) == 1.0


def test_no_difference_anywhere_still_has_a_width() -> None:
    low, high = clustered_difference_interval([0] * 50, 3)
    assert -0.1 < low < 0 < high < 0.1
    assert low == -high


def test_swapping_the_two_turns_the_interval_over() -> None:
    differences = [3, -1, 2, 0, 1, 2, 0, 0, 1]
    low, high = clustered_difference_interval(differences, 3)
    assert clustered_difference_interval([-one for one in differences], 3) == pytest.approx(
        (-high, -low)
    )


def test_the_interval_of_a_mean_squares_and_adds() -> None:
    assert mean_interval([0.5], [(0.4, 0.7)]) == pytest.approx((0.4, 0.7))
    low, high = mean_interval([0.2, 0.6], [(0.17, 0.3), (0.56, 0.8)])
    assert (low, high) == pytest.approx((0.4 - 0.025, 0.4 + np.hypot(0.1, 0.2) / 2))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most the number of trainings, 2: got 3"):
        clustered_difference_interval([0, -3], 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, trials\]"):
        clustered_rate_interval([2], [1])
    with pytest.raises(ValueError, match="whole numbers"):
        sign_flip_p_value([0.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="each estimate needs an interval"):
        mean_interval([], [])


def draw(
    kind: str, rates: tuple[float, float], shape: tuple[int, int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Successes of A and B over the trainings, (draws, scenes); `shape` ends in trainings."""
    generator = np.random.default_rng(seed)
    scenes, trainings = shape[:2], shape[2]
    if kind.startswith("scene decides"):
        luck = generator.uniform(size=scenes)
        other = luck if kind.endswith("common") else generator.uniform(size=scenes)
        return trainings * (luck < rates[0]), trainings * (other < rates[1])
    chances = [
        generator.beta(max(rate, 1e-9), max(1 - rate, 1e-9), size=scenes)
        if kind == "scene matters"
        else np.full(scenes, rate)
        for rate in rates
    ]
    a, b = (generator.binomial(trainings, chance) for chance in chances)
    return a, b


def share(rows: np.ndarray, holds: Callable[[np.ndarray], bool]) -> float:
    """Of the rows, which do not depend on the order of their scenes, the share that `holds`."""
    distinct, counts = np.unique(np.sort(rows, axis=1), axis=0, return_counts=True)
    return float(sum(c for row, c in zip(distinct, counts, strict=True) if holds(row)) / len(rows))


def covers(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] - 1e-9 <= truth <= interval[1] + 1e-9


def difference_coverage(
    kind: str, rates: tuple[float, float], n: int, trainings: int, draws: int
) -> float:
    a, b = draw(kind, rates, (draws, n, trainings), seed=1)
    truth = rates[0] - rates[1]
    return share(a - b, lambda row: covers(clustered_difference_interval(row, trainings), truth))


def rate_coverage(kind: str, rate: float, n: int, trainings: int, draws: int) -> float:
    a, _ = draw(kind, (rate, rate), (draws, n, trainings), seed=2)
    tried = [trainings] * n
    return share(a, lambda row: covers(clustered_rate_interval(row, tried), rate))


def rejections(kind: str, rate: float, n: int, trainings: int, draws: int) -> float:
    a, b = draw(kind, (rate, rate), (draws, n, trainings), seed=3)
    return share(a - b, lambda row: clustered_p_value(row, trainings) <= 0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rates", "n", "trainings"), [((0.02, 0.3), 20, 2), ((0.8, 0.5), 50, 3)])
def test_the_differences_interval_covers(
    kind: str, rates: tuple[float, float], n: int, trainings: int
) -> None:
    draws = 800
    covered = difference_coverage(kind, rates, n, trainings, draws)
    assert covered >= 0.95 - 3 * (0.95 * 0.05 / draws) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.95])
def test_the_rates_interval_covers_as_wilsons(kind: str, rate: float) -> None:
    """Wilson's own coverage is right on average only, and swings around 95%."""
    draws = 500
    covered = rate_coverage(kind, rate, 50, 3, draws)
    assert covered >= 0.93 - 3 * (0.95 * 0.05 / draws) ** 0.5


def test_one_episode_each_would_be_too_sure_of_a_rate() -> None:
    """What the cluster is for: Wilson's interval of all episodes, as if scenes said nothing."""
    a, _ = draw("scene decides", (0.5, 0.5), (500, 50, 3), seed=4)
    assert share(a, lambda row: covers(wilson_interval(int(row.sum()), 150), 0.5)) < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_seldom_rejects_what_is_true(kind: str) -> None:
    assert rejections(kind, 0.3, 30, 3, 500) <= 0.05 + 3 * (0.95 * 0.05 / 500) ** 0.5


@pytest.mark.parametrize("n", [20, 50])
def test_it_seldom_rejects_equal_rates_where_flips_are_not_fair(n: int) -> None:
    """A wins few scenes in all three trainings, and loses three times as many in one."""
    draws = 500
    rows = np.random.default_rng(5).choice([3, -1, 0], p=[0.1, 0.3, 0.6], size=(draws, n))
    assert share(rows, lambda row: clustered_p_value(row, 3) <= 0.05) <= 0.05
    if n == 20:
        assert share(rows, lambda row: sign_flip_p_value(row) <= 0.05) > 0.06


@pytest.mark.parametrize("differences", [[3, 1, 0, 2, -1, 0, 1], [1] * 9 + [-1], [0] * 5])
def test_the_p_value_and_the_interval_never_contradict_each_other(differences: list[int]) -> None:
    p = clustered_p_value(differences, 3)
    assert p >= sign_flip_p_value(differences)
    if p < 1:
        low, high = clustered_difference_interval(differences, 3, confidence=1 - p)
        assert not low < -1e-6 < 1e-6 < high


def print_table(draws: int) -> None:
    """Coverage over the grid, in Markdown."""
    print("| n | trainings | difference: least, mean | rate: least, mean | test: most rejections |")
    print("|--:|--:|--:|--:|--:|")
    for n, trainings in product((20, 50, 100), (1, 2, 3)):
        pairs = [pair[::-1] for pair in combinations_with_replacement(RATES, 2)]
        differences = [
            difference_coverage(kind, pair, n, trainings, draws)
            for kind, pair in product(KINDS, pairs)
        ]
        rates = [rate_coverage(k, r, n, trainings, draws) for k, r in product(KINDS, RATES)]
        wrong = [rejections(k, r, n, trainings, draws) for k, r in product(KINDS, RATES)]
        print(
            f"| {n} | {trainings} | {min(differences):.1%}, {np.mean(differences):.1%} "
            f"| {min(rates):.1%}, {np.mean(rates):.1%} | {max(wrong):.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    print_table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
