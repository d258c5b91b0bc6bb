"""One episode by RoboTwin's loop: three outcomes, instruction by the seed, errors with reasons."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_simulator import FakeEnv

from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import EpisodeRequest, draw_instruction, run_episode
from twin_eval.policies import import_policy
from twin_eval.records import EpisodeRecord

ENVIRONMENT = EnvironmentSpec(
    task="reach_number", config_name="demo_clean", config={}, provider="fake_simulator"
)


def play(seed: int, act: Any) -> EpisodeRecord:
    policy: Any = SimpleNamespace(eval=act, reset_model=lambda model: None)
    request = EpisodeRequest(index=0, seed=seed, instruction_type="unseen")
    return run_episode(ENVIRONMENT, policy, None, request, policy_name="p", policy_seed=0)


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
    assert "UnstableError: the number rolls" in record.reason


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

    environment: Any = SimpleNamespace(task="reach_number", config={}, make=Env)
    policy: Any = SimpleNamespace(eval=solve, reset_model=lambda model: seen.append("reset"))
    request = EpisodeRequest(index=0, seed=100_001, instruction_type="unseen")
    run_episode(environment, policy, None, request, policy_name="p", policy_seed=0)
    assert seen[:3] == ["instruction", "reset", "observation"]


def test_instruction_depends_on_the_seed_alone() -> None:
    choices = [f"way {i}" for i in range(9)]
    drawn = [draw_instruction(choices, seed) for seed in range(100)]
    assert drawn == [draw_instruction(choices, seed) for seed in range(100)]
    assert set(drawn) == set(choices)
    assert draw_instruction([], 0) == ""


@pytest.mark.parametrize(
    ("name", "outcome"), [("expert_replay", "success"), ("hold_still", "failure")]
)
def test_reference_policies_are_ceiling_and_floor(name: str, outcome: str) -> None:
    module = import_policy(Path("policy") / name)
    model = module.get_model({})
    request = EpisodeRequest(index=0, seed=100_001, instruction_type="seen")
    record = run_episode(ENVIRONMENT, module, model, request, policy_name=name, policy_seed=0)
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

    environment: Any = SimpleNamespace(task="reach_number", config={}, make=Env)
    policy: Any = SimpleNamespace(eval=solve, reset_model=lambda model: None)
    request = EpisodeRequest(index=0, seed=100_001, instruction_type="unseen")
    record = run_episode(environment, policy, None, request, policy_name="p", policy_seed=0)
    assert record.clamped_actions == 3
    assert play(100_001, solve).clamped_actions == 0


def test_expert_replay_says_which_simulators_can() -> None:
    module = import_policy(Path("policy/expert_replay"))
    with pytest.raises(RuntimeError, match=r"expert_actions.*--backend embedded"):
        module.eval(SimpleNamespace(), None, {})
