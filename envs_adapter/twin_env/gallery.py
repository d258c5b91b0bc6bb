"""A contact sheet of the embedded simulator's tasks: each before and during its expert's work."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twin_env.backends import list_tasks, make_env
from twin_env.camera_types import CameraType
from twin_env.files import replacing
from twin_env.names import unknown
from twin_env.task_env import UnstableError

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

SHEET_PX = 1600
COLUMNS = 3
GAP_PX = 4
MARGIN_PX = 16
LABEL_PX = 34
ASPECT = 4 / 3
SAMPLES = 2
"""Rendered so many times larger each way, then averaged: edges without steps."""
SEEDS_TRIED = 20


@dataclass(frozen=True)
class Shot:
    """How a task is best shown."""

    moment: float = 0.95
    """Share of the expert's work at the second picture; the first shows the beginning."""
    at_m: tuple[float, float, float] = (0.58, 0.74, 1.30)
    looks_at_m: tuple[float, float, float] = (0.0, -0.10, 0.86)
    fovy_rad: float = 0.62


SHOTS = {
    "click_bell": Shot(moment=0.76, fovy_rad=0.5),
    "dump_bin_bigbin": Shot(
        at_m=(0.42, 0.86, 1.60), looks_at_m=(-0.20, -0.06, 0.80), fovy_rad=0.74
    ),
    "handover_block": Shot(moment=0.67, looks_at_m=(0.0, -0.02, 0.86)),
    "place_empty_cup": Shot(moment=0.99),
    "shake_bottle": Shot(moment=0.5),
    "shake_bottle_strict": Shot(moment=0.5),
    "stack_blocks_two": Shot(moment=0.99),
}


@dataclass(frozen=True)
class Tiles:
    """One task in one config."""

    seed: int
    """The first from the one asked for on which the expert succeeded."""
    pictures: tuple[Picture, Picture]


def telling_tasks() -> list[str]:
    """The tasks that look different from each other: no stricter rules on the same scene."""
    tasks = list_tasks()
    return [task for task in tasks if not task.endswith("_strict")]


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ValueError, with the nearest match, for a task that there is not."""
    for task in tasks:
        if task not in list_tasks():
            raise unknown("task", task, list_tasks())


def tile_size_px(tasks: int) -> tuple[int, int]:
    """Width and height of a tile, which fill the sheet's width."""
    columns = min(COLUMNS, tasks)
    width = (SHEET_PX - 2 * MARGIN_PX - (columns - 1) * MARGIN_PX) / columns
    tile = int((width - GAP_PX) / 2)
    return tile, round(tile / ASPECT)


def photograph(
    task: str, config: Mapping[str, Any], *, seed: int, size_px: tuple[int, int]
) -> Tiles:
    """Pictures of the beginning and of the task's telling moment, on the first seed from `seed` on
    which the expert succeeds.

    Raises:
        RuntimeError: none of `SEEDS_TRIED` seeds was.
    """
    env: Any = make_env(task)
    for tried in range(seed, seed + SEEDS_TRIED):
        try:
            env.setup_demo(seed=tried, render=False, **config)
        except UnstableError:
            continue
        env.play_once()
        if env.plan_success and env.check_success():
            pictures = _pictures(env, config, seed=tried, size_px=size_px)
            env.close_env()
            return Tiles(tried, pictures)
    raise RuntimeError(
        f"{task}: the expert failed on all of seeds {seed} to {seed + SEEDS_TRIED - 1}; "
        "give another --seed"
    )


def _pictures(
    env: Any, config: Mapping[str, Any], *, seed: int, size_px: tuple[int, int]
) -> tuple[Picture, Picture]:
    """The same episode again, now seen: the expert does the same as without pictures."""
    shot = SHOTS.get(type(env).__name__, Shot())
    telling = round(shot.moment * env.expert_steps)
    env.setup_demo(seed=seed, **config)
    look = _camera(env, shot, size_px)
    pictures = [look()]
    frame = 0

    def keep(_: Any) -> None:
        nonlocal frame
        if frame == telling:
            pictures.append(look())
        frame += 1

    env.frame_sink = keep
    env.play_once()
    env.frame_sink = None
    before, during = pictures
    return before, during


def _camera(env: Any, shot: Shot, size_px: tuple[int, int]) -> Callable[[], Picture]:
    """What takes a picture of the scene from the shot's place."""
    # By name: what imports this module needs no simulator until it renders.
    cameras: Any = importlib.import_module("twin_env.embedded.cameras")
    width, height = size_px
    kind = CameraType(width * SAMPLES, height * SAMPLES, shot.fovy_rad)
    forward = np.subtract(shot.looks_at_m, shot.at_m)
    rotation = cameras._looking(forward, np.cross([0.0, 0.0, 1.0], forward))
    camera = cameras._fixed_camera(env.scene, "gallery", kind, np.array(shot.at_m), rotation)

    def look() -> Picture:
        env.scene.update_render()
        camera.expose()
        large = np.ascontiguousarray(camera.rgb())
        return np.asarray(cv2.resize(large, size_px, interpolation=cv2.INTER_AREA), np.uint8)

    return look


def contact_sheet(tiles: Mapping[str, Sequence[tuple[Picture, Picture]]]) -> Picture:
    """(H, W, 3): for each task a block of pictures, a row of two for each config, below its name.

    All pictures have one size; the tasks have equally many configs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(tiles.values()))[0][0].shape[:2]
    configs = len(next(iter(tiles.values())))
    columns = min(COLUMNS, len(tiles))
    block = (LABEL_PX + configs * (height + GAP_PX), 2 * width + GAP_PX)
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full(
        (
            rows * (block[0] + MARGIN_PX) + MARGIN_PX,
            columns * (block[1] + MARGIN_PX) + MARGIN_PX,
            3,
        ),
        255,
        np.uint8,
    )
    figure = Figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for place, (task, pairs) in enumerate(tiles.items()):
        row, column = divmod(place, columns)
        top = MARGIN_PX + row * (block[0] + MARGIN_PX)
        left = MARGIN_PX + column * (block[1] + MARGIN_PX)
        figure.text(
            left / sheet.shape[1],
            1 - (top + LABEL_PX - 9) / sheet.shape[0],
            task,
            fontsize=14,
            fontweight="bold",
            color="#1d2430",
        )
        for line, pair in enumerate(pairs):
            y = top + LABEL_PX + line * (height + GAP_PX)
            for half, picture in enumerate(pair):
                x = left + half * (width + GAP_PX)
                sheet[y : y + height, x : x + width] = picture
    canvas.draw()
    written = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.minimum(sheet, written)


def write_png(path: Path, sheet: Picture) -> None:
    """Write the sheet, whole or not at all."""
    with replacing(path) as temporary:
        bgr = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(temporary), bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
            raise OSError(f"could not write {path}")
