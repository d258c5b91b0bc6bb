"""The embedded simulator: RoboTwin's interface, determinism, and an expert that does the task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin_env import InvalidActionError, TaskEnv, load_env_config, make_env
from twin_env.embedded.base_task import IDLE_ACTION_TICKS, EmbeddedTask
from twin_env.workers import Done, WorkerPool

pytestmark = pytest.mark.simulator

TASK = "beat_block_hammer"
CONFIG = load_env_config("demo_clean")


@pytest.fixture
def env() -> Iterator[EmbeddedTask]:
    env = make_env(TASK)
    assert isinstance(env, EmbeddedTask)
    yield env
    env.close_env()


def few_steps(seed: int) -> dict[str, Any]:
    """States and pictures of the start and of some of the expert's actions."""
    env: Any = make_env(TASK)
    env.setup_demo(seed=seed, **CONFIG)
    first = env.get_obs()
    for action in env.expert_actions()[8:20]:
        env.take_action(action)
    last = env.get_obs()
    return {
        "pictures": [view["rgb"] for obs in (first, last) for view in obs["observation"].values()],
        "measured": [arm.measured_rad() for arm in env.arms.values()],
        "hammer": np.concatenate([env.hammer.get_pose().p, env.hammer.get_pose().q]),
        "block": env.block.get_pose().p,
    }


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key in one:
        for a, b in zip(one[key], other[key], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=key)


def test_the_same_seed_is_the_same_episode_in_any_process_and_order() -> None:
    here = few_steps(3)
    with WorkerPool(2, few_steps) as pool:
        elsewhere = {seed: outcome for seed, outcome in pool.run([4, 3, 5])}
    fresh = elsewhere[3]
    assert isinstance(fresh, Done), fresh
    assert_same(here, fresh.value)
    few_steps(11)
    assert_same(here, few_steps(3))
    assert not np.array_equal(here["block"], few_steps(4)["block"])


def test_physics_is_the_same_with_and_without_pictures(env: EmbeddedTask) -> None:
    ends = []
    for render in (True, False):
        env.setup_demo(seed=6, render=render, **CONFIG)
        for action in env.expert_actions()[:25]:
            env.take_action(action)
            env.get_obs()
        ends.append(np.concatenate([arm.articulation.qpos for arm in env.arms.values()]))
    np.testing.assert_array_equal(*ends)


def test_observation_has_robotwins_structure(env: EmbeddedTask) -> None:
    assert isinstance(env, TaskEnv)
    env.setup_demo(seed=0, **CONFIG)
    obs = env.get_obs()
    assert set(obs["observation"]) == {"head_camera", "left_camera", "right_camera"}
    for view in obs["observation"].values():
        assert view["rgb"].dtype == np.uint8
        assert view["rgb"].shape == (240, 320, 3)
        assert view["intrinsic_cv"].shape == (3, 3)
        assert view["extrinsic_cv"].shape == (3, 4)
        assert view["cam2world_gl"].shape == (4, 4)
    joints = obs["joint_action"]
    assert joints["vector"].shape == (14,)
    assert joints["vector"].dtype == np.float64
    parts = [*joints["left_arm"], joints["left_gripper"], *joints["right_arm"]]
    np.testing.assert_array_equal(joints["vector"], [*parts, joints["right_gripper"]])
    assert joints["left_gripper"] == 1.0
    for side in ("left", "right"):
        assert len(obs["endpose"][f"{side}_endpose"]) == 7


def test_the_head_camera_sees_the_block_where_its_matrices_say(env: EmbeddedTask) -> None:
    env.setup_demo(seed=2, **CONFIG)
    view = env.get_obs()["observation"]["head_camera"]
    top = env.block.get_functional_point(1).p
    in_camera = view["extrinsic_cv"] @ [*top, 1.0]
    u, v, depth = view["intrinsic_cv"] @ in_camera
    red, green, blue = view["rgb"][round(v / depth), round(u / depth)].astype(int)
    assert red > 150
    assert red > 2 * green
    assert red > 2 * blue


def test_the_state_is_the_drive_target_and_the_arm_follows_it(env: EmbeddedTask) -> None:
    env.setup_demo(seed=0, **CONFIG)
    goal = env.drive_vector()
    goal[0] += 0.3
    goal[6] = 0.25
    env.take_action(goal)
    np.testing.assert_allclose(env.get_obs()["joint_action"]["vector"], goal)
    for _ in range(5):
        env.take_action(goal)
    np.testing.assert_allclose(env.arms["left"].measured_rad(), goal[:6], atol=2e-3)
    assert env.arms["left"].measured_gripper() == pytest.approx(0.25, abs=0.02)


def test_an_action_lasts_as_long_as_its_path(env: EmbeddedTask) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    ticks = []
    step = env.scene.step

    def counted() -> None:
        ticks[-1] += 1
        step()

    env.scene.step = counted  # type: ignore[method-assign]
    for change in (0.0, 0.25, 1.0):
        ticks.append(0)
        action = env.drive_vector()
        action[[0, 7]] += change
        env.take_action(action)
    assert ticks == [IDLE_ACTION_TICKS, 250, 500]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(16), r"shape \(14,\).*got \(16,\)"),
        (np.zeros((1, 14)), r"shape \(14,\)"),
        (np.array([0.0] * 13 + [np.nan]), r"finite; elements \[13\] are not"),
        (np.array([np.inf] + [0.0] * 13), r"finite; elements \[0\] are not"),
    ],
)
def test_a_bad_action_never_reaches_the_physics(
    env: EmbeddedTask, action: np.ndarray, message: str
) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    before = env.drive_vector()
    with pytest.raises(InvalidActionError, match=message):
        env.take_action(action)
    np.testing.assert_array_equal(env.drive_vector(), before)
    assert env.take_action_cnt == 0


def test_an_action_beyond_the_joint_limits_is_clamped_and_counted(env: EmbeddedTask) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    action = env.drive_vector()
    action[0], action[13] = 1000.0, 7.0
    env.take_action(action)
    assert env.clamped_actions == 1
    assert env.drive_vector()[0] == 2.6
    assert env.drive_vector()[13] == 1.0


def test_unknown_camera_types_and_action_types_are_named(env: EmbeddedTask) -> None:
    config = {**CONFIG, "camera": {**CONFIG["camera"], "head_camera_type": "D453"}}
    with pytest.raises(ValueError, match="'D453'; did you mean 'D435'"):
        env.setup_demo(seed=0, **config)
    env.setup_demo(seed=0, render=False, **CONFIG)
    with pytest.raises(ValueError, match="unknown action_type 'delta'"):
        env.take_action(env.drive_vector(), action_type="delta")


def test_success_is_the_experts_and_nobody_elses(env: EmbeddedTask) -> None:
    for seed in range(300, 306):
        env.setup_demo(seed=seed, render=False, **CONFIG)
        assert not env.check_success()
        env.take_action(env.drive_vector())
        assert not env.eval_success
        env.setup_demo(seed=seed, render=False, **CONFIG)
        env.play_once()
        assert env.plan_success
        assert env.check_success()


def test_a_hammer_brought_down_beside_the_block_is_no_success(env: EmbeddedTask) -> None:
    env.setup_demo(seed=300, render=False, **CONFIG)
    arm = "left" if env.block.get_pose().p[0] < 0 else "right"
    outwards = -0.07 if arm == "left" else 0.07
    beside = env.block.get_functional_point(1).p + np.array([outwards, 0.0, 0.0])
    env.move(env.grasp_actor(env.hammer, arm))
    env.move(env.move_by_displacement(arm, z=0.07))
    env.move(env.place_actor(env.hammer, arm, beside, dis=-0.03, hold_ticks=50))
    assert env.plan_success
    assert not env.check_success()


def test_replaying_the_expert_succeeds_and_then_actions_do_nothing(env: EmbeddedTask) -> None:
    env.setup_demo(seed=100_000, render=False, **CONFIG)
    actions = env.expert_actions()
    assert actions.shape[1] == 14
    for action in actions:
        env.take_action(action)
    assert env.eval_success
    count, vector = env.take_action_cnt, env.drive_vector()
    assert count < env.step_lim
    env.take_action(actions[0])
    assert env.take_action_cnt == count
    np.testing.assert_array_equal(env.drive_vector(), vector)


def test_instructions_name_the_arm_once_it_is_known(env: EmbeddedTask) -> None:
    env.setup_demo(seed=0, render=False, **CONFIG)
    before = env.instructions()
    env.play_once()
    after = env.instructions()
    for split in ("seen", "unseen"):
        assert 0 < len(before[split]) < len(after[split])
        assert not any("{" in text for text in after[split])
    arm = env.info["info"]["{a}"]
    assert any(f"{arm} arm" in text for text in after["seen"])


def test_every_task_has_phrasings_in_both_splits() -> None:
    folder = Path(make_env.__code__.co_filename).parent / "embedded" / "tasks"
    for path in folder.glob("*.py"):
        if path.stem != "__init__":
            texts = json.loads(path.with_suffix(".json").read_text())
            assert set(texts) == {"seen", "unseen"}
            assert not set(texts["seen"]) & set(texts["unseen"])
