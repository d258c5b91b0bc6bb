"""The tasks as gymnasium environments: ids, spaces, episodes, vectors of environments."""

import multiprocessing
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import twin_env
from twin_env import InvalidActionError, UnstableError, list_tasks, load_env_config, make_env
from twin_env.config import complete_env_config
from twin_env.embedded.kinematics import ARM_MODELS
from twin_env.gym_env import UNSTABLE_SEEDS, ForkedRendererError, TwinBenchEnv
from twin_env.gym_spaces import action_space, as_member, embedded_layout, observation_space

ID = "TwinBench/beat_block_hammer-v0"
BLIND = {"camera": {"collect_head_camera": False, "collect_wrist_camera": False}}
HEAD = {"camera": {"collect_wrist_camera": False}}
SOURCES = Path(twin_env.__file__).parents[1]


def make(task: str = "beat_block_hammer", **options: Any) -> TwinBenchEnv:
    """The bare environment, by default without pictures."""
    env = gymnasium.make(f"TwinBench/{task}-v0", **{"config": BLIND, **options}).unwrapped
    assert isinstance(env, TwinBenchEnv)
    return env


@pytest.fixture
def env() -> Iterator[TwinBenchEnv]:
    env = make()
    yield env
    env.close()


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


def expert_actions(env: TwinBenchEnv) -> Any:
    task: Any = env.task_env
    return task.expert_actions()


# Ids --------------------------------------------------------------------------------------


def test_every_task_has_an_id_and_only_they() -> None:
    ids = {name for name in gymnasium.registry if name.startswith("TwinBench/")}
    assert ids == {f"TwinBench/{task}-v0" for task in list_tasks()}
    assert all(gymnasium.spec(name).max_episode_steps is None for name in ids)


@pytest.mark.processes
@pytest.mark.parametrize(
    "lines",
    [
        "import twin_env\nassert 'gymnasium' not in sys.modules\nimport gymnasium",
        "import gymnasium, twin_env",
        "import twin_env\nfrom gymnasium.envs.registration import make\nimport gymnasium",
        "import gymnasium\ntry: gymnasium.make('twin_env:nothing-v0')\n"
        "except gymnasium.error.NameNotFound: pass",
    ],
)
def test_ids_are_there_in_either_order_of_imports(lines: str, tmp_path: Path) -> None:
    check = f"import sys\n{lines}\nprint(gymnasium.spec({ID!r}).id)"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", check],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (ID, "")


# Spaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arms", [["twin-arm6"], ["twin-arm7"], ["twin-arm6", "twin-arm7", 0.7]])
def test_actions_are_bounded_by_the_real_joint_limits(arms: list[Any]) -> None:
    layout = embedded_layout(complete_env_config({"embodiment": arms}))
    box = action_space(layout, "qpos")
    (lower, upper), (lower_right, _) = (
        ARM_MODELS[arms[0]].limits_rad,
        ARM_MODELS[arms[len(arms) // 2]].limits_rad,
    )
    n = len(lower)
    assert box.shape == (n + 1 + len(lower_right) + 1,)
    np.testing.assert_array_equal(box.low, [*lower, 0, *lower_right, 0])
    np.testing.assert_array_equal(box.high[: n + 1], [*upper, 1])
    assert action_space(layout, "ee").shape == (16,)


def test_observations_follow_the_config() -> None:
    config = complete_env_config({"camera": {"head_camera_type": "L515"}})
    space = observation_space(embedded_layout(config), config)
    assert set(space.keys()) == {"agent_pos", "joint_state", "endpose", "pixels"}
    pixels = space["pixels"]
    assert isinstance(pixels, gymnasium.spaces.Dict)
    assert pixels["head_camera"].shape == (180, 320, 3)
    assert pixels["left_camera"].shape == (240, 320, 3)
    assert pixels["left_camera"].dtype == np.uint8
    blind = complete_env_config(BLIND)
    assert "pixels" not in observation_space(embedded_layout(blind), blind).spaces


def test_a_space_needs_a_fixed_number_of_points() -> None:
    config = complete_env_config({"data_type": {"pointcloud": True}, "pcd_down_sample_num": 0})
    with pytest.raises(ValueError, match="set pcd_down_sample_num"):
        observation_space(embedded_layout(config), config)


def test_a_simulator_that_breaks_its_promise_is_told() -> None:
    config = complete_env_config(BLIND)
    layout = embedded_layout(config)
    space = observation_space(layout, config)
    end = {f"{side}_endpose": [0.0] * 7 for side in ("left", "right")}
    grippers = {f"{side}_gripper": 1.0 for side in ("left", "right")}
    obs = {"joint_action": {"vector": np.zeros(16)}, "endpose": end | grippers}
    with pytest.raises(ValueError, match=r"shape \(16,\) where its config promises \(14,\)"):
        as_member(obs, space)


# Episodes ---------------------------------------------------------------------------------


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("beat_block_hammer", {"config": HEAD, "render_mode": "rgb_array"}),
        ("beat_block_hammer", {"action_type": "ee", "embodiment": "twin-arm7"}),
        (list_tasks()[-1], {"embodiment": ["twin-arm6", "twin-arm7", 0.6]}),
    ],
)
def test_gymnasiums_own_check_passes(task: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_env(make(task, **options))
    # It would rather have actions in [-1, 1] than real joint limits; nothing else.
    assert all("symmetric and normalized space" in str(w.message) for w in told), told
    assert len(told) <= 1


@pytest.mark.simulator
@pytest.mark.parametrize("task", list_tasks())
def test_every_task_keeps_to_its_spaces(task: str) -> None:
    env = make(task)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["seed"] == 0
    assert info["instruction"]
    assert "{" not in info["instruction"]
    assert env.action_space.contains(obs["agent_pos"])
    obs, reward, terminated, truncated, info = env.step(obs["agent_pos"])
    assert env.observation_space.contains(obs)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["stage"], info["success"], info["take_action_cnt"]) == ("", False, 1)
    env.close()


@pytest.mark.simulator
def test_an_observation_is_robotwins_in_arrays_of_its_own() -> None:
    env = make(config="demo_clean")
    obs, _ = env.reset(seed=3)
    task: Any = make_env("beat_block_hammer")
    task.setup_demo(seed=3, **load_env_config("demo_clean"))
    theirs = task.get_obs()
    np.testing.assert_array_equal(obs["agent_pos"], theirs["joint_action"]["vector"])
    for camera, view in theirs["observation"].items():
        np.testing.assert_array_equal(obs["pixels"][camera], view["rgb"])
        assert obs["pixels"][camera].flags.c_contiguous
        assert obs["pixels"][camera].flags.owndata
    kept = {name: array.copy() for name, array in obs["pixels"].items()}
    action = obs["agent_pos"].copy()
    action[:6] += 0.2
    later, *_ = env.step(action)
    assert_same(obs["pixels"], kept)
    assert not np.array_equal(later["pixels"]["left_camera"], kept["left_camera"])
    assert np.abs(later["joint_state"] - later["agent_pos"]).max() > 1e-4  # The arm lags.
    env.close()


@pytest.mark.simulator
def test_whatever_robotwins_keys_turn_on_is_observed() -> None:
    config = load_env_config("demo_randomized")
    kinds = ("depth", "mesh_segmentation", "actor_segmentation")
    config["data_type"] |= dict.fromkeys((*kinds, "pointcloud", "third_view"), True)
    config["camera"]["collect_wrist_camera"] = False
    config["pcd_down_sample_num"] = 100
    env = make(config=config)
    obs, _ = env.reset(seed=2)
    assert env.observation_space.contains(obs)
    robot = {"agent_pos", "joint_state", "endpose"}
    assert set(obs) == {*robot, "pixels", *kinds, "third_view", "pointcloud"}
    assert obs["pointcloud"].shape == (100, 6)
    assert 500 < np.median(obs["depth"]["head_camera"]) < 2000
    assert all(picture["head_camera"].std() > 0 for picture in map(obs.get, ("pixels", *kinds)))
    assert env.observation_space.contains(env.step(obs["agent_pos"])[0])
    env.close()


@pytest.mark.simulator
def test_the_seed_decides_the_scene_and_the_scenes_after_it(env: TwinBenchEnv) -> None:
    runs = []
    for _ in range(2):
        first = env.reset(seed=7)[1]
        drawn = [env.reset()[1] for _ in range(3)]
        runs.append([first, *drawn])
    assert runs[0] == runs[1]
    assert len({info["seed"] for info in runs[0]}) == 4


@pytest.mark.simulator
def test_success_is_rewarded_and_ends_the_episode(env: TwinBenchEnv) -> None:
    env.reset(seed=100_000)
    rewards = []
    for action in expert_actions(env):
        obs, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(obs)
        rewards.append(reward)
        if terminated:
            break
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert not truncated
    assert (info["success"], info["is_success"], info["stage"]) == (True, True, "struck")
    assert info["take_action_cnt"] == len(rewards)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(action)
    assert env.reset()[1]["success"] is False


@pytest.mark.simulator
def test_the_tasks_own_step_limit_truncates(env: TwinBenchEnv) -> None:
    obs, _ = env.reset(seed=0)
    env.task_env.step_lim = 2
    assert env.step(obs["agent_pos"])[2:4] == (False, False)
    assert env.step(obs["agent_pos"])[2:4] == (False, True)
    with pytest.raises(ResetNeeded):
        env.step(obs["agent_pos"])


@pytest.mark.simulator
def test_bad_actions_never_reach_the_physics_and_far_ones_are_clamped(env: TwinBenchEnv) -> None:
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(14))
    obs, _ = env.reset(seed=0)
    for bad in (np.zeros(13), np.full(14, np.nan)):
        with pytest.raises(InvalidActionError):
            env.step(bad)
    assert env.task_env.take_action_cnt == 0
    far = obs["agent_pos"].copy()
    far[0] = 100.0
    obs, *_, info = env.step(far)
    assert info["clamped_actions"] == 1
    assert env.observation_space.contains(obs)


@pytest.mark.simulator
def test_scenes_that_do_not_come_to_rest_are_passed_over_and_told(
    env: TwinBenchEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = env.task_env.setup_demo
    unstable = {5, 6}

    def setup_demo(**given: Any) -> None:
        if given["seed"] in unstable:
            raise UnstableError("the bottle rolls")
        build(**given)

    monkeypatch.setattr(env.task_env, "setup_demo", setup_demo)
    info = env.reset(seed=5)[1]
    assert (info["seed"], info["skipped_seeds"]) == (7, [5, 6])
    assert env.reset(seed=8)[1]["skipped_seeds"] == []
    unstable.update(range(20, 20 + UNSTABLE_SEEDS))
    with pytest.raises(UnstableError, match=r"from seed 20 up .* the bottle rolls"):
        env.reset(seed=20)


@pytest.mark.simulator
def test_physics_that_explodes_ends_its_episode_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make(render_mode="rgb_array", render_size=(64, 48))
    before, _ = env.reset(seed=0)

    def explode(action: Any, action_type: str) -> None:
        raise UnstableError("the hammer left the room")

    with monkeypatch.context() as patch:
        patch.setattr(env.task_env, "take_action", explode)
        obs, reward, terminated, truncated, info = env.step(before["agent_pos"])
    assert_same(obs, before)
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
    assert info["error"] == "unstable: the hammer left the room"
    assert env.render() is not None
    assert "error" not in env.reset(seed=0)[1]
    assert env.step(before["agent_pos"])[2] is False
    env.close()


@pytest.mark.simulator
def test_the_split_of_phrasings_is_chosen_and_an_instruction_can_be_given(
    env: TwinBenchEnv,
) -> None:
    task: Any = env.task_env
    drawn: dict[bool, set[str]] = {False: set(), True: set()}
    for is_test, told in drawn.items():
        for seed in range(4):
            told.add(env.reset(seed=seed, options={"is_test": is_test})[1]["instruction"])
    choices = task.instructions()
    assert drawn[False] <= set(choices["seen"])
    assert drawn[True] <= set(choices["unseen"])
    info = env.reset(seed=0, options={"instruction": "Hit it."})[1]
    assert info["instruction"] == env.task_description == "Hit it."


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_type": "eef"}, "'eef'; did you mean 'ee'"),
        ({"config": "demo_clan"}, "'demo_clan'; did you mean 'demo_clean'"),
        ({"config": {"camara": {}}}, "'camara'; did you mean 'camera'"),
        ({"embodiment": "twin-arm8"}, "'twin-arm8'; did you mean 'twin-arm"),
        ({"backend": "embeded"}, "'embeded'; did you mean 'embedded'"),
        ({"backend": "robotwn"}, "did you mean 'robotwin'. Known: embedded, robotwin"),
        ({"backend": "robotwin"}, "backend='robotwin' needs robotwin_root=, a RoboTwin checkout"),
        ({"render_mode": 3}, "unknown render_mode 3; did you mean 'rgb_array'"),
        ({"is_test": "false"}, "is_test is True or False, not 'false'"),
        ({"render_size": 640}, r"render_size is \(width, height\), .*not 640"),
        ({"render_size": (640, 480.0)}, r"render_size .*not \(640, 480\.0\)"),
        ({"render_size": (0, 480)}, r"from 1 to 8192, not \(0, 480\)"),
        ({"embodiment": 7}, r"embodiment is an arm's name, .*not 7"),
        ({"embodiment": [7]}, r"embodiment is \[arm\] or .*not \[7\]"),
        ({"embodiment": {"left": "twin-arm6"}}, r"embodiment is an arm's name"),
        ({"config": 7}, "unknown environment config '7'"),
    ],
)
def test_wrong_options_are_answered_with_the_rule_or_the_nearest(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TwinBenchEnv("beat_block_hammer", **options)


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instructions": "Hit it."}, "'instructions'; did you mean 'instruction'"),
        ({7: 1}, "unknown reset option 7; did you mean"),
        ({"instruction": 7}, "instruction is a text, not 7"),
        ({"is_test": "no"}, "is_test is True or False, not 'no'"),
        (["is_test"], r"reset's options are a mapping .*not \['is_test'\]"),
    ],
)
def test_wrong_options_of_reset_are_refused_before_anything_is_built(
    env: TwinBenchEnv, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


@pytest.mark.simulator
def test_a_bystander_sees_the_scene(env: TwinBenchEnv) -> None:
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    seeing = make(render_mode="rgb_array", render_size=(160, 120))
    seeing.reset(seed=0)
    picture = seeing.render()
    assert picture is not None
    assert picture.shape == (120, 160, 3)
    assert picture.std() > 10
    seeing.close()
    seeing.close()


# Vectors of environments ------------------------------------------------------------------


def play(envs: Any, seeds: list[int]) -> list[Any]:
    """Observations of a few steps, first those of the reset; a vector's are stacked."""
    obs, info = envs.reset(seed=seeds if hasattr(envs, "num_envs") else seeds[0])
    seen = [obs]
    for k in range(3):
        action = obs["agent_pos"].copy()
        action[..., 1] += 0.05 * k
        obs, _, _, _, info = envs.step(action)
        seen.append(obs)
    np.testing.assert_array_equal(info["seed"], seeds if hasattr(envs, "num_envs") else seeds[0])
    envs.close()
    return seen


def assert_vector_is_its_parts(together: list[Any]) -> None:
    for index, seed in enumerate((11, 12)):
        alone = play(gymnasium.make(ID, config=HEAD), [seed])
        for one, both in zip(alone, together, strict=True):
            for key in ("agent_pos", "joint_state", "endpose"):
                np.testing.assert_array_equal(one[key], both[key][index])
            np.testing.assert_array_equal(
                one["pixels"]["head_camera"], both["pixels"]["head_camera"][index]
            )


@pytest.mark.simulator
def test_a_vector_in_one_process_is_its_parts() -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", config=HEAD)
    assert_vector_is_its_parts(play(envs, [11, 12]))


@pytest.mark.simulator
def test_a_vector_in_processes_of_its_own_is_its_parts() -> None:
    envs = gymnasium.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        config=HEAD,
    )
    assert_vector_is_its_parts(play(envs, [11, 12]))


def reset_once(config: dict[str, Any]) -> None:
    make(config=config).reset(seed=0)


@pytest.mark.simulator
def test_a_child_forked_after_rendering_is_told_instead_of_hanging() -> None:
    reset_once(HEAD)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        with pytest.raises(ForkedRendererError, match="spawn"):
            pool.apply_async(reset_once, (HEAD,)).get(timeout=60)
        pool.apply_async(reset_once, (BLIND,)).get(timeout=60)
