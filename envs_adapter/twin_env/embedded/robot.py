"""The arms with grippers on the scene: drive targets in, joint states and tool poses out."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
import sapien

from twin_env.embedded import materials
from twin_env.embedded.kinematics import ArmModel
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_z
from twin_env.embedded.scene import ASSETS, TABLE_TOP_M, Part, Scene

SIDES = ("left", "right")
BASE_Y_M = -0.45
BASE_HEIGHT_M = TABLE_TOP_M
FINGERS = ("finger1", "finger2")
FINGER_TRAVEL_M = 0.045
ARM_STIFFNESS, ARM_DAMPING, ARM_FORCE_LIMIT = 1000.0, 200.0, 300.0
FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT = 1500.0, 60.0, 30.0
HOME_TCP_M = np.array([0.22, 0.0, 0.22])
"""Where the tool rests in the arm's base frame, pointing down."""


def pointing_down(yaw_rad: float = 0.0) -> Array:
    """Rotation (3, 3) of a tool that points down and opens along y turned by `yaw_rad` about z."""
    down = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return rotation_z(yaw_rad) @ down


@dataclass
class Arm:
    """One arm: what it was told last, and where it is."""

    side: str
    model: ArmModel
    articulation: sapien.physx.PhysxArticulation
    base_m: Array
    base_rotation: Array
    targets_rad: Array
    """Drive targets (joints,): what RoboTwin reports as the joint state."""
    gripper: float = 1.0
    """Drive target of the gripper: 0 closed, 1 open."""
    fingers: list[sapien.physx.PhysxArticulationLinkComponent] = field(init=False)
    _joints: list[sapien.physx.PhysxArticulationJoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fingers = [self.link(name) for name in FINGERS]

    def drive(self, targets_rad: Array, gripper: float) -> None:
        """Set the drive targets (joints,) and the gripper's, in [0, 1]."""
        self.targets_rad = np.array(targets_rad, dtype=np.float64)
        self.gripper = float(gripper)
        for joint, target in zip(self._joints, self.targets_rad, strict=False):
            joint.set_drive_target(float(target))
        for finger in self._joints[self.model.joints :]:
            finger.set_drive_target(self.gripper * FINGER_TRAVEL_M)

    def measured_rad(self) -> Array:
        """Joint positions (joints,) as the physics has them."""
        return np.asarray(self.articulation.qpos, dtype=np.float64)[: self.model.joints]

    def measured_gripper(self) -> float:
        """Mean opening of the fingers as the physics has it, 0 closed to 1 open."""
        fingers = np.asarray(self.articulation.qpos, dtype=np.float64)[self.model.joints :]
        return float(fingers.mean() / FINGER_TRAVEL_M)

    def tcp_of(self, joints_rad: Array) -> tuple[Array, Array]:
        """World position (3,) and rotation (3, 3) of the tool at these joints."""
        position, rotation = self.model.forward(joints_rad)
        return self.base_m + self.base_rotation @ position, self.base_rotation @ rotation

    def solve(self, position_m: Array, rotation: Array, near_rad: Array | None = None) -> Array:
        """Joints (joints,) for a tool pose in the world, nearest to `near_rad` (the targets).

        Raises:
            UnreachableError: no solution within limits.
        """
        return self.model.inverse(
            self.base_rotation.T @ (position_m - self.base_m),
            self.base_rotation.T @ rotation,
            self.targets_rad if near_rad is None else near_rad,
        )

    def endpose(self) -> list[float]:
        """Tool pose as the physics has it: xyz in metres, quaternion [w, x, y, z]."""
        position, rotation = self.tcp_of(self.measured_rad())
        return [*position.tolist(), *matrix_to_quaternion(rotation).tolist()]

    def hand(self) -> sapien.Entity:
        return self.link("hand").entity

    def link(self, name: str) -> sapien.physx.PhysxArticulationLinkComponent:
        return next(link for link in self.articulation.links if link.name == name)


def home_joints(model: ArmModel, side: str) -> Array:
    """Joints (joints,) of the rest posture; elbows that roll point outwards."""
    roll = model.rest_roll_rad if side == "left" else -model.rest_roll_rad
    near = np.array([0.0, -0.5, *([roll] if model.rolls else []), 1.8, 0.0, 1.8, 0.0])
    return model.inverse(HOME_TCP_M, pointing_down(), near)


@functools.lru_cache(maxsize=4)
def _urdf(name: str, with_visuals: bool) -> str:
    """Path of a robot description; without visuals it loads where no Vulkan device is."""
    if with_visuals:
        return str(ASSETS / name)
    tree = ElementTree.parse(ASSETS / name)
    for link in tree.getroot().iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
    folder = tempfile.mkdtemp(prefix="twinbench-urdf-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, name)
    tree.write(path)
    return path


@functools.lru_cache(maxsize=8)
def _builder(urdf: str, side: str, with_visuals: bool) -> sapien.ArticulationBuilder:
    """What builds the arm on any scene: reading a description takes longer than building."""
    loader = sapien.Scene([sapien.physx.PhysxCpuSystem()]).create_urdf_loader()
    loader.fix_root_link = True
    for finger in FINGERS:
        loader.set_link_material(finger, 2.0, 2.0, 0.0)
    builder = loader.load_file_as_articulation_builder(_urdf(urdf, with_visuals))
    for link_builder in builder.link_builders:
        for record in link_builder.visual_records:
            record.material.roughness = 0.55
        # The arm never collides with itself; the world and the other arm it does.
        link_builder.collision_groups = [1, 1, 1 << (8 + SIDES.index(side)), 0]
    return builder


def load_arm(scene: Scene, side: str, model: ArmModel, *, base_x_m: float) -> Arm:
    """Load an arm at its base, at rest, gripper open."""
    builder = _builder(model.urdf, side, scene.renders)
    builder.set_scene(scene.sapien)
    base = np.array([base_x_m, BASE_Y_M, BASE_HEIGHT_M])
    facing = rotation_z(np.pi / 2)
    builder.set_initial_pose(sapien.Pose(base, matrix_to_quaternion(facing)))
    articulation = builder.build(fix_root_link=True)
    articulation.name = f"{side}_arm"
    for link in articulation.links:
        link.disable_gravity = True
    joints = articulation.active_joints
    for joint in joints[: model.joints]:
        joint.set_drive_properties(ARM_STIFFNESS, ARM_DAMPING, ARM_FORCE_LIMIT, mode="force")
    for joint in joints[model.joints :]:
        joint.set_drive_properties(
            FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT, mode="force"
        )
    rest = home_joints(model, side)
    arm = Arm(side, model, articulation, base, facing, rest, _joints=joints)
    articulation.qpos = np.concatenate([rest, [FINGER_TRAVEL_M] * (len(joints) - model.joints)])
    arm.drive(rest, 1.0)
    _add_pedestal(scene, side, base)
    return arm


def _add_pedestal(scene: Scene, side: str, base: Array) -> None:
    height = float(base[2])
    post = Part("box", (0.07, 0.07, height / 2), materials.GRAPHITE, (0.0, 0.0, -height / 2))
    foot = Part("box", (0.14, 0.14, 0.012), materials.GRAPHITE, (0.0, 0.0, 0.012 - height))
    scene.add_object(f"{side}_pedestal", [post, foot], base.tolist(), static=True)
