"""Pictures of a dataset store to a feature store: one pass for all layers, resumable by episode."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from twin_env.files import LOCK_NAME, FolderInUseError, locked
from twin_policy.backbones import VisionBackbone
from twin_train.features import (
    FORMAT,
    FORMAT_VERSION,
    Dtype,
    FeaturesError,
    FeatureStore,
    array_folder,
    check_backbone,
    check_data,
    is_feature_store,
    open_features,
    read_out,
)
from twin_train.loading import CameraPictures, prefetch
from twin_train.store import EPISODES, Size, Store, StoredEpisode, episode_folders
from twin_train.zarr_files import write_array, write_group

EXTENSION = ".zarr"
BATCH = {"cpu": 16, "cuda": 256}
JSON_BYTES = 420
"""About what the two JSON files beside an array take."""


Shapes = Mapping[str, Mapping[tuple[str, str], tuple[int, ...]]]
"""Camera to (layer, readout) to the shape of one frame's."""


@dataclass(frozen=True)
class Plan:
    """What an extraction is about to write."""

    target: Path
    missing: tuple[StoredEpisode, ...]
    held: Mapping[str, tuple[str, ...]]
    """Layer to its readouts."""
    dtype: Dtype
    shapes: Shapes
    grids: Mapping[str, Mapping[str, Size]]
    """Camera to layer to the (h, w) of its tokens."""

    @property
    def n_frames(self) -> int:
        return sum(episode.n_frames for episode in self.missing)

    @property
    def n_pictures(self) -> int:
        return self.n_frames * len(self.shapes)

    @property
    def n_bytes(self) -> int:
        """What the missing episodes will take."""
        return count_bytes(
            self.shapes, frames=self.n_frames, episodes=len(self.missing), dtype=self.dtype
        )

    def describe(self) -> str:
        kinds = sorted({kind for kinds in self.held.values() for kind in kinds})
        each = self.n_bytes / max(1, self.n_pictures)
        return (
            f"{self.target}: {len(self.missing)} episodes to go, {self.n_frames} frames of "
            f"{len(self.shapes)} cameras = {self.n_pictures} pictures; {len(self.held)} layers, "
            f"{', '.join(kinds)}, {self.dtype}: {in_words(self.n_bytes)} ({in_words(each)} each)"
        )


def count_bytes(shapes: Shapes, *, frames: int, episodes: int, dtype: Dtype) -> int:
    """What so many frames of so many episodes take on disk."""
    arrays = [shape for of_camera in shapes.values() for shape in of_camera.values()]
    frame = (2 if dtype == "bf16" else 4) * sum(int(np.prod(shape)) for shape in arrays)
    return frames * frame + episodes * (len(arrays) + 1) * JSON_BYTES


def in_words(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes:.0f} bytes"


def features_folder(store: Store) -> Path:
    """Where a dataset store's features lie unless said otherwise: beside it."""
    return store.path.with_name(f"{store.path.name.removesuffix('.zarr')}.features")


def default_target(
    store: Store, name: str, fingerprint: str, held: Mapping[str, Sequence[str]], dtype: Dtype
) -> Path:
    """Beside the data, named by all that decides the features."""
    cameras = {camera: list(size) for camera, size in store.cameras.items()}
    parts = [fingerprint, {layer: list(kinds) for layer, kinds in held.items()}, dtype, cameras]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    stem = name.replace(":", "_").replace("/", "_")
    return features_folder(store) / f"{stem}-{key}{EXTENSION}"


def choose_readouts(
    backbone: VisionBackbone, layers: Sequence[int | str], readouts: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Layer to those of the readouts that it has; `projected`, say, is of `final` alone.

    Raises:
        ValueError: no such layer; a readout that none of the layers has.
    """
    names = list(dict.fromkeys(backbone.layer_name(layer) for layer in layers))
    problems: dict[str, ValueError] = {}
    held: dict[str, tuple[str, ...]] = {}
    for name in names:
        there = []
        for readout in dict.fromkeys(readouts):
            try:
                backbone.width(name, "tokens" if readout.startswith("grid:") else readout)
                there.append(readout)
            except ValueError as error:
                problems[readout] = error
        held[name] = tuple(sorted(there))
    for readout, problem in problems.items():
        if not any(readout in kinds for kinds in held.values()):
            raise problem
    return {layer: kinds for layer, kinds in held.items() if kinds}


def extract(
    store: Store,
    backbone: VisionBackbone,
    *,
    held: Mapping[str, Sequence[str]],
    target: Path | None = None,
    dtype: Dtype = "bf16",
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    threads: int = 1,
    quiet: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> FeatureStore:
    """Writes the features of those episodes that the target does not hold yet.

    The network computes in its own dtype; `dtype` is that of the file. An episode appears whole
    or not at all, and so a killed extraction goes on with the next episode.

    Args:
        backbone: with its weights; left on `device`, in evaluation mode.
        held: layer to readouts, by canonical names: see `choose_readouts`.
        target: by default beside the data.
        threads: that decode pictures.
        say: told once what will be written, before the first picture is read.

    Raises:
        FeaturesError: the target holds something else, is in use, or the disk is too small.
        StoreError: a damaged picture.
    """
    if not store.cameras:
        raise FeaturesError(f"{store.path} has no cameras: convert it anew with --camera")
    fingerprint = backbone.fingerprint()
    wanted = {layer: tuple(kinds) for layer, kinds in held.items()}
    name = backbone.recipe.name
    target = target or default_target(store, name, fingerprint, wanted, dtype)
    target.mkdir(parents=True, exist_ok=True)
    device = torch.device(device)
    backbone.to(device).eval()
    try:
        with locked(target):
            features = _prepare(target, store, backbone, fingerprint, wanted, dtype)
            plan = _plan(features, store, backbone)
            say(plan.describe())
            check_disk(plan)
            _write_missing(
                plan,
                backbone,
                batch_size=batch_size or BATCH.get(device.type, BATCH["cpu"]),
                threads=threads,
                quiet=quiet,
            )
    except FolderInUseError as error:
        raise FeaturesError(f"{target} is being written by another process: wait for it") from error
    return features


def _prepare(
    target: Path,
    store: Store,
    backbone: VisionBackbone,
    fingerprint: str,
    held: Mapping[str, tuple[str, ...]],
    dtype: Dtype,
) -> FeatureStore:
    """Creates the store, or checks that what is there can be gone on with."""
    for left_over in (target / EPISODES).glob(".*.part"):
        shutil.rmtree(left_over)
    if not is_feature_store(target):
        foreign = {each.name for each in target.iterdir()} - {LOCK_NAME, ".zgroup", EPISODES}
        if foreign or episode_folders(target):
            named = min(foreign or {EPISODES})
            raise FeaturesError(
                f"{target} is no feature store, it holds {named}: give another --out"
            )
        write_group(target / EPISODES, {})
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "backbone": backbone.describe(),
            "dtype": dtype,
            "layers": {layer: list(kinds) for layer, kinds in held.items()},
            "cameras": {camera: list(size) for camera, size in sorted(store.cameras.items())},
            "data_sha256": store.fingerprint,
        }
        write_group(target, header)
        return open_features(target)
    features = open_features(target)
    check_backbone(features, name=backbone.recipe.name, fingerprint=fingerprint)
    check_data(features, store)
    remedy = "give another --out, or delete it and extract anew"
    if features.dtype != dtype:
        raise FeaturesError(f"{target} is in {features.dtype}, and {dtype} is wanted: {remedy}")
    if extra := sorted(set(features.cameras) - set(store.cameras)):
        raise FeaturesError(
            f"{target} also holds {', '.join(extra)}, which the data given lack: {remedy}"
        )
    for layer, kinds in held.items():
        if lacking := [kind for kind in kinds if kind not in features.held.get(layer, ())]:
            raise FeaturesError(f"{target} holds no {lacking[0]} of {layer}: {remedy}")
    return features


def _plan(features: FeatureStore, store: Store, backbone: VisionBackbone) -> Plan:
    done = features.episodes
    shapes, grids = measure_shapes(backbone, features.cameras, features.held)
    missing = tuple(episode for episode in store.episodes if episode.number not in done)
    return Plan(features.path, missing, features.held, features.dtype, shapes, grids)


def measure_shapes(
    backbone: VisionBackbone, cameras: Mapping[str, Size], held: Mapping[str, Sequence[str]]
) -> tuple[Shapes, dict[str, dict[str, Size]]]:
    """Shapes of a black picture's features, and camera to layer to the grid of its tokens."""
    shapes: dict[str, dict[tuple[str, str], tuple[int, ...]]] = {}
    grids: dict[str, dict[str, Size]] = {}
    for camera, size in cameras.items():
        black = torch.zeros((1, *size, 3), dtype=torch.uint8)
        found, grids[camera] = _read(backbone, black, held)
        shapes[camera] = {key: tuple(values.shape[1:]) for key, values in found.items()}
    return shapes, grids


def check_disk(plan: Plan) -> None:
    """Raises `FeaturesError` if what is to be written does not fit, with a tenth to spare."""
    free, needed = shutil.disk_usage(plan.target).free, 1.1 * plan.n_bytes
    if needed > free:
        remedies = ["free some", "give an --out on another disk", "choose fewer --layers"]
        if any("tokens" in kinds for kinds in plan.held.values()):
            remedies.append("--readout class_token or grid:4x4 instead of tokens")
        if plan.dtype == "fp32":
            remedies.append("--dtype bf16")
        raise FeaturesError(
            f"{plan.target} needs {in_words(plan.n_bytes)} and a tenth to spare, and its disk has "
            f"{in_words(free)} free: {', '.join(remedies[:-1])}, or {remedies[-1]}"
        )


Found = dict[tuple[str, str], Tensor]


@torch.inference_mode()
def _read(
    backbone: VisionBackbone, pictures: Tensor, held: Mapping[str, Sequence[str]]
) -> tuple[Found, dict[str, Size]]:
    """All readouts of uint8 (N, H, W, 3), from one pass, and the grids of the layers."""
    device = next(backbone.parameters()).device
    images = rearrange(pictures.to(device), "n h w c -> n c h w").float() / 255
    layers = backbone.encode(images, list(held))
    found = {(layer, kind): read_out(layers[layer], kind) for layer in held for kind in held[layer]}
    return found, {layer: each.grid for layer, each in layers.items()}


@dataclass(frozen=True)
class _Piece:
    """Frames of one camera of one episode that pass through the network together."""

    episode: int
    """Position among the missing ones."""
    camera: str
    begin: int
    end: int
    first: int
    """Of the episode, among all frames."""


def _pieces(plan: Plan, batch_size: int) -> Iterator[_Piece]:
    first = 0
    for index, episode in enumerate(plan.missing):
        for camera in plan.shapes:
            for begin in range(0, episode.n_frames, batch_size):
                end = min(begin + batch_size, episode.n_frames)
                yield _Piece(index, camera, begin, end, first)
        first += episode.n_frames


def _write_missing(
    plan: Plan, backbone: VisionBackbone, *, batch_size: int, threads: int, quiet: bool
) -> None:
    if not plan.missing:
        return
    frames = [episode.n_frames for episode in plan.missing]
    cameras = {
        camera: CameraPictures(
            [episode.pictures[camera] for episode in plan.missing],
            frames,
            n_cached=0,
            threads=threads,
        )
        for camera in plan.shapes
    }
    pieces = list(_pieces(plan, batch_size))

    def decode(number: int) -> Tensor:
        piece = pieces[number]
        return cameras[piece.camera].take(piece.first + np.arange(piece.begin, piece.end))

    interval_s = 0.3 if sys.stderr.isatty() else 15.0
    last_camera = list(plan.shapes)[-1]
    numpy_dtype = np.uint16 if plan.dtype == "bf16" else np.float32
    arrays: dict[tuple[str, str], NDArray[Any]] = {}
    checksums: dict[str, int] = {}
    with (
        tqdm(
            total=plan.n_pictures,
            desc="features",
            unit="picture",
            disable=quiet,
            mininterval=interval_s,
        ) as bar,
        closing(prefetch(decode, range(len(pieces)), ahead=2)) as decoded,
    ):
        for piece, pictures in zip(pieces, decoded, strict=True):
            episode = plan.missing[piece.episode]
            if piece.begin == 0:
                arrays = {
                    key: np.empty((episode.n_frames, *shape), numpy_dtype)
                    for key, shape in plan.shapes[piece.camera].items()
                }
            found, _ = _read(backbone, pictures, plan.held)
            for key, values in found.items():
                arrays[key][piece.begin : piece.end] = stored_form(values, plan.dtype)
            bar.update(len(pictures))
            if piece.end == episode.n_frames:
                checksums |= _write_camera(plan, episode, piece.camera, arrays)
                if piece.camera == last_camera:
                    _finish(plan, episode, checksums)
                    checksums = {}


def stored_form(values: Tensor, dtype: Dtype) -> NDArray[Any]:
    """float32, or bfloat16 as uint16."""
    if dtype == "fp32":
        return values.float().cpu().numpy()
    return values.to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)


def _temporary(plan: Plan, episode: StoredEpisode) -> Path:
    return plan.target / EPISODES / f".{episode.number:06d}.{os.getpid()}.part"


def _write_camera(
    plan: Plan,
    episode: StoredEpisode,
    camera: str,
    arrays: Mapping[tuple[str, str], NDArray[Any]],
) -> dict[str, int]:
    """Writes all arrays of a camera; returns their checksums."""
    checksums = {}
    folder = _temporary(plan, episode)
    for (layer, readout), values in arrays.items():
        where = array_folder(camera, layer, readout)
        about = {
            "dtype": "bfloat16" if plan.dtype == "bf16" else "float32",
            "grid": list(plan.grids[camera][layer]),
        }
        write_array(folder / where, values, about)
        checksums[where.as_posix()] = zlib.crc32(values.data)
        for parent in where.parents[:-1]:
            if not (folder / parent / ".zgroup").exists():
                write_group(folder / parent, {})
    return checksums


def _finish(plan: Plan, episode: StoredEpisode, checksums: Mapping[str, int]) -> None:
    """Gives a whole episode its name."""
    temporary = _temporary(plan, episode)
    about = {
        "number": episode.number,
        "source": episode.source,
        "sha256": episode.sha256,
        "n_frames": episode.n_frames,
        "crc32": dict(checksums),
    }
    write_group(temporary, about)
    os.replace(temporary, plan.target / EPISODES / f"{episode.number:06d}")
