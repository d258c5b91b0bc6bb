"""Take the empty cup by its rim with the arm on its side and set it on the coaster."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import (
    BLUE_GLAZE,
    CORK,
    CREAM_GLAZE,
    GREEN_GLAZE,
    PINK_GLAZE,
    TRAY_BROWN,
    YELLOW_GLAZE,
    Finish,
)
from twin_env.embedded.rotations import matrix_to_quaternion, rotation_y, rotation_z
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import revolved, turned_body, vessel

OUTSIDE = ((0.029, 0.0), (0.034, 0.006), (0.036, 0.030), (0.036, 0.085))
INSIDE = ((0.025, 0.005), (0.030, 0.009), (0.032, 0.030), (0.032, 0.085))
RIM_RADIUS_M, HEIGHT_M = 0.034, 0.085
GRIP_BELOW_RIM_M = 0.010
HANDLE_AT_M, HANDLE_RADIUS_M = (0.038, 0.045), 0.020
GLAZES = {
    "blue": BLUE_GLAZE,
    "green": GREEN_GLAZE,
    "yellow": YELLOW_GLAZE,
    "pink": PINK_GLAZE,
}
COASTER_RADIUS_M, COASTER_TOP_M = 0.050, 0.008
CUP_X_M = (0.15, 0.22)
COASTER_X_M = (-0.05, 0.1)
Y_M = (-0.17, 0.05)


class place_empty_cup(EmbeddedTask):
    step_lim = 500
    stages = ("cup grasped", "lifted", "over the coaster", "set down", "released on the coaster")

    def load_actors(self) -> None:
        """RoboTwin's places, but |x| up to 0.22 and not 0.3, y from -0.17 and not -0.2: the head
        camera's view ends there."""
        side = 1 if self.rng.integers(2) == 0 else -1
        cup_at = self.rand_pose(_mirrored(CUP_X_M, side), Y_M, self.table_top_m + 0.001)
        while True:
            coaster_at = self.rand_pose(_mirrored(COASTER_X_M, side), Y_M, self.table_top_m)
            if np.hypot(*(cup_at.p - coaster_at.p)[:2]) > 0.1:
                break
        self.cup_color = str(self.rng.choice(list(GLAZES)))
        # The handle points inwards, where the head camera sees it; the fingers take the rim on the
        # near side, away from it.
        facing = matrix_to_quaternion(rotation_z(np.pi if side > 0 else 0.0))
        self.cup = self.create_actor(
            "cup",
            cup_parts(GLAZES[self.cup_color]),
            sapien.Pose(cup_at.p, facing),
            density_kg_m3=900.0,
            functional_points_m=[(0.0, 0.0, 0.0)],
            contact_points=[
                ContactPoint((0.0, sign * RIM_RADIUS_M, HEIGHT_M - GRIP_BELOW_RIM_M))
                for sign in (-1, 1)
            ],
        )
        self.coaster = self.create_actor(
            "coaster",
            coaster_parts(),
            coaster_at,
            is_static=True,
            functional_points_m=[(0.0, 0.0, COASTER_TOP_M)],
        )
        self.add_prohibit_area(self.cup, padding=0.05)
        self.add_prohibit_area(self.coaster, padding=0.05)

    def play_once(self) -> dict[str, Any]:
        arm_tag = "right" if self.cup.get_pose().p[0] > 0 else "left"
        near = 1 if arm_tag == "right" else 0
        self.move(
            self.close_gripper(arm_tag, 0.6)
            + self.grasp_actor(self.cup, arm_tag, contact_point=near)
        )
        self.move(self.move_by_displacement(arm_tag, z=0.08))
        target = self.coaster.get_functional_point(0).p
        self.move(
            self.place_actor(self.cup, arm_tag, target, pre_dis=0.05, dis=0.001, hold_ticks=75)
            + self.open_gripper(arm_tag, 0.6)
        )
        self.move(self.move_by_displacement(arm_tag, z=0.05))
        self.move(self.move_by_displacement(arm_tag, z=0.05) + self.open_gripper(arm_tag))
        self.info["info"] = {
            "{A}": f"the {self.cup_color} cup",
            "{B}": "the cork coaster",
            "{a}": arm_tag,
        }
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        held = bool(self.holders(self.cup))
        lifted = held and self.rise_m(self.cup) > 0.03
        over = held and self._apart_m() < 0.035
        set_down = self._apart_m() < 0.035 and self.check_actors_contact(self.cup, self.coaster)
        return held, lifted, over, set_down

    def check_success(self) -> bool:
        foot = self.cup.get_functional_point(0).p
        top = self.coaster.get_functional_point(0).p
        return (
            self._apart_m() < 0.035
            and bool(abs(foot[2] - top[2]) < 0.015)
            and self.is_left_gripper_open()
            and self.is_right_gripper_open()
        )

    def _apart_m(self) -> float:
        """How far the cup's foot is from the coaster's middle, in plan."""
        apart = self.cup.get_functional_point(0).p - self.coaster.get_functional_point(0).p
        return float(np.hypot(*apart[:2]))


def cup_parts(finish: Finish) -> list[Part]:
    """A cup with a handle towards +x."""
    parts = vessel(OUTSIDE, INSIDE, finish, CREAM_GLAZE)
    x, z = HANDLE_AT_M
    angles = np.linspace(-np.pi / 2, np.pi / 2, 9)
    half_m = HANDLE_RADIUS_M * (angles[1] - angles[0]) / 2
    for angle in (angles[:-1] + angles[1:]) / 2:
        at = (x + HANDLE_RADIUS_M * np.cos(angle), 0.0, z + HANDLE_RADIUS_M * np.sin(angle))
        # Along the arc: a capsule lies along x.
        w, qx, qy, qz = matrix_to_quaternion(rotation_y(np.pi / 2 - angle)).tolist()
        parts.append(Part("capsule", (0.0042, float(half_m)), finish, at, (w, qx, qy, qz)))
    return parts


def coaster_parts() -> list[Part]:
    radius, top = COASTER_RADIUS_M, COASTER_TOP_M
    parts = turned_body(((radius, 0.0), (radius, top)), CORK)
    rim = ((radius, 0.0), (radius + 0.002, 0.0), (radius + 0.002, top), (radius - 0.004, top))
    lid = ((radius - 0.004, top), (0.0, top))
    parts.append(Part("mesh", (), TRAY_BROWN, collides=False, mesh=revolved(rim)))
    parts.append(Part("mesh", (), CORK, collides=False, mesh=revolved(lid)))
    return parts


def _mirrored(limits: tuple[float, float], side: int) -> tuple[float, float]:
    low, high = sorted(side * limit for limit in limits)
    return low, high
