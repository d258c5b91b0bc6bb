"""Point clouds: where a camera's pixels are in the world, and which of them are kept."""

import numpy as np
import pytest

from twin_env.point_clouds import (
    CROP_M,
    CloudSpec,
    choose_points,
    colored_points,
    crop_over_table,
    farthest_points,
)

INTRINSIC = np.array([[100.0, 0.0, 4.0], [0.0, 100.0, 3.0], [0.0, 0.0, 1.0]], np.float32)
LOOKING_DOWN_FROM_1_M = np.eye(4, dtype=np.float32)
LOOKING_DOWN_FROM_1_M[:3, 3] = 0.1, 0.2, 1.0


def some_points(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform((-0.5, -0.3, 0.75, 0, 0, 0), (0.5, 0.3, 1.0, 1, 1, 1), (number, 6)).astype(
        np.float32
    )


def test_pixels_become_points_of_the_world() -> None:
    """A camera that looks along -z with y up sees the right of its picture at larger x."""
    depth = np.full((6, 8), 0.5)
    depth[0, 0] = 0.0
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[5, 7] = 255, 51, 0
    points = colored_points(depth, rgb, INTRINSIC, LOOKING_DOWN_FROM_1_M)
    assert points.shape == (47, 6)
    assert points.dtype == np.float32
    expected = [0.1 + 3.5 / 100 * 0.5, 0.2 - 2.5 / 100 * 0.5, 0.5, 1.0, 0.2, 0.0]
    np.testing.assert_allclose(points[-1], expected, atol=1e-6)


def test_the_farthest_come_first() -> None:
    points = some_points(300)[:, :3]
    chosen = farthest_points(points, 40)
    assert chosen[0] == 0
    for place in range(1, 40):
        gaps = np.linalg.norm(points[:, None] - points[chosen[:place]], axis=-1).min(axis=1)
        assert gaps[chosen[place]] == pytest.approx(gaps.max(), rel=1e-5)


def test_of_equally_far_points_the_first_is_chosen() -> None:
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    np.testing.assert_array_equal(farthest_points(square, 4), [0, 3, 1, 2])


def test_more_points_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="8 points cannot be chosen of 5"):
        farthest_points(some_points(5)[:, :3], 8)


def test_a_cloud_is_cropped_thinned_and_the_same_again() -> None:
    points = some_points(30_500)
    points[30_000:, 2] += 2.0
    cloud = choose_points(points, CloudSpec(n_points=256))
    assert cloud.shape == (256, 6)
    assert cloud.dtype == np.float32
    assert cloud[:, 2].max() < 2.0
    np.testing.assert_array_equal(cloud, choose_points(points, CloudSpec(n_points=256)))
    kept = {tuple(point) for point in points.tolist()}
    assert {tuple(point) for point in cloud.tolist()} <= kept
    whole = choose_points(points, CloudSpec(n_points=0))
    assert len(whole) == 30_000
    assert len(choose_points(points, CloudSpec(n_points=0, crop_m=None))) == 30_500


def test_thinning_leaves_no_hole() -> None:
    """What is left of 30,000 points covers a plate of 1.0 x 0.6 m nearly as well as could be."""
    points = some_points(30_000)
    points[:, 2] = 0.8
    cloud = choose_points(points, CloudSpec(n_points=256))
    sample = points[::50, None, :3]
    gaps = np.linalg.norm(sample - cloud[None, :, :3], axis=-1).min(axis=1)
    assert gaps.max() < 0.06


@pytest.mark.parametrize("number", [0, 100])
def test_too_few_points_are_filled_up_with_zeros(number: int) -> None:
    points = some_points(number)
    cloud = choose_points(points, CloudSpec(n_points=128))
    assert cloud.shape == (128, 6)
    np.testing.assert_array_equal(cloud[:number], points)
    assert not cloud[number:].any()


def test_the_box_rises_with_the_table() -> None:
    low, high = crop_over_table(-0.02)
    np.testing.assert_allclose(low, [*CROP_M[0][:2], CROP_M[0][2] - 0.02])
    assert high == CROP_M[1]
