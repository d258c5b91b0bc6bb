"""Bowls, burger, cup and pot: end states that look nearly right are told from those that are."""

from typing import Any

import numpy as np
import pytest
import sapien

from twin_env import load_env_config, make_env
from twin_env.embedded.actor import Actor
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_about
from twin_env.embedded.tasks.stack_bowls_two import NEST_M

pytestmark = pytest.mark.simulator

CONFIG = load_env_config("demo_clean")
RULES = {
    "stack_bowls_two": "stack_bowls_two_strict",
    "place_burger_fries": "place_burger_fries_strict",
}
"""RoboTwin's rule -> ours beside it."""
AXIS_X, AXIS_Y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
UP = np.array([0.0, 0.0, 1.0])
CLOSE_M = 5e-4


def started(task: str, seed: int = 0) -> Any:
    env = make_env(task)
    assert isinstance(env, EmbeddedTask)
    env.setup_demo(seed=seed, render=False, **CONFIG)
    return env


def put(actor: Actor, at_m: Array, turned: Array | None = None) -> None:
    """Set an object down at a place, turned from upright."""
    quaternion = matrix_to_quaternion(np.eye(3) if turned is None else turned)
    actor.entity.set_pose(sapien.Pose(at_m, quaternion))
    body = actor.get_body()
    assert isinstance(body, sapien.physx.PhysxRigidDynamicComponent)
    body.linear_velocity = body.angular_velocity = np.zeros(3)


def settle(env: EmbeddedTask) -> None:
    for _ in range(250):
        env.scene.step()


def stack_bowls(env: Any, *, offset_m: Array, tilt_rad: float = 0.0) -> None:
    middle = np.array([0.0, -0.1, env.table_top_m + CLOSE_M])
    put(env.bowl1, middle)
    put(env.bowl2, middle + offset_m, rotation_about(AXIS_Y, tilt_rad))
    settle(env)


def serve(env: Any, *, fries_tilt_rad: float = 0.0, burger_off_m: float = 0.0) -> None:
    spots = [env.tray.get_functional_point(i).p + CLOSE_M * UP for i in (0, 1)]
    put(env.burger, spots[0] - np.array([burger_off_m, 0.0, 0.0]))
    # Lying, the carton rests on its front.
    lift = 0.02 * UP if fries_tilt_rad else 0.0 * UP
    put(env.fries, spots[1] + lift, rotation_about(AXIS_X, fries_tilt_rad))
    settle(env)


@pytest.mark.parametrize("task", ["stack_bowls_two", "stack_bowls_two_strict"])
def test_nested_bowls_are_stacked_and_bowls_side_by_side_are_not(task: str) -> None:
    env = started(task)
    stack_bowls(env, offset_m=NEST_M * UP)
    assert env.check_success()
    assert env.check_actors_contact(env.bowl1, env.bowl2)
    stack_bowls(env, offset_m=np.array([0.125, 0.0, 0.0]))
    assert not env.check_success()


def test_a_nested_bowl_that_is_still_held_is_not_stacked() -> None:
    env = started("stack_bowls_two")
    stack_bowls(env, offset_m=NEST_M * UP)
    env.arms["left"].drive(env.arms["left"].targets_rad, 0.5)
    assert not env.check_success()


def test_a_bowl_askew_on_the_others_rim_passes_robotwins_rule_and_not_the_strict_one() -> None:
    hollow, strict = started("stack_bowls_two"), started("stack_bowls_two_strict")
    for env in (hollow, strict):
        stack_bowls(env, offset_m=np.array([-0.03, 0.0, 0.055]), tilt_rad=np.pi / 6)
        assert env.bowl2.get_pose().rotation[2, 2] < 0.9
        assert env.bowl2.speed_m_s() < 0.01
    assert hollow.check_success()
    assert not strict.check_success()


def test_a_bowl_that_still_falls_into_the_other_passes_robotwins_rule_only() -> None:
    hollow, strict = started("stack_bowls_two"), started("stack_bowls_two_strict")
    for env in (hollow, strict):
        stack_bowls(env, offset_m=NEST_M * UP)
        put(env.bowl2, env.bowl1.get_pose().p + 0.048 * UP)
    assert hollow.check_success()
    assert not strict.check_success()


@pytest.mark.parametrize("task", ["place_burger_fries", "place_burger_fries_strict"])
def test_food_on_the_tray_is_served_and_a_burger_beside_the_tray_is_not(task: str) -> None:
    env = started(task)
    serve(env)
    assert env.check_success()
    serve(env, burger_off_m=0.13)
    assert env.burger.get_pose().p[2] < env.table_top_m + 0.004
    assert not env.check_success()


def test_fries_that_lie_on_the_tray_pass_robotwins_rule_and_not_the_strict_one() -> None:
    hollow, strict = started("place_burger_fries"), started("place_burger_fries_strict")
    for env in (hollow, strict):
        serve(env, fries_tilt_rad=np.pi / 2)
        assert abs(env.fries.get_pose().rotation[2, 2]) < 0.3
        assert env.fries.speed_m_s() < 0.01
    assert hollow.check_success()
    assert not strict.check_success()


def test_a_cup_on_the_coaster_is_placed_and_one_beside_over_or_under_it_is_not() -> None:
    env = started("place_empty_cup")
    top = env.coaster.get_functional_point(0).p
    put(env.cup, top + CLOSE_M * UP)
    settle(env)
    assert env.check_success()
    put(env.cup, np.array([top[0] + 0.1, top[1], env.table_top_m + CLOSE_M]))
    settle(env)
    assert not env.check_success()
    put(env.cup, top + 0.02 * UP)
    assert not env.check_success()
    put(env.cup, top + 0.09 * UP, rotation_about(AXIS_X, np.pi))
    settle(env)
    assert not env.check_success()


def test_a_pot_is_lifted_by_both_arms_only() -> None:
    env = started("lift_pot")
    grasp = env.grasp_actor(env.pot, "left", pre_grasp_dis=0.08, closing=0.7)
    env.move(grasp + env.stay("left", 60) + env.close_gripper("left"))
    env.move(env.move_by_displacement("left", z=0.14, pace=0.6))
    env.move(env.stay("left", 75))
    assert env.check_stages()[0], "the left arm still holds its handle"
    assert env.pot.get_contact_point(0).p[2] > 0.82
    assert not env.check_success()


def test_a_lifted_pot_must_be_high_enough_and_level_at_both_handles() -> None:
    env = started("lift_pot")
    env.play_once()
    assert env.check_success()
    lifted = env.pot.get_pose()
    assert lifted.rotation[2, 2] > 0.99
    put(env.pot, lifted.p, rotation_about(AXIS_X, 0.7) @ lifted.rotation)
    assert not env.check_success(), "tipped over the axis through its handles"
    put(env.pot, lifted.p - 0.035 * UP, lifted.rotation)
    assert not env.check_success(), "the tools are off its handles"


def test_objects_stand_where_the_experts_work_and_clutter_is_kept_away() -> None:
    for task in (*RULES, "place_empty_cup", "lift_pot"):
        env = started(task)
        for actor in env.actors:
            x, y = actor.get_pose().p[:2]
            assert any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in env.prohibited_area), (
                f"{task}: {actor.get_name()}"
            )
