"""Latent-variable advantage-weighted policy optimisation: its networks and the terms of its losses.

Everything here sees feature vectors and normalised action vectors, and knows no robot: an action
VAE learns which actions the data holds, the better ones with more weight; a critic how much they
are worth; an actor which latent vector decodes to the best of them.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from twin_policy.lapo_config import LapoConfig

LOGVAR_RANGE = (-10.0, 4.0)
"""Beyond it, a posterior's variance is not representable for long."""


@dataclass(frozen=True)
class Transition:
    """What is learnt from, in features and normalised actions."""

    action: Tensor
    """Action chunks laid flat: float (B, A)."""
    valid: Tensor
    """bool (B, A): False where a chunk reaches beyond its episode's end."""
    reward: Tensor
    """Discounted rewards until the next observation, summed: float (B,)."""
    discount: Tensor
    """Of the next observation's value: discount^k, and 0 after a terminal: float (B,)."""


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ActionVAE(nn.Module):
    """Action chunks to latent vectors and back, given features of the observation."""

    def __init__(self, config: LapoConfig, *, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        hidden = [config.hidden_dim] * config.n_layers
        self.encoder = mlp([feature_dim + action_dim, *hidden, 2 * config.latent_dim])
        self.decoder = mlp([feature_dim + config.latent_dim, *hidden, action_dim])

    def posterior(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent vector of (B, F) and (B, A): (B, Z) each."""
        mean, logvar = self.encoder(torch.cat([features, action], dim=-1)).chunk(2, dim=-1)
        return mean, logvar.clamp(*LOGVAR_RANGE)


class Critic(nn.Module):
    """Two estimates of what an action chunk is worth, and one of what an observation is."""

    def __init__(self, config: LapoConfig, *, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        hidden = [config.hidden_dim] * config.n_layers
        self.q1 = mlp([feature_dim + action_dim, *hidden, 1])
        self.q2 = mlp([feature_dim + action_dim, *hidden, 1])
        self.v = mlp([feature_dim, *hidden, 1])

    def value(self, features: Tensor) -> Tensor:
        """V of (B, F): (B,)."""
        return self.v(features).squeeze(-1)


class Lapo(nn.Module):
    """The networks, their slow copies, and the three losses of an iteration.

    An iteration is: critic, VAE, actor, targets; each loss is for the parameters of its own part
    alone (`parts`), and whoever steps an optimiser sees to that.
    """

    def __init__(self, config: LapoConfig, *, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.action_dim = action_dim
        self.critic = Critic(config, feature_dim=feature_dim, action_dim=action_dim)
        self.vae = ActionVAE(config, feature_dim=feature_dim, action_dim=action_dim)
        hidden = [config.hidden_dim] * config.n_layers
        self.actor = mlp([feature_dim, *hidden, config.latent_dim])
        self.targets = nn.ModuleDict(
            {name: copy.deepcopy(module) for name, module in self._followed().items()}
        ).requires_grad_(False)

    def _followed(self) -> dict[str, nn.Module]:
        return {
            "q1": self.critic.q1,
            "q2": self.critic.q2,
            "decoder": self.vae.decoder,
            "actor": self.actor,
        }

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What each of the three losses is for."""
        return {
            "critic": list(self.critic.parameters()),
            "vae": list(self.vae.parameters()),
            "actor": list(self.actor.parameters()),
        }

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the targets towards what they follow: the end of an iteration."""
        for name, module in self._followed().items():
            pairs = zip(self.targets[name].parameters(), module.parameters(), strict=True)
            slow, fast = zip(*pairs, strict=True)
            torch._foreach_lerp_(list(slow), list(fast), self.config.tau)

    # The losses, in their order

    def critic_loss(
        self, features: Tensor, following: Tensor, batch: Transition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors of both Q and of V, and figures of the targets.

        Args:
            features: of the observations, (B, F).
            following: of the observations after the chunks, by the same encoder, without gradients.
        """
        config = self.config
        with torch.no_grad():
            target = batch.reward + batch.discount * self.critic.value(following)
            bounded = target.clamp(config.min_v, config.max_v)
            noise = torch.randn((len(features), config.latent_dim), generator=generator)
            noise = (config.latent_noise * noise).clamp(
                -config.latent_noise_clip, config.latent_noise_clip
            )
            worth = self._target_q(features, noise.to(features))
            bounded_worth = worth.clamp(config.min_v, config.max_v)
        pair = torch.cat([features, batch.action], dim=-1)
        q1, q2 = self.critic.q1(pair).squeeze(-1), self.critic.q2(pair).squeeze(-1)
        value = self.critic.value(features)
        loss = mse_loss(q1, bounded) + mse_loss(q2, bounded) + mse_loss(value, bounded_worth)
        beyond = torch.stack([(target != bounded).float(), (worth != bounded_worth).float()])
        return loss, {"q": q1.mean(), "v": value.mean(), "clamped": beyond.mean()}

    def vae_loss(
        self,
        features: Tensor,
        detached: Tensor,
        following: Tensor,
        batch: Transition,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted reconstruction and KL, summed over dimensions, meaned over the batch.

        Args:
            features: with gradients where the encoder is to learn from this.
            detached: the same, without: the advantage is a number.
        """
        config = self.config
        mean, logvar = self.vae.posterior(features, batch.action)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        latent = mean + (0.5 * logvar).exp() * noise
        decoded = self.vae.decoder(torch.cat([features, latent], dim=-1))
        errors = (decoded - batch.action).square() * batch.valid
        kl = kl_to_standard_normal(mean, logvar)
        weight = torch.ones_like(kl)
        if config.behaviour == "lapo":
            with torch.no_grad():
                worth = self._target_q(following, torch.zeros_like(mean))
                advantage = batch.reward + batch.discount * worth - self.critic.value(detached)
                weight = advantage_weight(advantage, expectile=config.expectile)
        loss = (weight * (errors.sum(-1) + config.beta * kl)).mean()
        figures = {
            "reconstruction": errors.sum() / batch.valid.sum(),
            "kl": kl.mean(),
            "better": (weight > 0.5).float().mean(),
        }
        return loss, figures

    def actor_loss(self, features: Tensor) -> Tensor:
        """What the first Q thinks of what the slow decoder makes of the actor's latent action."""
        action = self.decode(features, self.latent(features))
        return -self.critic.q1(torch.cat([features, action], dim=-1)).mean()

    # Acting

    def latent(self, features: Tensor) -> Tensor:
        """The actor's latent action (B, Z), within `max_latent_action` of 0."""
        return self.config.max_latent_action * torch.tanh(self.actor(features))

    def decode(self, features: Tensor, latent: Tensor) -> Tensor:
        """A latent action as the slow decoder has it: (B, A)."""
        action: Tensor = self.targets["decoder"](torch.cat([features, latent], dim=-1))
        return action

    def _target_q(self, features: Tensor, noise: Tensor) -> Tensor:
        """Mixed slow Q of what the slow actor does: (B,)."""
        slow = self.config.max_latent_action * torch.tanh(self.targets["actor"](features))
        pair = torch.cat([features, self.decode(features, slow + noise)], dim=-1)
        q1, q2 = (self.targets[name](pair).squeeze(-1) for name in ("q1", "q2"))
        return mixed_q(q1, q2, doubleq_min=self.config.doubleq_min)

    def figures(self, features: Tensor, action: Tensor) -> dict[str, Tensor]:
        """What the networks think of recorded actions: posterior means (B, Z), Q and V (B,)."""
        pair = torch.cat([features, action], dim=-1)
        q = torch.minimum(self.critic.q1(pair), self.critic.q2(pair)).squeeze(-1)
        mean, _ = self.vae.posterior(features, action)
        return {"latent": mean, "q": q, "v": self.critic.value(features)}


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of diagonal Gaussians (B, Z) from N(0, 1), summed over Z: (B,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)


def mixed_q(q1: Tensor, q2: Tensor, *, doubleq_min: float) -> Tensor:
    """`doubleq_min` of the smaller of two estimates, and the rest of the larger."""
    return doubleq_min * torch.minimum(q1, q2) + (1 - doubleq_min) * torch.maximum(q1, q2)


def advantage_weight(advantage: Tensor, *, expectile: float = 0.9) -> Tensor:
    """`expectile` where an action was better than expected, the rest of 1 elsewhere."""
    return torch.where(advantage > 0, expectile, 1 - expectile)


def active_units(means: Tensor, *, threshold: float = 0.01) -> int:
    """Latent dimensions whose posterior mean varies over the data (N, Z) (arXiv 1509.00519)."""
    return int((means.var(dim=0, unbiased=False) > threshold).sum())
