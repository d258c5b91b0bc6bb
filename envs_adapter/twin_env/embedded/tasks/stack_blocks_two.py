"""Stack the green block on the red one, in the middle of the table's front."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import Actor
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import GREEN, RED
from twin_env.embedded.rotations import Array, rotation_z

BLOCK_HALF_M = 0.025
TARGET_XY_M = np.array([0.0, -0.13])


class stack_blocks_two(EmbeddedTask):
    step_lim = 800
    stages = (
        "red block grasped",
        "red block in place",
        "green block grasped",
        "green block above the red one",
        "stacked",
    )

    def load_actors(self) -> None:
        first = self._free_pose()
        while True:
            second = self._free_pose()
            if np.linalg.norm(second.p[:2] - first.p[:2]) >= 0.1:
                break
        half = (BLOCK_HALF_M,) * 3
        self.block1 = self.create_box("red_block", half, RED, first)
        self.block2 = self.create_box("green_block", half, GREEN, second)
        self.add_prohibit_area(self.block1, padding=0.07)
        self.add_prohibit_area(self.block2, padding=0.07)
        # Wider than RoboTwin's strip at the target: the open hand comes down there.
        x, y = TARGET_XY_M
        self.prohibited_area.append((x - 0.1, y - 0.1, x + 0.1, y + 0.1))

    def play_once(self) -> dict[str, Any]:
        on_table = np.array([*TARGET_XY_M, self.table_top_m + BLOCK_HALF_M])
        first_arm = self._stack(self.block1, on_table)
        on_red = self.block1.get_functional_point(1).p + np.array([0.0, 0.0, BLOCK_HALF_M])
        second_arm = self._stack(self.block2, on_red, before=first_arm)
        self.info["info"] = {
            "{A}": "red block",
            "{B}": "green block",
            "{a}": first_arm,
            "{b}": second_arm,
        }
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        red, green = self.block1.get_pose().p, self.block2.get_pose().p
        in_place = (
            bool(np.all(np.abs(red[:2] - TARGET_XY_M) < 0.03))
            and abs(red[2] - self.table_top_m - BLOCK_HALF_M) < 0.005
        )
        grasped = in_place and bool(self.holders(self.block2))
        above = bool(np.all(np.abs(green[:2] - red[:2]) < 0.025)) and green[2] > red[2] + 0.04
        return bool(self.holders(self.block1)), in_place, grasped, grasped and above

    def check_success(self) -> bool:
        red, green = self.block1.get_pose().p, self.block2.get_pose().p
        on_top = np.abs(green - red - [0.0, 0.0, 2 * BLOCK_HALF_M]) < (0.025, 0.025, 0.012)
        return bool(np.all(on_top)) and self.is_left_gripper_open() and self.is_right_gripper_open()

    def _free_pose(self) -> sapien.Pose:
        """Where RoboTwin puts a block: to the left or right, clear of the target."""
        while True:
            pose = self.rand_pose(
                # RoboTwin's 0.28 on the right is at the edge of what the head camera sees.
                xlim=(-0.28, 0.24),
                ylim=(-0.08, 0.05),
                z=self.table_top_m + BLOCK_HALF_M,
                rotate_lim_rad=0.75,
            )
            x, y = pose.p[:2]
            far_in_the_middle = abs(x) < 0.15 and y > 0.0
            clear = np.hypot(x, y + 0.1) >= 0.15
            if abs(x) >= 0.05 and clear and not far_in_the_middle:
                return pose

    def _stack(self, block: Actor, target_m: Array, before: str | None = None) -> str:
        """Bring a block's centre to a place; `before` is the arm that worked last."""
        arm_tag = "left" if block.get_pose().p[0] < 0 else "right"
        grasp = self.grasp_actor(block, arm_tag, pre_grasp_dis=0.09)
        if before in (None, arm_tag):
            self.move(grasp)
        else:
            assert before is not None
            self.move(grasp, self.back_to_origin(before))
        self.move(self.move_by_displacement(arm_tag, z=0.09))
        self.move(
            self.place_actor(
                block,
                arm_tag,
                target_m,
                rotation=_squared(block.get_pose().rotation),
                pre_dis=0.05,
                dis=0.001,
                hold_ticks=50,
                is_open=True,
            )
        )
        self.move(self.move_by_displacement(arm_tag, z=0.09))
        return arm_tag


def _squared(rotation: Array) -> Array:
    """The nearest rotation about z at which a block is square to the table; blocks stay level."""
    yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
    return rotation_z(float(np.round(yaw / (np.pi / 2)) * np.pi / 2))
