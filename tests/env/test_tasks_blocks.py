"""Blocks and the bell: what looks almost like success and is none."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sapien

from twin_env import load_env_config, make_env
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.robot import pointing_down
from twin_env.embedded.rotations import matrix_to_quaternion, rotation_y
from twin_env.embedded.tasks.click_bell import FINGERTIPS_BEYOND_TCP_M

pytestmark = pytest.mark.simulator

CONFIG = load_env_config("demo_clean")
UPRIGHT = np.eye(3)
ROLLED = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""A quarter round about the tool's approach."""
Task = Callable[..., Any]


@pytest.fixture
def task() -> Iterator[Task]:
    """Sets a task up by name."""
    envs: list[EmbeddedTask] = []

    def set_up(name: str, seed: int = 0) -> EmbeddedTask:
        env = make_env(name)
        assert isinstance(env, EmbeddedTask)
        env.setup_demo(seed=seed, render=False, **CONFIG)
        envs.append(env)
        return env

    yield set_up
    for env in envs:
        env.close_env()


def put(env: Any, actor: Any, at_m: Any, rotation: np.ndarray = UPRIGHT) -> None:
    """Set an object down somewhere and let it come to rest."""
    at = np.asarray(at_m, np.float32)
    actor.entity.set_pose(sapien.Pose(at, matrix_to_quaternion(rotation)))
    actor.get_body().set_linear_velocity(np.zeros(3, np.float32))
    for _ in range(60):
        env.scene.step()


def touch(env: Any, beside_m: tuple[float, float], above_top_m: float, *, closed: bool) -> None:
    """Bring the fingertips of the bell's arm from above to a place beside the bell's middle."""
    arm = env.arm_tag
    if closed:
        env.move(env.close_gripper(arm))
    at = env.bell.get_contact_point(0).p + np.array(
        [*beside_m, above_top_m + FINGERTIPS_BEYOND_TCP_M]
    )
    env.move(env.move_to_pose(arm, at + np.array([0.0, 0.0, 0.12]), pointing_down()))
    env.move(env.move_to_pose(arm, at, pointing_down(), straight=True) + env.stay(arm, 150))
    assert env.plan_success


# Stack ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("green_from_red_m", "stacked"),
    [
        pytest.param((0.0, 0.0, 0.0505), True, id="on it"),
        pytest.param((0.015, -0.01, 0.0505), True, id="on it, not quite in the middle"),
        pytest.param((0.051, 0.0, 0.0005), False, id="beside it"),
        pytest.param((0.0, 0.051, 0.0005), False, id="before it"),
        pytest.param((0.0, 0.15, 0.0005), False, id="away from it"),
    ],
)
def test_blocks_are_stacked_only_on_top_of_each_other(
    task: Task, green_from_red_m: tuple[float, float, float], stacked: bool
) -> None:
    env = task("stack_blocks_two")
    at = np.array([0.0, -0.13, env.table_top_m + 0.0255])
    put(env, env.block1, at)
    put(env, env.block2, at + green_from_red_m)
    assert env.check_success() is stacked


def test_the_green_block_goes_on_the_red_one(task: Task) -> None:
    env = task("stack_blocks_two")
    at = np.array([0.0, -0.13, env.table_top_m + 0.0255])
    put(env, env.block2, at)
    put(env, env.block1, at + np.array([0.0, 0.0, 0.0505]))
    assert not env.check_success()


def test_a_block_that_is_still_held_is_not_stacked(task: Task) -> None:
    env = task("stack_blocks_two")
    env.play_once()
    assert env.check_success()
    arm = env.info["info"]["{b}"]
    env.move(env.grasp_actor(env.block2, arm) + env.stay(arm, 50))
    assert env.holders(env.block2) == {arm}
    assert not env.check_success()


# Hand over ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotation", "from_pad_m", "placed"),
    [
        pytest.param(UPRIGHT, (0.0, 0.0, 0.101), True, id="upright on the pad"),
        pytest.param(UPRIGHT, (0.02, -0.02, 0.101), True, id="upright, near the pad's middle"),
        pytest.param(UPRIGHT, (0.0, -0.12, 0.096), False, id="upright beside the pad"),
        pytest.param(rotation_y(np.pi / 2), (0.1, 0.0, 0.031), False, id="lying, foot on the pad"),
        pytest.param(rotation_y(np.pi / 2), (0.0, 0.0, 0.031), False, id="lying on the pad"),
    ],
)
def test_the_block_is_placed_only_upright_on_the_pad(
    task: Task, rotation: np.ndarray, from_pad_m: tuple[float, float, float], placed: bool
) -> None:
    env = task("handover_block")
    put(env, env.box, env.target_box.get_functional_point(1).p + from_pad_m, rotation)
    assert env.check_success() is placed


def test_the_block_on_the_pad_is_placed_once_the_right_gripper_lets_go(task: Task) -> None:
    env = task("handover_block")
    env.move(env.close_gripper("right"))
    put(env, env.box, env.target_box.get_functional_point(1).p + np.array([0.0, 0.0, 0.101]))
    assert not env.check_success()
    env.move(env.open_gripper("right"))
    assert env.check_success()


def test_a_block_handed_over_and_let_fall_is_no_success(task: Task) -> None:
    env = task("handover_block")
    holders = []
    env.frame_sink = lambda task: holders.append(task.holders(task.box))
    env._hand_over()
    first, both, second = (holders.index(who) for who in ({"left"}, {"left", "right"}, {"right"}))
    assert first < both < second
    # Over the pad the wrist turns it on its side, lays it down and lets go.
    over = env.target_box.get_functional_point(1).p + np.array([0.0, 0.0, 0.1])
    env.move(env._carry("right", over, yaw_rad=-np.pi / 2))
    position, rotation = env._tool("right")
    env.move(env.move_to_pose("right", position, rotation @ ROLLED) + env.stay("right", 60))
    down_m = env.box.get_pose().p[2] - env.table_top_m - 0.045
    env.move(env.move_by_displacement("right", z=-down_m) + env.stay("right", 60))
    env.move(env.open_gripper("right"))
    env.move(env._withdraw("right", 0.15) + env.stay("right", 100))
    assert env.plan_success
    assert abs(env.box.get_pose().rotation[2, 2]) < 0.3, "it lies, if with an end on the pad"
    assert not env.check_success()


# Ring -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("beside_m", "above_top_m", "closed", "touched", "rung"),
    [
        pytest.param((0.0, 0.0), -0.008, True, True, True, id="pressed"),
        pytest.param((0.0, 0.0), -0.008, False, False, False, id="between open fingers"),
        pytest.param((0.0, 0.05), -0.008, False, True, False, id="by an open finger"),
        pytest.param((0.0, 0.0), 0.01, True, False, False, id="closed above it"),
        pytest.param((0.0, -0.05), -0.053, True, True, False, id="closed, at its foot"),
    ],
)
def test_the_bell_rings_only_when_closed_fingers_touch_its_top(
    task: Task,
    seed: int,
    beside_m: tuple[float, float],
    above_top_m: float,
    closed: bool,
    touched: bool,
    rung: bool,
) -> None:
    env = task("click_bell", seed)
    touch(env, beside_m, above_top_m, closed=closed)
    assert bool(env.gripper_contacts_m(env.bell)) is touched
    assert env.check_success() is rung


def test_a_bell_once_rung_stays_rung_until_the_next_episode(task: Task) -> None:
    env = task("click_bell")
    env.play_once()
    env.move(env.back_to_origin(env.arm_tag))
    assert not env.gripper_contacts_m(env.bell)
    assert env.check_success()
    env.setup_demo(seed=0, render=False, **CONFIG)
    assert not env.check_success()
