"""The agent at work: histories, noise, and RoboTwin's three functions."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from policy_fixtures import DIM, LAYOUT, make_config, make_entry, make_observation, make_policy
from test_checkpoint import save
from torch import Tensor

from twin_policy import deploy, loading
from twin_policy.agent import Agent, PolicyOutputError
from twin_policy.checkpoint import Checkpoint
from twin_policy.config import ActionSpaceConfig, DenoiserConfig
from twin_policy.head import DiffusionHead
from twin_policy.normalizer import Normalizer
from twin_policy.policies import TaskSpec, create_policy
from twin_policy.specs import SpecMismatch, TaskEntry


class FakeEnv:
    """A robot whose joints hold the number of steps it took."""

    def __init__(self, seed: int | None = 0, step_lim: int = 100, succeeds_at: int = 1000) -> None:
        if seed is not None:
            self.seed = seed
        self.step_lim = step_lim
        self.succeeds_at = succeeds_at
        self.take_action_cnt = 0
        self.eval_success = False
        self.n_obs = 0
        self.actions: list[np.ndarray] = []

    def get_obs(self) -> dict[str, Any]:
        self.n_obs += 1
        return make_observation(self.take_action_cnt)

    def take_action(self, action: np.ndarray, action_type: str = "qpos") -> None:
        assert action.shape == (DIM,)
        self.actions.append(action)
        self.take_action_cnt += 1
        self.eval_success = self.take_action_cnt >= self.succeeds_at


def make_agent(*, options: Mapping[str, Any] | None = None, **changes: Any) -> Agent:
    """Of one task; `changes` are of the config, `options` of the agent."""
    config = dataclasses.replace(make_config(), **changes)
    driven = LAYOUT.driven_dims(config.action_space)
    torch.manual_seed(0)
    spec = TaskSpec(LAYOUT, Normalizer.identity(DIM, len(driven)), "robot")
    entry = make_entry(config)
    if not config.cameras:
        entry = TaskEntry.describe(config, layout=LAYOUT, cameras={})
    policy = create_policy(config, {"toy": spec}).eval()
    return Agent(Checkpoint(policy, {"toy": entry}, {}), **(options or {}))


@pytest.fixture
def agent() -> Agent:
    return make_agent()


@dataclass
class Seen:
    """What the policy was given."""

    histories: list[list[float]]
    """Joint 0 of each history, oldest first."""
    encoded: list[int]
    """A pixel of each picture that was encoded, in order."""


@pytest.fixture
def seen(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Features must belong to the pictures of the same steps as the states."""
    log = Seen([], [])
    predict, encode = agent.policy.predict_from_features, agent.policy.encode_frames

    def pictures(steps: list[float]) -> dict[str, Tensor]:
        return {
            camera: torch.stack([torch.full((*size, 3), int(step)) for step in steps]).byte()
            for camera, size in agent.policy.config.cameras.items()
        }

    def watched_encode(images: dict[str, Tensor]) -> Tensor:
        log.encoded.extend(images["head_camera"][:, 0, 0, 0].tolist())
        return encode(images)

    def watched_predict(features: Tensor, state: Tensor, *rest: Any) -> Tensor:
        log.histories.append(state[0, :, 0].tolist())
        expected = encode(pictures(log.histories[-1]))
        torch.testing.assert_close(features[0], expected, atol=1e-5, rtol=0)
        return predict(features, state, *rest)

    monkeypatch.setattr(agent.policy, "predict_from_features", watched_predict)
    monkeypatch.setattr(agent.policy, "encode_frames", watched_encode)
    return log


def test_history_of_observations(agent: Agent, seen: Seen) -> None:
    """G10: To 3, Ta 6."""
    env = FakeEnv()
    for _ in range(2):
        deploy.eval(env, agent, env.get_obs())
    assert seen.histories == [[0, 0, 0], [4, 5, 6]]
    assert env.take_action_cnt == 12
    # Each chunk's first observation, and the two before its end that enter the history.
    assert env.n_obs == 2 + 2 * 2
    deploy.reset_model(agent)
    fresh = FakeEnv()
    deploy.eval(fresh, agent, fresh.get_obs())
    assert seen.histories[-1] == [0, 0, 0]


def test_history_when_fewer_steps_are_executed(agent: Agent, seen: Seen) -> None:
    agent.n_action_steps = 2
    env = FakeEnv()
    for _ in range(3):
        deploy.eval(env, agent, env.get_obs())
    assert seen.histories == [[0, 0, 0], [0, 1, 2], [2, 3, 4]]
    # Each picture once, though the histories overlap; and none is kept.
    assert seen.encoded == [0, 1, 2, 3, 4]
    kept = agent._episodes[0].frames
    assert [frame.images for frame in kept] == [{}, {}, kept[-1].images]


def test_pictures_that_no_chunk_needs_are_not_encoded(agent: Agent, seen: Seen) -> None:
    for step in range(10):
        agent.observe(make_observation(step), seed=0)
    agent.act()
    assert seen.encoded == [7, 8, 9]


def test_executed_slice_starts_at_the_newest_observation(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: a sampler that returns 0..7, To 3, Ta 6."""
    chunk = torch.arange(8.0).reshape(1, 8, 1).expand(1, 8, DIM)
    monkeypatch.setattr(head_of(agent), "sample", lambda *_, **__: chunk)
    agent.observe(make_observation(0), seed=0)
    assert agent.act()[0][:, 0].tolist() == [2, 3, 4, 5, 6, 7]


def head_of(agent: Agent) -> DiffusionHead:
    (head,) = agent.policy.each_head()
    return head


@pytest.mark.parametrize(("limits", "steps"), [({"step_lim": 4}, 4), ({"succeeds_at": 3}, 3)])
def test_a_chunk_stops_when_the_episode_is_over(
    agent: Agent, limits: dict[str, int], steps: int
) -> None:
    env = FakeEnv(**limits)
    deploy.eval(env, agent, env.get_obs())
    assert env.take_action_cnt == steps


def act(agent: Agent, seeds: Sequence[int | None], replans: int = 2) -> np.ndarray:
    """Chunks of several environments computed as one batch, replanned several times."""
    indices = list(range(len(seeds)))
    chunks = []
    for index in indices:
        agent.reset(index)
    for replan in range(replans):
        for index, seed in enumerate(seeds):
            agent.observe(make_observation(replan), env_index=index, seed=seed)
        chunks.append(np.stack(agent.act(indices)))
    return np.stack(chunks, axis=1)


@pytest.mark.parametrize("denoiser", ["mlp", "unet"])
def test_noise_belongs_to_episode_and_replanning(denoiser: str) -> None:
    """Actions do not depend on the batch that they are computed in: on a CPU, bit for bit."""
    config = DenoiserConfig(name=denoiser, diffusion_step_embed_dim=8, down_dims=(32, 64))
    agent = make_agent(denoiser=config)
    together = act(agent, [10, 11, 12])
    alone = act(agent, [12])
    np.testing.assert_array_equal(alone[0], together[2])
    assert np.abs(together[0, 0] - together[1, 0]).max() > 1e-3
    np.testing.assert_array_equal(act(agent, [12]), alone)


def test_global_generators_are_left_alone(agent: Agent) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = act(agent, [4])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.testing.assert_array_equal(act(agent, [4]), first)


def test_each_replanning_has_its_own_noise(agent: Agent) -> None:
    agent.reset()
    agent.observe(make_observation(1), seed=3)
    (first,), (second,) = agent.act(), agent.act()
    assert np.abs(first - second).max() > 1e-3


def test_without_a_seed_the_count_of_resets_stands_in(agent: Agent) -> None:
    first, second = act(agent, [None], replans=1), act(agent, [None], replans=1)
    assert np.abs(first - second).max() > 1e-3
    env = FakeEnv(seed=None)
    agent.reset()
    deploy.eval(env, agent, env.get_obs())
    assert env.take_action_cnt == 6


def test_one_environments_reset_leaves_the_others(agent: Agent) -> None:
    for index in (0, 1):
        agent.observe(make_observation(0), env_index=index, seed=7)
    agent.act([0, 1])
    agent.reset(0)
    agent.observe(make_observation(1), env_index=1)
    (kept,) = agent.act([1])
    agent.reset(2)
    agent.observe(make_observation(0), env_index=2, seed=7)
    agent.act([2])
    agent.observe(make_observation(1), env_index=2)
    (expected,) = agent.act([2])
    np.testing.assert_array_equal(kept, expected)
    with pytest.raises(ValueError, match="environment 0 has no observation"):
        agent.act([0])


def test_what_is_not_finite_does_not_reach_the_robot(agent: Agent) -> None:
    with pytest.raises(PolicyOutputError, match="observation is not finite"):
        agent.observe(nan_observation(), seed=0)
    agent.reset()
    with torch.no_grad():
        next(head_of(agent).denoiser.parameters()).fill_(torch.nan)
    agent.observe(make_observation(0), seed=9)
    with pytest.raises(PolicyOutputError, match=r"not finite .*episode seed 9, replanning 0"):
        agent.act()


def nan_observation() -> dict[str, Any]:
    observation = make_observation(0)
    observation["joint_action"]["vector"] = np.full(DIM, np.nan)
    return observation


def test_the_first_observation_is_compared_with_the_specs(agent: Agent) -> None:
    with pytest.raises(SpecMismatch, match=r"trained on uint8 \(48, 64, 3\)"):
        agent.observe(make_observation(0, shape=(24, 32)))


@pytest.mark.parametrize("steps", [0, 7])
def test_more_steps_than_the_horizon_holds(agent: Agent, steps: int) -> None:
    with pytest.raises(ValueError, match=r"in \[1, 6\]"):
        Agent(agent.checkpoint, n_action_steps=steps)


# Temporal ensembling


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Agent], None]:
    """Makes the sampler's chunk number r say 10 r + k for the k-th step from the present."""

    def patch(agent: Agent) -> None:
        chunks = itertools.count()

        def sample(*_: Any, **__: Any) -> Tensor:
            steps = 10.0 * next(chunks) + torch.arange(-2, 6)
            return steps.reshape(1, 8, 1).expand(1, 8, DIM)

        monkeypatch.setattr(head_of(agent), "sample", sample)

    return patch


def run_steps(agent: Agent, steps: int) -> list[float]:
    env = FakeEnv()
    for _ in range(steps):
        deploy.eval(env, agent, env.get_obs())
    assert env.n_obs == env.take_action_cnt == steps
    return [action[0] for action in env.actions]


def test_temporal_ensembling_weighs_the_oldest_most(numbered: Callable[[Agent], None]) -> None:
    """By hand: step 2 is predicted as 2, 11 and 20, with weights 1, exp(-.5) and exp(-1)."""
    agent = make_agent(options={"n_action_steps": 1, "temporal_ensemble_coeff": 0.5})
    numbered(agent)
    expected = [0.0, (1 + 10 * 0.606531) / 1.606531, (2 + 11 * 0.606531 + 20 * 0.367879) / 1.974410]
    np.testing.assert_allclose(run_steps(agent, 3), expected, atol=1e-4)
    agent.reset()
    # A new episode: only its own chunk, number 3, is left.
    assert run_steps(agent, 1) == [30.0]


def test_temporal_ensembling_reaches_as_far_back_as_a_chunk_does(
    numbered: Callable[[Agent], None],
) -> None:
    """Chunks reach 6 steps: step 7 is in chunks 2 to 7, which say 9 r + 7; without a preference
    their mean is 47.5."""
    agent = make_agent(options={"n_action_steps": 1, "temporal_ensemble_coeff": 0.0})
    numbered(agent)
    np.testing.assert_allclose(run_steps(agent, 8)[-1], 47.5)


def test_temporal_ensembling_observes_each_step_once(
    agent: Agent, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "n_action_steps", 1)
    monkeypatch.setattr(agent, "temporal_ensemble_coeff", 0.01)
    run_steps(agent, 4)
    assert seen.histories == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert seen.encoded == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temporal_ensemble_coeff": 0.01}, "needs n_action_steps 1, and that is 6"),
        ({"temporal_ensemble_coeff": float("nan"), "n_action_steps": 1}, "finite"),
    ],
)
def test_temporal_ensembling_refuses(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(options=options)


# Policies of a part of the robot


def part(arms: str, *, gripper: bool) -> ActionSpaceConfig:
    return ActionSpaceConfig(arms=arms, include_gripper=gripper)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("space", "rule", "expected"),
    [
        (part("left", gripper=True), "hold_idle_arm", [*range(7), *[50.0] * 7]),
        (part("right", gripper=True), "hold_idle_arm", [*[50.0] * 7, *range(7)]),
        (part("left", gripper=True), "debug_hold_gripper", [*range(7), *[50.0] * 7]),
        (part("left", gripper=False), "debug_hold_gripper", [*range(6), *[50.0] * 8]),
        # 12 numbers to 14: a gripper comes after its arm, not both at the end.
        (part("both", gripper=False), "debug_hold_gripper", [*range(6), 50, *range(6, 12), 50]),
        (part("both", gripper=True), None, [*range(14)]),
        (part("both", gripper=True), "hold_idle_arm", [*range(14)]),
    ],
)
def test_what_is_not_driven_keeps_its_newest_target(
    space: ActionSpaceConfig,
    rule: str | None,
    expected: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(action_space=space, options={"complete_actions": rule})
    driven = len(LAYOUT.driven_dims(space))
    chunk = torch.arange(float(driven)).expand(1, 8, driven)
    monkeypatch.setattr(head_of(agent), "sample", lambda *_, **__: chunk)
    for step in (40, 50):
        agent.observe(make_observation(step), seed=0)
    (actions,) = agent.act()
    assert actions.tolist() == [expected] * 6


@pytest.mark.parametrize(
    ("space", "rule", "message"),
    [
        (part("left", gripper=True), None, "not the right arm. .*hold_idle_arm .*it is null"),
        (
            part("both", gripper=False),
            "hold_idle_arm",
            "drives 12 of them, not the left gripper and the right gripper. .*never grasp",
        ),
        (
            part("right", gripper=False),
            "hold_idle_arm",
            "not the left arm and the right gripper.*here debug_hold_gripper, or train",
        ),
        (part("left", gripper=True), "hold_idle", "did you mean 'hold_idle_arm'"),
    ],
)
def test_nothing_is_completed_unasked(
    space: ActionSpaceConfig, rule: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(action_space=space, options={"complete_actions": rule})


def test_holding_grippers_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    make_agent(
        action_space=part("left", gripper=True), options={"complete_actions": "hold_idle_arm"}
    )
    assert not caplog.records
    make_agent(
        action_space=part("both", gripper=False),
        options={"complete_actions": "debug_hold_gripper"},
    )
    assert "cannot grasp" in caplog.text


# Other kinds of policies


def test_a_policy_without_cameras_acts() -> None:
    agent = make_agent(cameras={})
    env = FakeEnv()
    for _ in range(2):
        deploy.eval(env, agent, env.get_obs())
    assert env.take_action_cnt == 12
    assert np.isfinite(env.actions).all()


@pytest.mark.parametrize("kind", ["heads", "unified"])
def test_a_policy_of_several_tasks_acts_in_the_one_it_is_told(kind: str) -> None:
    config = dataclasses.replace(
        make_config(),
        action_space=ActionSpaceConfig(kind=kind, head_per="task"),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    spec = TaskSpec(LAYOUT, Normalizer.identity(DIM, DIM), "robot")
    tasks = {"lift_pot": spec, "click_bell": spec}
    policy = create_policy(config, tasks).eval()
    checkpoint = Checkpoint(policy, dict.fromkeys(tasks, make_entry(config)), {})
    first, second = (act(Agent(checkpoint, task=task), [3], replans=1) for task in tasks)
    assert first.shape == (1, 1, 6, DIM)
    assert np.abs(first - second).max() > 1e-3
    for task in (None, "lift_pott"):
        with pytest.raises(ValueError, match="unknown task"):
            Agent(checkpoint, task=task)


@pytest.fixture
def drop_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The policy folder, imported as RoboTwin imports it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "policy"))
    yield importlib.import_module("dp_resnet")
    for name in [name for name in sys.modules if name.startswith("dp_resnet")]:
        del sys.modules[name]


def test_the_policy_folder(drop_in: Any, tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", make_policy(make_config()))
    arguments = {
        "checkpoint_path": str(tmp_path / "checkpoint"),
        "task_name": "toy",
        "policy_name": "dp_resnet",
        "left_arm_dim": 6,
        "right_arm_dim": 6,
        "device": "cpu",
        "n_action_steps": 3,
        "num_inference_steps": 2,
    }
    model = drop_in.get_model(arguments)
    env = FakeEnv()
    drop_in.eval(env, model, env.get_obs())
    assert env.take_action_cnt == 3
    drop_in.reset_model(model)
    with pytest.raises(SpecMismatch, match=r"left_arm_dim: .* 6, and 7 is declared.*another robot"):
        drop_in.get_model(arguments | {"left_arm_dim": 7, "right_arm_dim": 7})
    sampling = drop_in.get_model(arguments | {"sampler": "ddpm"}).policy.head.noise_scheduler
    assert (sampling.sampler, sampling.num_inference_steps) == ("ddpm", 2)
    with pytest.raises(ValueError, match="'sampler' 'dpm'; did you mean 'ddpm'"):
        drop_in.get_model(arguments | {"sampler": "dpm"})
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        drop_in.get_model(arguments | {"device": "gpu"})
    with pytest.raises(ValueError, match=r"'inference_dtype'.*'float16'; did you mean 'bfloat16'"):
        drop_in.get_model(arguments | {"inference_dtype": "float16"})
    with pytest.raises(ValueError, match="'n_action_steps' must be int"):
        drop_in.get_model(arguments | {"n_action_steps": "three"})
    for path in (None, str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=r"`twinbench train toy dp_resnet`"):
            drop_in.get_model(arguments | {"checkpoint_path": path})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("agent") / "checkpoint"
    save(path, make_policy(make_config()))
    return str(path)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"color_order": "bgr"}, "color_order: .*'rgb', and 'bgr' is declared"),
        ({"n_obs_steps": 2}, "n_obs_steps: .* 3, and 2 is declared"),
        ({"action_type": "ee"}, "action_type: .*'qpos', and 'ee' is declared"),
        ({"right_arm_dim": 7}, "right_arm_dim: .*another robot"),
        ({"left_arm_dim": 7, "right_arm_dim": 5}, "left_arm_dim"),
    ],
)
def test_what_is_declared_is_compared_before_the_first_action(
    folder: str, declared: dict[str, Any], message: str
) -> None:
    right = {
        "color_order": "rgb",
        "n_obs_steps": 3,
        "action_type": "qpos",
        "left_arm_dim": 6,
        "right_arm_dim": 6,
    }
    arguments = {"checkpoint_path": folder, "device": "cpu", "task_name": "toy"}
    deploy.get_model(arguments | right)
    with pytest.raises(SpecMismatch, match=message):
        deploy.get_model(arguments | right | declared)


def test_options_reach_the_agent(
    folder: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {
        "checkpoint_path": folder,
        "device": "cpu",
        "task_name": "another",
        "n_action_steps": 1,
        "temporal_ensemble_coeff": 0.01,
    }
    exact = deploy.get_model(arguments)
    assert "trained on toy is put to another" in caplog.text
    monkeypatch.setattr(loading, "cpu_computes_in_bfloat16", lambda: False)
    assert "bfloat16" not in caplog.text
    rounded = deploy.get_model(arguments | {"inference_dtype": "bfloat16", "cuda_graph": True})
    assert "no instructions for bfloat16" in caplog.text
    assert head_of(rounded).cuda_graph
    assert head_of(rounded).inference_dtype == torch.bfloat16
    difference = np.abs(act(exact, [5]) - act(rounded, [5])).max()
    assert 0 < difference < 0.05


def test_the_policy_folder_documents_every_option() -> None:
    options = {field.name for field in dataclasses.fields(loading.DeployOptions)}
    fusion, lapo, diffusion = loading.OF_A_FUSION, loading.OF_LAPO, loading.OF_DIFFUSION
    left_out = {
        "fusion_dp": {*lapo},
        "dp_resnet": {*fusion, *lapo},
        "clip_dp": {*fusion, *lapo},
        "lapo": {*fusion, *diffusion},
    }
    for folder, others in left_out.items():
        settings = Path(deploy.__file__).parents[1] / folder / "deploy_policy.yml"
        documented = set(yaml.safe_load(settings.read_text()))
        assert options - documented == {"left_arm_dim", "right_arm_dim"} | others
