"""Exponential moving average of a policy: the weights that are evaluated and stored."""

from __future__ import annotations

import copy

import torch
from torch import nn


def power_decay(step: int, *, power: float = 0.75, max_decay: float = 0.9999) -> float:
    """Diffusion Policy's warm-up: 1 - n^-power from the third call on, 0 before."""
    n = max(0, step - 1)
    return 0.0 if n == 0 else min(max_decay, 1 - (1 + n) ** -power)


def ratio_decay(step: int, *, max_decay: float = 0.999) -> float:
    """A quicker warm-up, for runs of a few thousand steps: (1 + n) / (10 + n)."""
    return min(max_decay, (1 + step) / (10 + step))


class EMA:
    """A shadow of a module that follows it, buffers included.

    Parameters are averaged; buffers (running statistics, counters) are copied, because a shadow
    with stale statistics computes something that was never trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self.shadow = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Once an optimiser step: shadow = decay * shadow + (1 - decay) * module."""
        shadow = [parameter.detach() for parameter in self.shadow.parameters()]
        live = [parameter.detach() for parameter in module.parameters()]
        torch._foreach_lerp_(shadow, live, 1 - decay)
        for kept, buffer in zip(self.shadow.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)
