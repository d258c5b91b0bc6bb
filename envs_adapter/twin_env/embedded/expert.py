"""The scripted experts' verbs: plan with closed-form kinematics, move, and make objects.

Verbs that plan (`grasp_actor`, `place_actor`, `move_by_displacement`) return a plan for one arm;
`move` carries out one plan, or two together, and keeps the frames of a demonstration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from twin_env.embedded.actor import Actor, ContactPoint
from twin_env.embedded.kinematics import UnreachableError
from twin_env.embedded.materials import Finish
from twin_env.embedded.motion import follow, stretch
from twin_env.embedded.robot import Arm, home_joints
from twin_env.embedded.rotations import Array, interpolate, matrix_to_quaternion, rotation_z
from twin_env.embedded.scene import Part, Scene

if TYPE_CHECKING:
    import sapien

EXPERT_SPEED_RAD_S = 1.6
EXPERT_ACCELERATION_RAD_S2 = 4.0
GRIPPER_TICKS = 60
STRAIGHT_KNOT_M = 0.01
STRAIGHT_KNOT_RAD = 0.05


@dataclass(frozen=True)
class Reach:
    """Bring the tool to a pose; straight in space, turning evenly, or straight in the joints."""

    position_m: Array
    rotation: Array
    straight: bool = False
    pace: float = 1.0
    """Share of the expert's usual speed."""


@dataclass(frozen=True)
class Posture:
    """Bring the joints (joints,) to these targets in rad."""

    joints_rad: Array


@dataclass(frozen=True)
class Grip:
    """Open (1) or close (0) the gripper."""

    opening: float


@dataclass(frozen=True)
class Hold:
    """Stay for some physics ticks."""

    ticks: int


Step = Reach | Posture | Grip | Hold


@dataclass(frozen=True)
class Plan:
    """What one arm does, in order."""

    side: str
    steps: tuple[Step, ...]

    def __add__(self, other: Plan) -> Plan:
        """One plan after the other, both made from what is known now."""
        assert self.side == other.side, "a plan is of one arm"
        return Plan(self.side, self.steps + other.steps)


class Expert:
    """Verbs for task files; mixed into `EmbeddedTask`, which owns scene, arms and frames."""

    arms: dict[str, Arm]
    actors: list[Actor]
    rng: np.random.Generator
    plan_success: bool

    @property
    def scene(self) -> Scene:
        raise NotImplementedError

    def _advance(self, ticks: int = 1) -> None:
        raise NotImplementedError

    def _keep_frame(self) -> None:
        raise NotImplementedError

    # Objects ------------------------------------------------------------------------------

    def rand_pose(
        self,
        xlim: tuple[float, float],
        ylim: tuple[float, float],
        z: float,
        rotate_lim_rad: float = 0.0,
    ) -> sapien.Pose:
        """A pose drawn evenly over a rectangle in metres, turned about z by up to the limit."""
        import sapien

        at = [self.rng.uniform(*xlim), self.rng.uniform(*ylim), z]
        yaw = self.rng.uniform(-rotate_lim_rad, rotate_lim_rad)
        return sapien.Pose(at, matrix_to_quaternion(rotation_z(yaw)))

    def create_actor(
        self,
        name: str,
        parts: Sequence[Part],
        pose: sapien.Pose,
        *,
        is_static: bool = False,
        density_kg_m3: float = 400.0,
        friction: float = 0.6,
        functional_points_m: Sequence[tuple[float, float, float]] = (),
        contact_points: Sequence[ContactPoint] = (),
    ) -> Actor:
        """An object of the task; a density in kg/m^3 is of every colliding part's full volume."""
        if any(actor.get_name() == name for actor in self.actors):
            raise ValueError(f"each object has a name of its own; there is a {name!r} already")
        entity = self.scene.add_object(
            name,
            parts,
            pose.p,
            pose.q,
            static=is_static,
            density_kg_m3=density_kg_m3,
            friction=friction,
        )
        actor = Actor(entity, functional_points_m, contact_points)
        self.actors.append(actor)
        return actor

    def create_box(
        self,
        name: str,
        half_size_m: tuple[float, float, float],
        finish: Finish,
        pose: sapien.Pose,
        *,
        is_static: bool = False,
    ) -> Actor:
        """A box whose functional points are its centre (0) and the middle of its top (1)."""
        return self.create_actor(
            name,
            [Part("box", half_size_m, finish)],
            pose,
            is_static=is_static,
            functional_points_m=[(0.0, 0.0, 0.0), (0.0, 0.0, half_size_m[2])],
            contact_points=[ContactPoint((0.0, 0.0, 0.0))],
        )

    # Plans --------------------------------------------------------------------------------

    def grasp_actor(
        self,
        actor: Actor,
        arm_tag: str,
        *,
        pre_grasp_dis: float = 0.1,
        grasp_dis: float = 0.0,
        contact_point: int = 0,
        closing: float = 0.0,
    ) -> Plan:
        """Come to `pre_grasp_dis` metres before a contact point, go straight to `grasp_dis` before
        it, and close the gripper to the opening `closing`."""
        at = actor.get_contact_point(contact_point).p
        rotation = self._nearer_turn(arm_tag, actor.tool_rotation(contact_point))
        return Plan(
            arm_tag,
            (
                Reach(at - pre_grasp_dis * rotation[:, 0], rotation),
                Reach(at - grasp_dis * rotation[:, 0], rotation, straight=True),
                Grip(closing),
            ),
        )

    def move_to_pose(
        self,
        arm_tag: str,
        position_m: Array,
        rotation: Array,
        *,
        straight: bool = False,
        pace: float = 1.0,
    ) -> Plan:
        """Bring the tool to a pose in the world."""
        return Plan(arm_tag, (Reach(np.asarray(position_m), rotation, straight, pace),))

    def move_by_displacement(
        self, arm_tag: str, *, x: float = 0.0, y: float = 0.0, z: float = 0.0, pace: float = 1.0
    ) -> Plan:
        """Move the tool straight by metres along the world's axes."""
        position, rotation = self._tool(arm_tag)
        goal = position + np.array([x, y, z])
        return Plan(arm_tag, (Reach(goal, rotation, straight=True, pace=pace),))

    def place_actor(
        self,
        actor: Actor,
        arm_tag: str,
        target_m: Array,
        *,
        rotation: Array | None = None,
        functional_point: int = 0,
        pre_dis: float = 0.06,
        dis: float = 0.0,
        hold_ticks: int = 0,
        is_open: bool = False,
    ) -> Plan:
        """Bring a held object's functional point over `target_m`, then straight down to `dis`
        above it (below it, if negative); with the object turned to `rotation` (3, 3) in the world,
        by default as it is."""
        _, tool = self._tool(arm_tag)
        # The object follows the tool where it is, which lags behind where it was told to be.
        measured, turned = self.arms[arm_tag].tcp_of(self.arms[arm_tag].measured_rad())
        offset = turned.T @ (actor.get_functional_point(functional_point).p - measured)
        if rotation is None:
            # As the object hangs now, so it arrives: the tool keeps its target, and its lag.
            goal = target_m - turned @ offset
        else:
            tool = rotation @ actor.get_pose().rotation.T @ turned
            goal = target_m - tool @ offset
        up = np.array([0.0, 0.0, 1.0])
        steps: list[Step] = [
            Reach(goal + pre_dis * up, tool),
            Reach(goal + dis * up, tool, straight=True),
        ]
        if hold_ticks:
            steps.append(Hold(hold_ticks))
        if is_open:
            steps.append(Grip(1.0))
        return Plan(arm_tag, tuple(steps))

    def open_gripper(self, arm_tag: str, opening: float = 1.0) -> Plan:
        return Plan(arm_tag, (Grip(opening),))

    def close_gripper(self, arm_tag: str, opening: float = 0.0) -> Plan:
        return Plan(arm_tag, (Grip(opening),))

    def back_to_origin(self, arm_tag: str) -> Plan:
        """Take the arm back to where it rests; the gripper stays as it is."""
        return Plan(arm_tag, (Posture(home_joints(self.arms[arm_tag].model, arm_tag)),))

    def stay(self, arm_tag: str, ticks: int) -> Plan:
        """Wait for physics ticks of 4 ms."""
        return Plan(arm_tag, (Hold(ticks),))

    def move(self, *plans: Plan) -> bool:
        """Carry out plans of different arms side by side, step by step.

        Returns False, and from then on does nothing, once a pose cannot be reached: RoboTwin's
        `plan_success`.
        """
        for steps in zip_longest(*(plan.steps for plan in plans)):
            if not self.plan_success:
                return False
            paths: dict[str, Array] = {}
            for plan, step in zip(plans, steps, strict=True):
                try:
                    paths[plan.side] = self._path(self.arms[plan.side], step)
                except UnreachableError:
                    self.plan_success = False
                    return False
            self._carry_out(paths)
        return self.plan_success

    def _carry_out(self, paths: dict[str, Array]) -> None:
        self._keep_frame()
        ticks = max(len(path) for path in paths.values())
        timed = {side: stretch(path, ticks) for side, path in paths.items() if len(path)}
        for tick in range(ticks):
            for side, path in timed.items():
                self.arms[side].drive(path[tick, :-1], path[tick, -1])
            self._advance()
        self._keep_frame()

    def _path(self, arm: Arm, step: Step | None) -> Array:
        """Joints and gripper (n, joints + 1), one row a tick."""
        here = np.append(arm.targets_rad, arm.gripper)
        if step is None:
            return np.empty((0, len(here)))
        if isinstance(step, Hold):
            return np.tile(here, (step.ticks, 1))
        if isinstance(step, Grip):
            share = np.linspace(0.0, 1.0, GRIPPER_TICKS + 1)[1:, None]
            return here + share * (np.append(arm.targets_rad, step.opening) - here)
        if isinstance(step, Posture):
            knots, pace = [arm.targets_rad, step.joints_rad], 1.0
        else:
            knots, pace = [arm.targets_rad, *self._solved(arm, step)], step.pace
        path = follow(
            np.stack(knots),
            speed=pace * EXPERT_SPEED_RAD_S,
            acceleration=pace * EXPERT_ACCELERATION_RAD_S2,
        )
        return np.hstack([path, np.full((len(path), 1), arm.gripper)])

    def _solved(self, arm: Arm, step: Reach) -> list[Array]:
        """Joints at the goal, or at each knot of a straight line to it."""
        if not step.straight:
            return [arm.solve(step.position_m, step.rotation)]
        start, turned = arm.tcp_of(arm.targets_rad)
        angle, between = interpolate(turned, step.rotation)
        distance = float(np.linalg.norm(step.position_m - start))
        pieces = max(1, math.ceil(distance / STRAIGHT_KNOT_M), math.ceil(angle / STRAIGHT_KNOT_RAD))
        knots: list[Array] = []
        for share in np.linspace(0.0, 1.0, pieces + 1)[1:]:
            point = start + share * (step.position_m - start)
            knots.append(arm.solve(point, between(share), knots[-1] if knots else None))
        return knots

    def _tool(self, arm_tag: str) -> tuple[Array, Array]:
        arm = self.arms[arm_tag]
        return arm.tcp_of(arm.targets_rad)

    def _nearer_turn(self, arm_tag: str, rotation: Array) -> Array:
        """`rotation` or the same turned half round about the approach, whichever the arm reaches
        with less turning."""
        _, now = self._tool(arm_tag)
        turns = [rotation, rotation @ np.diag([1.0, -1.0, -1.0])]
        return max(turns, key=lambda turn: float(np.sum(turn * now)))
