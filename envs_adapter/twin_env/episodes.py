"""Episode files: RoboTwin's stable HDF5 layout, written and read with every field checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from twin_env.names import unknown

EPISODE_NAME = re.compile(r"episode(\d+)\.hdf5")
JOINT_FIELDS = ("left_arm", "left_gripper", "right_arm", "right_gripper")
"""In the order in which they make up `joint_action/vector`."""


class EpisodeFileError(ValueError):
    """A file is not an episode; the message names the file and the field."""

    def __init__(self, path: Path, field: str, reason: str) -> None:
        super().__init__(f"{path}: {field}: {reason}")
        self.path = path
        self.field = field


@dataclass(frozen=True)
class Episode:
    """One recorded episode; its pictures stay compressed in the file until asked for."""

    path: Path
    vector: NDArray[np.float64]
    """(T, Da) joint drive targets in rad, grippers in [0, 1] with 1 open."""
    cameras: tuple[str, ...]
    """Sorted names, such as `head_camera`."""
    image_shapes: Mapping[str, tuple[int, int, int]]
    """(H, W, 3) of each camera."""

    @property
    def n_frames(self) -> int:
        return len(self.vector)

    def shape_of(self, camera: str) -> tuple[int, int, int]:
        """(H, W, 3) of a camera's pictures.

        Raises:
            EpisodeFileError: no such camera; the nearest match is named.
        """
        if camera not in self.image_shapes:
            reason = str(unknown("camera", camera, self.cameras))
            raise EpisodeFileError(self.path, f"observation/{camera}/rgb", reason)
        return self.image_shapes[camera]

    def rgb(self, camera: str, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Pictures of one camera: uint8 (n, H, W, 3), true RGB.

        Raises:
            EpisodeFileError: no such camera, or a picture that does not decode.
        """
        shape = self.shape_of(camera)
        chosen = range(self.n_frames) if indices is None else indices
        pictures = np.empty((len(chosen), *shape), np.uint8)
        for row, (frame, jpeg) in enumerate(zip(chosen, self._jpegs(camera, chosen), strict=True)):
            pictures[row] = _decode(self.path, camera, frame, jpeg, shape)
        return pictures

    def each_rgb(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        """The pictures of one camera in order, decoded one at a time: uint8 (H, W, 3), RGB."""
        shape = self.shape_of(camera)
        for frame, jpeg in enumerate(self._jpegs(camera, range(self.n_frames))):
            yield _decode(self.path, camera, frame, jpeg, shape)

    def _jpegs(self, camera: str, chosen: Sequence[int]) -> list[bytes]:
        field = f"observation/{camera}/rgb"
        with _opened(self.path) as file:
            try:
                stored = file[field][()]
            except (OSError, KeyError) as error:
                raise EpisodeFileError(self.path, field, f"unreadable ({error})") from error
        return [stored[i] for i in chosen]


def list_episodes(folder: str | Path) -> list[Path]:
    """The episode files in `folder` or `folder/data`, in the order of their numbers.

    Raises:
        FileNotFoundError: there are none.
    """
    found: list[tuple[int, Path]] = []
    for place in (Path(folder), Path(folder) / "data"):
        if place.is_dir():
            for path in place.iterdir():
                if match := EPISODE_NAME.fullmatch(path.name):
                    found.append((int(match[1]), path))
        if found:
            return [path for _, path in sorted(found)]
    raise FileNotFoundError(
        f"no episode*.hdf5 in {folder} or {Path(folder) / 'data'}: "
        "record some with `twinbench collect TASK --episodes 50`"
    )


def read_episode(path: str | Path) -> Episode:
    """Opens and checks one episode; of its pictures only the first of each camera is decoded.

    Raises:
        FileNotFoundError: no such file.
        EpisodeFileError: not HDF5, truncated, a missing field, lengths that disagree, NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no episode file {path}")
    with _opened(path) as file:
        vector = _read_joints(path, file)
        cameras = _read_group(path, file, "observation")
        if not cameras:
            raise EpisodeFileError(path, "observation", "holds no camera")
        shapes = {
            camera: _read_image_shape(path, file, camera, n_frames=len(vector))
            for camera in cameras
        }
    return Episode(path=path, vector=vector, cameras=tuple(cameras), image_shapes=shapes)


def write_episode(path: str | Path, frames: Sequence[Mapping[str, Any]]) -> None:
    """Writes live observations, as `TaskEnv.get_obs` returns them, whole or not at all.

    RGB arrays go to `cv2.imencode` unconverted, as RoboTwin does, so that `cv2.imdecode` gives
    RGB back.

    Raises:
        ValueError: no frames.
    """
    path = Path(path)
    if not frames:
        raise ValueError(f"an episode needs at least one frame, and {path.name} got none")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            _write_group(file, frames)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_group(group: h5py.Group, frames: Sequence[Mapping[str, Any]]) -> None:
    for name, first in frames[0].items():
        values = [frame[name] for frame in frames]
        if isinstance(first, Mapping):
            _write_group(group.create_group(name), values)
        elif name.endswith("rgb"):
            group.create_dataset(name, data=_encode_jpegs(values))
        else:
            group.create_dataset(name, data=np.asarray(values))


def _encode_jpegs(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.bytes_]:
    encoded: list[bytes] = []
    for picture in pictures:
        done, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture))
        if not done:
            raise ValueError(f"no JPEG of a picture of shape {np.shape(picture)}")
        encoded.append(jpeg.tobytes())
    return np.array(encoded, dtype=f"S{max(map(len, encoded))}")


def _decode(
    path: Path, camera: str, frame: int, jpeg: bytes, shape: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
    field = f"observation/{camera}/rgb[{frame}]"
    data = np.frombuffer(jpeg, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise EpisodeFileError(path, field, f"{data.size} bytes that are no JPEG picture")
    if shape is not None and picture.shape != shape:
        raise EpisodeFileError(path, field, f"is {picture.shape}, the first picture is {shape}")
    return np.asarray(picture, np.uint8)


def _read_image_shape(
    path: Path, file: h5py.File, camera: str, *, n_frames: int
) -> tuple[int, int, int]:
    field = f"observation/{camera}/rgb"
    dataset = _dataset(path, file, field)
    if dataset.dtype.kind != "S" or dataset.ndim != 1:
        raise EpisodeFileError(
            path, field, f"must be JPEG bytes, dtype S (T,), and is {dataset.dtype} {dataset.shape}"
        )
    _check_length(path, field, len(dataset), n_frames)
    height, width, channels = _decode(path, camera, 0, dataset[0], None).shape
    return height, width, channels


def _read_joints(path: Path, file: h5py.File) -> NDArray[np.float64]:
    vector = _read_numbers(path, file, "joint_action/vector")
    if vector.ndim != 2 or 0 in vector.shape:
        raise EpisodeFileError(
            path, "joint_action/vector", f"must have shape (T, Da), and has {vector.shape}"
        )
    width = 0
    for name in JOINT_FIELDS:
        field = f"joint_action/{name}"
        values = _read_numbers(path, file, field)
        _check_length(path, field, len(values), len(vector))
        width += values[0].size
    if width != vector.shape[1]:
        raise EpisodeFileError(
            path, "joint_action/vector", f"is {vector.shape[1]} wide, its parts together {width}"
        )
    return vector


def _read_numbers(path: Path, file: h5py.File, field: str) -> NDArray[np.float64]:
    dataset = _dataset(path, file, field)
    if dataset.dtype.kind not in "fiu" or dataset.ndim == 0:
        raise EpisodeFileError(path, field, f"must hold numbers, and is {dataset.dtype}")
    values = np.asarray(dataset[()], np.float64)
    if not np.isfinite(values).all():
        frame = int(np.argwhere(~np.isfinite(values))[0][0])
        raise EpisodeFileError(path, field, f"is not finite at frame {frame}")
    return values


def _check_length(path: Path, field: str, length: int, n_frames: int) -> None:
    if length != n_frames:
        raise EpisodeFileError(path, field, f"has {length} frames, joint_action/vector {n_frames}")


def _dataset(path: Path, file: h5py.File, field: str) -> h5py.Dataset:
    found = file.get(field)
    if not isinstance(found, h5py.Dataset):
        raise EpisodeFileError(path, field, "missing: not an episode in RoboTwin's stable layout")
    return found


def _read_group(path: Path, file: h5py.File, field: str) -> list[str]:
    found = file.get(field)
    if not isinstance(found, h5py.Group):
        raise EpisodeFileError(path, field, "missing: not an episode in RoboTwin's stable layout")
    return sorted(found)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise EpisodeFileError(
            path, "file", f"is not a whole HDF5 file; delete it and record it again ({error})"
        ) from error
    with file:
        yield file
