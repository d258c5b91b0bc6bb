"""Observations to one condition vector: backbones of cameras, pooling, augmentation, state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from twin_policy.backbones import FINAL, Backbone, VisionBackbone
from twin_policy.config import EncoderConfig
from twin_policy.frame_encoder import FrameEncoder, as_floats
from twin_policy.fusion_encoder import FusionEncoder
from twin_policy.lora import add_adapters, check_peft, is_adapter
from twin_policy.pooling import Adapter, AsRead, AveragePool, Pool, SpatialSoftmax, cell_means
from twin_policy.pretrained import (
    RANDOM,
    WeightsError,
    build_backbone,
    complete,
    load_pretrained,
    load_tower,
)


class ObsEncoder(FrameEncoder):
    """An encoder with one backbone, or one for each camera.

    A picture is read by the backbone, and one layer of it read out; pooling and adapter reduce it.
    """

    def __init__(
        self,
        *,
        cameras: Mapping[str, tuple[int, int]],
        n_obs_steps: int,
        state_dim: int,
        config: EncoderConfig,
    ) -> None:
        config = complete(config)
        super().__init__(
            cameras=tuple(cameras), n_obs_steps=n_obs_steps, state_dim=state_dim, config=config
        )
        self.inputs = self._inputs()
        """What a backbone is given, and is pooled by itself: each camera's picture."""
        names = ("shared",) if config.shared_backbone else self.inputs
        if not self.inputs:
            names = ()
        self.backbones = nn.ModuleDict({name: self._build() for name in names})
        pools = {name: self._pool(self._backbone(name)) for name in self.inputs}
        self.pools = nn.ModuleDict(pools)
        wanted = config.feature_dim
        self.adapters = nn.ModuleDict(
            {
                name: Adapter(pool.dim, wanted)
                for name, pool in pools.items()
                if wanted is not None and (config.adapter == "linear" or wanted != pool.dim)
            }
        )
        self.widths = {name: wanted or pool.dim for name, pool in pools.items()}
        self.freeze_backbones(False)

    def _inputs(self) -> tuple[str, ...]:
        return self.cameras

    def _build(self) -> VisionBackbone:
        return build_backbone(self.config)

    def load_pretrained(self) -> dict[str, Any]:
        """Reads what `config.pretrained_backbone_weights` names: once, when training starts.

        Returns:
            What identifies the weights, for the provenance: `source`, and for a file also `file`,
            `sha256` and `dropped_keys`; of a tower its `WeightsIdentity`.
            `{"source": "from scratch"}` where none are wanted.

        Raises:
            WeightsError: weights that are missing, do not fit, or that the backbone cannot take.
        """
        weights, name = self.config.pretrained_backbone_weights, self.config.backbone
        if not self.backbones:
            return {"source": "no backbones"}
        backbones = [module for module in self.backbones.values() if isinstance(module, Backbone)]
        if not backbones:
            return load_tower(self._each_backbone(), self.config)
        if not all(backbone.pretrained for backbone in backbones):
            if weights is not None:
                raise WeightsError(
                    f"backbone {name} is trained from scratch and takes no pretrained weights, "
                    f"which were made with another normalisation: got {weights!r}; set "
                    "policy.encoder.backbone to resnet18_frozen_bn, or drop "
                    "policy.encoder.pretrained_backbone_weights"
                )
            return {"source": "from scratch"}
        if weights is None:
            raise WeightsError(
                f"backbone {name} has constants for BatchNorm, which mean nothing without "
                "pretrained weights: set policy.encoder.pretrained_backbone_weights to a file, to "
                f"hub:resnet18.a1_in1k, or to {RANDOM!r} if random weights are what you want"
            )
        if weights != RANDOM and self.config.image_normalization not in ("imagenet", "native"):
            raise WeightsError(
                "pretrained weights expect image_normalization 'imagenet', and the config says "
                f"{self.config.image_normalization!r}"
            )
        return self._fill(backbones, weights)

    def _fill(self, backbones: list[Backbone], weights: str) -> dict[str, Any]:
        return load_pretrained(backbones, weights)

    def add_adapters(self, *, seed: int) -> list[str]:
        """Low-rank ones, for training with `tuning: lora`; once the weights are there.

        Returns:
            Names of the backbone's layers that got one; none for another tuning.

        Raises:
            ValueError: peft is not there, or no layer fits.
        """
        if self.config.tuning != "lora":
            return []
        found = []
        for backbone in self._each_backbone():
            found = add_adapters(backbone.network, self.config.lora, seed=seed)
        self.freeze_backbones(False)
        return found

    def freeze_backbones(self, frozen: bool = True) -> None:
        """Holds the backbones as they are, or lets learn what `config.tuning` says.

        Frozen ones have no gradients and stay in evaluation mode under `train()`; the crops of
        their pictures stay random in training.
        """
        tuning = self.config.tuning
        self._backbones_frozen = frozen or tuning == "frozen"
        for backbone in self._each_backbone():
            if self._backbones_frozen or tuning == "lora":
                backbone.freeze()
            elif tuning == "last_blocks":
                layer, count = self.config.layer, self.config.trainable_blocks
                backbone.freeze(last_trainable=count, layer=layer)
            else:
                backbone.thaw()
            if tuning == "lora" and not frozen:
                for name, parameter in backbone.named_parameters():
                    parameter.requires_grad_(is_adapter(name))
        self.backbones.train(self.training and not self._backbones_frozen)
        for parameter in self.backbones.parameters():
            if not parameter.requires_grad:
                parameter.grad = None

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those of the backbones themselves, to which `backbone_lr` applies: not LoRA's."""
        return [value for name, value in self.backbones.named_parameters() if not is_adapter(name)]

    def constant(self) -> nn.Module | None:
        return self.backbones if self.config.tuning == "frozen" else None

    def stored_parts(self) -> dict[str, tuple[EncoderConfig, VisionBackbone]]:
        (shared,) = self._each_backbone()
        return {self.config.backbone: (self.config, shared)}

    def prepare_inference(self, dtype: torch.dtype = torch.float32) -> None:
        """For acting only: backbones compute in `dtype`; pooling and states stay float32."""
        for backbone in self._each_backbone():
            backbone.prepare_inference(dtype)

    def train(self, mode: bool = True) -> ObsEncoder:
        super().train(mode)
        self.backbones.train(mode and not self._backbones_frozen)
        return self

    def _each_backbone(self) -> list[VisionBackbone]:
        return list(self.backbones.values())  # type: ignore[arg-type]

    def _backbone(self, camera: str) -> VisionBackbone:
        return self.backbones["shared" if self.config.shared_backbone else camera]  # type: ignore[return-value]

    def _pool(self, backbone: VisionBackbone) -> Pool:
        config = self.config
        kind = config.pooling
        if kind == "spatial_softmax":
            return SpatialSoftmax(
                backbone.width(config.layer, "tokens"),
                config.spatial_softmax_num_keypoints,
                config.spatial_softmax_temperature,
            )
        if kind == "avg":
            width = backbone.width(config.layer, "mean")
            return AveragePool(width) if _takes_bytes(backbone, config) else AsRead(width)
        if kind == "grid":
            height, width = config.grid_size
            return AsRead(backbone.width(config.layer, "tokens") * height * width)
        return AsRead(backbone.width(config.layer, kind))

    def reduce(self, read: Mapping[str, Tensor]) -> Tensor:
        """Features (N, F), float32, of what `read_frames` gave: pooled, adapted, side by side."""
        features = []
        for name in self.inputs:
            pooled = self.pools[name](read[name])
            features.append(self.adapters[name](pooled) if name in self.adapters else pooled)
        return torch.cat(features, dim=-1)

    def _read(self, camera: str, pictures: Tensor, generator: torch.Generator | None) -> Tensor:
        backbone = self._backbone(camera)
        flat, gain, shift = self._augmented(pictures, generator)
        learning = torch.is_grad_enabled() and not self._backbones_frozen
        with torch.set_grad_enabled(learning):
            if _takes_bytes(backbone, self.config):
                assert isinstance(backbone, Backbone)
                read: Tensor = backbone(backbone.normalize(flat, gain, shift))
                return read
            return self._readout(backbone, as_floats(flat, gain, shift))

    def _readout(self, backbone: VisionBackbone, images: Tensor) -> Tensor:
        """Of RGB in [0, 1], float (N, 3, H, W)."""
        ((_, found),) = backbone.encode(images, [self.config.layer]).items()
        kind = self.config.pooling
        if kind == "avg":
            return found.mean
        if kind not in ("spatial_softmax", "grid"):
            return found.readout(kind)
        tokens = rearrange(found.tokens, "n (h w) c -> n c h w", h=found.grid[0])
        return tokens if kind == "spatial_softmax" else cell_means(tokens, self.config.grid_size)


class EarlyFusionEncoder(ObsEncoder):
    """One convolutional backbone that sees all cameras at once: three channels of each.

    The first convolution is that of a backbone for one picture, divided by the number of cameras
    or copied undivided.
    """

    def _inputs(self) -> tuple[str, ...]:
        return (VIEWS,) if self.cameras else ()

    def _build(self) -> VisionBackbone:
        backbone = build_backbone(self.config)
        if not _takes_bytes(backbone, self.config):
            raise ValueError(
                "early_fusion widens a convolutional backbone that is read at its end: set "
                "backbone to resnet18, resnet18_frozen_bn or small_cnn, layer to final, pooling to "
                "spatial_softmax or avg and resize_shape to null, or early_fusion to false; "
                f"backbone is {self.config.backbone}, layer {self.config.layer}, pooling "
                f"{self.config.pooling}, resize_shape {self.config.resize_shape}"
            )
        self._widen(backbone, _first_convolution(backbone)[1])
        return backbone

    def _widen(self, backbone: VisionBackbone, single: nn.Conv2d) -> None:
        """Puts in a first convolution for all cameras, made of one for a single picture."""
        name, replaced = _first_convolution(backbone)
        learns = replaced.weight.requires_grad
        count = len(self.cameras)
        wide = copy.deepcopy(single)
        wide.in_channels = count * single.in_channels
        divisor = count if self.config.early_fusion_weights == "divided" else 1
        repeated = repeat(single.weight.detach(), "o i h w -> o (n i) h w", n=count) / divisor
        wide.weight = nn.Parameter(repeated.to(memory_format=torch.channels_last), learns)
        setattr(backbone.network, name, wide)

    def _fill(self, backbones: list[Backbone], weights: str) -> dict[str, Any]:
        (mine,) = backbones
        if weights == RANDOM:
            return load_pretrained([mine], weights)
        single = build_backbone(self.config)
        assert isinstance(single, Backbone)
        identity = load_pretrained([single], weights)
        name, first = _first_convolution(single)
        self._widen(mine, first)
        rest = single.trunk.state_dict()
        others = {key: value for key, value in rest.items() if not key.startswith(f"{name}.")}
        mine.trunk.load_state_dict(others, strict=False)
        return identity

    def _read_each(
        self, images: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        (backbone,) = self._each_backbone()
        assert isinstance(backbone, Backbone)
        changed = [self._augmented(images[camera], generator) for camera in self.cameras]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._backbones_frozen):
            views = [backbone.normalize(*each) for each in changed]
            return {VIEWS: backbone(torch.cat(views, dim=1))}


VIEWS = "views"
"""The one input of an early fusion."""


def _first_convolution(backbone: VisionBackbone) -> tuple[str, nn.Conv2d]:
    """Its name in the trunk, and itself."""
    name, first = next(backbone.network.named_children())
    assert isinstance(first, nn.Conv2d)
    return name, first


def create_encoder(
    *,
    cameras: Mapping[str, tuple[int, int]],
    n_obs_steps: int,
    state_dim: int,
    config: EncoderConfig,
) -> FrameEncoder:
    """As the config asks: of one backbone, of several models fused, of all cameras at once."""
    kind: type[ObsEncoder | FusionEncoder] = ObsEncoder
    if config.fusion is not None:
        kind = FusionEncoder
    elif config.early_fusion:
        kind = EarlyFusionEncoder
    return kind(cameras=cameras, n_obs_steps=n_obs_steps, state_dim=state_dim, config=config)


def check_encoder(
    cameras: Mapping[str, tuple[int, int]], config: EncoderConfig, n_obs_steps: int = 1
) -> None:
    """Builds a resolved config's encoder of one camera and reads its weights, to fail early.

    Raises:
        WeightsError: weights that are missing or do not fit.
        ValueError: a layer, readout or package that is not there.
    """
    if config.tuning == "lora":
        check_peft()
    one = dict(list(cameras.items())[:1])
    with torch.random.fork_rng(devices=[]):
        encoder = create_encoder(cameras=one, n_obs_steps=n_obs_steps, state_dim=0, config=config)
        encoder.load_pretrained()


def _takes_bytes(backbone: VisionBackbone, config: EncoderConfig) -> bool:
    """Whether a convolutional backbone's quicker way from 8-bit pictures does."""
    return (
        isinstance(backbone, Backbone)
        and config.layer == FINAL
        and config.resize_shape is None
        and config.pooling in ("spatial_softmax", "avg")
    )
