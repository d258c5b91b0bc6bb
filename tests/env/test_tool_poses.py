"""`action_type="ee"`: tool poses as actions, on every embodiment."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from twin_env import InvalidActionError, load_env_config, make_env
from twin_env.embedded.base_task import EmbeddedTask

pytestmark = pytest.mark.simulator

CONFIG = load_env_config("demo_clean")
EMBODIMENTS = [["twin-arm6"], ["twin-arm7"], ["twin-arm6", "twin-arm7", 0.7]]


@pytest.fixture
def env() -> Iterator[EmbeddedTask]:
    env = make_env("beat_block_hammer")
    assert isinstance(env, EmbeddedTask)
    yield env
    env.close_env()


def poses(env: Any) -> np.ndarray:
    """(16,): where the tools are, grippers open."""
    endpose = env.get_obs()["endpose"]
    return np.array([*endpose["left_endpose"], 1.0, *endpose["right_endpose"], 1.0])


@pytest.mark.parametrize("embodiment", EMBODIMENTS, ids=str)
def test_the_tools_go_where_they_are_told(env: EmbeddedTask, embodiment: list[Any]) -> None:
    env.setup_demo(seed=0, render=False, **{**CONFIG, "embodiment": embodiment})
    goal = poses(env)
    goal[[0, 9]] += 0.04
    goal[[2, 10]] -= 0.03
    for _ in range(6):
        env.take_action(goal, action_type="ee")
    np.testing.assert_allclose(poses(env), goal, atol=2e-3)
    assert env.clamped_actions == 0


def test_a_quaternion_and_its_negative_are_one_pose(env: EmbeddedTask) -> None:
    ends = []
    for sign in (1.0, -3.0):
        env.setup_demo(seed=0, render=False, **CONFIG)
        goal = poses(env)
        goal[0] += 0.05
        goal[3:7] *= sign
        env.take_action(goal, action_type="ee")
        ends.append(env.drive_vector())
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_an_arm_whose_pose_is_out_of_reach_stays_and_is_counted(env: EmbeddedTask) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    before, goal = env.drive_vector(), poses(env)
    goal[0], goal[8] = -3.0, goal[8] - 0.05
    env.take_action(goal, action_type="ee")
    np.testing.assert_array_equal(env.drive_vector()[:6], before[:6])
    assert np.max(np.abs(env.drive_vector()[7:13] - before[7:13])) > 0.01
    assert env.clamped_actions == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda goal: goal[:14], r"shape \(16,\): \[left tool pose 7 .*got \(14,\)"),
        (lambda goal: np.where(np.arange(16) == 4, np.nan, goal), r"elements \[4\] are not"),
        (lambda goal: np.where((np.arange(16) > 2) & (np.arange(16) < 7), 0.0, goal), "length 1"),
    ],
)
def test_what_is_no_pose_never_reaches_the_physics(
    env: EmbeddedTask, change: Any, message: str
) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    before = env.drive_vector()
    with pytest.raises(InvalidActionError, match=message):
        env.take_action(change(poses(env)), action_type="ee")
    np.testing.assert_array_equal(env.drive_vector(), before)
    assert env.take_action_cnt == 0


@pytest.mark.parametrize(
    ("embodiment", "message"),
    [
        (["twin-arm8"], "'twin-arm8'; did you mean 'twin-arm"),
        (["twin-arm6", "twin-arm7"], "metres between their bases"),
        (["twin-arm6", "twin-arm7", 3.0], "0.4 to 0.8 m apart, not 3.0"),
    ],
)
def test_an_embodiment_that_is_none_is_named(
    env: EmbeddedTask, embodiment: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        env.setup_demo(seed=0, render=False, **{**CONFIG, "embodiment": embodiment})


@pytest.mark.parametrize("embodiment", EMBODIMENTS[1:], ids=str)
def test_the_expert_and_its_replay_succeed_with_other_arms(
    env: EmbeddedTask, embodiment: list[Any]
) -> None:
    dims = {"['twin-arm7']": 16}.get(str(embodiment), 15)
    env.setup_demo(seed=1, render=False, **{**CONFIG, "embodiment": embodiment})
    actions = env.expert_actions()
    assert actions.shape[1] == dims
    for action in actions:
        env.take_action(action)
    assert env.eval_success
