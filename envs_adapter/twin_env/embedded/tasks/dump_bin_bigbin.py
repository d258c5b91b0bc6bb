"""Empty a small bin that stands on the table into the big bin that stands beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded import shapes
from twin_env.embedded.actor import Actor
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.expert import Plan
from twin_env.embedded.materials import (
    BIN_DARK,
    BIN_GREEN,
    BIN_TEAL,
    LABEL_BLUE,
    LABEL_RED,
    LABEL_WHITE,
    LABEL_YELLOW,
    WHITE_PLASTIC,
    Finish,
)
from twin_env.embedded.rotations import Array, rotation_about
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import Profile
from twin_env.embedded.side_grips import (
    grip_along,
    level_rotation,
    side_grips,
    with_level_wrist,
)

UP = np.array([0.0, 0.0, 1.0])
FORWARD = np.array([0.0, 1.0, 0.0])
GRIP_HEIGHT_M = 0.064
GRIP_DEPTH_M = 0.012
BIN_RADIUS_M, BIN_HEIGHT_M, BIN_FLOOR_M = 0.0365, 0.120, 0.025
BIN_OUTSIDE: Profile = ((BIN_RADIUS_M, 0.0), (BIN_RADIUS_M, BIN_HEIGHT_M))
BIN_INSIDE: Profile = ((0.0335, BIN_FLOOR_M), (0.0335, BIN_HEIGHT_M))
BIG_RADIUS_M, BIG_HEIGHT_M, BIG_FLOOR_M = 0.13, 0.68, 0.14
BIG_OUTSIDE: Profile = ((0.105, 0.0), (BIG_RADIUS_M, BIG_HEIGHT_M))
BIG_INSIDE: Profile = ((0.100, BIG_FLOOR_M), (BIG_RADIUS_M - 0.005, BIG_HEIGHT_M))
BIG_AT_M = (-0.45, 0.20, 0.0)
"""RoboTwin's stands 20 cm nearer the robot, where the head camera sees nothing of its mouth."""
GARBAGE_RADIUS_M = 0.008
GARBAGE = (LABEL_WHITE, LABEL_RED, LABEL_YELLOW, LABEL_BLUE, LABEL_WHITE)
MIDDLE_M = (0.0, -0.10)
POUR_AT_M = np.array([-0.365, 0.20, 1.03])
"""Of the tool; the small bin must be above RoboTwin's 1.0 m while it is emptied."""
POUR_RAD = 2.35
BACK_M = 0.10


class dump_bin_bigbin(EmbeddedTask):
    """On the right half, the right arm first brings the bin to the middle; the left one pours."""

    step_lim = 600
    table_xy_bias = (0.3, 0.0)
    stages = ("bin grasped", "bin lifted", "bin over the big bin", "some garbage inside", "emptied")

    def load_actors(self) -> None:
        self.dustbin = self.create_actor(
            "011_dustbin", _big_bin(), sapien.Pose(BIG_AT_M), is_static=True
        )
        while True:
            pose = self.rand_pose((-0.2, 0.2), (-0.2, -0.05), self.table_top_m + 0.001, np.pi / 8.5)
            if abs(pose.p[0]) >= 0.05:
                break
        self.deskbin = self.create_actor(
            "063_tabletrashbin",
            _desk_bin(),
            pose,
            functional_points_m=[(0.0, 0.0, 0.0)],
            contact_points=side_grips(GRIP_HEIGHT_M),
        )
        self.garbage = [self._add_garbage(index, pose.p) for index in range(len(GARBAGE))]
        self.add_prohibit_area(self.deskbin, padding=0.04)
        self.prohibited_area.append((-0.2, -0.2, 0.2, 0.2))
        # The hands come from the sides, low over the table.
        self.prohibited_area.append((-0.32, -0.27, 0.0, 0.02))
        if pose.p[0] > 0:
            self.prohibited_area.append((0.0, -0.27, 0.5, 0.02))

    def play_once(self) -> dict[str, Any]:
        if self.deskbin.get_pose().p[0] > 0:
            self._bring_to_middle()
        else:
            self.move(self._before_bin("left"))
        self.move(self._onto_bin("left"))
        self.move(self.move_by_displacement("left", z=0.12))
        upright = level_rotation(FORWARD, up=UP)
        tipped = rotation_about(FORWARD, -POUR_RAD) @ upright
        self.move(self.move_to_pose("left", POUR_AT_M, upright, straight=True))
        self.move(self.move_to_pose("left", POUR_AT_M, tipped, straight=True))
        for shake_m in (0.02, 0.0, 0.02, 0.0):
            self.move(self.move_to_pose("left", POUR_AT_M + shake_m * UP, tipped, straight=True))
        self.move(self.stay("left", 150))
        self.info["info"] = {"{A}": "the small bin"}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        held = bool(self.holders(self.deskbin))
        lifted = held and self.rise_m(self.deskbin) > 0.03
        at = self.deskbin.get_pose().p
        over = lifted and at[2] > 1.0 and np.linalg.norm(at[:2] - BIG_AT_M[:2]) < 0.2
        return held, lifted, bool(over), any(self._is_inside(ball) for ball in self.garbage)

    def check_success(self) -> bool:
        if self.deskbin.get_pose().p[2] < 1.0:
            return False
        return all(self._is_inside(ball) for ball in self.garbage)

    def _is_inside(self, ball: Actor) -> bool:
        """RoboTwin's rule: at a height at which nothing but the big bin's inside can hold it."""
        return bool(0.13 <= ball.get_pose().p[2] <= 0.25)

    def _add_garbage(self, index: int, bin_at: Array) -> Actor:
        angle = 2 * np.pi * index / len(GARBAGE) + self.rng.uniform(-0.2, 0.2)
        radius = self.rng.uniform(0.018, 0.023)
        at = [
            bin_at[0] + radius * np.cos(angle),
            bin_at[1] + radius * np.sin(angle),
            bin_at[2] + BIN_FLOOR_M + GARBAGE_RADIUS_M,
        ]
        ball = Part("sphere", (GARBAGE_RADIUS_M,), GARBAGE[index])
        return self.create_actor(f"garbage_{index}", [ball], sapien.Pose(at))

    def _bring_to_middle(self) -> None:
        self.move(self._before_bin("right"))
        self.move(self._onto_bin("right"))
        self.move(self.move_by_displacement("right", z=0.06))
        middle = np.array([*MIDDLE_M, self.table_top_m])
        self.move(
            self.place_actor(self.deskbin, "right", middle, dis=0.001, hold_ticks=60, is_open=True)
        )
        _, rotation = self.arms["right"].tcp_of(self.arms["right"].targets_rad)
        back = -1.2 * BACK_M * rotation[:, 0]
        self.move(self.move_by_displacement("right", x=back[0], y=back[1]))
        self.move(self.back_to_origin("right"), self._before_bin("left"))

    def _grip(self, side: str) -> tuple[Array, Array]:
        """Where the tool takes the bin, and how it is turned: coming level, from the arm's side."""
        inwards = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
        grip = grip_along(self.deskbin, inwards)
        approach = self.deskbin.tool_rotation(grip)[:, 0]
        at = self.deskbin.get_contact_point(grip).p + GRIP_DEPTH_M * approach
        return at, level_rotation(approach, up=UP)

    def _before_bin(self, side: str) -> Plan:
        at, rotation = self._grip(side)
        return with_level_wrist(self.arms[side], at - BACK_M * rotation[:, 0], rotation)

    def _onto_bin(self, side: str) -> Plan:
        at, rotation = self._grip(side)
        return self.move_to_pose(side, at, rotation, straight=True) + self.close_gripper(side)


def _ring(low: tuple[float, float], high: tuple[float, float], finish: Finish) -> Part:
    """A band around a bin, from an inner and outer radius at a lower and an upper height."""
    (inner, bottom), (outer, top) = low, high
    around = ((inner, bottom), (outer, bottom), (outer, top), (inner, top), (inner, bottom))
    return Part("mesh", (), finish, collides=False, mesh=shapes.revolved(around))


def _desk_bin() -> list[Part]:
    return [
        *shapes.vessel(BIN_OUTSIDE, BIN_INSIDE, BIN_TEAL),
        _ring((0.0325, 0.114), (0.0400, BIN_HEIGHT_M + 0.001), BIN_DARK),
        _ring((0.0300, 0.0), (0.0372, 0.006), BIN_DARK),
        _ring((0.0360, 0.090), (0.0370, 0.100), WHITE_PLASTIC),
    ]


def _big_bin() -> list[Part]:
    return [
        *shapes.vessel(BIG_OUTSIDE, BIG_INSIDE, BIN_GREEN),
        _ring((0.122, 0.655), (0.136, BIG_HEIGHT_M + 0.002), BIN_DARK),
        _ring((0.100, 0.0), (0.109, 0.03), BIN_DARK),
        _ring((0.1200, 0.50), (0.1285, 0.54), LABEL_WHITE),
    ]
