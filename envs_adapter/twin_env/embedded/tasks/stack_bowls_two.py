"""Set one bowl in the middle and stack the other in it, each with the arm on its side."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import Actor, ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import (
    BLUE_GLAZE,
    CREAM_GLAZE,
    GREEN_GLAZE,
    PINK_GLAZE,
    YELLOW_GLAZE,
)
from twin_env.embedded.shapes import SECTORS, vessel

# Wide enough for a finger (22 mm) to lie on one facet of the inside: across two, it wedges.
OUTSIDE = ((0.032, 0.0), (0.051, 0.015), (0.0625, 0.033), (0.066, 0.055))
INSIDE = ((0.027, 0.006), (0.0465, 0.018), (0.0593, 0.035), (0.0625, 0.055))
RIM_RADIUS_M, HEIGHT_M = 0.06425, 0.055
GRIP_BELOW_RIM_M = 0.010
SLOPE = (OUTSIDE[-1][0] - OUTSIDE[-2][0]) / (OUTSIDE[-1][1] - OUTSIDE[-2][1])
NEST_M = 0.022
"""How much higher the inner of two stacked bowls stands: their walls meet, not their bottoms."""
MIDDLE_M = (0.0, -0.1)
GLAZES = {
    "blue": BLUE_GLAZE,
    "green": GREEN_GLAZE,
    "yellow": YELLOW_GLAZE,
    "pink": PINK_GLAZE,
}
HALF_OPEN = 0.5


def rim_grasps() -> list[ContactPoint]:
    """One finger inside and one outside, at each facet's middle, along the wall's slope."""
    grasps = []
    for angle in np.arange(SECTORS) * 2 * np.pi / SECTORS:
        outwards = np.array([np.cos(angle), np.sin(angle), 0.0])
        at = (RIM_RADIUS_M - SLOPE * GRIP_BELOW_RIM_M) * outwards
        wall = SLOPE * outwards + np.array([0.0, 0.0, 1.0])
        grasps.append(
            ContactPoint((*at[:2], HEIGHT_M - GRIP_BELOW_RIM_M), tuple(-wall), tuple(outwards))
        )
    return grasps


class stack_bowls_two(EmbeddedTask):
    step_lim = 900
    stages = (
        "bowl grasped",
        "lifted",
        "set down in the middle",
        "second bowl lifted",
        "over the first",
        "stacked",
    )

    def load_actors(self) -> None:
        one = self._place(())
        places = sorted((one, self._place((one,))), key=_depth)
        colors = self.rng.permutation(list(GLAZES))[:2]
        self.bowl1, self.bowl2 = (
            self.create_actor(
                name,
                vessel(OUTSIDE, INSIDE, GLAZES[color], CREAM_GLAZE),
                place,
                density_kg_m3=400.0,
                functional_points_m=[(0.0, 0.0, 0.0)],
                contact_points=rim_grasps(),
            )
            for name, place, color in zip(("bowl1", "bowl2"), places, colors, strict=True)
        )
        self.colors = [str(color) for color in colors]
        for bowl in (self.bowl1, self.bowl2):
            self.add_prohibit_area(bowl, padding=0.07)
        self.prohibited_area.append((-0.1, -0.15, 0.1, -0.05))

    def play_once(self) -> dict[str, Any]:
        middle = np.array([*MIDDLE_M, self.table_top_m])
        first = self._carry(self.bowl1, middle, keep_clear_of=self.bowl2)
        onto = self.bowl1.get_pose().p + np.array([0.0, 0.0, NEST_M])
        second = self._carry(self.bowl2, onto, keep_clear_of=self.bowl1, resting=first)
        self.info["info"] = {
            "{A}": f"the {self.colors[0]} bowl",
            "{B}": f"the {self.colors[1]} bowl",
            "{a}": first,
            "{b}": second,
        }
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        bowls = (self.bowl1, self.bowl2)
        held = [bool(self.holders(bowl)) for bowl in bowls]
        lifted = [grip and self.rise_m(bowl) > 0.03 for grip, bowl in zip(held, bowls, strict=True)]
        at = [bowl.get_pose().p for bowl in bowls]
        set_down = [
            not grip
            and bool(np.all(np.abs(p[:2] - MIDDLE_M) < 0.04))
            and abs(p[2] - self.table_top_m) < 0.01
            for grip, p in zip(held, at, strict=True)
        ]
        second = (set_down[0] and lifted[1]) or (set_down[1] and lifted[0])
        apart = np.abs(at[0] - at[1])
        over = second and bool(np.all(apart[:2] < 0.04) and apart[2] > 0.02)
        return any(held), any(lifted), any(set_down), second, over

    def check_success(self) -> bool:
        """RoboTwin's rule: no height is too low, and a bowl may hang askew on the other's rim or
        still fall; `stack_bowls_two_strict` asks for more."""
        low, high = sorted((bowl.get_pose().p for bowl in (self.bowl1, self.bowl2)), key=_height)
        not_too_high = low[2] - self.table_top_m < 0.02 and high[2] - self.table_top_m < 0.05
        return (
            bool(np.all(np.abs(low[:2] - high[:2]) < 0.04))
            and bool(not_too_high)
            and self.is_left_gripper_open()
            and self.is_right_gripper_open()
        )

    def _place(self, taken: tuple[sapien.Pose, ...]) -> sapien.Pose:
        """RoboTwin's places, but |x| up to 0.21 and not 0.3, where the head camera's view ends, and
        14 cm apart, not 13: so wide are the bowls."""
        while True:
            pose = self.rand_pose(xlim=(-0.21, 0.21), ylim=(-0.15, 0.15), z=self.table_top_m + 1e-3)
            x, y = pose.p[:2]
            if abs(x) < 0.15 and y > 0.0:
                continue
            occupied = [MIDDLE_M, *(other.p[:2] for other in taken)]
            if abs(x) >= 0.09 and all(np.hypot(*(pose.p[:2] - p)) > 0.14 for p in occupied):
                return pose

    def _carry(
        self, bowl: Actor, to_m: np.ndarray, *, keep_clear_of: Actor, resting: str | None = None
    ) -> str:
        """Take a bowl by its rim to a place, while the other arm, if it is to rest, goes home."""
        arm_tag = "left" if bowl.get_pose().p[0] < 0 else "right"
        facet = self._free_facet(bowl, arm_tag, keep_clear_of)
        grasp = (
            self.close_gripper(arm_tag, HALF_OPEN)
            + self.grasp_actor(bowl, arm_tag, contact_point=facet, closing=HALF_OPEN)
            # The arm lags behind its targets: gripped by its edge only, a bowl would swing.
            + self.stay(arm_tag, 45)
            + self.close_gripper(arm_tag)
        )
        if resting is None or resting == arm_tag:
            self.move(grasp)
        else:
            self.move(grasp, self.back_to_origin(resting))
        self.move(self.move_by_displacement(arm_tag, z=0.1))
        self.move(
            self.place_actor(bowl, arm_tag, to_m, pre_dis=0.09, dis=0.002, hold_ticks=75)
            # A finger that opened wide would push what stands beside.
            + self.open_gripper(arm_tag, HALF_OPEN)
        )
        self.move(self.move_by_displacement(arm_tag, z=0.09))
        # A nested bowl rocks for a while.
        self.move(self.open_gripper(arm_tag) + self.stay(arm_tag, 50))
        return arm_tag

    def _free_facet(self, bowl: Actor, arm_tag: str, other: Actor) -> int:
        """The facet from the arm's outer side round to the near one that is furthest from the
        other bowl: a finger goes down outside it."""
        outer, near = (SECTORS // 2, 3 * SECTORS // 4) if arm_tag == "left" else (SECTORS, 12)
        away = other.get_pose().p
        return max(
            (facet % SECTORS for facet in (outer, (outer + near) // 2, near)),
            key=lambda facet: float(np.linalg.norm(bowl.get_contact_point(facet).p - away)),
        )


def _depth(pose: sapien.Pose) -> float:
    return float(pose.p[1])


def _height(position_m: np.ndarray) -> float:
    return float(position_m[2])
