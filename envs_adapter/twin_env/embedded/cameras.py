"""The cameras of RoboTwin's rig (head and two wrists) and what they report."""

from __future__ import annotations

import numpy as np
import sapien
from numpy.typing import NDArray

from twin_env.camera_types import CameraType
from twin_env.embedded.robot import Arm
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_y
from twin_env.embedded.scene import Scene

HEAD_AT_M = np.array([-0.032, -0.45, 1.35])
HEAD_FORWARD = np.array([0.0, 0.6, -0.8])
HEAD_LEFT = np.array([-1.0, 0.0, 0.0])
WRIST_AT_M = (-0.085, 0.0, 0.014)
WRIST_TILT_RAD = 0.14
OBSERVER_AT_M = np.array([0.80, 0.90, 1.45])
OBSERVER_LOOKS_AT_M = np.array([0.0, -0.20, 0.85])

HEAD, LEFT_WRIST, RIGHT_WRIST = "head_camera", "left_camera", "right_camera"
OBSERVER = "observer_camera"


class Camera:
    """One camera on the scene; its pictures are valid after `Scene.sapien.update_render()`."""

    def __init__(self, name: str, component: sapien.render.RenderCameraComponent) -> None:
        self.name = name
        self._component = component

    def expose(self) -> None:
        """Render; `rgb` reads the result back, so that cameras overlap."""
        self._component.take_picture()

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) true RGB of the last exposure."""
        return self._component.get_picture("Color")[..., :3]

    def matrices(self) -> dict[str, NDArray[np.float32]]:
        """`intrinsic_cv` (3, 3), `extrinsic_cv` (3, 4) world to camera, `cam2world_gl` (4, 4)."""
        component = self._component
        return {
            "intrinsic_cv": np.asarray(component.get_intrinsic_matrix(), np.float32),
            "extrinsic_cv": np.asarray(component.get_extrinsic_matrix(), np.float32)[:3],
            "cam2world_gl": np.asarray(component.get_model_matrix(), np.float32),
        }


def head_camera(scene: Scene, kind: CameraType) -> Camera:
    rotation = np.stack([HEAD_FORWARD, HEAD_LEFT, np.cross(HEAD_FORWARD, HEAD_LEFT)], axis=1)
    return _fixed_camera(scene, HEAD, kind, HEAD_AT_M, rotation)


def observer_camera(scene: Scene, kind: CameraType) -> Camera:
    """A bystander's view of both arms, for people."""
    forward = OBSERVER_LOOKS_AT_M - OBSERVER_AT_M
    forward = forward / np.linalg.norm(forward)
    left = np.cross([0.0, 0.0, 1.0], forward)
    left = left / np.linalg.norm(left)
    rotation = np.stack([forward, left, np.cross(forward, left)], axis=1)
    return _fixed_camera(scene, OBSERVER, kind, OBSERVER_AT_M, rotation)


def wrist_camera(scene: Scene, arm: Arm, name: str, kind: CameraType) -> Camera:
    """In front of the palm, looking along the fingers; up in the picture is away from the base."""
    # Columns: the camera's forward, left and up in the hand's frame, before the tilt.
    looking = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    rotation = rotation_y(WRIST_TILT_RAD) @ looking
    component = scene.sapien.add_mounted_camera(
        name,
        arm.hand(),
        sapien.Pose(WRIST_AT_M, matrix_to_quaternion(rotation)),
        kind.width,
        kind.height,
        kind.fovy_rad,
        0.01,
        10.0,
    )
    return Camera(name, component)


def _fixed_camera(
    scene: Scene, name: str, kind: CameraType, at_m: Array, rotation: Array
) -> Camera:
    component = scene.sapien.add_camera(name, kind.width, kind.height, kind.fovy_rad, 0.05, 10.0)
    component.entity.set_pose(sapien.Pose(at_m, matrix_to_quaternion(rotation)))
    return Camera(name, component)
