import numpy as np
import pytest

from twin_env.embedded.motion import PHYSICS_HZ, follow, stretch, trapezoid_duration_s


@pytest.mark.parametrize(
    ("distance", "expected_s"),
    [(0.25, 1.0), (1.0, 2.0), (3.0, 4.0)],  # two triangles and a trapezoid at v = a = 1
)
def test_duration_is_the_least_under_both_limits(distance: float, expected_s: float) -> None:
    assert trapezoid_duration_s(distance, 1.0, 1.0) == pytest.approx(expected_s)


@pytest.mark.parametrize("end", [(0.3, -0.1), (2.5, 1.0)])
def test_a_line_keeps_to_its_limits_and_ends_at_rest(end: tuple[float, float]) -> None:
    path = follow(np.array([[0.0, 0.0], end]), speed=1.0, acceleration=1.0)
    np.testing.assert_array_equal(path[-1], end)
    positions = np.vstack([[0.0, 0.0], path])
    speed = np.diff(positions, axis=0) * PHYSICS_HZ
    acceleration = np.diff(speed, axis=0) * PHYSICS_HZ
    assert np.abs(speed).max() <= 1.0 + 1e-6
    assert np.abs(acceleration).max() <= 1.0 + 1e-3
    assert np.abs(speed[[0, -1]]).max() < 0.01
    np.testing.assert_allclose(path[:, 1] * end[0], path[:, 0] * end[1], atol=1e-12)


def test_knots_are_passed_through() -> None:
    knots = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    path = follow(knots, speed=1.0, acceleration=1.0)
    off_the_corner = np.minimum(np.abs(path[:, 1]), np.abs(path[:, 0] - 1.0))
    np.testing.assert_allclose(off_the_corner, 0.0, atol=1e-12)


def test_no_motion_gives_no_waypoints() -> None:
    assert follow(np.zeros((2, 6)), speed=1.0, acceleration=1.0).shape == (0, 6)


def test_stretch_keeps_the_end_and_the_order() -> None:
    path = np.linspace(0.1, 1.0, 10)[:, None]
    longer = stretch(path, 25)
    assert longer.shape == (25, 1)
    assert longer[-1] == path[-1]
    assert np.all(np.diff(longer[:, 0]) >= 0)
