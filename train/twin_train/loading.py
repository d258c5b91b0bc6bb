"""Pictures in bounded memory: decoded once where they fit, else on the fly, and ahead of use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin_train.store import Store, StoredPictures

Made = TypeVar("Made")


class CameraPictures:
    """The pictures of one camera at the transitions of several episodes, laid end to end.

    The first `n_cached` of them stay decoded from their first use on; the others are decoded
    each time, by several threads. What comes out does not depend on that.
    """

    def __init__(
        self,
        pictures: Sequence[StoredPictures],
        lengths: Sequence[int],
        *,
        n_cached: int,
        threads: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            pictures: one for each episode.
            lengths: transitions of each episode: its first so many frames.
            threads: that decode; with one, the caller's does.
            device: where the cache lies, and where pictures are handed out.
        """
        self._pictures = tuple(pictures)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "decoding") if threads > 1 else None
        self._ends = np.cumsum(lengths)
        self.shape = (*self._pictures[0].size, 3)
        self.device = torch.device(device)
        self._cache = torch.empty((n_cached, *self.shape), dtype=torch.uint8, device=device)
        self._filled = np.zeros(n_cached, bool)
        self._is_full = n_cached == 0

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def n_cached(self) -> int:
        """How many of them stay decoded."""
        return len(self._filled)

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """uint8 (*indices.shape, H, W, 3) of these transitions."""
        flat = indices.reshape(-1)
        cached = flat < self.n_cached
        if not self._is_full:
            self._fill(flat[cached])
        if cached.all():
            taken = self._from_cache(flat)
        elif not cached.any():
            taken = torch.from_numpy(self._decoded(flat)).to(self.device)
        elif self.device.type == "cpu":
            pixels = np.empty((len(flat), *self.shape), np.uint8)
            self._decode_unique_into(pixels, np.flatnonzero(~cached), flat[~cached])
            cache = self._cache.numpy()
            for row in np.flatnonzero(cached).tolist():
                pixels[row] = cache[flat[row]]
            taken = torch.from_numpy(pixels)
        else:
            taken = torch.empty((len(flat), *self.shape), dtype=torch.uint8, device=self.device)
            taken[self._on_device(np.flatnonzero(cached))] = self._from_cache(flat[cached])
            decoded = torch.from_numpy(self._decoded(flat[~cached])).to(self.device)
            taken[self._on_device(np.flatnonzero(~cached))] = decoded
        return taken.unflatten(0, indices.shape)

    def _from_cache(self, flat: NDArray[np.int64]) -> Tensor:
        if self.device.type == "cpu":
            # Measured: torch's index_select takes 8 times as long on one thread, and on several
            # waits for all of them, of which a busy machine has none to spare.
            return torch.from_numpy(np.take(self._cache.numpy(), flat, axis=0))
        return self._cache.index_select(0, self._on_device(flat))

    def _on_device(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(indices).to(self.device)

    def _fill(self, wanted: NDArray[np.int64]) -> None:
        missing = np.unique(wanted[~self._filled[wanted]])
        if len(missing):
            if self.device.type == "cpu":
                self._decode_into(self._cache.numpy(), missing, missing)
            else:
                decoded = torch.from_numpy(self._decoded(missing)).to(self.device)
                self._cache[self._on_device(missing)] = decoded
            # Only now: another thread may be looking.
            self._filled[missing] = True
            self._is_full = bool(self._filled.all())

    def _decoded(self, flat: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(flat), *self.shape), np.uint8)
        self._decode_unique_into(pixels, np.arange(len(flat)), flat)
        return pixels

    def _decode_unique_into(
        self, target: NDArray[np.uint8], rows: NDArray[np.int64], flat: NDArray[np.int64]
    ) -> None:
        """Decodes each picture once and copies it to wherever else it is wanted."""
        unique, first, where = np.unique(flat, return_index=True, return_inverse=True)
        self._decode_into(target, rows[first], unique)
        source = rows[first][where.reshape(-1)]
        for row, same in zip(rows.tolist(), source.tolist(), strict=True):
            if row != same:
                target[row] = target[same]

    def _decode_into(
        self, target: NDArray[np.uint8], rows: NDArray[np.int64], flat: NDArray[np.int64]
    ) -> None:
        def decode(part: slice) -> None:
            for row, index in zip(rows[part].tolist(), flat[part].tolist(), strict=True):
                episode = int(np.searchsorted(self._ends, index, side="right"))
                frame = index - (int(self._ends[episode - 1]) if episode else 0)
                target[row] = self._pictures[episode].read(frame)

        if self._pool is None:
            decode(slice(None))
            return
        # One task a picture would cost as much as a small picture's decoding.
        step = max(1, -(-len(flat) // (4 * self._threads)))
        parts = [slice(begin, begin + step) for begin in range(0, len(flat), step)]
        for _ in self._pool.map(decode, parts):
            pass


def open_pictures(
    store: Store,
    *,
    cache_mb: float,
    threads: int,
    device: torch.device | str = "cpu",
    all_frames: bool = False,
) -> dict[str, CameraPictures]:
    """The pictures of all of a store's cameras, which share one budget.

    Args:
        all_frames: also those that no action follows.
        cache_mb: 10^6 bytes of pictures that stay decoded: those of the first episodes.
        threads: that decode.
    """
    lengths = [each.n_frames if all_frames else each.n_transitions for each in store.episodes]
    bytes_each = sum(3 * height * width for height, width in store.cameras.values())
    n_cached = 0
    for length in lengths:
        if (n_cached + length) * bytes_each > cache_mb * 1e6:
            break
        n_cached += length
    return {
        camera: CameraPictures(
            [episode.pictures[camera] for episode in store.episodes],
            lengths,
            n_cached=n_cached,
            threads=threads,
            device=device,
        )
        for camera in store.cameras
    }


def prefetch(
    make: Callable[[int], Made], numbers: Iterable[int], *, ahead: int = 1
) -> Generator[Made, None, None]:
    """`make(number)` for each number, in order, made by a thread while the caller is busy.

    `make` must depend on its number alone: then so does what comes out, however far ahead it was
    made. An exception of `make` is raised where its result would have come.

    Args:
        ahead: results kept ready or in the making; 0: the caller's thread makes them.
    """
    if ahead < 1:
        yield from map(make, numbers)
        return
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, "prefetch") as pool:
        try:
            for number in numbers:
                pending.append(pool.submit(make, number))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
