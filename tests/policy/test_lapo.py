"""LAPO: what its losses compute (G15), how it acts, what it refuses, its checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lapo_fixtures import (
    CAMERAS,
    FEATURE_DIM,
    LAYOUT,
    SOURCE_SHAPE,
    make_batch,
    make_config,
    make_entry,
    make_lapo,
    make_policy,
    make_transition,
)
from policy_fixtures import make_config as diffusion_config
from policy_fixtures import make_entry as diffusion_entry
from policy_fixtures import make_policy as diffusion_policy
from torch import Tensor, nn

from twin_policy.agent import Agent, noise_generator
from twin_policy.checkpoint import Checkpoint, load_checkpoint, prepare_checkpoint, save_weights
from twin_policy.config import ActionSpaceConfig, NormalizerConfig, PolicyConfig
from twin_policy.lapo import (
    Lapo,
    active_units,
    advantage_weight,
    kl_to_standard_normal,
    mixed_q,
)
from twin_policy.lapo_config import LapoConfig
from twin_policy.lapo_policy import LapoPolicy
from twin_policy.loading import load_agent


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def features(rows: int = 5, seed: int = 2) -> Tensor:
    return torch.randn((rows, FEATURE_DIM), generator=torch.Generator().manual_seed(seed))


def constant(net: nn.Module, *outputs: float) -> None:
    """Makes a network say the same of everything: its last bias."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        assert isinstance(net, nn.Sequential)
        net[-1].bias.copy_(torch.tensor(outputs))  # type: ignore[operator]


def disturb(net: nn.Module) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=noise())


# Losses


def test_terms() -> None:
    """G15."""
    assert kl_to_standard_normal(torch.ones(1, 32), torch.zeros(1, 32)).tolist() == [16.0]
    q = mixed_q(torch.tensor([2.0, 4.0]), torch.tensor([4.0, 2.0]), doubleq_min=0.7)
    assert q.tolist() == pytest.approx([2.6, 2.6])
    weights = advantage_weight(torch.tensor([0.0, -1.0, 1.0]))
    assert weights.tolist() == pytest.approx([0.1, 0.1, 0.9])


def test_active_units_are_those_whose_mean_varies_over_the_data() -> None:
    means = torch.zeros(100, 3)
    means[::2, 0] = 1.0
    means[::2, 1] = 0.05
    means[:, 2] = 7.0
    assert active_units(means) == 1


def constant_lapo(**changes: Any) -> Lapo:
    """Q1 says 2, Q2 4, V .5, the slow ones .6 and .8; posteriors have mean 1, actions are 0."""
    lapo = make_lapo(**{"doubleq_min": 0.7, "latent_noise": 0.0} | changes)
    for net, output in (
        (lapo.critic.q1, 2.0),
        (lapo.critic.q2, 4.0),
        (lapo.critic.v, 0.5),
        (lapo.targets["q1"], 0.6),
        (lapo.targets["q2"], 0.8),
    ):
        constant(net, output)
    constant(lapo.vae.encoder, *[1.0] * 4, *[0.0] * 4)
    constant(lapo.vae.decoder, *[0.0] * 6)
    return lapo


@pytest.mark.parametrize(
    ("reward", "discount", "target"),
    [
        (0.2, 0.9, 0.2 + 0.9 * 0.5),  # the V that learns, not a slow one
        (0.2, 0.0, 0.2),
        (0.9, 0.9, 1.0),
        (-0.9, 0.9, 0.0),
    ],
)
def test_the_critics_targets(reward: float, discount: float, target: float) -> None:
    """Bounded, both of them; a terminal has nothing after it."""
    lapo = constant_lapo()
    batch = make_transition(reward=torch.full((5,), reward), discount=torch.full((5,), discount))
    loss, figures = lapo.critic_loss(features(), features(seed=3), batch, noise())
    worth = 0.7 * 0.6 + 0.3 * 0.8
    expected = (2 - target) ** 2 + (4 - target) ** 2 + (0.5 - worth) ** 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    raw = reward + discount * 0.5
    assert figures["clamped"].item() == (0.5 if raw != pytest.approx(target) else 0.0)


def test_what_v_learns_is_bounded_too() -> None:
    lapo = constant_lapo(max_v=0.5)
    batch = make_transition(reward=torch.zeros(5), discount=torch.zeros(5))
    loss, _ = lapo.critic_loss(features(), features(seed=3), batch, noise())
    assert loss.item() == pytest.approx(2**2 + 4**2 + 0.0)


@pytest.mark.parametrize(
    ("behaviour", "weights"), [("lapo", [0.9, 0.1, 0.1]), ("bc", [1.0, 1.0, 1.0])]
)
def test_the_vaes_loss_sums_over_dimensions_and_weighs_by_advantage(
    behaviour: str, weights: list[float]
) -> None:
    """Worth .66 after the chunk, V .5 before it; then it ends; then it is punished."""
    lapo = constant_lapo(behaviour=behaviour, beta=0.3)
    batch = make_transition(
        3, reward=torch.tensor([0.0, 0.0, -0.3]), discount=torch.tensor([0.9, 0.0, 0.9])
    )
    batch.valid[1, 2:] = False
    seen = features(3)
    loss, figures = lapo.vae_loss(seen, seen, features(3, seed=3), batch, noise())
    squares = batch.action.square()
    squares[1, 2:] = 0
    kl = 4 / 2
    terms = [
        weight * (float(row.sum()) + 0.3 * kl) for weight, row in zip(weights, squares, strict=True)
    ]
    assert loss.item() == pytest.approx(sum(terms) / 3, rel=1e-5)
    assert figures["kl"].item() == pytest.approx(kl)
    assert figures["reconstruction"].item() == pytest.approx(float(squares.sum() / 14), rel=1e-5)


def test_masked_steps_of_a_chunk_need_not_be_reconstructed() -> None:
    """What the posterior and Q see of them, the repeated last action, still counts."""
    lapo = make_lapo(behaviour="bc")
    batch = make_transition()
    batch.valid[:, 4:] = False
    garbage = dataclasses.replace(batch, action=batch.action.clone())
    garbage.action[:, 4:] = 50.0

    def vae(each: Any) -> tuple[Tensor, list[Tensor]]:
        loss, _ = lapo.vae_loss(features(), features(), features(), each, noise())
        decoder = list(lapo.vae.decoder.parameters())
        return loss.detach(), list(torch.autograd.grad(loss, decoder))

    assert vae(batch)[0] != vae(garbage)[0]
    with torch.no_grad():  # a posterior that does not look at actions
        lapo.vae.encoder[0].weight[:, FEATURE_DIM:] = 0
    (mine, gradients), (theirs, others) = vae(batch), vae(garbage)
    assert mine == theirs
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    everything = dataclasses.replace(garbage, valid=torch.ones_like(batch.valid))
    assert vae(everything)[0] > mine + 100
    mine, theirs = (
        lapo.critic_loss(features(), features(), each, noise())[0] for each in (batch, garbage)
    )
    assert mine != theirs


def test_the_actor_follows_the_first_q_through_the_slow_decoder() -> None:
    lapo = make_lapo()
    before = lapo.actor_loss(features())
    for other in (lapo.critic.q2, lapo.vae.decoder, lapo.targets["actor"], lapo.targets["q1"]):
        disturb(other)
    assert torch.equal(lapo.actor_loss(features()), before)
    for used in (lapo.critic.q1, lapo.targets["decoder"], lapo.actor):
        disturb(used)
        assert lapo.actor_loss(features()) != before
        before = lapo.actor_loss(features())


def test_latent_actions_are_bounded() -> None:
    lapo = make_lapo(max_latent_action=0.7)
    with torch.no_grad():
        lapo.actor[-1].weight *= 1e4
    assert lapo.latent(features()).abs().max().item() == pytest.approx(0.7)


def test_the_noise_on_the_target_of_v_is_clipped() -> None:
    latents = []

    def spy(_: nn.Module, inputs: tuple[Tensor]) -> None:
        latents.append(inputs[0][:, FEATURE_DIM:])

    lapo = make_lapo(latent_noise=5.0, latent_noise_clip=0.2)
    constant(lapo.targets["actor"], *[0.0] * 4)
    lapo.targets["decoder"].register_forward_pre_hook(spy)
    lapo.critic_loss(features(), features(), make_transition(), noise())
    assert latents[0].abs().max().item() == pytest.approx(0.2)
    # The advantage has none.
    lapo.vae_loss(features(), features(), features(), make_transition(), noise())
    assert latents[1].abs().max().item() == 0


def test_targets_follow_by_tau() -> None:
    lapo = make_lapo(tau=0.25)
    assert set(lapo.targets) == {"q1", "q2", "decoder", "actor"}
    followed = [lapo.critic.q1, lapo.critic.q2, lapo.vae.decoder, lapo.actor]
    for net in followed:
        disturb(net)
    slow = [parameter.clone() for parameter in lapo.targets.parameters()]
    fast = [parameter.clone() for net in followed for parameter in net.parameters()]
    lapo.follow()
    for before, towards, now in zip(slow, fast, lapo.targets.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * towards, rtol=0, atol=1e-7)
        assert not torch.equal(now, before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(fast, (p for net in followed for p in net.parameters()), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in lapo.targets.parameters())


# Acting


def act(policy: LapoPolicy, seeds: tuple[int, ...] = (0, 0)) -> Tensor:
    batch = make_batch(policy.config, len(seeds))
    generators = [noise_generator(seed, 0) for seed in seeds]
    return policy.eval().predict_action(batch.images, batch.state, generators)


@pytest.fixture
def policy() -> LapoPolicy:
    return make_policy(make_config(lapo={"act_with": "policy"}))


@pytest.mark.parametrize("way", ["policy", "prior", "prior_mean"])
def test_it_acts_by_what_learns_and_the_slow_decoder(policy: LapoPolicy, way: str) -> None:
    policy.act_with = way  # type: ignore[assignment]
    before = act(policy)
    nets = policy.nets
    for unused in (nets.vae, nets.critic, nets.targets["actor"], nets.targets["q1"]):
        disturb(unused)
    assert torch.equal(act(policy), before)
    disturb(nets.actor)
    assert torch.equal(act(policy), before) == (way != "policy")
    before = act(policy)
    disturb(nets.targets["decoder"])
    assert not torch.equal(act(policy), before)


def test_the_prior_is_drawn_for_each_episode_by_itself(policy: LapoPolicy) -> None:
    policy.act_with = "prior"
    both = act(policy, (3, 4))
    assert torch.equal(both, act(policy, (3, 4)))
    torch.testing.assert_close(both[:1], act(policy, (3, 5))[:1])
    assert not torch.allclose(both[1:], act(policy, (3, 5))[1:])
    policy.act_with = "prior_mean"
    assert torch.equal(act(policy, (3, 4)), act(policy, (5, 6)))


def make_observation(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "observation": {
            camera: {"rgb": random.integers(0, 256, SOURCE_SHAPE, np.uint8)} for camera in CAMERAS
        },
        "joint_action": {"vector": random.normal(size=LAYOUT.dim)},
    }


def select(policy: LapoPolicy, seen: dict[str, Any]) -> Any:
    pictures = [seen["observation"][f"{name}_camera"]["rgb"] for name in ("left", "right", "head")]
    return policy.select_action(*pictures, seen["joint_action"]["vector"])


@pytest.mark.parametrize("order", [list(CAMERAS), list(CAMERAS)[::-1]])
@pytest.mark.parametrize("early_fusion", [False, True])
def test_select_action_is_what_the_agent_does(order: list[str], early_fusion: bool) -> None:
    """Whatever the order of the cameras in training, and without leaving training mode."""
    config = make_config(
        lapo={"act_with": "policy"},
        cameras={camera: CAMERAS[camera] for camera in order},
        encoder={"early_fusion": early_fusion, "color_jitter": 0.5, "state_noise": 0.5},
        action_representation="relative",
    )
    policy = make_policy(config)
    disturb(policy)  # An early fusion starts with the same weights for all cameras.
    agent = Agent(Checkpoint(policy.eval(), {"toy": make_entry(config)}, {}))
    agent.observe(make_observation())
    (expected,) = agent.act()
    policy.train()
    found = select(policy, make_observation())
    assert policy.training
    assert found.dtype == np.float64
    assert np.array_equal(found, expected)
    swapped = make_observation()
    views = swapped["observation"]
    views["left_camera"], views["right_camera"] = views["right_camera"], views["left_camera"]
    assert not np.allclose(select(policy, swapped), expected)


def test_select_action_refuses_other_cameras_and_joints(policy: LapoPolicy) -> None:
    seen = make_observation()
    seen["joint_action"]["vector"] = np.zeros(7)
    with pytest.raises(ValueError, match=r"whole vector of 14 numbers, and is of shape \(7,\)"):
        select(policy, seen)
    two = make_policy(make_config(cameras={"head_camera": (12, 16), "left_camera": (12, 16)}))
    with pytest.raises(ValueError, match="this one sees head_camera, left_camera: use its Agent"):
        select(two, make_observation())


@pytest.mark.parametrize("representation", ["absolute", "relative"])
def test_actions_stay_in_the_range_of_the_data_and_a_margin(representation: str) -> None:
    config = make_config(
        lapo={"act_with": "policy", "action_margin": 0.1}, action_representation=representation
    )
    policy = make_policy(config)
    with torch.no_grad():
        policy.nets.targets["decoder"][-1].weight *= 1e4
    data = torch.stack([torch.linspace(-1, 0, LAYOUT.dim), torch.linspace(0.5, 2, LAYOUT.dim)])
    policy.set_action_range(data)
    acted = act(policy)
    margin = torch.full((LAYOUT.dim,), 0.1)
    margin[list(LAYOUT.gripper_dims)] = 0
    low, high = data[0] - margin, data[1] + margin
    assert ((acted >= low) & (acted <= high)).all()
    assert ((acted == low) | (acted == high)).float().mean() > 0.9


# Configs


@pytest.mark.parametrize("behaviour", ["lapo", "bc"])
def test_the_control_learns_its_encoder_from_the_clone(behaviour: str) -> None:
    """A critic of an actor that is not there would teach nothing."""
    config = LapoConfig(behaviour=behaviour)  # type: ignore[arg-type]
    resolved = config.resolved(has_failures=True)
    expected = {"lapo": ("critic", "policy"), "bc": ("vae", "prior_mean")}
    assert (resolved.encoder_gradient, resolved.act_with) == expected[behaviour]
    frozen = dataclasses.replace(config, encoder_gradient="frozen").resolved(has_failures=True)
    assert frozen.encoder_gradient == "frozen"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_obs_steps": 2, "n_action_steps": 2}, "n_obs_steps must be 1, and is 2"),
        ({"n_action_steps": 2}, "n_action_steps must be horizon = 3, and is 2"),
        ({"action_space": ActionSpaceConfig(kind="heads")}, "must be joint, and is heads"),
        (
            {"lapo": {"encoder_gradient": "frozen"}, "encoder": {"tuning": "full"}},
            "lets no backbone learn, and encoder.tuning is full",
        ),
        ({"lapo": {"behaviour": "bc", "act_with": "policy"}}, "set act_with to auto, prior_mean"),
        ({"lapo": {"max_latent_action": 0}}, "max_latent_action must be positive, and is 0"),
        ({"lapo": {"min_v": 1.0}}, "min_v must be less than max_v, and they are 1.0 and 1.0"),
        ({"lapo": {"expectile": 1.5}}, r"expectile must be in \[0, 1\], and is 1.5"),
        ({"lapo": {"beta": -0.1}}, "beta must not be negative, and is -0.1"),
        ({"lapo": {"latent_dim": 0}}, "latent_dim must be at least 1, and is 0"),
        (
            {"encoder": {"early_fusion": True}, "cameras": {"a": (12, 16), "b": (24, 32)}},
            "all cameras need one size, and have",
        ),
    ],
)
def test_refused_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_a_diffusion_that_clips_must_not_be_normalised_by_deviations() -> None:
    config = diffusion_config()
    zscore = NormalizerConfig(mode="zscore")
    with pytest.raises(ValueError, match=r"clip_sample cuts them off: set mode to min_max"):
        dataclasses.replace(config, normalizer=zscore)
    unclipped = dataclasses.replace(config.noise_scheduler, clip_sample=False)
    changed = dataclasses.replace(config, normalizer=zscore, noise_scheduler=unclipped)
    assert changed.normalizer.mode == "zscore"


@pytest.mark.parametrize(
    ("config", "has_failures", "expected"),
    [
        (LapoConfig(), True, "policy"),
        (LapoConfig(), False, "prior_mean"),
        (LapoConfig(behaviour="bc"), True, "prior_mean"),
        (LapoConfig(act_with="policy"), False, "policy"),
        (LapoConfig(behaviour="bc", act_with="prior"), False, "prior"),
    ],
)
def test_who_acts_is_decided_by_the_data(
    config: LapoConfig, has_failures: bool, expected: str
) -> None:
    assert config.resolved(has_failures=has_failures).act_with == expected


# Checkpoints


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint of a policy with this config."""

    def write(config: PolicyConfig, prepare: Callable[[LapoPolicy], None] | None = None) -> Path:
        policy = make_policy(config)
        if prepare:
            prepare(policy)
        prepare_checkpoint(tmp_path, policy=policy, tasks={"toy": make_entry(config)})
        save_weights(tmp_path, policy, {})
        return tmp_path

    return write


@pytest.mark.parametrize(
    "encoder", [{}, {"early_fusion": True}, {"shared_backbone": True, "pooling": "avg"}]
)
def test_a_loaded_checkpoint_does_the_same(
    save: Callable[..., Path], encoder: dict[str, Any]
) -> None:
    config = make_config(lapo={"act_with": "policy"}, encoder=encoder)
    saved: list[LapoPolicy] = []

    def prepare(policy: LapoPolicy) -> None:
        disturb(policy)
        policy.set_action_range(torch.tensor([[-0.3] * 14, [0.4] * 14]))
        saved.append(policy)

    loaded = load_checkpoint(save(config, prepare)).policy
    assert isinstance(loaded, LapoPolicy)
    assert loaded.config == config
    assert loaded.action_high.tolist() == pytest.approx(([0.45] * 6 + [0.4]) * 2)
    assert torch.equal(act(loaded), act(saved[0]))
    assert np.array_equal(select(loaded, make_observation()), select(saved[0], make_observation()))
    mine, theirs = saved[0].state_dict(), loaded.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_deployment_may_choose_who_acts(save: Callable[..., Path]) -> None:
    folder = save(make_config(lapo={"act_with": "policy"}))
    acted = {}
    for way in (None, "policy", "prior", "prior_mean"):
        agent = load_agent({"act_with": way, "device": "cpu"}, folder)
        assert isinstance(agent.policy, LapoPolicy)
        assert agent.policy.act_with == (way or "policy")
        acted[way] = act(agent.policy, (7,))
    assert torch.equal(acted[None], acted["policy"])
    assert not torch.equal(acted["policy"], acted["prior"])
    assert not torch.equal(acted["prior"], acted["prior_mean"])
    with pytest.raises(ValueError, match="act_with"):
        load_agent({"act_with": "actor", "device": "cpu"}, folder)


@pytest.mark.parametrize(
    ("option", "value"), [("sampler", "ddpm"), ("num_inference_steps", 5), ("cuda_graph", True)]
)
def test_options_of_diffusion_are_refused(
    save: Callable[..., Path], option: str, value: Any
) -> None:
    folder = save(make_config(lapo={"act_with": "policy"}))
    with pytest.raises(ValueError, match=f"{option} is of diffusion policies"):
        load_agent({option: value, "device": "cpu"}, folder)


def test_cloned_behaviour_has_no_actor_to_act_with(save: Callable[..., Path]) -> None:
    folder = save(make_config(lapo={"behaviour": "bc", "act_with": "prior_mean"}))
    with pytest.raises(ValueError, match="needs an actor, and behaviour bc trained none"):
        load_agent({"act_with": "policy", "device": "cpu"}, folder)


def test_a_diffusion_policy_has_no_such_choice(tmp_path: Path) -> None:
    config = diffusion_config()
    policy = diffusion_policy(config)
    prepare_checkpoint(tmp_path, policy=policy, tasks={"toy": diffusion_entry(config)})
    save_weights(tmp_path, policy, {})
    with pytest.raises(ValueError, match="act_with is of policies learnt by LAPO"):
        load_agent({"act_with": "prior", "device": "cpu"}, tmp_path)
