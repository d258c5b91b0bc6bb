"""Pick up the hammer with the arm on the block's side and strike the block."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import ACCENT, RED, STEEL, WOOD
from twin_env.embedded.scene import Part

HEAD_AHEAD_M = 0.095
HEAD_HALF_M = (0.018, 0.018, 0.028)
BLOCK_HALF_M = 0.025
HAMMER = [
    Part("box", HEAD_HALF_M, STEEL, (HEAD_AHEAD_M, 0.0, 0.0)),
    Part("box", (0.021, 0.021, 0.006), STEEL, (HEAD_AHEAD_M, 0.0, 0.022), collides=False),
    Part("box", (0.021, 0.021, 0.006), STEEL, (HEAD_AHEAD_M, 0.0, -0.022), collides=False),
    Part("box", (0.080, 0.010, 0.011), WOOD, (0.0, 0.0, 0.0)),
    Part("box", (0.010, 0.016, 0.028), ACCENT, (-0.080, 0.0, 0.0)),
]


class beat_block_hammer(EmbeddedTask):
    step_lim = 400
    stages = ("hammer grasped", "lifted", "over the block", "struck")

    def load_actors(self) -> None:
        tilt_rad = np.pi / 2 + 0.21
        self.hammer = self.create_actor(
            "020_hammer",
            HAMMER,
            sapien.Pose(
                [0.0, -0.06, self.table_top_m + HEAD_HALF_M[2] + 0.001],
                [np.cos(tilt_rad / 2), 0.0, 0.0, np.sin(tilt_rad / 2)],
            ),
            density_kg_m3=300.0,
            functional_points_m=[(HEAD_AHEAD_M, 0.0, -HEAD_HALF_M[2])],
            contact_points=[ContactPoint((0.0, 0.0, 0.0))],
        )
        head = self.hammer.get_functional_point(0).p
        grip = self.hammer.get_contact_point(0).p
        while True:
            pose = self.rand_pose(
                xlim=(-0.25, 0.25),
                ylim=(-0.05, 0.15),
                z=self.table_top_m + BLOCK_HALF_M,
                rotate_lim_rad=0.5,
            )
            clear_of_head = np.linalg.norm(pose.p[:2] - head[:2]) > 0.08
            clear_of_fingers = np.linalg.norm(pose.p[:2] - grip[:2]) > 0.11
            if abs(pose.p[0]) > 0.05 and clear_of_head and clear_of_fingers:
                break
        self.block = self.create_box("box", (BLOCK_HALF_M,) * 3, RED, pose, is_static=True)
        self.add_prohibit_area(self.hammer, padding=0.10)
        self.add_prohibit_area(self.block, padding=0.025)

    def play_once(self) -> dict[str, Any]:
        top = self.block.get_functional_point(1).p
        arm_tag = "left" if top[0] < 0 else "right"
        self.move(self.grasp_actor(self.hammer, arm_tag, pre_grasp_dis=0.12))
        self.move(self.move_by_displacement(arm_tag, z=0.07))
        # Below the top, and for a while: a policy that imitates this presses instead of hovering.
        self.move(
            self.place_actor(self.hammer, arm_tag, top, pre_dis=0.06, dis=-0.016, hold_ticks=105)
        )
        self.info["info"] = {"{A}": "020_hammer/base0", "{a}": arm_tag}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        held = bool(self.holders(self.hammer))
        lifted = held and self.rise_m(self.hammer) > 0.03
        face = self.hammer.get_functional_point(0).p
        top = self.block.get_functional_point(1).p
        above = bool(np.all(np.abs(face[:2] - top[:2]) < 0.03) and face[2] > top[2])
        return held, lifted, lifted and above

    def check_success(self) -> bool:
        face = self.hammer.get_functional_point(0).p
        top = self.block.get_functional_point(1).p
        over_block = np.all(np.abs(face[:2] - top[:2]) < 0.02)
        return bool(over_block) and self.check_actors_contact(self.hammer, self.block)
