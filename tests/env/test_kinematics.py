import numpy as np
import pytest

from twin_env.embedded.kinematics import (
    JOINT_LOWER_RAD,
    JOINT_UPPER_RAD,
    UnreachableError,
    forward,
    inverse,
)
from twin_env.embedded.robot import home_joints, pointing_down
from twin_env.embedded.rotations import matrix_to_quaternion, quaternion_to_matrix


def test_inverse_undoes_forward_all_over_the_joint_range() -> None:
    rng = np.random.default_rng(0)
    for joints in rng.uniform(JOINT_LOWER_RAD, JOINT_UPPER_RAD, size=(300, 6)):
        position, rotation = forward(joints)
        near = np.clip(joints + rng.uniform(-0.3, 0.3, 6), JOINT_LOWER_RAD, JOINT_UPPER_RAD)
        solved = inverse(position, rotation, near)
        assert np.all(solved >= JOINT_LOWER_RAD)
        assert np.all(solved <= JOINT_UPPER_RAD)
        again, turned = forward(solved)
        np.testing.assert_allclose(again, position, atol=1e-9)
        np.testing.assert_allclose(turned, rotation, atol=1e-6)


def test_inverse_returns_the_configuration_it_came_from() -> None:
    joints = home_joints() + 0.05
    position, rotation = forward(joints)
    np.testing.assert_allclose(inverse(position, rotation, joints), joints, atol=1e-9)


def test_the_arm_points_down_at_rest() -> None:
    position, rotation = forward(home_joints())
    np.testing.assert_allclose(position, [0.22, 0.0, 0.22], atol=1e-9)
    np.testing.assert_allclose(rotation, pointing_down(), atol=1e-9)


@pytest.mark.parametrize("position", [(1.2, 0.0, 0.3), (0.0, 0.0, 2.0)])
def test_a_pose_out_of_reach_says_how_far_it_is(position: tuple[float, float, float]) -> None:
    with pytest.raises(UnreachableError, match=r"m from the shoulder; the arm spans"):
        inverse(np.array(position), pointing_down(), home_joints())


def test_quaternions_and_matrices_agree() -> None:
    rng = np.random.default_rng(1)
    for quaternion in rng.normal(size=(100, 4)):
        quaternion = quaternion / np.linalg.norm(quaternion)
        quaternion = quaternion * np.sign(quaternion[0])
        matrix = quaternion_to_matrix(quaternion)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(matrix_to_quaternion(matrix), quaternion, atol=1e-9)


def test_quaternion_of_a_half_turn() -> None:
    half_turn = np.diag([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(matrix_to_quaternion(half_turn), [0, 0, 0, 1], atol=1e-12)
