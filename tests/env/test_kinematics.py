import numpy as np
import pytest

from twin_env.config import ARM_JOINTS
from twin_env.embedded.kinematics import ARM6, ARM7, ARM_MODELS, ArmModel, UnreachableError
from twin_env.embedded.robot import home_joints, pointing_down
from twin_env.embedded.rotations import (
    interpolate,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_about,
)

MODELS = pytest.mark.parametrize("model", ARM_MODELS.values(), ids=ARM_MODELS)


@MODELS
def test_inverse_undoes_forward_all_over_the_joint_range(model: ArmModel) -> None:
    rng = np.random.default_rng(0)
    lower, upper = model.limits_rad
    for joints in rng.uniform(lower, upper, size=(300, model.joints)):
        position, rotation = model.forward(joints)
        near = np.clip(joints + rng.uniform(-0.3, 0.3, model.joints), lower, upper)
        solved = model.inverse(position, rotation, near)
        assert np.all(solved >= lower)
        assert np.all(solved <= upper)
        again, turned = model.forward(solved)
        np.testing.assert_allclose(again, position, atol=1e-9)
        np.testing.assert_allclose(turned, rotation, atol=1e-6)


@MODELS
def test_inverse_returns_the_configuration_it_came_from(model: ArmModel) -> None:
    joints = home_joints(model, "left") + 0.05
    position, rotation = model.forward(joints)
    np.testing.assert_allclose(model.inverse(position, rotation, joints), joints, atol=1e-9)


@MODELS
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_arm_points_down_at_rest(model: ArmModel, side: str) -> None:
    position, rotation = model.forward(home_joints(model, side))
    np.testing.assert_allclose(position, [0.22, 0.0, 0.22], atol=1e-9)
    np.testing.assert_allclose(rotation, pointing_down(), atol=1e-9)


@MODELS
@pytest.mark.parametrize("position", [(1.2, 0.0, 0.3), (0.0, 0.0, 2.0)])
def test_a_pose_out_of_reach_says_how_far_it_is(
    model: ArmModel, position: tuple[float, float, float]
) -> None:
    with pytest.raises(UnreachableError, match=r"m from the shoulder; the arm spans"):
        model.inverse(np.array(position), pointing_down(), home_joints(model, "left"))


def test_the_seventh_joint_moves_the_elbow_and_not_the_tool() -> None:
    at, rotation = np.array([0.35, 0.1, 0.1]), pointing_down(0.3)
    near = home_joints(ARM7, "left")
    found = []
    for roll in (-0.5, 0.0, 0.5):
        near[2] = roll
        found.append(ARM7.inverse(at, rotation, near))
        assert found[-1][2] == roll
        np.testing.assert_allclose(ARM7.forward(found[-1])[0], at, atol=1e-9)
    assert abs(found[0][0] - found[2][0]) > 0.3


def test_the_seven_joint_arm_reaches_what_its_present_roll_cannot() -> None:
    near = home_joints(ARM7, "left")
    near[2] = 2.4
    at = np.array([0.45, 0.0, 0.05])
    solved = ARM7.inverse(at, pointing_down(), near)
    assert solved[2] != 2.4
    np.testing.assert_allclose(ARM7.forward(solved)[0], at, atol=1e-9)


def test_without_roll_the_seven_joint_arm_is_the_six_joint_arm() -> None:
    joints = np.array([0.3, -0.4, 1.6, 0.2, 1.1, -0.5])
    for a, b in zip(ARM6.forward(joints), ARM7.forward(np.insert(joints, 2, 0.0)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_configs_know_how_many_joints_each_arm_has() -> None:
    assert {name: model.joints for name, model in ARM_MODELS.items()} == ARM_JOINTS


def test_turning_is_even_between_two_rotations() -> None:
    axis = np.array([0.6, 0.0, 0.8])
    start = rotation_about(axis, 0.4)
    angle, between = interpolate(start, rotation_about(axis, 1.6))
    assert angle == pytest.approx(1.2)
    np.testing.assert_allclose(between(0.25), rotation_about(axis, 0.7), atol=1e-9)


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
