"""Ring the desk bell: press its button with the closed gripper of the arm on the bell's side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from twin_env.embedded import shapes
from twin_env.embedded.actor import ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import BRASS, CHROME, RUBBER
from twin_env.embedded.scene import Part

FOOT = ((0.0, 0.0), (0.044, 0.0), (0.046, 0.004), (0.046, 0.009), (0.041, 0.012))
DOME = tuple(
    (0.041 * math.cos(turn), 0.012 + 0.035 * math.sin(turn))
    for turn in (step * math.pi / 24 for step in range(13))
)
BUTTON = (
    (0.004, 0.045),
    (0.004, 0.052),
    (0.009, 0.053),
    (0.009, 0.057),
    (0.006, 0.060),
    (0.0, 0.060),
)
TOP_M = 0.060
FINGERTIPS_BEYOND_TCP_M = 0.006


class click_bell(EmbeddedTask):
    step_lim = 400
    stages = ("over the bell", "gripper closed over it", "rung")

    def load_actors(self) -> None:
        while True:
            # RoboTwin's go to 0.25 on the right too, where the head camera, which stands left of
            # the middle, would cut off a bell that is near.
            pose = self.rand_pose(xlim=(-0.25, 0.2), ylim=(-0.2, 0.0), z=self.table_top_m)
            if abs(pose.p[0]) > 0.05:
                break
        self.bell_id = int(self.rng.integers(2))
        dome = (CHROME, BRASS)[self.bell_id]
        parts: list[Part] = [
            *shapes.turned_body(FOOT, RUBBER),
            *shapes.turned_body(DOME, dome),
            *shapes.turned_body(BUTTON, dome),
        ]
        self.bell = self.create_actor(
            "050_bell",
            parts,
            pose,
            is_static=True,
            contact_points=[ContactPoint((0.0, 0.0, TOP_M))],
        )
        self.add_prohibit_area(self.bell, padding=0.07)
        self.arm_tag = "right" if self.bell.get_pose().p[0] > 0 else "left"
        self.stage_success_tag = False

    def play_once(self) -> dict[str, Any]:
        arm_tag = self.arm_tag
        self.move(self.grasp_actor(self.bell, arm_tag, pre_grasp_dis=0.1, grasp_dis=0.1))
        # The button stops the fingertips; told to go a little below its top, they press it.
        press_m = 0.1 - FINGERTIPS_BEYOND_TCP_M + 0.006
        self.move(
            self.move_by_displacement(arm_tag, z=-press_m, pace=0.6) + self.stay(arm_tag, 100)
        )
        self.check_success()
        self.move(self.move_by_displacement(arm_tag, z=press_m))
        self.check_success()
        self.info["info"] = {"{A}": f"050_bell/base{self.bell_id}", "{a}": arm_tag}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        tool = self.arms[self.arm_tag].endpose()[:3]
        top = self.bell.get_contact_point(0).p
        above = bool(np.all(np.abs(tool[:2] - top[:2]) < 0.03) and tool[2] > top[2])
        return above, above and self.check_arm_function()

    def check_arm_function(self) -> bool:
        """Whether the gripper on the bell's side is closed; RoboTwin's name."""
        left = self.arm_tag == "left"
        return self.is_left_gripper_close() if left else self.is_right_gripper_close()

    def check_success(self) -> bool:
        """RoboTwin's rule: once rung, rung for the rest of the episode."""
        if not self.stage_success_tag and self.check_arm_function():
            top = self.bell.get_contact_point(0).p
            self.stage_success_tag = any(
                np.all(np.abs(at - top) < (0.025, 0.025, 0.03))
                for at in self.gripper_contacts_m(self.bell)
            )
        return self.stage_success_tag
