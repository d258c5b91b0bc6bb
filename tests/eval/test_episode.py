"""One episode by RoboTwin's loop: three outcomes, instruction by the seed, errors with reasons."""

import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_simulator import FakeEnv

from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import (
    EpisodeIdentity,
    EpisodeRequest,
    noise_seed,
    run_episode,
)
from twin_eval.inference import LocalActor
from twin_eval.policies import import_policy
from twin_eval.records import PARTS, EpisodeRecord

ENVIRONMENT = EnvironmentSpec(
    task="reach_number", config_name="demo_clean", config={}, provider="fake_simulator"
)


IDENTITY = EpisodeIdentity(session="s", policy="p", checkpoint="none")


def request(seed: int, **fields: Any) -> EpisodeRequest:
    return EpisodeRequest(**{"index": 0, "seed": seed, "noise_seed": seed, **fields})


def play(seed: int, act: Any, environment: Any = ENVIRONMENT, **fields: Any) -> EpisodeRecord:
    policy: Any = SimpleNamespace(eval=act, reset_model=lambda model: None)
    actor = LocalActor(policy, None)
    return run_episode(environment, actor, request(seed, **fields), IDENTITY)


def in_env(make: Any) -> Any:
    return SimpleNamespace(task="reach_number", config_name="demo_clean", config={}, make=make)


def solve(env: Any, model: Any, observation: dict[str, Any]) -> None:
    env.take_action(np.full(14, observation["target"]))


def test_success_ends_the_episode() -> None:
    record = play(100_001, solve)
    assert (record.outcome, record.steps, record.reason) == ("success", 5, "")


def test_failure_says_what_the_limit_was() -> None:
    record = play(100_001, lambda env, model, obs: env.take_action(np.zeros(14)))
    assert (record.outcome, record.steps) == ("failure", 20)
    assert record.reason == "no success within 20 steps"


def break_later(action: Any) -> Any:
    def act(env: Any, model: Any, observation: dict[str, Any]) -> None:
        env.take_action(np.zeros(14) if env.take_action_cnt < 3 else action)

    return act


@pytest.mark.parametrize("action", [np.full(14, np.nan), np.zeros(16), np.full(14, np.inf)])
def test_an_impossible_action_is_an_error_with_its_reason(action: Any) -> None:
    record = play(100_001, break_later(action))
    assert (record.outcome, record.steps) == ("error", 3)
    assert record.reason.startswith("InvalidActionError: an action is 14 finite numbers: got")


def test_a_crash_of_the_policy_names_the_line() -> None:
    def crash(env: Any, model: Any, observation: dict[str, Any]) -> None:
        raise KeyError("head_cam")

    record = play(100_001, crash)
    assert record.outcome == "error"
    assert record.reason.startswith("KeyError: 'head_cam' (test_episode.py:")
    assert record.reason.endswith(", crash)")


def test_an_unstable_scene_is_an_error() -> None:
    record = play(100_007, solve)
    assert (record.outcome, record.steps) == ("error", 0)
    assert record.reason == "unstable: the number rolls"


def test_a_policy_that_never_acts_is_an_error() -> None:
    record = play(100_001, lambda env, model, obs: None)
    assert record.outcome == "error"
    assert "without calling take_action" in record.reason


def test_a_policy_may_look_twice_before_it_acts() -> None:
    calls = []

    def hesitate(env: Any, model: Any, observation: dict[str, Any]) -> None:
        calls.append(1)
        if len(calls) % 3 == 0:
            solve(env, model, observation)

    assert play(100_001, hesitate).outcome == "success"


def test_reset_comes_after_the_instruction_and_before_the_first_observation() -> None:
    seen: list[str] = []

    class Env(FakeEnv):
        def set_instruction(self, instruction: str) -> None:
            seen.append("instruction")

        def get_obs(self) -> dict[str, Any]:
            seen.append("observation")
            return super().get_obs()

    environment = in_env(Env)
    policy: Any = SimpleNamespace(eval=solve, reset_model=lambda model: seen.append("reset"))
    run_episode(environment, LocalActor(policy, None), request(100_001), IDENTITY)
    assert seen[:3] == ["instruction", "reset", "observation"]


@pytest.mark.parametrize(
    ("name", "outcome"), [("expert_replay", "success"), ("hold_still", "failure")]
)
def test_reference_policies_are_ceiling_and_floor(name: str, outcome: str) -> None:
    module = import_policy(Path("policy") / name)
    actor = LocalActor(module, module.get_model({}))
    record = run_episode(ENVIRONMENT, actor, request(100_001, instruction="reach it"), IDENTITY)
    assert record.outcome == outcome
    assert record.instruction == "reach it"


def test_expert_replay_stays_at_its_last_action() -> None:
    module = import_policy(Path("policy/expert_replay"))
    env = FakeEnv()
    played: list[float] = []

    def take_action(action: Any) -> None:
        played.append(action[0])
        env.take_action_cnt += 1

    simulator: Any = env
    simulator.take_action = take_action
    simulator.expert_actions = lambda: np.arange(3.0)[:, None]
    module.eval(simulator, None, {})
    assert played == [0.0, 1.0] + [2.0] * 18


def test_clamped_actions_are_recorded() -> None:
    class Env(FakeEnv):
        clamped_actions = 3

    assert play(100_001, solve, in_env(Env)).clamped_actions == 3
    assert play(100_001, solve).clamped_actions == 0


def test_expert_replay_says_which_simulators_can() -> None:
    module = import_policy(Path("policy/expert_replay"))
    with pytest.raises(RuntimeError, match=r"expert_actions.*--backend embedded"):
        module.eval(SimpleNamespace(), None, {})


def test_noise_of_the_first_repetition_is_the_scene_s_and_others_are_independent() -> None:
    seeds = range(100_000, 100_200)
    assert [noise_seed(seed, 0) for seed in seeds] == list(seeds)
    drawn = {noise_seed(seed, repetition) for seed in seeds for repetition in range(4)}
    assert len(drawn) == 4 * len(seeds)
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_a_policy_is_told_the_noise_seed_and_global_generators_follow_it() -> None:
    drawn = []

    def act(env: Any, model: Any, observation: dict[str, Any]) -> None:
        drawn.append((env.seed, env.noise_seed, random.random()))
        solve(env, model, observation)

    for noise in (7, 7, 8):
        record = play(100_001, act, noise_seed=noise)
        assert (record.seed, record.noise_seed) == (100_001, noise)
    first, again, other = drawn[0], drawn[5], drawn[10]
    assert first == again
    assert first[:2] == (100_001, 7)
    assert other[1:] != first[1:]


def test_what_the_expert_set_on_the_task_is_there_again() -> None:
    seen = []

    class Env(FakeEnv):
        def get_obs(self) -> dict[str, Any]:
            seen.append(self.arm_tag)  # type: ignore[attr-defined]
            return super().get_obs()

    assert play(100_001, solve, in_env(Env), attributes={"arm_tag": "left"}).outcome == "success"
    assert set(seen) == {"left"}


def test_the_digest_tells_different_actions_apart() -> None:
    def nearly(env: Any, model: Any, observation: dict[str, Any]) -> None:
        env.take_action(np.full(14, observation["target"]) + 1e-12 * np.arange(14))

    first, again, other = play(100_001, solve), play(100_001, solve), play(100_001, nearly)
    assert first.actions_digest == again.actions_digest
    assert first.actions_digest != other.actions_digest
    assert (first.outcome, first.steps) == (other.outcome, other.steps)


def test_times_of_the_parts_add_up_and_are_told_apart() -> None:
    class Env(FakeEnv):
        def get_obs(self) -> dict[str, Any]:
            time.sleep(0.02)
            return super().get_obs()

    def slow(env: Any, model: Any, observation: dict[str, Any]) -> None:
        time.sleep(0.01)
        env.get_obs()
        solve(env, model, observation)

    started = time.perf_counter()
    record = play(100_001, slow, in_env(Env))
    wall = time.perf_counter() - started
    parts = {part: spent[0] for part, spent in record.times.items()}
    assert set(parts) <= set(PARTS)
    assert parts["observation"] >= 10 * 0.02
    assert parts["policy"] >= 5 * 0.01
    assert record.wall_s <= wall + 1e-3
    assert record.wall_s >= 0.25
    assert record.cpu_s < wall


def test_stages_layout_and_times_are_recorded_where_the_simulator_tells() -> None:
    class Env(FakeEnv):
        stages = ("near", "there")
        sim_time_s = 1.25

        @property
        def stages_reached(self) -> int:
            return 2 if self.eval_success else 1

        def scene_layout(self) -> dict[str, list[float]]:
            return {"number": [self.target, 0.0, 0.0]}

    record = play(100_001, solve, in_env(Env))
    assert (record.stage, record.stages_reached, record.success_step) == ("there", 2, 5)
    assert record.sim_time_s == 1.25
    assert list(record.layout) == ["number"]
    failed = play(100_001, lambda env, model, obs: env.take_action(np.zeros(14)), in_env(Env))
    assert (failed.stage, failed.success_step) == ("near", None)
    bare = play(100_001, solve)
    assert (bare.stages, bare.stage, bare.sim_time_s, bare.layout) == ((), "", None, {})
