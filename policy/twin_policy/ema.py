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

    def __init__(self, module: nn.Module, *, constant: nn.Module | None = None) -> None:
        """`constant`: a part whose tensors never change, and so are not copied but shared."""
        tensors = [] if constant is None else [*constant.parameters(), *constant.buffers()]
        learning = sum(tensor.requires_grad for tensor in tensors)
        assert not learning, f"{learning} constant tensors learn"
        shared = {id(tensor): tensor for tensor in tensors}
        self.shadow = copy.deepcopy(module, shared).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Once an optimiser step: shadow = decay * shadow + (1 - decay) * module."""
        pairs = [
            (kept.detach(), new.detach())
            for kept, new in zip(self.shadow.parameters(), module.parameters(), strict=True)
            if kept is not new
        ]
        shadow, live = ([pair[i] for pair in pairs] for i in (0, 1))
        torch._foreach_lerp_(shadow, live, 1 - decay)
        for kept, buffer in zip(self.shadow.buffers(), module.buffers(), strict=True):
            if kept is not buffer:
                kept.copy_(buffer)
