"""Episode files to a dataset store: in parallel, and resumable after a kill."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from twin_env.episodes import (
    Episode,
    EpisodeFileError,
    episode_number,
    list_episodes,
    read_episode,
)
from twin_env.episodes_pictures import color_kind
from twin_env.files import LOCK_NAME, FolderInUseError, locked
from twin_env.workers import Done, WorkerPool
from twin_policy.images import resize_rgb
from twin_train.store import (
    EPISODES,
    FORMAT,
    FORMAT_VERSION,
    Codec,
    Size,
    Store,
    StoreError,
    check_cameras,
    count_kinds,
    episode_folders,
    is_store,
    open_store,
    read_header,
)
from twin_train.zarr_files import read_attributes, write_array, write_group

WORTH_A_PROCESS = 400
"""Pictures that a worker should have to convert, to be worth the second that it takes to start."""


def default_store_path(source: Path, cameras: Mapping[str, Size]) -> Path:
    """Beside the folder of episodes, with the sizes in its name."""
    folder = source.parent if source.name == "data" else source
    sizes = [f"{camera}-{size[0]}x{size[1]}" for camera, size in sorted(cameras.items())]
    return folder.with_name(f"{folder.name}.{'+'.join(sizes) or 'state'}.zarr")


def open_or_build_store(
    source: Path,
    store_path: Path | None,
    cameras: Mapping[str, Size],
    *,
    workers: int,
    quiet: bool,
    episodes: int | None = None,
) -> Store:
    """The store of a folder of episodes; what is missing in it is converted first.

    Args:
        source: a folder of episodes, or a store, which is used as it is.
        store_path: by default beside the episodes.
        cameras: camera to the (H, W) wanted; a store may hold more cameras than these.
        workers: processes.
        episodes: the first so many; all by default.

    Raises:
        FileNotFoundError: no episodes.
        EpisodeFileError: a faulty file, a missing camera, too short an episode, or one that
            disagrees with the first in joints or picture sizes.
        StoreError: the store holds other sizes, or what an episode file held before it changed.
    """
    if is_store(source):
        store = open_store(source).select(cameras=cameras)
        store = store.select(numbers=[each.number for each in store.episodes[:episodes]])
    else:
        paths = list_episodes(source)[:episodes]
        target = store_path or default_store_path(source, cameras)
        convert(paths, target, cameras, workers=workers, quiet=quiet)
        numbers = [number_of(path) for path in paths]
        store = open_store(target).select(cameras=cameras, numbers=numbers)
    store.check_alike()
    return store


def number_of(path: Path) -> int:
    number = episode_number(path)
    assert number is not None, path
    return number


@dataclass(frozen=True)
class Conversion:
    """What a worker is told; picklable."""

    store: Path
    cameras: Mapping[str, Size]


def convert(
    paths: Sequence[Path],
    target: Path,
    cameras: Mapping[str, Size],
    *,
    workers: int,
    quiet: bool,
) -> None:
    """Writes those of the episodes that `target` does not hold yet.

    Raises:
        EpisodeFileError: a faulty file; the episodes finished before it stay.
        StoreError: `target` holds other sizes, or what an episode file held before it changed.
    """
    first = read_episode(paths[0])
    for camera in cameras:
        first.shape_of(camera)
    target.mkdir(parents=True, exist_ok=True)
    if _is_whole(target, paths, cameras):
        # Several processes may read at once; the lock is for writing.
        return
    try:
        with locked(target):
            held = _prepare(target, cameras, embodiment=find_embodiment(paths[0]))
            done = episode_folders(target)
            missing = [path for path in paths if number_of(path) not in done]
            for path in paths:
                if number_of(path) in done:
                    _check_unchanged(path, done[number_of(path)], target)
            pictures = first.n_frames * len(held) * len(missing)
            workers = max(1, min(workers, len(missing), pictures // WORTH_A_PROCESS))
            _convert_missing(missing, Conversion(target, held), workers=workers, quiet=quiet)
    except FolderInUseError as error:
        raise StoreError(f"{target} is being written by another process: wait for it") from error


def _is_whole(target: Path, paths: Sequence[Path], cameras: Mapping[str, Size]) -> bool:
    """Whether `target` holds these episodes, all of them, as they are."""
    if not is_store(target):
        return False
    check_cameras(target, _held_cameras(target), cameras)
    done = episode_folders(target)
    if any(number_of(path) not in done for path in paths):
        return False
    for path in paths:
        _check_unchanged(path, done[number_of(path)], target)
    return True


def _held_cameras(target: Path) -> dict[str, Size]:
    return {name: (size[0], size[1]) for name, size in read_header(target)["cameras"].items()}


def _prepare(target: Path, cameras: Mapping[str, Size], *, embodiment: str) -> dict[str, Size]:
    """Creates the store, or checks that it is one for these cameras; returns those it holds."""
    for left_over in (target / EPISODES).glob(".*.part"):
        shutil.rmtree(left_over)
    if is_store(target):
        held = _held_cameras(target)
        check_cameras(target, held, cameras)
        return held
    foreign = {each.name for each in target.iterdir()} - {LOCK_NAME, ".zgroup", EPISODES}
    if foreign:
        raise StoreError(f"{target} is no store of ours, it holds {min(foreign)}: give another")
    write_group(target / EPISODES, {})
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "embodiment": embodiment,
        "cameras": {camera: list(size) for camera, size in sorted(cameras.items())},
    }
    write_group(target, header)
    return {camera: (size[0], size[1]) for camera, size in cameras.items()}


def find_embodiment(path: Path) -> str:
    """The robot's name: the main layout's folder, or the log that `twinbench collect` leaves."""
    folder = path.parent.parent if path.parent.name == "data" else path.parent
    log = folder / "collection.json"
    if log.is_file():
        config = json.loads(log.read_text(encoding="utf-8")).get("config", {})
        return "+".join(map(str, config.get("embodiment", [])))
    return folder.name if re.fullmatch(r"episode_\d+\.hdf5", path.name) else ""


def _check_unchanged(path: Path, folder: Path, target: Path) -> None:
    """Raises `StoreError` if the file is not the one converted.

    It is read again only where its size is the same and its time is not.
    """
    about = read_attributes(folder)
    status = path.stat()
    same_size = about["source"] == path.name and about["size"] == status.st_size
    same_time = about["mtime_ns"] == status.st_mtime_ns
    if same_size and (same_time or about["sha256"] == sha256_of(path)):
        return
    raise StoreError(
        f"{path} is not the file that {target} was made of: delete {folder} to convert it again, "
        "or give another store"
    )


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _convert_missing(
    paths: Sequence[Path], conversion: Conversion, *, workers: int, quiet: bool
) -> None:
    # A terminal is redrawn often; a log file gets a line now and then.
    interval_s = 0.3 if sys.stderr.isatty() else 15.0
    with tqdm(
        total=len(paths),
        desc="converting",
        unit="episode",
        disable=quiet or not paths,
        mininterval=interval_s,
    ) as bar:
        if workers == 1:
            for path in paths:
                convert_episode(conversion, path)
                bar.update()
            return
        job = functools.partial(_convert_job, conversion)
        with WorkerPool(workers, job, end_gently=True) as pool:
            for path, outcome in pool.run(paths):
                if not isinstance(outcome, Done):
                    raise StoreError(f"{path} was not converted: {outcome}: run the command again")
                if isinstance(outcome.value, EpisodeFileError):
                    raise outcome.value
                bar.update()


def _convert_job(conversion: Conversion, path: Path) -> EpisodeFileError | None:
    try:
        convert_episode(conversion, path)
    except EpisodeFileError as error:
        return error
    return None


def convert_episode(conversion: Conversion, path: Path) -> None:
    """Writes one episode under a temporary name, and renames it when it is whole."""
    number = number_of(path)
    episode = read_episode(path)
    status = path.stat()
    folder = conversion.store / EPISODES
    temporary = folder / f".{number:06d}.{os.getpid()}.part"
    cameras = {
        camera: compress_pictures(episode, camera, size)
        for camera, size in conversion.cameras.items()
    }
    write_array(temporary / "vector", episode.vector)
    if episode.has_own_actions:
        write_array(temporary / "action", episode.action)
    for camera, compressed in cameras.items():
        write_array(temporary / camera / "frames", compressed.frames)
        write_array(temporary / camera / "offsets", compressed.offsets)
        write_group(temporary / camera, {})
    write_group(
        temporary,
        {
            "number": number,
            "source": path.name,
            "sha256": sha256_of(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "layout": episode.layout,
            "left_arm": episode.left_arm,
            "right_arm": episode.right_arm,
            "n_frames": episode.n_frames,
            "cameras": {camera: compressed.about for camera, compressed in cameras.items()},
        },
    )
    os.replace(temporary, folder / f"{number:06d}")


@dataclass(frozen=True)
class Compressed:
    """The pictures of one camera."""

    frames: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    about: dict[str, Any]


def compress_pictures(episode: Episode, camera: str, size: Size) -> Compressed:
    """All frames of a camera; every one is decoded, so that a damaged picture is found now."""
    from numcodecs import Blosc

    shape = episode.shape_of(camera)
    stored = episode.stored_pictures(camera)
    keep = shape[:2] == tuple(size) and all(isinstance(each, bytes) for each in stored)
    codec: Codec = "jpeg" if keep else "blosc"
    # Measured on 96x128 pictures: zstd makes them a quarter smaller and takes twice as long to
    # decode; shuffling pixels of three interleaved colours makes them larger.
    blosc = Blosc(cname="lz4", clevel=5, shuffle=Blosc.NOSHUFFLE)
    parts, kinds = [], []
    for frame, picture in enumerate(stored):
        kinds.append(color_kind(picture) if isinstance(picture, bytes) else "plain")
        pixels = episode.decode(camera, frame, picture)
        if isinstance(picture, bytes) and keep:
            parts.append(picture)
        else:
            parts.append(bytes(blosc.encode(resize_rgb(pixels, size))))
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    about = {
        "codec": codec,
        "size": list(size),
        "source_shape": list(shape),
        "color_kinds": count_kinds(kinds),
    }
    return Compressed(np.frombuffer(b"".join(parts), np.uint8), ends, about)
