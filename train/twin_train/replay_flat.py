"""Flat files of transitions, as D4RL and others keep them: one row a step, cut into episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_fields import EpisodeFileError, opened
from twin_env.names import unknown

CAMERAS = {"global": "head_camera", "left": "left_camera", "right": "right_camera"}
"""Our word for an array of pictures -> the camera that it becomes."""
PICTURES = tuple(CAMERAS)
NEXT = "next_"
NAMES: Mapping[str, tuple[str, ...]] = {
    "global": ("global_images", "global_image", "global_imgs", "global_img", "images/global"),
    "left": ("left_images", "left_image", "left_imgs", "left_img", "images/left"),
    "right": ("right_images", "right_image", "right_imgs", "right_img", "images/right"),
    "joint": ("joints", "joint", "joint_states", "joint_state", "qpos", "proprio"),
    "action": ("actions", "action"),
    "reward": ("rewards", "reward"),
    "terminal": ("terminals", "terminal", "dones", "done"),
    "timeout": ("timeouts", "timeout", "truncateds", "truncated"),
}
"""Our word -> what others call it, in the file or in its group `observations`; what comes after a
step has the same names with `next_` before them, or in `next_observations`."""
NEEDED = ("joint", "action", "reward", "terminal")
PIECE = 64
"""Pictures that are in memory unpacked at once."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Span:
    """The rows of one episode."""

    first: int
    last: int
    """Inclusive."""
    terminal: bool
    """Whether its last row is; else the recording was cut off."""

    @property
    def n_rows(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class FlatFile:
    """What a file holds; its pictures stay there."""

    path: Path
    fields: Mapping[str, str]
    """Our word -> the field."""
    joint: NDArray[np.float64]
    """(N, Da)."""
    action: NDArray[np.float64]
    """(N, Da)."""
    reward: NDArray[np.float32]
    """(N,)."""
    spans: Sequence[Span]
    remarks: Sequence[str] = field(default=())

    @property
    def has_next(self) -> bool:
        """Whether the file says what came after each step, pictures included."""
        words = ["joint", *(word for word in PICTURES if word in self.fields)]
        return all(f"{NEXT}{word}" in self.fields for word in words)

    def joints_after(self, row: int) -> NDArray[np.float64]:
        """(Da,), where the file says so."""
        with opened(self.path) as file:
            return np.asarray(file[self.fields[f"{NEXT}joint"]][row], np.float64)

    def pictures(self, word: str, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """Rows `first` to `last` of an array of pictures, one by one: uint8 (H, W, 3), RGB."""
        field = self.fields[word]
        with opened(self.path) as file:
            held = file[field]
            for start in range(first, last + 1, PIECE):
                piece = _as_pictures(self.path, field, held[start : min(start + PIECE, last + 1)])
                yield from piece


def read_flat(path: Path, names: Mapping[str, str] = {}) -> FlatFile:
    """Reads all but the pictures.

    Args:
        names: our word -> the file's field, before the usual names.

    Raises:
        FileNotFoundError: no such file.
        EpisodeFileError: a field is missing, of another length or kind.
        ValueError: a word that we do not know.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    words = [*NAMES, *(f"{NEXT}{word}" for word in (*PICTURES, "joint"))]
    for word in names:
        if word not in words:
            raise unknown("name in --map", word, words)
    with opened(path) as file:
        fields = _find_fields(path, file, names)
        joint = _numbers(path, file, fields["joint"], 2)
        action = _numbers(path, file, fields["action"], 2)
        reward = _numbers(path, file, fields["reward"], 1)
        n = len(joint)
        for word, name in fields.items():
            if len(file[name]) != n:
                raise EpisodeFileError(
                    path, name, f"has {len(file[name])} rows, {fields['joint']} {n}"
                )
            if word.removeprefix(NEXT) in PICTURES:
                _check_pictures(path, name, file[name])
        if action.shape != joint.shape:
            raise EpisodeFileError(
                path,
                fields["action"],
                f"must be absolute joint targets in the order of {fields['joint']}, {joint.shape}, "
                f"and is {action.shape}",
            )
        terminal = _flags(path, file, fields["terminal"])
        timeout = _flags(path, file, fields["timeout"]) if "timeout" in fields else None
    spans, remarks = cut(terminal, timeout)
    return FlatFile(path, fields, joint, action, reward.astype(np.float32), spans, remarks)


def cut(terminal: Bools, timeout: Bools | None) -> tuple[list[Span], list[str]]:
    """The episodes in rows of flags (N,), and what is to be said of how they were found."""
    ends = terminal if timeout is None else terminal | timeout
    remarks = []
    if timeout is None:
        remarks.append("the file has no timeouts: episodes end at terminals alone")
    lasts = np.flatnonzero(ends).tolist()
    if not lasts or lasts[-1] != len(terminal) - 1:
        lasts.append(len(terminal) - 1)
        remarks.append("the last row ends no episode: it was cut off there")
    firsts = [0, *(last + 1 for last in lasts[:-1])]
    spans = [
        Span(first, last, bool(terminal[last])) for first, last in zip(firsts, lasts, strict=True)
    ]
    return spans, remarks


def _find_fields(path: Path, file: h5py.File, names: Mapping[str, str]) -> dict[str, str]:
    fields = {}
    for word, usual in NAMES.items():
        places = [place for name in usual for place in (name, f"observations/{name}")]
        after = [
            place for name in usual for place in (f"{NEXT}{name}", f"next_observations/{name}")
        ]
        wanted = {word: places}
        if word in (*PICTURES, "joint"):
            wanted[f"{NEXT}{word}"] = after
        for ours, found_at in wanted.items():
            candidates = [names[ours]] if ours in names else found_at
            found = [name for name in candidates if isinstance(file.get(name), h5py.Dataset)]
            if found:
                fields[ours] = found[0]
            elif ours in names:
                raise EpisodeFileError(path, names[ours], f"missing: {_held(file)}")
    if lacking := [word for word in NEEDED if word not in fields]:
        raise EpisodeFileError(
            path,
            lacking[0],
            f"missing: say what it is called, --map {lacking[0]}=NAME; {_held(file)}",
        )
    if not any(word in fields for word in PICTURES):
        words = ", ".join(PICTURES)
        raise EpisodeFileError(
            path, "pictures", f"none of {words} is there: --map global=NAME; {_held(file)}"
        )
    return fields


def _held(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return f"the file holds {', '.join(sorted(names)) or 'nothing'}"


def _numbers(path: Path, file: h5py.File, name: str, ndim: int) -> NDArray[np.float64]:
    held = file[name]
    if held.dtype.kind not in "fiu":
        raise EpisodeFileError(path, name, f"must hold numbers, and is {held.dtype}")
    values = np.asarray(held[()], np.float64)
    if ndim == 1 and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != ndim or 0 in values.shape:
        rule = "(N, joints)" if ndim == 2 else "(N,)"
        raise EpisodeFileError(path, name, f"must have shape {rule}, and has {values.shape}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise EpisodeFileError(path, name, f"is not finite in row {row}")
    return values


def _flags(path: Path, file: h5py.File, name: str) -> Bools:
    held = np.asarray(file[name][()])
    held = held[:, 0] if held.ndim == 2 and held.shape[1] == 1 else held
    if held.ndim != 1 or held.dtype.kind not in "biuf" or not np.isin(held, (0, 1)).all():
        raise EpisodeFileError(path, name, "must be true or false (0 or 1) in each row")
    return held.astype(bool)


def _check_pictures(path: Path, name: str, held: h5py.Dataset) -> None:
    if held.ndim != 4 or 3 not in (held.shape[1], held.shape[3]) or held.dtype.kind not in "uf":
        raise EpisodeFileError(
            path,
            name,
            "must be pictures (N, H, W, 3) or (N, 3, H, W), uint8 or reals in [0, 1], and is "
            f"{held.dtype} {held.shape}",
        )


def _as_pictures(path: Path, name: str, values: Any) -> NDArray[np.uint8]:
    """uint8 (n, H, W, 3)."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            span = f"{array.min():g} to {array.max():g}"
            raise EpisodeFileError(path, name, f"real pictures must be in [0, 1], and are {span}")
        array = np.round(array * 255)
    if array.shape[3] != 3:
        array = np.moveaxis(array, 1, 3)
    return np.ascontiguousarray(array, np.uint8)
