"""Low-rank adapters (arXiv 2106.09685) in a backbone, through peft; checkpoints merge them."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from twin_policy.config import LoraConfig

INSIDE_BLOCKS = ("in_proj", "out_proj", "c_fc", "c_proj", "qkv", "proj", "fc1", "fc2")
"""Linear layers of attention and MLP, by open_clip's and timm's names."""

MARK = "lora_"
"""In the names of the adapters' parameters."""


class SplitAttention(nn.Module):
    """torch's attention of a sequence to itself, with its projections as two linear layers.

    Inside torch's own module peft would merge and unmerge adapters at every pass, and each time
    round the frozen weights anew.
    """

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = whole.num_heads
        self.in_proj = nn.Linear(whole.embed_dim, 3 * whole.embed_dim, device="meta")
        self.out_proj = nn.Linear(whole.embed_dim, whole.embed_dim, device="meta")
        self.in_proj.weight, self.in_proj.bias = whole.in_proj_weight, whole.in_proj_bias
        self.out_proj.weight, self.out_proj.bias = whole.out_proj.weight, whole.out_proj.bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        assert query is key
        assert key is value
        assert not need_weights
        q, k, v = rearrange(self.in_proj(query), "b n (p h d) -> p b h n d", p=3, h=self.num_heads)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(rearrange(seen, "b h n d -> b n (h d)")), None


def check_peft() -> None:
    """Raises `ValueError` where peft is not installed, with the command that mends it."""
    missing = [name for name in ("peft", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"policy.encoder.tuning lora needs the package {' and '.join(missing)}: "
            "pip install 'twinbench[lora]', or choose tuning frozen, last_blocks or full"
        )


def add_adapters(network: nn.Module, config: LoraConfig, *, seed: int) -> list[str]:
    """Puts adapters that add nothing yet into the linear layers of a network.

    Returns:
        Names of the layers that got one.

    Raises:
        ValueError: peft is not there, or no layer has such a name.
    """
    check_peft()
    import peft

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, SplitAttention(child))
    wanted = config.target_modules or INSIDE_BLOCKS
    linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    chosen = [name for name in linear if name.rpartition(".")[2] in wanted and "." in name]
    if not chosen:
        last = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"no linear layer of the backbone is called {' or '.join(wanted)}: set "
            f"policy.encoder.lora.target_modules to some of {', '.join(last) or 'none'}"
        )
    settings: dict[str, Any] = {"r": config.rank, "lora_alpha": config.alpha}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=chosen, **settings), network)
    return chosen


def is_adapter(name: str) -> bool:
    return MARK in name


def merged(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict with adapters added to the weights, by names of before they came."""
    state = module.state_dict()
    if not any(is_adapter(name) for name in state):
        return state
    deltas = {
        f"{name}.base_layer.weight": part.get_delta_weight("default")
        for name, part in module.named_modules()
        if hasattr(part, "get_delta_weight")
    }
    split = {name for name, part in module.named_modules() if isinstance(part, SplitAttention)}
    with torch.no_grad():
        return {
            _plain_name(name, split): value + deltas[name] if name in deltas else value
            for name, value in state.items()
            if not is_adapter(name)
        }


def _plain_name(name: str, split: set[str]) -> str:
    name = name.replace(".base_layer.", ".")
    for part in ("weight", "bias"):
        attention = name.removesuffix(f".in_proj.{part}")
        if attention != name and attention in split:
            return f"{attention}.in_proj_{part}"
    return name
