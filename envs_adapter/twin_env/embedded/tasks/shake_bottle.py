"""Pick up a lying bottle with the arm on its side, turn it upright and shake it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import sapien

from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.bottles import (
    KINDS,
    RADIUS_M,
    create_bottle,
    grasp_lying,
    lying_rotation,
)
from twin_env.embedded.rotations import matrix_to_quaternion, rotation_about
from twin_env.embedded.side_grips import level_rotation, with_level_wrist

UP = np.array([0.0, 0.0, 1.0])
FORWARD = np.array([0.0, 1.0, 0.0])
LIFT_M = 0.16
SWING_RAD = 1.2
SWING_RISE_M = 0.05
SHAKES = 3


class shake_bottle(EmbeddedTask):
    """RoboTwin's rule holds once the bottle is lifted; `shake_bottle_strict` wants it shaken."""

    step_lim = 700
    stages: ClassVar[tuple[str, ...]] = ("bottle grasped", "lifted")

    def load_actors(self) -> None:
        while True:
            x, y = self.rng.uniform(-0.15, 0.15), self.rng.uniform(-0.15, -0.05)
            if abs(x) >= 0.1:
                break
        heading_rad = np.pi / 2 + self.rng.uniform(-np.pi / 4, np.pi / 4)
        self.kind = KINDS[self.rng.integers(len(KINDS))]
        pose = sapien.Pose(
            [x, y, self.table_top_m + RADIUS_M + 0.001],
            matrix_to_quaternion(lying_rotation(heading_rad)),
        )
        self.bottle = create_bottle(self, "001_bottle", self.kind, pose)
        self.add_prohibit_area(self.bottle, padding=0.05)

    def play_once(self) -> dict[str, Any]:
        arm_tag = "right" if self.bottle.get_pose().p[0] > 0 else "left"
        self.move(grasp_lying(self, self.bottle, arm_tag))
        self.move(self.move_by_displacement(arm_tag, z=0.05))
        upright = level_rotation(FORWARD, up=UP)
        at = self.bottle.get_pose().p
        at[2] = self.table_top_m + RADIUS_M + LIFT_M
        self.move(with_level_wrist(self.arms[arm_tag], at, upright))
        for _ in range(SHAKES):
            for side in (1.0, -1.0):
                turned = rotation_about(FORWARD, side * SWING_RAD) @ upright
                rise = (SWING_RISE_M if side > 0 else 0.0) * UP
                self.move(self.move_to_pose(arm_tag, at + rise, turned, straight=True))
        self.move(self.move_to_pose(arm_tag, at, upright, straight=True))
        self.info["info"] = {"{A}": self.kind.phrase, "{a}": arm_tag}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        return (bool(self.holders(self.bottle)),)

    def check_success(self) -> bool:
        return bool(self.bottle.get_pose().p[2] > 0.8 + self.table_z_bias)
