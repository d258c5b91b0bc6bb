"""The feature store: what a frozen backbone gives of every frame, matched to a policy and read.

A store is a zarr (format 2) hierarchy, `episodes/000012/CAMERA/LAYER/READOUT` one array of all
frames of an episode in one uncompressed chunk: vectors (T, C), `grid_HxW` (T, C, H, W), `tokens`
(T, K, C). They are float32, or bfloat16 in uint16, which the attribute `dtype` says.
`twin_train.extraction` writes stores.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from twin_policy.backbones import LayerFeatures, VisionBackbone
from twin_policy.backbones.protocol import READOUTS, mean_of
from twin_policy.config import EncoderConfig
from twin_policy.names import unknown
from twin_policy.pooling import cell_means
from twin_train.store import Size, Store, StoredEpisode, episode_folders
from twin_train.zarr_files import chunk_file, map_array, read_attributes

FORMAT, FORMAT_VERSION = "twinbench-features", 1
Dtype = Literal["bf16", "fp32"]
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16")


class FeaturesError(ValueError):
    """A folder is not the feature store that is wanted; the message names the remedy."""


@dataclass(frozen=True)
class FeatureStore:
    """Features of one backbone of the pictures of one dataset store."""

    path: Path
    fingerprint: str
    """Of the backbone: its weights and its preprocessing."""
    backbone: Mapping[str, Any]
    """`VisionBackbone.describe()`."""
    dtype: Dtype
    held: Mapping[str, tuple[str, ...]]
    """Layer to its readouts."""
    cameras: Mapping[str, Size]
    """Camera to the (H, W) of the pictures, before the backbone's own resize."""
    data_fingerprint: str
    """Of the dataset store when the extraction began; what counts is each episode's SHA-256."""

    @property
    def episodes(self) -> dict[int, Path]:
        """Number of each whole episode to its folder."""
        return episode_folders(self.path)


def parse_readout(word: str) -> str:
    """The name of a readout, checked: one of `READOUTS`, or `grid:HxW`.

    Raises:
        ValueError: neither.
    """
    if word in READOUTS:
        return word
    if found := re.fullmatch(r"grid:([1-9]\d*)x([1-9]\d*)", word):
        return f"grid:{found[1]}x{found[2]}"
    raise unknown("readout", word, [*READOUTS, "grid:HxW"])


def read_out(features: LayerFeatures, readout: str) -> Tensor:
    """(N, C), of `grid:HxW` (N, C, H, W), of `tokens` (N, K, C); in the network's dtype."""
    if not readout.startswith("grid:"):
        return features.readout(readout)
    tokens = rearrange(features.tokens, "n (h w) c -> n c h w", h=features.grid[0])
    height, width = readout.removeprefix("grid:").split("x")
    return cell_means(tokens, (int(height), int(width)))


def array_folder(camera: str, layer: str, readout: str) -> Path:
    """Within an episode's folder."""
    return Path(camera, layer, readout.replace(":", "_"))


def is_feature_store(path: Path) -> bool:
    return path.is_dir() and read_attributes(path).get("format") == FORMAT


def open_features(path: Path) -> FeatureStore:
    """Reads what a store holds; its episodes are read when a policy asks for them.

    Raises:
        FeaturesError: not a feature store, or one of another version.
    """
    found = read_attributes(path)
    if found.get("format") != FORMAT:
        raise FeaturesError(
            f"{path} is no feature store: make one with `twinbench features extract`"
        )
    if found["version"] != FORMAT_VERSION:
        raise FeaturesError(
            f"{path} is a feature store of version {found['version']}, and this reads version "
            f"{FORMAT_VERSION}: delete it and extract anew"
        )
    return FeatureStore(
        path=path,
        fingerprint=found["fingerprint"],
        backbone=found["backbone"],
        dtype=found["dtype"],
        held={layer: tuple(readouts) for layer, readouts in found["layers"].items()},
        cameras={camera: (size[0], size[1]) for camera, size in found["cameras"].items()},
        data_fingerprint=found["data_sha256"],
    )


@dataclass(frozen=True)
class Wanted:
    """What a policy's encoder reads of each picture."""

    backbone: str
    fingerprint: str
    layer: str
    readout: str
    """As it would be stored, if stored for this policy alone."""
    pooling: str
    """The encoder's."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Readouts that serve, the best one first."""
        from_tokens = self.pooling in ("avg", "grid")
        return (self.readout, "tokens") if from_tokens else (self.readout,)


def wanted_of(config: EncoderConfig, backbone: VisionBackbone) -> Wanted:
    """Args:
    config: a complete one.
    backbone: with its weights.
    """
    kind: str = config.pooling
    if kind == "grid":
        readout = f"grid:{config.grid_size[0]}x{config.grid_size[1]}"
    else:
        readout = {"avg": "mean", "spatial_softmax": "tokens"}.get(kind, kind)
    layer = backbone.layer_name(config.layer)
    return Wanted(backbone.recipe.name, backbone.fingerprint(), layer, readout, kind)


def check_serves(features: FeatureStore, wanted: Wanted, store: Store) -> str:
    """The readout of a feature store that serves a policy on this data.

    Raises:
        FeaturesError: none does, or the store is stale or unfinished; says which, and the remedy.
    """
    path = features.path
    check_backbone(features, name=wanted.backbone, fingerprint=wanted.fingerprint)
    held = features.held.get(wanted.layer, ())
    source = next((each for each in wanted.sources if each in held), None)
    if source is None:
        there = "; ".join(f"{layer}: {', '.join(kinds)}" for layer, kinds in features.held.items())
        raise FeaturesError(
            f"{path} holds no {' or '.join(wanted.sources)} of {wanted.layer}, but {there}: "
            f"extract with --layers {wanted.layer} --readout {wanted.readout} to another store"
        )
    check_data(features, store)
    finished = features.episodes
    missing = [each.number for each in store.episodes if each.number not in finished]
    if missing:
        raise FeaturesError(
            f"{path} lacks {len(missing)} of {len(store.episodes)} episodes, the first one "
            f"episode {missing[0]}: run the same `twinbench features extract` again, which adds "
            "what is missing"
        )
    return source


def check_backbone(features: FeatureStore, *, name: str, fingerprint: str) -> None:
    """Raises `FeaturesError` if the features are of other weights or preprocessing."""
    if features.fingerprint != fingerprint:
        theirs = features.backbone["recipe"]["name"]
        source = (features.backbone.get("weights") or {}).get("source", "unknown weights")
        raise FeaturesError(
            f"{features.path} is stale: it was made with {theirs} ({source}, weights and "
            f"preprocessing {features.fingerprint[:12]}), and the policy's {name} is "
            f"{fingerprint[:12]}: extract to another store, delete this one, or set the weights, "
            "sizes and seed it was made with"
        )


def check_data(features: FeatureStore, store: Store) -> None:
    """Raises `FeaturesError` if the features held are of other pictures than the store's."""
    path = features.path
    for camera, size in store.cameras.items():
        if features.cameras.get(camera) != size:
            held = {name: "x".join(map(str, each)) for name, each in features.cameras.items()}
            raise FeaturesError(
                f"{path} holds no {camera} at {size[0]}x{size[1]}, but {held}: extract to another "
                "store, from data at that size"
            )
    folders = features.episodes
    for episode in store.episodes:
        folder = folders.get(episode.number)
        if folder is not None and read_attributes(folder).get("sha256") != episode.sha256:
            raise FeaturesError(
                f"{folder} is stale: it was made of another file than {episode.source} of "
                f"{store.path}: delete that folder, and the same `twinbench features extract` "
                "makes it anew"
            )


class FrameFeatures:
    """What the encoder reads of one camera's frames, at the transitions of several episodes."""

    def __init__(
        self, parts: Sequence[NDArray[Any]], *, in_memory: bool, grid: Size | None = None
    ) -> None:
        """
        Args:
            parts: of each episode (n, ...), float32, or bfloat16 as uint16.
            in_memory: laid end to end there, instead of read from the files each time.
            grid: (h, w), to lay out tokens (n, h * w, C) as maps (n, C, h, w).
        """
        self._parts = (np.concatenate(parts),) if in_memory else tuple(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._grid = grid

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """(*indices.shape, ...) of these transitions, as `ObsEncoder.read_frames` gives them."""
        flat = indices.reshape(-1)
        if len(self._parts) == 1:
            values = np.take(self._parts[0], flat, axis=0)
        else:
            first = self._parts[0]
            values = np.empty((len(flat), *first.shape[1:]), first.dtype)
            owner = np.searchsorted(self._ends, flat, side="right")
            for index in np.unique(owner):
                mine = owner == index
                begin = self._ends[index] - len(self._parts[index])
                values[mine] = self._parts[index][flat[mine] - begin]
        taken = tensor_of(values)
        if self._grid is not None:
            taken = rearrange(taken, "n (h w) c -> n c h w", h=self._grid[0])
        return taken.unflatten(0, indices.shape)


class SideBySide:
    """Maps of one camera's frames by several backbones, one after another along the channels."""

    def __init__(self, parts: Sequence[FrameFeatures]) -> None:
        self._parts = tuple(parts)

    def __len__(self) -> int:
        return len(self._parts[0])

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """(*indices.shape, sum C, h, w) of these transitions, as `Towers.read` gives them.

        float32, unless all are bfloat16.
        """
        return torch.cat([part.take(indices) for part in self._parts], dim=-3)


def side_by_side(
    parts: Sequence[Mapping[str, FrameFeatures]],
) -> dict[str, FrameFeatures | SideBySide]:
    """Camera to its features by several backbones; of a single one they stay as they are."""
    if len(parts) == 1:
        return dict(parts[0])
    return {camera: SideBySide([part[camera] for part in parts]) for camera in parts[0]}


def tensor_of(values: NDArray[Any]) -> Tensor:
    """Of float32, or of bfloat16 kept as uint16."""
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def read_features(
    features: FeatureStore,
    wanted: Wanted,
    store: Store,
    *,
    cache_mb: float,
    all_frames: bool = False,
) -> dict[str, FrameFeatures]:
    """What a policy reads of the transitions of a dataset store, camera by camera.

    Args:
        all_frames: also of the frames that no action follows.
        cache_mb: up to 10^6 bytes of features are kept in memory; more stay in the files.

    Raises:
        FeaturesError: the store does not serve, is stale, or is damaged.
    """
    source = check_serves(features, wanted, store)
    folders = features.episodes
    found: dict[str, list[NDArray[Any]]] = {camera: [] for camera in store.cameras}
    grids: dict[str, Size] = {}
    for episode in store.episodes:
        for camera, parts in found.items():
            where = array_folder(camera, wanted.layer, source)
            values, grid = _read_checked(folders[episode.number], where, episode)
            grids[camera] = grid
            values = values if all_frames else values[: episode.n_transitions]
            derived = source == "tokens" and wanted.pooling != "spatial_softmax"
            parts.append(_derive(values, grid, wanted) if derived else values)
    total = sum(part.nbytes for parts in found.values() for part in parts)
    as_maps = wanted.pooling == "spatial_softmax"
    return {
        camera: FrameFeatures(
            parts, in_memory=total <= cache_mb * 1e6, grid=grids[camera] if as_maps else None
        )
        for camera, parts in found.items()
    }


def _read_checked(folder: Path, where: Path, episode: StoredEpisode) -> tuple[NDArray[Any], Size]:
    try:
        values = map_array(folder / where)
        about = read_attributes(folder / where)
        checksum = read_attributes(folder)["crc32"][where.as_posix()]
        if len(values) != episode.n_frames:
            raise ValueError(f"{len(values)} frames, not {episode.n_frames}")
        if zlib.crc32(values.data) != checksum:
            file = chunk_file(folder / where, values.ndim)
            raise ValueError(f"{file} does not have the checksum that it was written with")
        return values, (about["grid"][0], about["grid"][1])
    except (KeyError, ValueError, OSError) as error:
        raise FeaturesError(
            f"{folder} is damaged ({error}): delete it, and the same `twinbench features extract` "
            "makes it anew"
        ) from error


def _derive(values: NDArray[Any], grid: Size, wanted: Wanted) -> NDArray[Any]:
    """float32 means of tokens (T, K, C): over all of them, or in the cells of a grid."""
    tokens = tensor_of(np.array(values)).float()
    if wanted.pooling == "avg":
        return mean_of(tokens).numpy()
    height, width = wanted.readout.removeprefix("grid:").split("x")
    whole = rearrange(tokens, "n (h w) c -> n c h w", h=grid[0])
    return cell_means(whole, (int(height), int(width))).numpy()
