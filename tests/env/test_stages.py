"""Stages, simulated time, layout and the expert's steps: what a simulator tells the harness."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from twin_env import UnstableError, load_env_config, make_env
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import RED
from twin_env.embedded.scene import TABLE_TOP_M

pytestmark = pytest.mark.simulator

TASK = "beat_block_hammer"
CONFIG = load_env_config("demo_clean")


class Scripted(EmbeddedTask):
    """A task without physics to speak of: what holds after each action is written down."""

    stages = ("one", "two", "three")
    script: ClassVar[list[tuple[bool, ...]]] = []
    success_from_action: int | None = None

    def load_actors(self) -> None:
        pass

    def check_stages(self) -> tuple[bool, ...]:
        return self.script[self.take_action_cnt - 1]

    def check_success(self) -> bool:
        return self.take_action_cnt == self.success_from_action


@pytest.fixture
def env() -> Iterator[EmbeddedTask]:
    env = make_env(TASK)
    assert isinstance(env, EmbeddedTask)
    env.setup_demo(seed=100_000, render=False, **CONFIG)
    yield env
    env.close_env()


def scripted(*script: tuple[bool, ...], success_from_action: int | None = None) -> Scripted:
    env = Scripted()
    env.script = list(script)  # type: ignore[misc]
    env.success_from_action = success_from_action
    env.setup_demo(render=False, **CONFIG)
    return env


def reached_after_each(env: EmbeddedTask, actions: Any) -> list[int]:
    reached = []
    for action in actions:
        env.take_action(action)
        reached.append(env.stages_reached)
    return reached


def recorded(env: EmbeddedTask, *verbs: Any) -> np.ndarray:
    """(N, 14): the actions that replay these plans, each a function of the task."""
    vectors: list[np.ndarray] = []
    env.frame_sink = lambda task: vectors.append(task.drive_vector())
    for plan in verbs:
        env.move(plan(env))
    env.frame_sink = None
    return np.stack(vectors[1:])


def test_a_stage_counts_after_those_before_it_and_never_goes_back() -> None:
    no, yes = False, True
    env = scripted((no, yes), (yes, no), (no, yes))
    still = env.drive_vector()
    assert reached_after_each(env, [still] * 3) == [0, 1, 2]
    env = scripted((no, no), (yes, no), (no, no), (no, yes), (no, no))
    still = env.drive_vector()
    assert reached_after_each(env, [still] * 5) == [0, 1, 1, 2, 2]


def test_success_is_the_last_stage_and_brings_all() -> None:
    env = scripted((False, False), success_from_action=2)
    still = env.drive_vector()
    assert reached_after_each(env, [still] * 3) == [0, 3, 3]
    env.setup_demo(render=False, **CONFIG)
    assert env.stages_reached == 0


def test_stages_and_answers_must_match() -> None:
    env = scripted((True, True, True))
    with pytest.raises(AssertionError, match="one answer each"):
        env.take_action(env.drive_vector())


def test_simulated_time_is_that_of_the_actions_up_to_success() -> None:
    env = scripted(*[(False, False)] * 3, success_from_action=3)
    still, moved = env.drive_vector(), env.drive_vector()
    moved[0] += 0.25  # 250 ticks at 1 rad/s^2; an action that moves nothing lasts 50.
    times = []
    for action in (still, moved, still, still):
        env.take_action(action)
        times.append(env.sim_time_s)
    assert times == pytest.approx([0.2, 1.2, 1.204, 1.204])
    env.setup_demo(render=False, **CONFIG)
    assert env.sim_time_s == 0.0


def test_a_hammer_lifted_and_put_back_has_two_stages(env: Any) -> None:
    arm = "left" if env.block.get_pose().p[0] < 0 else "right"
    actions = recorded(
        env,
        lambda task: task.grasp_actor(task.hammer, arm),
        lambda task: task.move_by_displacement(arm, z=0.07),
        lambda task: task.move_by_displacement(arm, z=-0.07),
    )
    env.setup_demo(seed=100_000, render=False, **CONFIG)
    reached = reached_after_each(env, actions)
    assert sorted(set(reached)) == [0, 1, 2]
    assert reached[-1] == 2
    assert env.rise_m(env.hammer) < 0.01


def test_an_object_is_held_by_the_arm_whose_fingers_both_touch_it(env: Any) -> None:
    assert env.holders(env.hammer) == set()
    env.move(env.grasp_actor(env.hammer, "right"))
    assert env.holders(env.hammer) == {"right"}
    env.move(env.move_by_displacement("right", z=0.05))
    assert env.holders(env.hammer) == {"right"}
    risen = env.hammer.get_pose().p[2] - env.scene_layout()["020_hammer"][2]
    assert env.rise_m(env.hammer) == pytest.approx(risen, abs=1e-6)
    assert 0.01 < risen < 0.05  # The arm lags behind its targets.
    assert env.holders(env.block) == set()


def test_the_layout_is_where_objects_rest_and_differs_between_seeds(env: Any) -> None:
    layout = env.scene_layout()
    for actor in (env.hammer, env.block):
        np.testing.assert_allclose(layout[actor.get_name()], actor.get_pose().p, atol=1e-6)
    env.setup_demo(seed=100_001, render=False, **CONFIG)
    assert env.scene_layout()["box"] != layout["box"]


def test_the_experts_steps_are_known_once_it_played(env: Any) -> None:
    assert env.expert_steps is None
    env.play_once()
    steps = env.expert_steps
    env.setup_demo(seed=100_000, render=False, **CONFIG)
    assert env.expert_steps is None
    assert steps == len(env.expert_actions())


def test_two_objects_of_one_name_are_refused() -> None:
    class Twins(Scripted):
        def load_actors(self) -> None:
            for x in (-0.1, 0.1):
                pose = self.rand_pose((x, x), (0.0, 0.0), TABLE_TOP_M + 0.02)
                self.create_box("box", (0.02,) * 3, RED, pose)

    with pytest.raises(ValueError, match="a name of its own; there is a 'box' already"):
        Twins().setup_demo(render=False, **CONFIG)


def test_a_scene_that_does_not_come_to_rest_has_no_layout(env: Any) -> None:
    assert env.scene_layout() != {}
    env.stages_reached = 2
    env.settled_speed_m_s = -1.0
    with pytest.raises(UnstableError):
        env.setup_demo(seed=100_000, render=False, **CONFIG)
    assert env.scene_layout() == {}
    assert env.stages_reached == 0


def test_a_closed_gripper_pressed_on_an_object_holds_nothing(env: Any) -> None:
    arm = "left" if env.block.get_pose().p[0] < 0 else "right"
    top = env.block.get_functional_point(1).p
    down = env.grasp_actor(env.hammer, arm).steps[0].rotation
    env.move(env.close_gripper(arm))
    env.move(env.move_to_pose(arm, top + np.array([0.0, 0.0, 0.05]), down))
    env.move(env.move_to_pose(arm, top - np.array([0.0, 0.0, 0.01]), down, straight=True))
    env.move(env.stay(arm, 50))
    assert env.plan_success
    assert env.gripper_contacts_m(env.block)
    assert env.holders(env.block) == set()


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_is_a_whole_number_from_0(seed: Any) -> None:
    with pytest.raises(ValueError, match="a whole number from 0 upwards"):
        make_env(TASK).setup_demo(seed=seed, render=False, **CONFIG)
