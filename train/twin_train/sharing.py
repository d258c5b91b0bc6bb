"""What several runs of one process read in common, opened once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from twin_train.conversion import default_store_path, open_or_build_store
from twin_train.dataset import Transitions, read_transitions
from twin_train.features import (
    FeatureStore,
    FrameFeatures,
    SideBySide,
    Wanted,
    read_features,
    side_by_side,
)
from twin_train.store import Size, Store, is_store

Made = TypeVar("Made")
Cameras = Mapping[str, Size]


class Last(Generic[Made]):
    """The last thing made, as long as the same is asked for."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._made: list[Made] = []

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key != self._key or not self._made:
            # Let go first: two of them may not fit in memory.
            self._key, self._made = key, []
            self._made = [make()]
        return self._made[0]


class Shared:
    """Stores of all runs; pictures and features of the last one alone, which take memory."""

    def __init__(self, camera_sets: Mapping[Path, Sequence[Cameras]] | None = None) -> None:
        """`camera_sets`: folder of episodes to the cameras of the stores to make of it; a run
        reads the first one that has what it wants, or a store of its own."""
        self._camera_sets = dict(camera_sets or {})
        self._stores: dict[Hashable, Store] = {}
        self._transitions: Last[Transitions] = Last()
        self._features: Last[dict[str, FrameFeatures | SideBySide]] = Last()

    def store_path(self, source: Path, cameras: Cameras) -> Path:
        """Where the episodes of a folder lie, or will lie, with these cameras."""
        if is_store(source):
            return source
        sets = self._camera_sets.get(source, ())
        wide = next((each for each in sets if cameras.items() <= each.items()), cameras)
        return default_store_path(source, wide)

    def store(
        self,
        source: Path,
        cameras: Cameras,
        *,
        episodes: int | None,
        workers: int,
        quiet: bool,
    ) -> Store:
        """As `open_or_build_store`, which converts what is missing with all cameras of the set."""
        key = (source, tuple(sorted(cameras.items())), episodes)
        if key not in self._stores:
            path = self.store_path(source, cameras)
            sets = self._camera_sets.get(source, ())
            if wide := next((x for x in sets if default_store_path(source, x) == path), None):
                open_or_build_store(
                    source, path, wide, workers=workers, quiet=quiet, episodes=episodes
                )
            self._stores[key] = open_or_build_store(
                source, path, cameras, workers=workers, quiet=quiet, episodes=episodes
            )
        return self._stores[key]

    def transitions(self, store: Store, **options: Any) -> Transitions:
        """As `read_transitions`."""
        key = (store.path, store.fingerprint, *sorted((k, str(v)) for k, v in options.items()))
        return self._transitions.get(key, lambda: read_transitions(store, **options))

    def features(
        self,
        parts: Sequence[tuple[FeatureStore, Wanted]],
        store: Store,
        *,
        cache_mb: float,
        all_frames: bool = False,
    ) -> dict[str, FrameFeatures | SideBySide]:
        """As `read_features` of each store, the maps of several side by side."""
        stores = tuple((features.path, wanted) for features, wanted in parts)
        key = (stores, store.path, store.fingerprint, cache_mb, all_frames)

        def read() -> dict[str, FrameFeatures | SideBySide]:
            share = cache_mb / len(parts)
            return side_by_side(
                [
                    read_features(features, wanted, store, cache_mb=share, all_frames=all_frames)
                    for features, wanted in parts
                ]
            )

        return self._features.get(key, read)

    def release(self) -> None:
        """Lets go of what takes memory."""
        self._transitions, self._features = Last(), Last()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
