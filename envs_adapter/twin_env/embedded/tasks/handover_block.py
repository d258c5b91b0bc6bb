"""Hand the tall red block from the left arm to the right one, which stands it on the blue pad."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.expert import Plan
from twin_env.embedded.materials import BLUE, RED
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_z
from twin_env.embedded.scene import Part

BLOCK_HALF_M = (0.03, 0.03, 0.1)
PAD_HALF_M = (0.05, 0.05, 0.005)
GRIPS_M = 0.06
"""How far above the middle the first arm grips, and below it the second."""
MIDDLE_M = np.array([0.0, -0.02])
"""Where it is handed over."""
FIRST, SECOND = "left", "right"
"""Arms: RoboTwin's rule of success looks at the right gripper, and its block starts on the left."""


class handover_block(EmbeddedTask):
    step_lim = 800
    stages = ("block grasped", "lifted", "held by both arms", "handed over", "placed")

    def load_actors(self) -> None:
        drawn = self.rand_pose(
            xlim=(-0.25, -0.05),
            ylim=(0.0, 0.25),
            z=self.table_top_m + BLOCK_HALF_M[2] + 0.001,
            rotate_lim_rad=0.2,
        )
        # RoboTwin's block is turned by 22.5 degrees, give or take.
        standing = drawn * sapien.Pose(q=matrix_to_quaternion(rotation_z(np.pi / 8)))
        self.box = self.create_actor(
            "box",
            [Part("box", BLOCK_HALF_M, RED)],
            standing,
            functional_points_m=[(0.0, 0.0, -BLOCK_HALF_M[2]), (0.0, 0.0, BLOCK_HALF_M[2])],
            contact_points=[
                ContactPoint((0.0, 0.0, GRIPS_M), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
                ContactPoint((0.0, 0.0, -GRIPS_M), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
            ],
        )
        pad = self.rand_pose((0.1, 0.25), (0.15, 0.2), z=self.table_top_m + PAD_HALF_M[2])
        self.target_box = self.create_box("target_box", PAD_HALF_M, BLUE, pad, is_static=True)
        self.add_prohibit_area(self.box, padding=0.1)
        self.add_prohibit_area(self.target_box, padding=0.1)
        # The hands come level with the table, from the front.
        for actor in (self.box, self.target_box):
            x, y = actor.get_pose().p[:2]
            self.prohibited_area.append((x - 0.1, y - 0.25, x + 0.1, y))

    def play_once(self) -> dict[str, Any]:
        self._hand_over()
        self._place()
        self.info["info"] = {"{A}": "red block", "{B}": "blue pad", "{a}": FIRST, "{b}": SECOND}
        return self.info

    def _hand_over(self) -> None:
        # Hand level first: from there the wrist stays clear of its limits all the way.
        ready = np.array([-0.2, -0.1, self.table_top_m + 0.2])
        self.move(self.move_to_pose(FIRST, ready, rotation_z(np.pi / 2)))
        self.move(self._grasp(FIRST, contact_point=0))
        self.move(self.move_by_displacement(FIRST, z=0.1))
        # Cornerwise between the arms, so that each hand comes from its own side.
        middle = np.array([*MIDDLE_M, self.table_top_m + 0.14])
        self.move(self._carry(FIRST, middle, yaw_rad=-np.pi / 4) + self.stay(FIRST, 75))
        self.move(self._grasp(SECOND, contact_point=1))
        self.move(self.open_gripper(FIRST))
        self.move(self._withdraw(FIRST, 0.1))

    def _place(self) -> None:
        pad = self.target_box.get_functional_point(1).p
        above = pad + np.array([0.0, 0.0, 0.06])
        self.move(
            self._carry(SECOND, above, yaw_rad=-np.pi / 2) + self.stay(SECOND, 50),
            self.back_to_origin(FIRST),
        )
        self.move(
            self._carry(SECOND, pad, yaw_rad=-np.pi / 2)
            + self.stay(SECOND, 60)
            + self.open_gripper(SECOND)
        )
        self.move(self._withdraw(SECOND, 0.1))

    def _grasp(self, arm_tag: str, *, contact_point: int) -> Plan:
        """Grip only once the arm has come to rest: one that still moves drags the block along."""
        reach = self.grasp_actor(
            self.box, arm_tag, pre_grasp_dis=0.12, contact_point=contact_point, closing=1.0
        )
        return reach + self.close_gripper(arm_tag) + self.stay(arm_tag, 25)

    def _carry(self, arm_tag: str, foot_m: Array, *, yaw_rad: float) -> Plan:
        """Bring the foot of the upright block to a place, straight: through the joints it would
        swing and turn in the grip."""
        place = self.place_actor(
            self.box, arm_tag, foot_m, rotation=rotation_z(yaw_rad), pre_dis=0.0
        )
        return Plan(arm_tag, place.steps[-1:])

    def check_stages(self) -> tuple[bool, ...]:
        holders, lifted = self.holders(self.box), self.rise_m(self.box) > 0.03
        both, second_only = holders == {FIRST, SECOND}, holders == {SECOND}
        return bool(holders), bool(holders) and lifted, both and lifted, second_only and lifted

    def check_success(self) -> bool:
        foot = self.box.get_functional_point(0).p
        top = self.target_box.get_functional_point(1).p
        stands = bool(np.all(np.abs(foot - top) < (0.03, 0.03, 0.01)))
        return stands and self.is_right_gripper_open()

    def _withdraw(self, arm_tag: str, metres: float) -> Plan:
        """Draw an open hand back the way it came."""
        _, rotation = self._tool(arm_tag)
        x, y, z = -metres * rotation[:, 0]
        return self.move_by_displacement(arm_tag, x=x, y=y, z=z)
