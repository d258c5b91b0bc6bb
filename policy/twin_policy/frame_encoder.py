"""What all encoders of observations share: augmentation, noise on the state, the condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from twin_policy.backbones import VisionBackbone
from twin_policy.config import EncoderConfig


def crop(
    pictures: Tensor, ratio: float, *, generator: torch.Generator | None, random: bool
) -> Tensor:
    """Crops to `ratio` of each side: one random place a sample, or the centre.

    Args:
        pictures: uint8 (B, To, H, W, 3); the frames of a sample share their crop.

    Returns:
        uint8 (B, To, h, w, 3).
    """
    height, width = pictures.shape[2:4]
    h, w = max(1, round(height * ratio)), max(1, round(width * ratio))
    if (h, w) == (height, width):
        return pictures
    if not random:
        top, left = (height - h) // 2, (width - w) // 2
        return pictures[:, :, top : top + h, left : left + w]
    n = len(pictures)
    tops = torch.randint(height - h + 1, (n,), generator=generator).tolist()
    lefts = torch.randint(width - w + 1, (n,), generator=generator).tolist()
    return torch.stack(
        [
            sample[:, top : top + h, left : left + w]
            for sample, top, left in zip(pictures, tops, lefts, strict=True)
        ]
    )


class FrameEncoder(nn.Module):
    """Pictures and normalised states of To steps to one vector.

    A picture is first read (`read_frames`: augmentation and what is frozen, or may be) and then
    reduced (`reduce`: what learns). Of a frozen backbone the first is a function of the picture
    alone, whatever comes of the rest, and so can be stored.

    Randomness (crop, colours, state noise) exists in training mode only and comes from the
    generator given. A checkpoint's state dict fills it: only `load_pretrained` reads weight files.

    Subclasses give `_read`, `reduce`, `freeze_backbones` and what is about weights.
    """

    backbones: nn.ModuleDict
    """What is pretrained, or may be."""
    pools: nn.ModuleDict
    """Of each camera."""
    adapters: nn.ModuleDict
    """Of each camera."""

    def __init__(
        self, *, cameras: Sequence[str], n_obs_steps: int, state_dim: int, config: EncoderConfig
    ) -> None:
        """`config`: a complete one."""
        super().__init__()
        self.cameras = tuple(cameras)
        self.config = config
        self.n_obs_steps = n_obs_steps
        self._state_dim = state_dim if config.use_state else 0
        self.widths: dict[str, int] = {}
        """Features of each camera and step."""

    @property
    def step_dim(self) -> int:
        """Length of what one step adds to the condition vector."""
        return sum(self.widths.values()) + self._state_dim

    @property
    def dim(self) -> int:
        """Length of the condition vector."""
        return self.n_obs_steps * self.step_dim

    # What a subclass gives

    def load_pretrained(self) -> dict[str, Any]:
        """Reads the weights that the config names: once, when training starts.

        Returns:
            What identifies them, for the provenance: at least `source`.

        Raises:
            WeightsError: weights that are missing, do not fit, or that the backbone cannot take.
        """
        raise NotImplementedError

    def add_adapters(self, *, seed: int) -> list[str]:
        """Low-rank ones, for training with `tuning: lora`; once the weights are there.

        Returns:
            Names of the backbone's layers that got one; none for another tuning.

        Raises:
            ValueError: peft is not there, or no layer fits.
        """
        return []

    def freeze_backbones(self, frozen: bool = True) -> None:
        """Holds the backbones as they are, or lets learn what `config.tuning` says.

        Frozen ones have no gradients and stay in evaluation mode under `train()`; the crops of
        their pictures stay random in training.
        """
        raise NotImplementedError

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those to which `backbone_lr` applies."""
        raise NotImplementedError

    def constant(self) -> nn.Module | None:
        """What no stage of a training changes, and so need not be averaged."""
        raise NotImplementedError

    def stored_parts(self) -> dict[str, tuple[EncoderConfig, VisionBackbone]]:
        """Backbones whose features a store can hold, and how each is read; in the order in which
        their features lie side by side."""
        raise NotImplementedError

    @property
    def tower(self) -> VisionBackbone:
        """The backbone that all cameras share, where there is one."""
        ((_, shared),) = self.stored_parts().values()
        return shared

    def prepare_inference(self, dtype: torch.dtype = torch.float32) -> None:
        """For acting only: backbones compute in `dtype`; the rest and states stay float32."""
        raise NotImplementedError

    def reduce(self, read: Mapping[str, Tensor]) -> Tensor:
        """Features (N, F), float32, of what `read_frames` gave."""
        raise NotImplementedError

    def _read(self, camera: str, pictures: Tensor, generator: torch.Generator | None) -> Tensor:
        """Of uint8 (B, To, H, W, 3), what `read_frames` gives of B * To frames."""
        raise NotImplementedError

    # What all share

    def _read_each(
        self, images: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Of uint8 (B, To, H, W, 3) a camera, what `read_frames` gives of B * To frames."""
        return {camera: self._read(camera, images[camera], generator) for camera in self.cameras}

    def forward(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generator: torch.Generator | None = None,
        read: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Encodes observations.

        Args:
            images: camera to uint8 RGB (B, To, H, W, 3).
            state: normalised, float (B, To, Ds).
            generator: of the augmentations; a CPU generator, wherever the tensors are.
            read: camera to (B, To, ...): what `read_frames` gave of these pictures, which then are
                not needed.

        Returns:
            float (B, F).
        """
        state = self._disturbed(state, generator)
        if read:
            read = {camera: rearrange(read[camera], "b t ... -> (b t) ...") for camera in read}
        else:
            read = self._read_each(images, generator)
        features = self.reduce(read) if read else state.new_empty((state[..., 0].numel(), 0))
        return self.condition(rearrange(features, "(b t) f -> b t f", b=len(state)), state)

    def read_frames(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the backbone gives of single frames, before anything that learns beside it.

        Args:
            images: camera to uint8 RGB (N, H, W, 3).

        Returns:
            Camera to vectors (N, C), or maps (N, C, h, w).
        """
        single = {camera: rearrange(images[camera], "n h w c -> n 1 h w c") for camera in images}
        return self._read_each(single, None)

    def encode_frames(self, images: Mapping[str, Tensor]) -> Tensor:
        """Features of single frames, each once: uint8 RGB (N, H, W, 3) a camera to (N, F)."""
        return self.reduce(self.read_frames(images))

    def condition(self, features: Tensor, state: Tensor) -> Tensor:
        """The condition vector (B, dim) of frame features (B, To, F) and states (B, To, Ds)."""
        widths = list(self.widths.values())
        seen = features.split(widths, dim=-1) if widths else ()
        parts = [*([state] if self.config.use_state else []), *seen]
        return torch.cat([rearrange(part, "b t f -> b (t f)") for part in parts], dim=-1)

    def _disturbed(self, state: Tensor, generator: torch.Generator | None) -> Tensor:
        if not (self.training and self.config.state_noise):
            return state
        noise = torch.randn(state.shape, generator=generator).to(state)
        return state + self.config.state_noise * noise

    def _augmented(
        self, pictures: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """uint8 (B * To, h, w, 3) of (B, To, H, W, 3), and the change of colours to come."""
        pictures = crop(pictures, self.config.crop_ratio, generator=generator, random=self.training)
        gain, shift = self._color_change(pictures, generator)
        return rearrange(pictures, "b t h w c -> (b t) h w c"), gain, shift

    def _color_change(
        self, pictures: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gain and shift (B * To, 3) of the picture in [0, 1]; a sample's frames share theirs.

        Contrast about mid-grey, brightness, and a smaller change of each channel.
        """
        width = self.config.color_jitter
        if not (self.training and width):
            return None, None
        batch, frames = pictures.shape[:2]
        drawn = (2 * torch.rand((batch, 5), generator=generator) - 1) * width
        contrast, brightness, channels = drawn.split([1, 1, 3], dim=1)
        gain = (1 + contrast) * (1 + channels / 2)
        shift = brightness - contrast / 2
        shift = shift.expand_as(gain)
        device = pictures.device
        return (
            repeat(gain, "b c -> (b t) c", t=frames).to(device),
            repeat(shift, "b c -> (b t) c", t=frames).to(device),
        )


def as_floats(flat: Tensor, gain: Tensor | None, shift: Tensor | None) -> Tensor:
    """uint8 (N, H, W, 3) to RGB in [0, 1], float (N, 3, H, W), its colours changed."""
    images = rearrange(flat, "n h w c -> n c h w").float() / 255
    if gain is None or shift is None:
        return images
    gain, shift = (rearrange(value, "n c -> n c 1 1") for value in (gain, shift))
    return (images * gain + shift).clamp(0, 1)
