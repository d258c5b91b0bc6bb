"""The frozen models of a fusion: built, filled, run in order, and read as one map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from twin_policy.backbones import VisionBackbone, registry
from twin_policy.backbones.weights import RANDOM
from twin_policy.config import EncoderConfig
from twin_policy.fusion_config import AlignedModel, FusionConfig, ModelConfig, Size
from twin_policy.pooling import cell_means
from twin_policy.pretrained import build_backbone, load_tower, resolve

if TYPE_CHECKING:
    from twin_policy.backbones import LayerFeatures


def weights_setting(model: str) -> str:
    """What a user calls the option that names a model's weights."""
    return f"weights of {model} in policy.encoder.fusion.models"


def model_encoder(model: ModelConfig, *, grid: Size, cells: Size | None) -> EncoderConfig:
    """A model as the encoder of a policy that reads it alone: its input gives the common grid.

    Raises:
        ValueError: an unknown backbone or override.
    """
    size = registry.size_for_grid(model.backbone, grid, model.overrides)
    return EncoderConfig(
        backbone=model.backbone,
        pretrained_backbone_weights=model.weights,
        weights_seed=model.weights_seed if model.weights == RANDOM else None,
        tag=model.tag,
        overrides=model.overrides,
        resize_shape=size,
        image_normalization="native",
        shared_backbone=True,
        layer=model.layer,
        # Maps of all tokens, or of their means in cells.
        pooling="spatial_softmax" if cells is None else "grid",
        grid_size=cells or (1, 1),
        tuning="frozen",
    )


def resolve_model(model: ModelConfig, *, grid: Size) -> ModelConfig:
    """With all in it that decides the network: canonical name, and tag.

    Raises:
        ValueError: an unknown backbone, with the nearest match.
        WeightsError: a tag that is unknown, missing or contradicted; no such weight file.
    """
    found = resolve(model_encoder(model, grid=grid, cells=None))
    return replace(model, backbone=found.backbone, tag=found.tag)


class Towers(nn.Module):
    """Several frozen models that see the same picture in the same grid.

    They are read one after another, in their order; channels of their maps lie side by side.
    """

    def __init__(
        self, models: Sequence[ModelConfig], *, grid: Size, cells: Size | None = None
    ) -> None:
        """Weights are fresh until `load_pretrained`, or a checkpoint's state, fills them.

        Raises:
            ValueError: an unknown backbone or layer; a model whose tokens do not lie in the grid.
        """
        super().__init__()
        self.configs = tuple(models)
        self.grid, self.cells = grid, cells
        self.models = nn.ModuleDict(
            {each.name: build_backbone(self.encoder_config(each)) for each in models}
        )
        self.layers = {each.name: self[each.name].layer_name(each.layer) for each in models}
        """Of each model, canonical."""
        self._homes: dict[str, torch.device] = {}
        """Where each model computes, once they are placed."""
        self._in_turn = False
        self.freeze()

    def __getitem__(self, name: str) -> VisionBackbone:
        return self.models[name]  # type: ignore[return-value]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.models)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each model: where to cut what `read` gives."""
        return tuple(self[name].widths[self.layers[name]] for name in self.names)

    @property
    def read_grid(self) -> Size:
        """(h, w) of what `read` gives."""
        return self.cells or self.grid

    def encoder_config(self, model: ModelConfig) -> EncoderConfig:
        """A model as `twin_train.features` knows encoders."""
        return model_encoder(model, grid=self.grid, cells=self.cells)

    def load_pretrained(self) -> dict[str, Any]:
        """Reads the weights that the models name.

        Returns:
            Model to its backbone's name and `WeightsIdentity`.

        Raises:
            WeightsError: weights that are missing or do not fit.
        """
        return {
            each.name: load_tower(
                [self[each.name]], self.encoder_config(each), setting=weights_setting(each.name)
            )
            for each in self.configs
        }

    def read(self, images: Tensor) -> Tensor:
        """The models' maps of pictures.

        Args:
            images: RGB in [0, 1], float (N, 3, H, W), of any size.

        Returns:
            float32 (N, sum of widths, h, w).
        """
        return torch.cat([self.read_one(name, images) for name in self.names], dim=1)

    def read_one(self, name: str, images: Tensor) -> Tensor:
        """The map of one model, float32 (N, C, h, w); on the device of the pictures."""
        tower = self[name]
        home = self._homes.get(name) or next(tower.network.parameters()).device
        if self._in_turn:
            tower.to(home)
        ((_, found),) = tower.encode(images.to(home), [self.layers[name]]).items()
        read = self._map(name, found).to(images.device)
        if self._in_turn:
            tower.to("cpu")
        return read

    def _map(self, name: str, found: LayerFeatures) -> Tensor:
        if found.grid != self.grid:
            raise ValueError(
                f"{name}, {self.layers[name]}, has {found.grid[0]}x{found.grid[1]} tokens, and "
                f"the models must share a grid of {self.grid[0]}x{self.grid[1]}: read another "
                "layer, or take a ViT"
            )
        tokens = rearrange(found.tokens, "n (h w) c -> n c h w", h=self.grid[0])
        return (tokens if self.cells is None else cell_means(tokens, self.cells)).float()

    def place(self, devices: Sequence[torch.device | str], *, in_turn: bool = False) -> None:
        """For acting only: deals the models to devices, the largest ones first.

        From then on they stay there, wherever the rest of the policy goes.

        Args:
            in_turn: weights wait in main memory, and each model is on its device while it runs
                only: slower, with room for the largest one alone.

        Raises:
            ValueError: no devices.
        """
        if not devices:
            raise ValueError("models need at least one device: name some, or leave them to device")
        sizes = {name: sum(each.numel() for each in self[name].parameters()) for name in self.names}
        load = dict.fromkeys(range(len(devices)), 0)
        for name in sorted(self.names, key=lambda name: -sizes[name]):
            chosen = min(load, key=lambda index: load[index])
            load[chosen] += sizes[name]
            self._homes[name] = torch.device(devices[chosen])
            self[name].to("cpu" if in_turn else self._homes[name])
        self._in_turn = in_turn

    def placed(self) -> dict[str, str]:
        """Model to where it computes, once they are placed."""
        return {name: str(self._homes[name]) for name in self.names if name in self._homes}

    def _apply(self, fn: Any, recurse: bool = True) -> Towers:
        return self if self._homes else super()._apply(fn, recurse)

    def freeze(self, *, last_trainable: int = 0) -> None:
        """Holds all weights, but for the last blocks of each model up to the layer read."""
        for name in self.names:
            self[name].freeze(last_trainable=last_trainable, layer=self.layers[name])

    def thaw(self) -> None:
        for name in self.names:
            self[name].thaw()

    def prepare_inference(self, dtype: torch.dtype) -> None:
        """For acting only: the networks compute in `dtype`; what they give is float32."""
        for name in self.names:
            self[name].prepare_inference(dtype)

    def fingerprints(self) -> dict[str, str]:
        """Model to the SHA-256 of its weights and preprocessing."""
        return {name: self[name].fingerprint() for name in self.names}

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {name: self[name].describe() for name in self.names}

    def aligned_models(self) -> tuple[AlignedModel, ...]:
        """The models as a distilled encoder remembers them."""
        return tuple(
            AlignedModel(
                name=name,
                backbone=self[name].recipe.name,
                width=width,
                layer=self.layers[name],
                preprocessing=asdict(self[name].preprocessing),
                fingerprint=self[name].fingerprint(),
            )
            for name, width in zip(self.names, self.widths, strict=True)
        )


def towers_of(config: FusionConfig) -> Towers:
    """Those that a policy's scheme runs."""
    return Towers(config.used_models, grid=config.grid, cells=config.cells)


def split_models(read: Tensor, widths: Sequence[int], names: Sequence[str]) -> Mapping[str, Tensor]:
    """What `Towers.read` gave, (N, sum of widths, h, w), cut into each model's (N, C, h, w)."""
    if read.shape[1] != sum(widths):
        raise ValueError(
            f"{', '.join(names)} have {' + '.join(map(str, widths))} = {sum(widths)} channels, "
            f"and what was read has {read.shape[1]}"
        )
    return dict(zip(names, read.split(list(widths), dim=1), strict=True))
