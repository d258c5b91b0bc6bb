"""What `train.features` means: feature stores found or made, and put in place of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from twin_policy.backbones import VisionBackbone
from twin_policy.config import EncoderConfig, PolicyConfig
from twin_policy.frame_encoder import FrameEncoder
from twin_policy.pretrained import SETTING, build_backbone, is_tower, load_tower
from twin_train.extraction import extract, features_folder
from twin_train.features import (
    DTYPES,
    FeaturesError,
    FeatureStore,
    FrameFeatures,
    SideBySide,
    Wanted,
    check_serves,
    is_feature_store,
    open_features,
    wanted_of,
)
from twin_train.sharing import Shared
from twin_train.store import Store

AUTO = "auto"


class Reader(Protocol):
    """What reads pictures of a store, and may read features instead."""

    def use_features(self, read: Mapping[str, FrameFeatures | SideBySide]) -> None:
        """Batches hold these from now on, instead of pictures."""


def check_trainable_from_features(config: PolicyConfig) -> None:
    """Raises `ValueError` unless what the backbone gives depends on the stored picture alone."""
    encoder = config.encoder
    live = "or set train.features to null, to run the backbone in training"
    if not config.cameras:
        raise ValueError(f"train.features needs cameras, and policy.cameras has none: {live}")
    if not is_tower(encoder.backbone):
        raise ValueError(
            f"train.features is for pretrained towers, one for all cameras, and {encoder.backbone} "
            f"is trained inside the encoder: choose a tower, {live}"
        )
    for name, wanted in (("tuning", "frozen"), ("crop_ratio", 1.0), ("color_jitter", 0.0)):
        # A distilled encoder comes after the features, and may learn.
        if name == "tuning" and encoder.tuning == "aligned":
            continue
        if (value := getattr(encoder, name)) != wanted:
            raise ValueError(
                f"train.features needs policy.encoder.{name} {wanted}, because features are "
                f"computed once of each picture as it is, and it is {value}: set it to {wanted}, "
                f"{live}"
            )


def make_tower(encoder: EncoderConfig, *, seed: int, setting: str = SETTING) -> VisionBackbone:
    """The tower as a training of this seed has it, with its weights, random ones included.

    Args:
        encoder: resolved, of a tower.
        setting: as `load_tower`.

    Raises:
        WeightsError: weights that are missing or do not fit.
    """
    encoder = replace(encoder, tuning="frozen", shared_backbone=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(encoder)
    load_tower([backbone], encoder, setting=setting)
    return backbone.eval()


def use_features(
    choice: str,
    encoder: FrameEncoder,
    tasks: Mapping[str, tuple[Store, Sequence[Reader]]],
    *,
    all_frames: bool = False,
    cache_mb: float,
    device: torch.device,
    threads: int,
    quiet: bool,
    say: Callable[[str], object],
    shared: Shared,
) -> dict[str, Any]:
    """Makes the windows of each task hold stored features instead of pictures.

    Args:
        choice: the value of `train.features`.
        encoder: with its weights.
        all_frames: also of the frames that no action follows.
        cache_mb: 10^6 bytes of features of each task that are kept in memory.

    Returns:
        Task to the store that it learns from, for the provenance; of a fusion to model to store.

    Raises:
        FileNotFoundError, FeaturesError: as `find_features` and `extract`.
    """
    parts = {
        name: (wanted_of(config, backbone), backbone)
        for name, (config, backbone) in encoder.stored_parts().items()
    }
    used = {}
    for task, (store, windows) in tasks.items():
        found = {
            name: find_or_extract(
                choice,
                wanted,
                store,
                backbone,
                device=device,
                threads=threads,
                quiet=quiet,
                say=say,
            )
            for name, (wanted, backbone) in parts.items()
        }
        chosen = [(features, parts[name][0]) for name, features in found.items()]
        read = shared.features(chosen, store, cache_mb=cache_mb, all_frames=all_frames)
        for each in windows:
            each.use_features(read)
        said = {name: _describe_store(features) for name, features in found.items()}
        used[task] = said if encoder.config.fusion is not None else next(iter(said.values()))
    return used


def _describe_store(features: FeatureStore) -> dict[str, Any]:
    return {
        "store": str(features.path),
        "backbone_sha256": features.fingerprint,
        "dtype": features.dtype,
    }


def find_features(where: Path, wanted: Wanted, store: Store) -> FeatureStore:
    """A feature store that serves: `where` itself, or the best one in that folder.

    Raises:
        FileNotFoundError: nothing there.
        FeaturesError: none serves; says why of each.
    """
    remedy = f"make one with `twinbench features extract {store.path}`, or set train.features: auto"
    if not where.is_dir():
        raise FileNotFoundError(f"no feature store {where}: {remedy}")
    if is_feature_store(where):
        found = open_features(where)
        check_serves(found, wanted, store)
        return found
    reasons = []
    paths = [path for path in sorted(where.iterdir()) if is_feature_store(path)]
    for dtype in DTYPES:
        for path in paths:
            try:
                found = open_features(path)
                # Those of a fusion's other models lie in the same folder.
                ours = found.backbone["recipe"]["name"] == wanted.backbone
                if ours and found.dtype == dtype:
                    check_serves(found, wanted, store)
                    return found
            except FeaturesError as error:
                reasons.append(str(error))
    if not reasons:
        kind = f" of {wanted.backbone}" if paths else ""
        raise FeaturesError(f"{where} holds no feature store{kind}: {remedy}")
    raise FeaturesError(f"no feature store in {where} serves:\n  " + "\n  ".join(reasons))


def find_or_extract(
    choice: str,
    wanted: Wanted,
    store: Store,
    backbone: VisionBackbone,
    *,
    device: torch.device,
    threads: int,
    quiet: bool,
    say: Callable[[str], object],
) -> FeatureStore:
    """What `train.features` means: a path that must serve, or with `auto` one made if need be.

    Raises:
        FileNotFoundError, FeaturesError: as `find_features` and `extract`.
    """
    if choice != AUTO:
        return find_features(Path(choice), wanted, store)
    try:
        return find_features(features_folder(store), wanted, store)
    except (FileNotFoundError, FeaturesError) as error:
        # What is there is of other weights, layers or episodes: it stays, or is gone on with.
        if isinstance(error, FeaturesError):
            say(f"{error}\nso features are extracted now")
        held = {wanted.layer: (wanted.readout,)}
        return extract(
            store, backbone, held=held, device=device, threads=threads, quiet=quiet, say=say
        )
