"""Pick up two standing bottles, one with each arm, and hold them side by side before the robot."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import Actor
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.bottles import (
    BROWN,
    GREEN,
    GRIP_DEPTH_M,
    GRIP_HEIGHT_M,
    BottleKind,
    create_bottle,
)
from twin_env.embedded.expert import Plan
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_z
from twin_env.embedded.side_grips import grip_along, level_rotation, with_level_wrist

UP = np.array([0.0, 0.0, 1.0])
NEAR_TARGET_M = 0.1
RAISED_M = 0.89
PRE_GRASP_M = 0.09


class pick_dual_bottles(EmbeddedTask):
    step_lim = 400
    stages = ("one bottle grasped", "both grasped", "both lifted", "both held before the robot")

    def load_actors(self) -> None:
        self.left_bottle = self._stand("001_bottle_left", GREEN, (-0.25, -0.05), -0.73)
        self.right_bottle = self._stand("001_bottle_right", BROWN, (0.05, 0.25), 0.79)
        self.bottles = {"left": self.left_bottle, "right": self.right_bottle}
        for bottle in self.bottles.values():
            self.add_prohibit_area(bottle, padding=0.1)
        self.prohibited_area.append((-0.2, -0.2, 0.2, -0.02))
        # The hands come low over the table, from behind and outside.
        left, right = (bottle.get_pose().p for bottle in self.bottles.values())
        self.prohibited_area.append((left[0] - 0.3, left[1] - 0.3, left[0], left[1]))
        self.prohibited_area.append((right[0], right[1] - 0.3, right[0] + 0.3, right[1]))
        height = 1.0 + self.table_z_bias
        self.targets_m = {
            "left": np.array([-0.06, -0.105, height]),
            "right": np.array([0.06, -0.105, height]),
        }

    def play_once(self) -> dict[str, Any]:
        self.move(*(self._before_bottle(side) for side in self.bottles))
        self.move(*(self._onto_bottle(side) for side in self.bottles))
        self.move(*(self.move_by_displacement(side, z=0.1) for side in self.bottles))
        self.move(*(self._to_target(side) for side in self.bottles))
        self.move(*(self.stay(side, 60) for side in self.bottles))
        self.info["info"] = {"{A}": GREEN.phrase, "{B}": BROWN.phrase}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        held = [bool(self.holders(bottle)) for bottle in self.bottles.values()]
        lifted = [self.rise_m(bottle) > 0.03 for bottle in self.bottles.values()]
        return any(held), all(held), all(held) and all(lifted)

    def check_success(self) -> bool:
        return all(self._at_target(side) for side in self.bottles)

    def _at_target(self, side: str) -> bool:
        at = self.bottles[side].get_functional_point(0).p
        near = np.all(np.abs(at[:2] - self.targets_m[side][:2]) < NEAR_TARGET_M)
        return bool(near and at[2] > RAISED_M + self.table_z_bias)

    def _stand(
        self, name: str, kind: BottleKind, xlim: tuple[float, float], yaw_rad: float
    ) -> Actor:
        # RoboTwin's go 6 cm farther back, where the head camera sees no more than their feet.
        pose = self.rand_pose(xlim, (0.03, 0.17), self.table_top_m + GRIP_HEIGHT_M + 0.001, 1.0)
        turned = matrix_to_quaternion(rotation_z(yaw_rad))
        return create_bottle(self, name, kind, pose * sapien.Pose([0.0, 0.0, 0.0], turned))

    def _grip(self, side: str) -> tuple[Array, Array]:
        """Where the tool takes a bottle, and how it is turned: the nearer the bottle is to the
        middle, the more from outside, so that the hands keep clear of each other; but not more, for
        a hand that swings far out sweeps over a bottle that stands there."""
        bottle = self.bottles[side]
        x = bottle.get_pose().p[0]
        inwards = -np.sign(x) * (0.4 + 3.0 * (0.25 - abs(x)))
        grip = grip_along(bottle, np.array([inwards, 1.0, 0.0]) / np.hypot(inwards, 1.0))
        approach = bottle.tool_rotation(grip)[:, 0]
        at = bottle.get_contact_point(grip).p + GRIP_DEPTH_M * approach
        return at, level_rotation(approach, up=UP)

    def _before_bottle(self, side: str) -> Plan:
        at, rotation = self._grip(side)
        return with_level_wrist(self.arms[side], at - PRE_GRASP_M * rotation[:, 0], rotation)

    def _onto_bottle(self, side: str) -> Plan:
        at, rotation = self._grip(side)
        return self.move_to_pose(side, at, rotation, straight=True) + self.close_gripper(side)

    def _to_target(self, side: str) -> Plan:
        """Along the same approach as it has, at the target."""
        _, rotation = self.arms[side].tcp_of(self.arms[side].targets_rad)
        return self.move_to_pose(side, self.targets_m[side], rotation)
