"""DINOv3's weights as Meta and as Hugging Face name them, by timm's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from twin_policy.backbones.weights import WeightsError

DINOV3_FILES = ("dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth",)
"""As Meta names it."""

DINOV3_DROPPED = {
    "pretraining": ("mask_token", "embeddings.mask_token", "local_cls_norm.*"),
    "constants": ("rope_embed.periods", "rope_embeddings.inv_freq", "*.qkv.bias_mask"),
}

RENAMED = (
    (r"^model\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^(embeddings\.register_tokens|storage_tokens)$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.(?:layer_scale|ls)([12])\.(?:lambda1|gamma)$", r".gamma_\1"),
)
"""Both sources' names to timm's, in this order; q, k and v are put together afterwards."""


def from_dinov3(
    tensors: Mapping[str, Tensor], network: Iterable[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Renames; timm's own names stay.

    Args:
        network: the names that timm's network has.

    Returns:
        The tensors, and the names of biases of zeros that the network does without.

    Raises:
        WeightsError: such a bias that is not zero.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        for pattern, name in RENAMED:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor
    for key in [key for key in renamed if key.endswith(".attn.q_proj.weight")]:
        block = key.removesuffix("q_proj.weight")
        names = [f"{block}{part}_proj.weight" for part in "qkv"]
        if all(name in renamed for name in names):
            renamed[f"{block}qkv.weight"] = torch.cat([renamed.pop(name) for name in names])
    wanted = set(network)
    zeros = [
        key
        for key in renamed
        if re.search(r"\.attn\.(qkv|[qkv]_proj)\.bias$", key) and key not in wanted
    ]
    for key in zeros:
        bias = renamed.pop(key)
        # Keys' biases change no attention, whatever they are.
        parts = bias.chunk(3)[::2] if ".qkv." in key else (bias,)
        if ".k_proj." not in key and any(part.count_nonzero() for part in parts):
            raise WeightsError(
                f"{key} is not zero, and this network has no such bias: take the architecture "
                "with biases, timm:vit_base_patch16_dinov3_qkvb"
            )
    return renamed, sorted(zeros)
