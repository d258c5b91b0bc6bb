"""Episode files: RoboTwin's stable and main layouts read, the stable one also written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_fields import EpisodeFileError, opened
from twin_env.episodes_folders import episode_number, list_episodes
from twin_env.episodes_layouts import (
    Layout,
    check_pictures,
    find_pictures,
    is_plain,
    layout_of,
    read_instructions,
    read_main_joints,
    read_stable_joints,
)
from twin_env.episodes_pictures import decode_rgb, encode_recorded
from twin_env.names import unknown

__all__ = [
    "Episode",
    "EpisodeFileError",
    "episode_number",
    "list_episodes",
    "read_episode",
    "write_episode",
]


@dataclass(frozen=True)
class Episode:
    """One recorded episode; its pictures stay compressed in the file until asked for."""

    path: Path
    layout: Layout
    vector: NDArray[np.float64]
    """(T, Da) joint drive targets in rad, grippers in [0, 1] with 1 open."""
    action: NDArray[np.float64]
    """(n, Da): what follows each of the first n frames. The stable layout has one frame more than
    actions, the main layout drops that frame and stores the actions."""
    left_arm: int
    """Joints without the gripper; vector = [left arm, left gripper, right arm, right gripper]."""
    right_arm: int
    cameras: tuple[str, ...]
    """Sorted names, such as `head_camera`."""
    image_shapes: Mapping[str, tuple[int, int, int]]
    """(H, W, 3) of each camera."""
    image_fields: Mapping[str, str]
    """Where the file keeps each camera's pictures."""
    instructions: tuple[str, ...]

    @property
    def n_frames(self) -> int:
        return len(self.vector)

    @property
    def n_transitions(self) -> int:
        return len(self.action)

    @property
    def has_own_actions(self) -> bool:
        """Whether `action` is stored, and not the next vector."""
        return self.layout == "main"

    def shape_of(self, camera: str) -> tuple[int, int, int]:
        """(H, W, 3) of a camera's pictures.

        Raises:
            EpisodeFileError: no such camera; the nearest match is named.
        """
        if camera not in self.image_shapes:
            field = "observation/{}/rgb" if self.layout == "stable" else "vision/{}/colors"
            reason = str(unknown("camera", camera, self.cameras))
            raise EpisodeFileError(self.path, field.format(camera), reason)
        return self.image_shapes[camera]

    def rgb(self, camera: str, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Pictures of one camera: uint8 (n, H, W, 3), true RGB.

        Raises:
            EpisodeFileError: no such camera, or a picture that does not decode.
        """
        shape = self.shape_of(camera)
        chosen = range(self.n_frames) if indices is None else indices
        pictures = np.empty((len(chosen), *shape), np.uint8)
        stored = self.stored_pictures(camera)
        for row, frame in enumerate(chosen):
            pictures[row] = self.decode(camera, frame, stored[frame])
        return pictures

    def each_rgb(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        """The pictures of one camera in order, decoded one at a time: uint8 (H, W, 3), RGB."""
        for frame, stored in enumerate(self.stored_pictures(camera)):
            yield self.decode(camera, frame, stored)

    def stored_pictures(self, camera: str) -> list[bytes | NDArray[np.uint8]]:
        """As they are in the file: JPEG bytes, or uint8 (H, W, 3) where it keeps plain arrays."""
        self.shape_of(camera)
        field = self.image_fields[camera]
        with opened(self.path) as file:
            try:
                stored = file[field][()]
            except (OSError, KeyError) as error:
                raise EpisodeFileError(self.path, field, f"unreadable ({error})") from error
        return [_as_stored(picture) for picture in stored]

    def decode(
        self, camera: str, frame: int, stored: bytes | NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """One of `stored_pictures` as uint8 (H, W, 3), true RGB."""
        if not isinstance(stored, bytes):
            return stored
        shape = self.image_shapes[camera]
        return _decode(self.path, f"{self.image_fields[camera]}[{frame}]", stored, shape)


def read_episode(path: str | Path) -> Episode:
    """Opens and checks one episode; of its pictures only the first of each camera is decoded.

    Raises:
        FileNotFoundError: no such file.
        EpisodeFileError: not HDF5, truncated, a missing field, lengths that disagree, NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no episode file {path}")
    with opened(path) as file:
        layout = layout_of(file)
        read_joints = read_stable_joints if layout == "stable" else read_main_joints
        joints = read_joints(path, file)
        fields = find_pictures(path, file, layout)
        shapes = {
            camera: _read_image_shape(path, file, field, layout, n_frames=len(joints.vector))
            for camera, field in fields.items()
        }
        instructions = read_instructions(path, file, layout)
    return Episode(
        path=path,
        layout=layout,
        vector=joints.vector,
        action=joints.vector[1:] if joints.action is None else joints.action,
        left_arm=joints.left_arm,
        right_arm=joints.right_arm,
        cameras=tuple(fields),
        image_shapes=shapes,
        image_fields=fields,
        instructions=instructions,
    )


def write_episode(path: str | Path, frames: Sequence[Mapping[str, Any]]) -> None:
    """Writes live observations, as `TaskEnv.get_obs` returns them, whole or not at all.

    RGB arrays go to `cv2.imencode` unconverted, as RoboTwin does, so that `cv2.imdecode` gives
    RGB back.

    Raises:
        ValueError: no frames, or a field whose shape changes.
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
            if len({np.shape(value) for value in values}) > 1:
                raise ValueError(
                    f"{name} changes its shape from frame to frame, and an episode keeps one array "
                    "of it; a point cloud has always as many points with pcd_down_sample_num > 0"
                )
            group.create_dataset(name, data=np.asarray(values))


def _encode_jpegs(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.bytes_]:
    encoded = [encode_recorded(picture) for picture in pictures]
    return np.array(encoded, dtype=f"S{max(map(len, encoded))}")


def _as_stored(picture: Any) -> bytes | NDArray[np.uint8]:
    if isinstance(picture, bytes):
        return picture
    array = np.asarray(picture, np.uint8)
    return array.tobytes() if array.ndim == 1 else array


def _decode(
    path: Path, field: str, jpeg: bytes, shape: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
    picture = decode_rgb(jpeg)
    if picture is None:
        raise EpisodeFileError(path, field, f"{len(jpeg)} bytes that are no JPEG picture")
    if shape is not None and picture.shape != shape:
        raise EpisodeFileError(path, field, f"is {picture.shape}, the first picture is {shape}")
    return picture


def _read_image_shape(
    path: Path, file: h5py.File, field: str, layout: Layout, *, n_frames: int
) -> tuple[int, int, int]:
    found = check_pictures(path, file, field, layout=layout, n_frames=n_frames)
    if is_plain(found):
        height, width, channels = found.shape[1:]
    else:
        first = _as_stored(found[0])
        assert isinstance(first, bytes)
        height, width, channels = _decode(path, f"{field}[0]", first, None).shape
    return height, width, channels
