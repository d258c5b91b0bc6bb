"""The cameras of RoboTwin's rig (head and two wrists) and what they report."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import sapien
from numpy.typing import NDArray

from twin_env.camera_types import CameraType
from twin_env.embedded.robot import Arm
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_y
from twin_env.embedded.scene import ASSETS, Scene

HEAD_AT_M = np.array([-0.032, -0.45, 1.35])
HEAD_FORWARD = np.array([0.0, 0.6, -0.8])
HEAD_LEFT = np.array([-1.0, 0.0, 0.0])
WRIST_AT_M = (-0.085, 0.0, 0.014)
WRIST_TILT_RAD = 0.14
OBSERVER_AT_M = np.array([0.80, 0.90, 1.45])
OBSERVER_LOOKS_AT_M = np.array([0.0, -0.20, 0.85])

THIRD_VIEW_AT_M = np.array([0.0, 0.23, 1.33])
THIRD_VIEW_FORWARD = np.array([0.0, -1.0, -1.02])
THIRD_VIEW_LEFT = np.array([1.0, 0.0, 0.0])

HEAD, LEFT_WRIST, RIGHT_WRIST = "head_camera", "left_camera", "right_camera"
OBSERVER, THIRD_VIEW = "observer_camera", "third_view"
THIRD_VIEW_TYPE = CameraType(320, 240, math.radians(93.0))

_LABELS_SHADERS = str(ASSETS / "shaders_labels")
_COLOR_SHADERS = ""  # SAPIEN's word for those that the scene set for the whole process.


class Camera:
    """One camera on the scene; its pictures are valid after `Scene.sapien.update_render()`."""

    def __init__(
        self, name: str, component: sapien.render.RenderCameraComponent, *, oversampling: int = 1
    ) -> None:
        """`oversampling`: how many times wider and higher it renders than its pictures are."""
        self.name = name
        self._component = component
        self._oversampling = oversampling

    def expose(self) -> None:
        """Render; `rgb` reads the result back, so that cameras overlap."""
        self._component.take_picture()

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) true RGB of the last exposure."""
        rendered = self._component.get_picture("Color")[..., :3]
        if self._oversampling == 1:
            return rendered
        size = (rendered.shape[1] // self._oversampling, rendered.shape[0] // self._oversampling)
        return cv2.resize(rendered, size, interpolation=cv2.INTER_AREA)

    def depth_m(self) -> NDArray[np.float64]:
        """(H, W) along the camera's axis, of the last exposure; 0 where nothing is.

        From the renderer's depth buffer, which every picture has: good to 0.01 mm in the room, and
        a quarter of what positions would cost.
        """
        buffer = self._middles(self._component.get_picture("GbufferDepth")).astype(np.float64)
        near, far = self._component.near, self._component.far
        depth = near * far / (far - buffer * (far - near))
        depth[buffer >= 1.0] = 0.0
        return depth

    def labels(self) -> NDArray[np.uint32]:
        """(H, W, 2) the shape and the entity that each pixel shows, by SAPIEN's `per_scene_id`; 0
        where nothing is. Only a camera made with `labels=True` has them."""
        return self._middles(self._component.get_picture("Segmentation")[..., :2])

    def matrices(self) -> dict[str, NDArray[np.float32]]:
        """`intrinsic_cv` (3, 3), `extrinsic_cv` (3, 4) world to camera, `cam2world_gl` (4, 4)."""
        component = self._component
        shrink = np.array([[1.0 / self._oversampling]] * 2 + [[1.0]], np.float32)
        return {
            "intrinsic_cv": shrink * np.asarray(component.get_intrinsic_matrix(), np.float32),
            "extrinsic_cv": np.asarray(component.get_extrinsic_matrix(), np.float32)[:3],
            "cam2world_gl": np.asarray(component.get_model_matrix(), np.float32),
        }

    def _middles(self, rendered: NDArray[Any]) -> NDArray[Any]:
        """Of what must not be averaged, the sample in each pixel's middle."""
        step = self._oversampling
        return rendered[step // 2 :: step, step // 2 :: step]


def head_camera(
    scene: Scene,
    kind: CameraType,
    *,
    labels: bool = False,
    oversampling: int = 1,
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Camera:
    """Over the robots' shoulders, moved by `offset_m` in the world."""
    rotation = _looking(HEAD_FORWARD, HEAD_LEFT)
    return _fixed_camera(
        scene,
        HEAD,
        kind,
        HEAD_AT_M + offset_m,
        rotation,
        labels=labels,
        oversampling=oversampling,
    )


def third_view_camera(scene: Scene) -> Camera:
    """RoboTwin's view from behind the table back at the robot."""
    rotation = _looking(THIRD_VIEW_FORWARD, THIRD_VIEW_LEFT)
    return _fixed_camera(scene, THIRD_VIEW, THIRD_VIEW_TYPE, THIRD_VIEW_AT_M, rotation)


def observer_camera(scene: Scene, kind: CameraType) -> Camera:
    """A bystander's view of both arms, for people."""
    forward = OBSERVER_LOOKS_AT_M - OBSERVER_AT_M
    rotation = _looking(forward, np.cross([0.0, 0.0, 1.0], forward))
    return _fixed_camera(scene, OBSERVER, kind, OBSERVER_AT_M, rotation)


def wrist_camera(
    scene: Scene,
    arm: Arm,
    name: str,
    kind: CameraType,
    *,
    labels: bool = False,
    oversampling: int = 1,
) -> Camera:
    """In front of the palm, looking along the fingers; up in the picture is away from the base."""
    # Columns: the camera's forward, left and up in the hand's frame, before the tilt.
    looking = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    rotation = rotation_y(WRIST_TILT_RAD) @ looking
    component = _component(name, kind, near_m=0.01, labels=labels, oversampling=oversampling)
    arm.hand().add_component(component)
    component.local_pose = sapien.Pose(WRIST_AT_M, matrix_to_quaternion(rotation))
    return Camera(name, component, oversampling=oversampling)


def _looking(forward: Array, left: Array) -> Array:
    """Rotation (3, 3) of a camera: columns are its forward, left and up, of any length given."""
    forward, left = (axis / np.linalg.norm(axis) for axis in (forward, left))
    return np.stack([forward, left, np.cross(forward, left)], axis=1)


def _fixed_camera(
    scene: Scene,
    name: str,
    kind: CameraType,
    at_m: Array,
    rotation: Array,
    *,
    labels: bool = False,
    oversampling: int = 1,
) -> Camera:
    component = _component(name, kind, near_m=0.05, labels=labels, oversampling=oversampling)
    mount = sapien.Entity()
    mount.name = name
    mount.add_component(component)
    scene.sapien.add_entity(mount)
    mount.set_pose(sapien.Pose(at_m, matrix_to_quaternion(rotation)))
    return Camera(name, component, oversampling=oversampling)


def _component(
    name: str, kind: CameraType, *, near_m: float, labels: bool, oversampling: int
) -> sapien.render.RenderCameraComponent:
    shaders = _LABELS_SHADERS if labels else _COLOR_SHADERS
    size = kind.width * oversampling, kind.height * oversampling
    component = sapien.render.RenderCameraComponent(*size, shaders)
    component.set_fovy(kind.fovy_rad, compute_x=True)
    component.near, component.far = near_m, 10.0
    component.name = name
    return component
