"""Spaces of the gymnasium environments, and RoboTwin's observations as members of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from twin_env.camera_types import CAMERA_TYPES
from twin_env.config import read_embodiment
from twin_env.embedded.kinematics import ARM_MODELS
from twin_env.task_env import Observation

Array = NDArray[np.float64]

ACTION_TYPES = ("qpos", "ee")
TOOL_LOWER_M, TOOL_UPPER_M = (-1.3, -1.5, 0.0), (1.3, 0.6, 2.0)
"""Box in the world that holds all that arms at RoboTwin's places reach."""
MEASURED_BEYOND = 1.0
"""How far what is measured may be beyond what can be asked for: rad, m, or a gripper's travel."""
FAR_M = 100.0
"""RoboTwin's cameras see no farther."""
THIRD_VIEW_SIZE = (240, 320)
"""(height, width), whatever the config's cameras."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a config makes of the robot and its cameras, known before any scene is built."""

    lower: Array
    """(Da,) of a qpos action: arms in rad, grippers 0; [left arm, gripper, right arm, gripper]."""
    upper: Array
    """(Da,), grippers 1."""
    cameras: Mapping[str, tuple[int, int]]
    """RoboTwin's camera name -> (height, width)."""
    targets_within_limits: bool
    """Whether the simulator clamps drive targets to the limits."""


@dataclass(frozen=True)
class _Picture:
    """What a camera gives under one of RoboTwin's `data_type` keys, which is also the view's."""

    name: str
    """Key in our observation."""
    channels: tuple[int, ...]
    dtype: type
    high: float


PICTURES = {
    "rgb": _Picture("pixels", (3,), np.uint8, 255),
    "depth": _Picture("depth", (), np.float64, FAR_M * 1000),
    "mesh_segmentation": _Picture("mesh_segmentation", (3,), np.uint8, 255),
    "actor_segmentation": _Picture("actor_segmentation", (3,), np.uint8, 255),
}


def embedded_layout(config: Mapping[str, Any]) -> Layout:
    """Of a whole config of the embedded simulator."""
    embodiment, camera = read_embodiment(config), config["camera"]
    limits = [ARM_MODELS[name].limits_rad for name in (embodiment.left, embodiment.right)]
    kinds = {}
    if camera["collect_head_camera"]:
        kinds["head_camera"] = CAMERA_TYPES[camera["head_camera_type"]]
    if camera["collect_wrist_camera"]:
        wrist = CAMERA_TYPES[camera["wrist_camera_type"]]
        kinds |= {"left_camera": wrist, "right_camera": wrist}
    return Layout(
        lower=np.concatenate([[*lower, 0.0] for lower, _ in limits]),
        upper=np.concatenate([[*upper, 1.0] for _, upper in limits]),
        cameras={name: (kind.height, kind.width) for name, kind in kinds.items()},
        targets_within_limits=True,
    )


def action_space(layout: Layout, action_type: str) -> spaces.Box:
    """Absolute targets of both arms: joints and grippers, or tool poses and grippers."""
    if action_type == "qpos":
        return spaces.Box(layout.lower, layout.upper, dtype=np.float64)
    return _tool_poses()


def observation_space(layout: Layout, config: Mapping[str, Any]) -> spaces.Dict:
    """What `as_member` gives under this config."""
    wanted = config["data_type"]
    space: dict[str, spaces.Space[Any]] = {}
    if wanted.get("qpos"):
        measured = spaces.Box(
            layout.lower - MEASURED_BEYOND, layout.upper + MEASURED_BEYOND, dtype=np.float64
        )
        targets = spaces.Box(layout.lower, layout.upper, dtype=np.float64)
        space["agent_pos"] = targets if layout.targets_within_limits else measured
        space["joint_state"] = measured
    if wanted.get("endpose"):
        space["endpose"] = _tool_poses(beyond=MEASURED_BEYOND)
    for key, picture in PICTURES.items():
        if wanted.get(key) and layout.cameras:
            space[picture.name] = spaces.Dict(
                {
                    camera: spaces.Box(0, picture.high, (*size, *picture.channels), picture.dtype)
                    for camera, size in layout.cameras.items()
                }
            )
    if wanted.get("third_view"):
        space["third_view"] = spaces.Box(0, 255, (*THIRD_VIEW_SIZE, 3), np.uint8)
    if wanted.get("pointcloud"):
        space["pointcloud"] = _point_cloud(config)
    return spaces.Dict(space)


def shows_pictures(space: spaces.Dict) -> bool:
    """Whether an observation of the space has to be rendered."""
    return not {"agent_pos", "joint_state", "endpose"}.issuperset(space.spaces)


def as_member(observation: Observation, space: spaces.Dict) -> dict[str, Any]:
    """RoboTwin's observation, with our `joint_state`, as a member of `space`: new arrays,
    contiguous, of its types."""
    keys = {picture.name: key for key, picture in PICTURES.items()}
    member: dict[str, Any] = {}
    for name, part in space.spaces.items():
        if isinstance(part, spaces.Dict):
            views = observation["observation"]
            member[name] = {
                camera: _copy(views[camera][keys[name]], box) for camera, box in part.spaces.items()
            }
        else:
            member[name] = _copy(_FLAT[name](observation), part)
    return member


def _endpose(observation: Observation) -> list[float]:
    end = observation["endpose"]
    sides = ("left", "right")
    return [x for s in sides for x in (*end[f"{s}_endpose"], end[f"{s}_gripper"])]


_FLAT: dict[str, Callable[[Observation], Any]] = {
    "agent_pos": lambda observation: observation["joint_action"]["vector"],
    "joint_state": lambda observation: observation["joint_state"]["vector"],
    "endpose": _endpose,
    "third_view": lambda observation: observation["third_view_rgb"],
    "pointcloud": lambda observation: observation["pointcloud"],
}


def _copy(values: Any, box: spaces.Space[Any]) -> NDArray[Any]:
    given = np.asarray(values)
    if given.shape != box.shape:
        raise ValueError(
            f"the simulator gave an array of shape {given.shape} where its config promises "
            f"{box.shape}"
        )
    array = np.empty(given.shape, box.dtype)
    if given.ndim == 3:
        # RGB is a view of RGBA: a channel at a time takes a seventh of what the whole takes.
        for channel in range(given.shape[-1]):
            array[..., channel] = given[..., channel]
    else:
        array[...] = given
    return array


def _tool_poses(beyond: float = 0.0) -> spaces.Box:
    """(16,): xyz in metres, quaternion [w, x, y, z] and gripper of the left and right arm."""
    lower = np.array([*TOOL_LOWER_M, *[-1.0] * 4, 0.0] * 2)
    upper = np.array([*TOOL_UPPER_M, *[1.0] * 4, 1.0] * 2)
    return spaces.Box(lower - beyond, upper + beyond, dtype=np.float64)


def _point_cloud(config: Mapping[str, Any]) -> spaces.Box:
    """(N, 6): xyz in metres in the world, RGB in [0, 1]."""
    points = config.get("pcd_down_sample_num", 0)
    if not isinstance(points, int) or points < 1:
        raise ValueError(
            "a gymnasium space has a fixed number of points: set pcd_down_sample_num in the "
            f"environment config, which is {points!r}"
        )
    low, high = np.array([[-FAR_M] * 3 + [0.0] * 3, [FAR_M] * 3 + [1.0] * 3], np.float32)
    return spaces.Box(np.tile(low, (points, 1)), np.tile(high, (points, 1)), dtype=np.float32)
