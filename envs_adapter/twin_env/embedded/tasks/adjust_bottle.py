"""Pick up a lying bottle with the arm that can turn its head up, and raise it at its side."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import sapien

from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.bottles import (
    BROWN,
    GREEN,
    RADIUS_M,
    create_bottle,
    grasp_lying,
    lying_rotation,
)
from twin_env.embedded.rotations import matrix_to_quaternion
from twin_env.embedded.side_grips import level_rotation, with_level_wrist

RIGHTWARDS = np.array([1.0, 0.0, 0.0])
UP = np.array([0.0, 0.0, 1.0])
SIDE_M = 0.15
RAISED_M = 0.9


class adjust_bottle(EmbeddedTask):
    """A head that points right is the left arm's, which turns it up by pointing right itself.

    RoboTwin's rule looks at where the bottle is: `adjust_bottle_strict` wants its head up too.
    """

    step_lim = 400
    stages: ClassVar[tuple[str, ...]] = ("bottle grasped", "lifted", "raised at its side")

    def load_actors(self) -> None:
        self.arm_tag = "left" if self.rng.integers(2) == 0 else "right"
        self.outwards = -1.0 if self.arm_tag == "left" else 1.0
        x = self.outwards * self.rng.uniform(0.08, 0.12)
        y = self.rng.uniform(-0.13, -0.08)
        heading_rad = (0.0 if self.arm_tag == "left" else np.pi) + self.rng.uniform(-0.4, 0.4)
        self.kind = (GREEN, BROWN)[self.rng.integers(2)]
        pose = sapien.Pose(
            [x, y, self.table_top_m + RADIUS_M + 0.001],
            matrix_to_quaternion(lying_rotation(heading_rad)),
        )
        self.bottle = create_bottle(self, "001_bottle", self.kind, pose)
        self.add_prohibit_area(self.bottle, padding=0.15)
        # RoboTwin's is 5 cm farther out, where the head camera no longer sees the bottle.
        self.target_m = np.array([self.outwards * 0.2, -0.08, 0.95 + self.table_z_bias])

    def play_once(self) -> dict[str, Any]:
        arm_tag = self.arm_tag
        self.move(grasp_lying(self, self.bottle, arm_tag))
        self.move(self.move_by_displacement(arm_tag, z=0.1))
        inwards = level_rotation(-self.outwards * RIGHTWARDS, up=UP)
        at = self.bottle.get_pose().p
        # First head up, where it is; then to its side.
        upright_at = np.array([at[0] + self.outwards * 0.04, at[1], self.target_m[2] - 0.02])
        self.move(with_level_wrist(self.arms[arm_tag], upright_at, inwards))
        self.move(self.move_to_pose(arm_tag, self.target_m, inwards, straight=True))
        self.move(self.stay(arm_tag, 60))
        self.info["info"] = {"{A}": self.kind.phrase, "{a}": arm_tag}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        held = bool(self.holders(self.bottle))
        return held, held and self.rise_m(self.bottle) > 0.03

    def check_success(self) -> bool:
        x, _, z = self.bottle.get_functional_point(0).p
        return bool(self.outwards * x > SIDE_M and z > RAISED_M + self.table_z_bias)
