"""Physics that breaks ends its own episode, with the reason, and harms no later one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from altered_simulator import FAULTS

from twin_env import load_env_config
from twin_env.workers import Done, WorkerPool
from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import EpisodeIdentity, EpisodeRequest, run_episode
from twin_eval.records import EpisodeRecord
from twin_eval.seed_verification import PlanEntry, verify_seed

pytestmark = pytest.mark.simulator

BROKEN, SOUND = 100_003, 100_004
"""Seeds; the fault shows on odd ones."""
CONFIG = {**load_env_config("demo_clean"), "save_freq": 60}


def environment(fault: str) -> EnvironmentSpec:
    return EnvironmentSpec(
        task="exploding",
        config_name="demo_clean",
        config={**CONFIG, "episode_num": FAULTS.index(fault) + 1},
        provider="altered_simulator",
    )


class Replay:
    """The expert's actions, and how the last one left everything."""

    def reset(self) -> None:
        self.end: list[Any] = []

    def eval(self, env: Any, observation: Any) -> None:
        actions = env.expert_actions()
        for action in chain(actions, repeat(actions[-1])):
            env.take_action(action)
            if env.eval_success or env.take_action_cnt >= 80:
                break
        hammer = env.hammer.get_pose()
        pictures = [view["rgb"] for view in env.get_obs()["observation"].values()]
        self.end = [hammer.p, hammer.q, *(arm.measured_rad() for arm in env.arms.values())]
        self.end += pictures
        env.step_lim = env.take_action_cnt


def play(episodes: Sequence[tuple[int, str]]) -> list[tuple[EpisodeRecord, list[Any]]]:
    """Runs in a worker: episodes (seed, fault), one after the other."""
    played = []
    for index, (seed, fault) in enumerate(episodes):
        actor = Replay()
        actor.reset()
        request = EpisodeRequest(index=index, seed=seed, noise_seed=seed)
        identity = EpisodeIdentity(session="s", policy="replay", checkpoint="none")
        played.append((run_episode(environment(fault), actor, request, identity), actor.end))
    return played


def test_physics_that_breaks_is_an_error_and_harms_no_later_episode() -> None:
    worn = [(BROKEN, fault) for fault in FAULTS] + [(SOUND, FAULTS[0])]
    with WorkerPool(2, play) as pool:
        found = {len(job): outcome for job, outcome in pool.run([worn, worn[-1:]])}
    outcomes = [found[len(worn)], found[1]]
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    (*broken, last), (fresh,) = (outcome.value for outcome in outcomes)
    records = {fault: record for fault, (record, _) in zip(FAULTS, broken, strict=True)}
    for fault, says in (
        ("shot", "unstable: 020_hammer left the room: ["),
        ("lost", "unstable: 020_hammer left the room: [nan, nan, nan]"),
        ("broken arm", "unstable: the left arm's joints are not finite"),
    ):
        assert records[fault].outcome == "error"
        assert records[fault].reason.startswith(says)
        assert 0 < records[fault].steps < 10
    assert (records["dropped"].outcome, records["dropped"].steps) == ("failure", 80)
    (after, end), (alone, expected) = last, fresh
    assert (after.outcome, after.steps, after.sim_time_s) == (
        "success",
        alone.steps,
        alone.sim_time_s,
    )
    for one, other in zip(end, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_expert_whose_physics_breaks_is_unstable(monkeypatch: pytest.MonkeyPatch) -> None:
    from twin_env.embedded.tasks.beat_block_hammer import beat_block_hammer

    def shoot(task: beat_block_hammer) -> dict[str, Any]:
        task.hammer.get_body().set_linear_velocity([0.0, 0.0, 1e3])  # type: ignore[union-attr]
        task.move(task.stay("left", ticks=60))
        return task.info

    monkeypatch.setattr(beat_block_hammer, "play_once", shoot)
    verdict = verify_seed(environment("dropped"), BROKEN)
    assert isinstance(verdict, PlanEntry)
    assert verdict.verdict == "unstable"
    assert verdict.reason.startswith("020_hammer left the room")
