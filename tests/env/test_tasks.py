"""What every task of the embedded simulator owes: RoboTwin's limits, an expert, honest success."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin_env import backends, list_tasks, load_env_config, make_env
from twin_env.config import ARM_JOINTS
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.workers import Done, WorkerPool

pytestmark = pytest.mark.simulator

SEED = 100_000
STEP_LIMITS = {
    "adjust_bottle": 400,
    "beat_block_hammer": 400,
    "click_bell": 400,
    "dump_bin_bigbin": 600,
    "handover_block": 800,
    "lift_pot": 400,
    "pick_dual_bottles": 400,
    "place_burger_fries": 500,
    "place_empty_cup": 500,
    "shake_bottle": 700,
    "stack_blocks_two": 800,
    "stack_bowls_two": 900,
}
"""RoboTwin's; a strict variant has the limit of the task it is a variant of."""
SEEN, UNSEEN = 5, 4
"""Phrasings that a task has at least."""
MIDWAY = 45
"""A frame of the expert's at which every task's object is held or touched, or nearly so."""


CASES = [
    (task, embodiment)
    for task, embodiment in itertools.product(list_tasks(), ARM_JOINTS)
    # A strict variant has the scene and the expert of its task: one embodiment will do.
    if embodiment == "twin-arm6" or not task.endswith("_strict")
]


@pytest.fixture(params=CASES, ids="-".join)
def env(request: pytest.FixtureRequest) -> Iterator[EmbeddedTask]:
    """A task with one of the embodiments, set up."""
    task, embodiment = request.param
    env = make_env(task)
    assert isinstance(env, EmbeddedTask)
    set_up(env, embodiment)
    yield env
    env.close_env()


def set_up(env: EmbeddedTask, embodiment: str) -> None:
    config = {**load_env_config("demo_clean"), "embodiment": [embodiment]}
    env.setup_demo(seed=SEED, render=False, **config)


def state(env: Any) -> np.ndarray:
    """Where everything is: joints, and the objects' places and quaternions."""
    arms = [arm.articulation.qpos for arm in env.arms.values()]
    frames = [actor.get_pose() for actor in env.actors]
    return np.concatenate([*arms, *(part for frame in frames for part in (frame.p, frame.q))])


def demonstrate(env: EmbeddedTask) -> tuple[list[np.ndarray], np.ndarray]:
    """Let the expert do the task: the actions that replay it, and the state half-way."""
    vectors: list[np.ndarray] = []
    midway: list[np.ndarray] = []

    def keep(task: EmbeddedTask) -> None:
        vectors.append(task.drive_vector())
        if len(vectors) == MIDWAY:
            midway.append(state(task))

    env.frame_sink = keep
    env.play_once()
    env.frame_sink = None
    assert env.plan_success, "the expert could not reach"
    assert env.check_success(), "the expert did not succeed"
    return vectors[1:], midway[0]


class EnoughError(Exception):
    """The expert has come as far as was wanted."""


def state_midway(env: EmbeddedTask) -> np.ndarray:
    """What `demonstrate` tells of the same moment, without what comes after it."""
    frames = itertools.count(1)

    def keep(task: EmbeddedTask) -> None:
        if next(frames) == MIDWAY:
            raise EnoughError

    env.frame_sink = keep
    with pytest.raises(EnoughError):
        env.play_once()
    return state(env)


def assert_phrased(env: EmbeddedTask) -> None:
    folder = Path(backends.__file__).parent / "embedded" / "tasks"
    templates = json.loads((folder / f"{type(env).__name__}.json").read_text(encoding="utf-8"))
    texts = env.instructions()
    assert set(texts) == {"seen", "unseen"}
    for split, least in (("seen", SEEN), ("unseen", UNSEEN)):
        assert len(texts[split]) == len(templates[split]), "a placeholder that no expert fills"
        assert len(set(texts[split])) >= least
        assert not any("{" in text or "}" in text for text in texts[split])
    assert not set(texts["seen"]) & set(texts["unseen"])


def test_a_task_begins_undone_and_its_expert_and_the_experts_actions_do_it(
    env: EmbeddedTask,
) -> None:
    embodiment = env.config["embodiment"][0]
    assert not env.check_success()
    assert env.prohibited_area, "clutter may stand anywhere"
    assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in env.prohibited_area)

    actions, midway = demonstrate(env)
    assert env.expert_steps == len(actions) < env.step_lim
    assert_phrased(env)

    set_up(env, embodiment)
    for _ in range(3):
        env.take_action(env.drive_vector())
    assert not env.eval_success
    assert not env.check_success()
    reached, layout = [env.stages_reached], env.scene_layout()
    assert set(layout) == {actor.get_name() for actor in env.actors}
    for action in actions:
        env.take_action(action)
        reached.append(env.stages_reached)
        if env.eval_success:
            break
    assert env.eval_success, f"the replay came as far as {reached[-1]} of {env.stages}"
    assert reached == sorted(reached)
    assert reached[0] == 0
    assert reached[-1] == len(env.stages)
    # Each is reached in its order, and success does not stand for what was never seen.
    assert reached[-2] >= len(env.stages) - 2, f"{env.stages}: {reached[-2]} before success"
    assert env.scene_layout() == layout

    if embodiment == "twin-arm6":  # The same again, after another episode, to the last bit.
        set_up(env, embodiment)
        np.testing.assert_array_equal(state_midway(env), midway)


@pytest.mark.parametrize("task", list_tasks())
def test_limits_are_robotwins_and_stages_have_names(task: str) -> None:
    env = make_env(task)
    assert isinstance(env, EmbeddedTask)
    assert env.step_lim == STEP_LIMITS[task.removesuffix("_strict")]
    assert len(env.stages) >= 2
    assert all(env.stages)
    assert len(set(env.stages)) == len(env.stages)


def beginning(job: tuple[str, str]) -> dict[str, Any]:
    """Runs in a worker: states and pictures of an episode's first actions."""
    task, config = job
    env: Any = make_env(task)
    env.setup_demo(seed=SEED + 1, **load_env_config(config))
    states, pictures = [state(env)], []
    actions = env.expert_actions()
    for first in (12, 24):
        for action in actions[first : first + 12]:
            env.take_action(action)
        states.append(state(env))
        pictures += [view["rgb"] for view in env.get_obs()["observation"].values()]
    env.close_env()
    return {"states": states, "pictures": pictures}


@pytest.mark.processes
def test_an_episode_is_the_same_in_fresh_processes_however_many() -> None:
    jobs = [
        ("lift_pot", "demo_clean"),
        ("place_empty_cup", "demo_randomized"),
        ("click_bell", "demo_clean"),
    ]
    here = {job: beginning(job) for job in jobs}
    for workers, order in ((1, jobs), (2, jobs[::-1])):
        with WorkerPool(workers, beginning) as pool:
            for job, outcome in pool.run(order):
                assert isinstance(outcome, Done), (job, outcome)
                for part, expected in here[job].items():
                    for one, other in zip(expected, outcome.value[part], strict=True):
                        np.testing.assert_array_equal(other, one, err_msg=f"{job}: {part}")
