"""Bottles and bins: what counts as shaken, raised, picked up and emptied, and what does not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from twin_env import load_env_config, make_env
from twin_env.embedded.actor import Actor
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.bottles import grasp_lying
from twin_env.embedded.rotations import rotation_y
from twin_env.embedded.side_grips import grip_along, level_rotation, with_level_wrist
from twin_env.embedded.tasks.adjust_bottle import adjust_bottle
from twin_env.embedded.tasks.dump_bin_bigbin import BIG_AT_M, MIDDLE_M, dump_bin_bigbin
from twin_env.embedded.tasks.shake_bottle import SWING_RAD, shake_bottle
from twin_env.embedded.tasks.shake_bottle_strict import SWINGS, Swings, shake_bottle_strict

CONFIG = load_env_config("demo_clean")
UP = np.array([0.0, 0.0, 1.0])


def task(name: str, seed: int = 0, embodiment: str = "twin-arm6") -> Any:
    env = make_env(name)
    assert isinstance(env, EmbeddedTask)
    env.setup_demo(seed=seed, render=False, **{**CONFIG, "embodiment": [embodiment]})
    return env


def put(actor: Actor, position_m: Any) -> None:
    """Set an object down at a place, turned as it is; nothing moves until the next step."""
    pose = actor.entity.pose
    pose.p = np.asarray(position_m, np.float32)
    actor.entity.set_pose(pose)


def swings(*angles_deg: float, step_deg: float = 2.0) -> int:
    """What is counted while the axis tilts from one angle to the next."""
    counter, here = Swings(), angles_deg[0]
    for goal in angles_deg:
        for angle in np.linspace(here, goal, max(2, int(abs(goal - here) / step_deg))):
            counter.follow(rotation_y(np.radians(angle)) @ UP)
        here = goal
    return counter.count


@pytest.mark.parametrize(
    ("angles_deg", "count"),
    [
        pytest.param((0, 70), 0, id="out, and not back"),
        pytest.param((0, 70, 0), 1, id="out and back"),
        pytest.param((0, 70, -70, 70, -70, 0), 4, id="to and fro"),
        pytest.param((0, 50, -50, 50, 0), 1, id="wide enough between the sides only"),
        pytest.param((0, 40, 0, 40, 0, 40, 0), 0, id="too little"),
        pytest.param((0, 30, 25, 70, 65, 80, 10), 1, id="a jerk on the way is no swing"),
    ],
)
def test_a_swing_goes_out_and_comes_back(angles_deg: tuple[float, ...], count: int) -> None:
    assert swings(*angles_deg) == count


@pytest.mark.simulator
class TestShake:
    @pytest.fixture
    def env(self) -> Iterator[shake_bottle_strict]:
        env = task("shake_bottle_strict")
        yield env
        env.close_env()

    def test_lifting_is_robotwins_rule_and_not_the_strict_one(
        self, env: shake_bottle_strict
    ) -> None:
        side = "right" if env.bottle.get_pose().p[0] > 0 else "left"
        env.move(grasp_lying(env, env.bottle, side))
        env.move(env.move_by_displacement(side, z=0.1))
        env.move(env.stay(side, 50))
        assert shake_bottle.check_success(env)
        assert not env.check_success()
        assert env.check_stages() == (True, True, False, False)

    def test_a_fall_between_swings_forgets_them(self, env: shake_bottle_strict) -> None:
        lying, at = env.bottle.entity.pose, env.bottle.get_pose().p
        put(env.bottle, at + 0.2 * UP)
        env.watch()
        env.swings.count = SWINGS
        assert env.check_success()
        env.bottle.entity.set_pose(lying)
        env.watch()
        put(env.bottle, at + 0.2 * UP)
        env.watch()
        assert not env.check_success()

    def test_a_new_episode_begins_with_no_swing(self, env: shake_bottle_strict) -> None:
        env.swings.count = SWINGS
        env.setup_demo(seed=1, render=False, **CONFIG)
        assert env.swings == Swings()

    def test_a_lying_bottle_stays_where_it_lies(self, env: shake_bottle_strict) -> None:
        before = env.bottle.get_pose().p
        env.move(env.stay("left", 250))
        np.testing.assert_allclose(env.bottle.get_pose().p, before, atol=5e-4)


@pytest.mark.simulator
def test_a_task_watches_each_physics_tick_of_expert_and_policy() -> None:
    class Watching(EmbeddedTask):
        ticks = 0
        stages = ("never",)

        def load_actors(self) -> None:
            pass

        def watch(self) -> None:
            self.ticks += 1

        def check_stages(self) -> tuple[bool, ...]:
            return ()

        def check_success(self) -> bool:
            return self.ticks >= 40

    env = Watching()
    env.setup_demo(render=False, **CONFIG)
    assert env.ticks == 0
    env.move(env.stay("left", 10))
    assert env.ticks == 10
    env.take_action(env.drive_vector())
    assert (env.ticks, env.eval_success) == (40, True)


@pytest.mark.simulator
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_bottle_is_adjusted_on_its_own_side_and_high_only(seed: int) -> None:
    env = task("adjust_bottle", seed)
    at = env.bottle.get_pose().p
    outwards = -1.0 if env.arm_tag == "left" else 1.0
    assert np.sign(at[0]) == outwards
    # The head points to the middle: only this side's arm turns it up by a quarter turn.
    assert outwards * env.bottle.get_pose().rotation[0, 2] < -0.9
    for x, z, adjusted in ((0.2, 0.95, True), (-0.2, 0.95, False), (0.2, 0.85, False)):
        put(env.bottle, (outwards * x, -0.1, z))
        assert env.check_success() is adjusted


@pytest.mark.simulator
def test_the_strict_rule_wants_the_head_up_and_a_hand_that_holds() -> None:
    env = task("adjust_bottle_strict")
    outwards = -1.0 if env.arm_tag == "left" else 1.0
    put(env.bottle, (outwards * 0.2, -0.1, 0.95))
    assert adjust_bottle.check_success(env)  # RoboTwin's rule, with the bottle lying in the air.
    assert not env.check_success()
    pose = env.bottle.entity.pose
    pose.q = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    env.bottle.entity.set_pose(pose)
    assert adjust_bottle.check_success(env)
    assert not env.check_success(), "nobody holds it"


@pytest.mark.simulator
def test_both_bottles_must_be_raised_each_on_its_side() -> None:
    env = task("pick_dual_bottles")
    resting = env.left_bottle.get_pose().p
    left, right = env.targets_m["left"], env.targets_m["right"]
    put(env.left_bottle, left)
    put(env.right_bottle, right)
    assert env.check_success()
    put(env.left_bottle, resting)
    assert not env.check_success()
    put(env.left_bottle, right)
    put(env.right_bottle, left)
    assert not env.check_success()
    put(env.left_bottle, [*left[:2], 0.82])
    put(env.right_bottle, [*right[:2], 0.82])
    assert not env.check_success()


@pytest.mark.simulator
class TestDump:
    @pytest.fixture
    def env(self) -> Iterator[dump_bin_bigbin]:
        env = task("dump_bin_bigbin", seed=4)
        yield env
        env.close_env()

    def test_every_bit_counts_and_the_bin_stays_up(self, env: dump_bin_bigbin) -> None:
        for index, ball in enumerate(env.garbage):
            put(ball, (BIG_AT_M[0], BIG_AT_M[1] + 0.02 * index - 0.04, 0.15))
        put(env.deskbin, (-0.4, 0.2, 1.02))
        assert env.check_success()
        put(env.deskbin, (-0.4, 0.2, 0.95))
        assert not env.check_success()
        put(env.deskbin, (-0.4, 0.2, 1.02))
        put(env.garbage[2], (-0.7, 0.2, 0.008))
        assert not env.check_success()
        assert env.check_stages()[-1]

    def test_garbage_dropped_into_the_big_bin_lies_at_robotwins_heights(
        self, env: dump_bin_bigbin
    ) -> None:
        for index, ball in enumerate(env.garbage):
            put(ball, (BIG_AT_M[0] + 0.04 * index - 0.08, BIG_AT_M[1], 0.75))
        env.move(env.stay("left", 200))
        put(env.deskbin, (-0.4, 0.2, 1.02))
        assert env.check_success()

    def test_the_right_arm_brings_the_bin_to_the_middle_and_spills_nothing(
        self, env: dump_bin_bigbin
    ) -> None:
        assert env.deskbin.get_pose().p[0] > 0.05
        env._bring_to_middle()
        at = env.deskbin.get_pose()
        np.testing.assert_allclose(at.p, [*MIDDLE_M, env.table_top_m], atol=0.01)
        assert at.rotation[2, 2] > 0.999
        inside = [np.linalg.norm(ball.get_pose().p[:2] - at.p[:2]) for ball in env.garbage]
        assert max(inside) < 0.035


@pytest.mark.simulator
@pytest.mark.parametrize("embodiment", ["twin-arm6", "twin-arm7"])
def test_a_level_wrist_can_roll_far_to_both_sides(embodiment: str) -> None:
    env = task("shake_bottle", embodiment=embodiment)
    forward = level_rotation(np.array([0.0, 1.0, 0.0]), up=UP)
    for side, outwards in (("left", -1.0), ("right", 1.0)):
        arm = env.arms[side]
        lower, upper = (limit[-1] for limit in arm.model.limits_rad)
        for x in (0.10, 0.15):
            (step,) = with_level_wrist(arm, np.array([outwards * x, -0.1, 0.93]), forward).steps
            assert lower + SWING_RAD < step.joints_rad[-1] < upper - SWING_RAD


@pytest.mark.simulator
def test_a_side_grip_lies_within_half_a_facet_of_the_wanted_approach() -> None:
    env = task("pick_dual_bottles")
    for angle in np.linspace(0.0, 2 * np.pi, 7):
        approach = np.array([np.cos(angle), np.sin(angle), 0.0])
        grip = grip_along(env.left_bottle, approach)
        along = env.left_bottle.tool_rotation(grip)[:, 0] @ approach
        assert along > np.cos(np.pi / 16) - 1e-3
