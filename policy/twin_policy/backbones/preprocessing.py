"""How pictures become what a backbone was trained on: size, interpolation, mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from twin_policy.names import unknown

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

NATIVE = "native"
"""Normalisation with which the weights were made."""


def statistics(image_normalization: str) -> tuple[Triple, Triple]:
    """Mean and deviation of red, green and blue to apply to pictures in [0, 1].

    `robotwin` applies ImageNet's to pictures in [-1, 1]: (2x - 1 - m) / s is
    (x - (1 + m) / 2) / (s / 2).

    Raises:
        ValueError: an unknown name, with its nearest match.
    """
    known: dict[str, tuple[Triple, Triple]] = {
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "clip": (CLIP_MEAN, CLIP_STD),
        "robotwin": (
            tuple((1 + mean) / 2 for mean in IMAGENET_MEAN),  # type: ignore[dict-item]
            tuple(std / 2 for std in IMAGENET_STD),
        ),
    }
    if image_normalization not in known:
        raise unknown("image_normalization", image_normalization, known)
    return known[image_normalization]


def image_statistics(image_normalization: str) -> tuple[Tensor, Tensor]:
    """`statistics` as float32 tensors (3,)."""
    mean, std = statistics(image_normalization)
    return torch.tensor(mean), torch.tensor(std)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to RGB in [0, 1] before a network sees it; part of a feature's identity."""

    image_normalization: str
    """`native`, or the name of other statistics, for ablations."""
    mean: Triple
    std: Triple
    size: tuple[int, int] | None = None
    """Height and width to resize to, whatever the aspect ratio; None: as the pictures come."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = True

    @classmethod
    def named(
        cls, image_normalization: str, *, native: tuple[Triple, Triple], **options: object
    ) -> Preprocessing:
        """With the statistics of that name; `native` are those of the weights.

        Raises:
            ValueError: an unknown name, with its nearest match.
        """
        if image_normalization == NATIVE:
            mean, std = native
        else:
            try:
                mean, std = statistics(image_normalization)
            except ValueError as error:
                raise ValueError(f"{error}; or {NATIVE!r}, that of the weights") from None
        return cls(image_normalization, tuple(mean), tuple(std), **options)  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], float (B, 3, H, W), to normalised float32 (B, 3, h, w).

        Raises:
            ValueError: integers, another shape, or values out of [0, 1].
        """
        check_images(images)
        images = images.float()
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(
                images, self.size, mode=self.interpolation, antialias=self.antialias
            )
            # Bicubic curves overshoot; 8-bit pictures, which the weights know, do not.
            images = images.clamp(0, 1)
        mean, std = (
            rearrange(torch.tensor(value, device=images.device), "c -> c 1 1")
            for value in (self.mean, self.std)
        )
        return (images - mean) / std


def check_images(images: Tensor) -> None:
    """Refuses what is not RGB in [0, 1], float (B, 3, H, W), with the remedy."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"a backbone takes images (B, 3, H, W), and got {tuple(images.shape)}: pictures of "
            "shape (B, H, W, 3) need `images.permute(0, 3, 1, 2)`"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"a backbone takes RGB as floats in [0, 1], and got {images.dtype}: divide 8-bit "
            "pictures by 255"
        )
    low, high = torch.aminmax(images.detach()) if images.numel() else (0.0, 0.0)
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(
            f"a backbone takes RGB in [0, 1], and got values from {float(low):.4g} to "
            f"{float(high):.4g}: divide 8-bit pictures by 255, clamp after changing colours, and "
            "leave the normalisation to the backbone"
        )
