"""What latent-variable advantage-weighted policy optimisation (LAPO) can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

EncoderGradient = Literal["critic", "critic+vae", "vae", "frozen"]
ActWith = Literal["auto", "policy", "prior", "prior_mean"]


@dataclass(frozen=True)
class LapoConfig:
    """Offline reinforcement learning in the latent space of an action VAE."""

    behaviour: Literal["lapo", "bc"] = "lapo"
    """`bc`, the control: advantage weights off and no actor, so that the VAE's prior is what acts;
    and the VAE trains the encoder, unless that is frozen, because the critic values an actor that
    is not there."""
    latent_dim: int = 32
    """Z, the length of an action chunk's latent vector."""
    hidden_dim: int = 256
    n_layers: int = 3
    """Hidden layers of each network."""
    feature_dim: int = 256
    """f: what pictures and joints are fused to."""
    max_latent_action: float = 2.0
    """The actor's latent actions are within this of 0, in each dimension."""
    beta: float = 0.1
    """Weight of the VAE's KL term. Only directions in which actions vary, given the observation,
    by more than beta / 2 (normalised) reach the latent vector."""
    expectile: float = 0.9
    """Weight of actions that were better than expected; the others get the rest of 1."""
    doubleq_min: float = 1.0
    """Share of the smaller of two Q estimates; the larger gets the rest."""
    discount: float = 0.997
    """Of one executed action."""
    tau: float = 0.005
    """How far the targets of Q, decoder and actor follow in a step."""
    min_v: float = 0.0
    max_v: float = 1.0
    """Bounds of returns, to which targets are clamped: a success is worth 1 in all."""
    latent_noise: float = 0.1
    latent_noise_clip: float = 0.2
    """Of the noise on the actor's latent action in the target of V."""
    encoder_gradient: EncoderGradient = "critic"
    """Whose losses train the encoder. `frozen`: its backbones stay as they are, and what follows
    them (pooling, adapters, fusion with the joints) learns with the critic."""
    act_with: ActWith = "auto"
    """`policy`: the actor's latent action. `prior`: one drawn from the VAE's prior; `prior_mean`:
    zero, its mean. `auto`: the policy, unless the data has no failures or `behaviour` is `bc`."""
    latent_check_after: int = 500
    """Steps after which a training stops at a validation that finds no active latent dimension,
    unless the prior is what acts."""
    learn_from: Literal["all", "successes"] = "all"
    """Which episodes of the data."""
    action_margin: float = 0.05
    """Actions are clipped to the range of the data, arms this much (rad) beyond."""

    def __post_init__(self) -> None:
        for name in ("latent_dim", "hidden_dim", "n_layers", "feature_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, and is {getattr(self, name)}")
        for name in ("beta", "latent_noise", "latent_noise_clip", "action_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, and is {getattr(self, name)}")
        for name in ("expectile", "doubleq_min", "discount", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], and is {getattr(self, name)}")
        if not 0 < self.max_latent_action < math.inf:
            raise ValueError(
                f"max_latent_action must be positive, and is {self.max_latent_action}: 2 lets the "
                "actor reach what the prior makes likely"
            )
        if not self.min_v < self.max_v:
            raise ValueError(
                f"min_v must be less than max_v, and they are {self.min_v} and {self.max_v}"
            )
        if self.behaviour == "bc" and self.act_with == "policy":
            raise ValueError(
                "behaviour bc trains no actor, so act_with policy has none to act: set act_with to "
                "auto, prior_mean or prior"
            )

    def resolved(self, *, has_failures: bool) -> LapoConfig:
        """With all decided that `behaviour` and the data decide: without failures, an advantage
        tells speed only."""
        config = self
        if self.behaviour == "bc" and self.encoder_gradient != "frozen":
            config = replace(config, encoder_gradient="vae")
        if self.act_with == "auto":
            learns = self.behaviour == "lapo" and has_failures
            config = replace(config, act_with="policy" if learns else "prior_mean")
        return config
