"""Where a class token looks: its softmax attention in chosen layers, beside their features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from twin_policy.backbones.protocol import FINAL, LayerFeatures, VisionBackbone


def attention_layers(backbone: VisionBackbone) -> dict[str, nn.Module]:
    """Layer name to the block whose attention it shows; none for a network without class token."""
    if not backbone.has_class_token:
        return {}
    blocks = dict(backbone.layer_blocks)
    return blocks | {FINAL: list(blocks.values())[-1]}


def encode_with_attention(
    backbone: VisionBackbone, images: Tensor, layers: Sequence[int | str] = (FINAL,)
) -> tuple[dict[str, LayerFeatures], dict[str, Tensor]]:
    """`VisionBackbone.encode`, and how the class token attends in these layers, from one pass.

    Args:
        images: RGB in [0, 1], float (B, 3, H, W), of any size.
        layers: numbers or names; `final` is the last block's.

    Returns:
        The features by canonical layer name, and the attention by the same names: float32
        (B, heads, 1 + R + K), of the class token to itself, R registers and K patches in this
        order; each sums up to 1. Layers without a class token, or whose block has anything but one
        softmax over all tokens, are left out of the second.

    Raises:
        ValueError: images or layers that cannot be.
    """
    names = [backbone.layer_name(layer) for layer in layers]
    known = attention_layers(backbone)
    blocks = {name: known[name] for name in names if name in known}
    with _watched(list(blocks.values())) as seen:
        features = backbone.encode(images, layers)
    rows = {name: seen[block] for name, block in blocks.items()}
    return features, {name: found[0] for name, found in rows.items() if len(found) == 1}


@contextmanager
def _watched(blocks: Sequence[nn.Module]) -> Iterator[Mapping[nn.Module, list[Tensor]]]:
    """Notes the first token's attention of every softmax that these blocks compute meanwhile."""
    seen: dict[nn.Module, list[Tensor]] = {block: [] for block in blocks}
    if not blocks:
        yield seen
        return
    watch = _Watch()
    modules = [module for block in seen for module in block.modules()]
    # timm computes in other words where it was told not to fuse.
    unfused = [module for module in modules if getattr(module, "fused_attn", True) is False]
    hooks = []
    for block, found in seen.items():
        # Bound now: `found` changes with the loop.
        hooks.append(block.register_forward_pre_hook(lambda *_, into=found: watch.begin(into)))
        hooks.append(block.register_forward_hook(lambda *_: watch.end()))
    try:
        for module in unfused:
            module.fused_attn = True  # type: ignore[assignment]
        with watch:
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for module in unfused:
            module.fused_attn = False  # type: ignore[assignment]


class _Watch(TorchFunctionMode):
    """Sees each call of torch's attention, after norms, rotations and whatever else precedes it."""

    def __init__(self) -> None:
        super().__init__()
        self._into: list[Tensor] | None = None

    def begin(self, into: list[Tensor]) -> None:
        self._into = into

    def end(self) -> None:
        self._into = None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._into is not None and func is F.scaled_dot_product_attention:
            self._into.append(_first_row(*args, **kwargs))
        elif self._into is not None and func is F.multi_head_attention_forward:
            # torch's own module, which has (tokens, B, C) here: asked again for the first token.
            asked = kwargs | {"need_weights": True, "average_attn_weights": False}
            _, weights = func(args[0][:1], *args[1:], **asked)
            assert weights is not None
            self._into.append(weights[:, :, 0].float())
        return func(*args, **kwargs)


def _first_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Float32 (B, heads, tokens) of query and key (B, heads, tokens, C)."""
    assert attn_mask is None, "a network of pictures hides no token from another"
    assert not is_causal, "a network of pictures has no order of tokens"
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query[:, :, :1].float() * scale @ key.float().transpose(-2, -1)
    return torch.softmax(scores[:, :, 0], dim=-1)
