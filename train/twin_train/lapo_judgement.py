"""Whether a LAPO run is sound: values against returns, actions against those of successes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twin_policy.agent import noise_generator
from twin_policy.diffusion import Batch, chunk_error
from twin_policy.lapo import active_units
from twin_policy.lapo_config import ActWith
from twin_policy.lapo_policy import LapoPolicy
from twin_train.config import TrainConfig
from twin_train.lapo_data import ReplayData, ReplayWindows

AT_ONCE = 32
"""Chunks whose pictures are encoded together."""


@torch.no_grad()
def judge(
    policy: LapoPolicy,
    windows: ReplayWindows,
    data: ReplayData,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, float]:
    """Figures on chunks spread over the episodes, the same each time.

    `loss` is V's mean squared error against Monte-Carlo returns, `v_bias` and `q_bias` the mean
    differences; `v_success` and `v_failure` are means of V over episodes of either end. `mean_abs`
    and `max_dim_abs` (rad) are distances of what the policy would do from what was done in
    successes, `prior_mean_abs` of the prior's mean.
    """
    count = min(config.val_windows, len(windows))
    rows = np.linspace(0, len(windows) - 1, count).round().astype(np.int64)
    success = np.array([data.rewards[int(episode)].success for episode in windows.owner[rows]])
    parts: dict[str, list[Tensor]] = {}
    for begin in range(0, count, AT_ONCE):
        chosen = slice(begin, begin + AT_ONCE)
        noise = range(begin, begin + len(rows[chosen]))
        batch = windows.observed(rows[chosen]).to(device)
        for name, value in _look(policy, batch, config.seed, noise).items():
            parts.setdefault(name, []).append(value.cpu())
    seen = {name: torch.cat(values) for name, values in parts.items()}
    value, actual = seen["v"], torch.from_numpy(windows.future[rows])
    found = {
        "loss": float((value - actual).square().mean()),
        "v_bias": float((value - actual).mean()),
        "q_bias": float((seen["q"] - actual).mean()),
        "v_correlation": correlation(value, actual),
        "active_units": float(active_units(seen["latent"])),
    }
    for name, those in (("v_success", success), ("v_failure", ~success)):
        if those.any():
            found[name] = float(value[torch.from_numpy(those)].mean())
    if success.any():
        good = torch.from_numpy(success)
        kept = windows.windows.batch(rows[success])
        here, action = policy.action_low.device, (kept.action, kept.valid)
        recorded, valid = (each.to(here) for each in action)
        found |= chunk_error(policy, seen["chunk"][good].to(here), recorded, valid)
        prior = chunk_error(policy, seen["prior"][good].to(here), recorded, valid)
        found["prior_mean_abs"] = prior["mean_abs"]
    return found


def _look(policy: LapoPolicy, batch: Batch, seed: int, noise: range) -> dict[str, Tensor]:
    """Latent means, Q and V of what was done, and what the policy and the prior's mean would do."""
    encoded = policy.encode_batch(batch)
    fused = policy.fuse(encoded, batch.state)
    generators = [noise_generator(seed, index) for index in noise]
    return {
        **policy.nets.figures(fused, policy.flat_action(batch.action, batch.state)),
        "chunk": policy.predict_from_features(encoded, batch.state, generators),
        "prior": _by(policy, "prior_mean", encoded, batch.state),
    }


def _by(policy: LapoPolicy, way: ActWith, encoded: Tensor, state: Tensor) -> Tensor:
    usual, policy.act_with = policy.act_with, way
    try:
        return policy.predict_from_features(encoded, state, [])
    finally:
        policy.act_with = usual


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's; 0 where one of them is constant."""
    both = torch.stack([one, other])
    if float(both.std(dim=1, correction=0).min()) < 1e-9:
        return 0.0
    return float(torch.corrcoef(both)[0, 1])
