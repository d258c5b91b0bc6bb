"""What a task reports of one moment, in RoboTwin's nested dict: pictures and the robot's state."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sapien
from numpy.typing import NDArray

from twin_env.embedded.cameras import HEAD, THIRD_VIEW, Camera
from twin_env.embedded.robot import SIDES, Arm
from twin_env.embedded.scene import Scene
from twin_env.point_clouds import CloudSpec, choose_points, colored_points, farthest_points
from twin_env.task_env import Observation

SEGMENTATIONS = ("mesh_segmentation", "actor_segmentation")
"""Keys of `data_type`, in the order of the channels of `Camera.labels`."""
_IN_PICTURES = ("rgb", "depth", *SEGMENTATIONS)


def observe(
    scene: Scene,
    arms: Mapping[str, Arm],
    cameras: Sequence[Camera],
    data_type: Mapping[str, bool],
    cloud: CloudSpec,
) -> Observation:
    """RoboTwin's observation of this moment, of what `data_type` turns on.

    For each camera `observation` has its matrices and, where on, `rgb` uint8 (H, W, 3), `depth`
    float64 (H, W) in mm and 0 where nothing is, `mesh_segmentation` and `actor_segmentation` uint8
    (H, W, 3) in the colours of `shape_colors` and `actor_colors`. `third_view_rgb` uint8
    (240, 320, 3) and `pointcloud` float32 (n, 6), xyz of the world in metres and RGB in [0, 1],
    stand beside it; without it `pointcloud` is empty.

    `joint_action` is what the arms were last told: RoboTwin's drive targets, in rad, and grippers
    in [0, 1] with 1 open. Where the arms really are, some 0.2 s behind and held up by what they
    touch, is in `joint_state`, which is ours, and in `endpose`: tool poses, xyz in metres and
    quaternion [w, x, y, z].
    """
    views = [camera for camera in cameras if camera.name != THIRD_VIEW]
    seen = [camera for camera in cameras if camera not in views]
    clouded = _clouded(views, cloud) if data_type["pointcloud"] else []
    seen += views if any(data_type[key] for key in _IN_PICTURES) else clouded
    if seen:
        scene.update_render()
    for camera in seen:
        camera.expose()
    observation: Observation = {
        "observation": _pictures(scene, views, data_type),
        "pointcloud": [],
        "joint_action": _drive_targets(arms) if data_type["qpos"] else {},
        "joint_state": _measured(arms) if data_type["qpos"] else {},
        "endpose": _tool_poses(arms) if data_type["endpose"] else {},
    }
    for camera in cameras:
        if camera.name == THIRD_VIEW:
            observation["third_view_rgb"] = camera.rgb()
    if clouded:
        observation["pointcloud"] = _point_cloud(clouded, cloud)
    return observation


def shape_colors(scene: sapien.Scene) -> NDArray[np.uint8]:
    """(n, 3) colour of each visible shape by its `per_scene_id`, black where there is none."""
    shapes = [shape.per_scene_id for body in _visible_bodies(scene) for shape in body.render_shapes]
    return _colors_by_id(shapes)


def actor_colors(scene: sapien.Scene) -> dict[str, NDArray[np.uint8]]:
    """Name -> colour (3,) of what `actor_segmentation` tells apart: objects by their names, links
    as `left_arm/hand`."""
    entities = [body.entity for body in _visible_bodies(scene)]
    colors = _numbered_colors(len(entities))
    return {_name(entity): color for entity, color in zip(entities, colors, strict=True)}


@functools.lru_cache(maxsize=1)
def palette() -> NDArray[np.uint8]:
    """(1331, 3) colours, all different: black, white, and on to ever closer ones."""
    levels = np.arange(0.0, 256.0, 25.5).astype(np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[farthest_points(grid, len(grid))].astype(np.uint8)


def _numbered_colors(number: int) -> NDArray[np.uint8]:
    """(number, 3): the palette without its black, and over again where that is too short."""
    return palette()[1 + np.arange(number) % (len(palette()) - 1)]


def _clouded(views: Sequence[Camera], cloud: CloudSpec) -> list[Camera]:
    return [camera for camera in views if cloud.all_cameras or camera.name == HEAD]


def _pictures(
    scene: Scene, views: Sequence[Camera], data_type: Mapping[str, bool]
) -> dict[str, dict[str, Any]]:
    pictures: dict[str, dict[str, Any]] = {camera.name: {} for camera in views}
    for camera in views:
        view = pictures[camera.name]
        if data_type["rgb"]:
            view["rgb"] = camera.rgb()
        view.update(camera.matrices())
        if data_type["depth"]:
            view["depth"] = camera.depth_m() * 1000.0
    wanted = [key for key in SEGMENTATIONS if data_type[key]]
    if wanted and views:
        colors = dict(zip(SEGMENTATIONS, _both_colors(scene.sapien), strict=True))
        for camera in views:
            labels = camera.labels()
            for key in wanted:
                ids = labels[..., SEGMENTATIONS.index(key)]
                pictures[camera.name][key] = colors[key].take(ids, axis=0)
    return pictures


def _point_cloud(cameras: Sequence[Camera], cloud: CloudSpec) -> NDArray[np.float32]:
    clouds = []
    for camera in cameras:
        place = camera.matrices()
        clouds.append(
            colored_points(
                camera.depth_m(), camera.rgb(), place["intrinsic_cv"], place["cam2world_gl"]
            )
        )
    return choose_points(np.concatenate(clouds), cloud)


def _drive_targets(arms: Mapping[str, Arm]) -> dict[str, Any]:
    return _joints({side: (arm.targets_rad, arm.gripper) for side, arm in arms.items()})


def _measured(arms: Mapping[str, Arm]) -> dict[str, Any]:
    return _joints(
        {side: (arm.measured_rad(), arm.measured_gripper()) for side, arm in arms.items()}
    )


def _joints(of: Mapping[str, tuple[NDArray[np.float64], float]]) -> dict[str, Any]:
    """RoboTwin's group: lists of joints, grippers, and `vector` (Da,) of all."""
    group: dict[str, Any] = {}
    for side in SIDES:
        joints, group[f"{side}_gripper"] = of[side]
        group[f"{side}_arm"] = joints.tolist()
    group["vector"] = np.concatenate([[*of[side][0], of[side][1]] for side in SIDES])
    return group


def _tool_poses(arms: Mapping[str, Arm]) -> dict[str, Any]:
    group: dict[str, Any] = {}
    for side in SIDES:
        group[f"{side}_endpose"] = arms[side].endpose()
        group[f"{side}_gripper"] = arms[side].gripper
    return group


def _visible_bodies(scene: sapien.Scene) -> list[sapien.render.RenderBodyComponent]:
    """In the order in which they came to the scene: the same for the same seed, whatever other
    scenes the process had and which cameras there are."""
    kind = sapien.render.RenderBodyComponent
    found = (entity.find_component_by_type(kind) for entity in scene.entities)
    return [body for body in found if body is not None]


def _both_colors(scene: sapien.Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    entities = [body.entity.per_scene_id for body in _visible_bodies(scene)]
    return shape_colors(scene), _colors_by_id(entities)


def _colors_by_id(ids: Sequence[int]) -> NDArray[np.uint8]:
    """(largest id + 1, 3): the n-th of the ids has the n-th colour, and what is no id is black."""
    colors = np.zeros((max(ids, default=0) + 1, 3), np.uint8)
    colors[list(ids)] = _numbered_colors(len(ids))
    return colors


def _name(entity: sapien.Entity) -> str:
    link = entity.find_component_by_type(sapien.physx.PhysxArticulationLinkComponent)
    return entity.name if link is None else f"{link.articulation.name}/{entity.name}"
