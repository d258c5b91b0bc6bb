"""Take the pot by its two handles with both arms at once and lift it level."""

from __future__ import annotations

from typing import Any

import numpy as np

from twin_env.embedded.actor import ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.materials import (
    CREAM_GLAZE,
    ENAMEL_GREEN,
    ENAMEL_RED,
    GRAPHITE,
    STEEL,
    Finish,
)
from twin_env.embedded.robot import SIDES
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import revolved, vessel

RADIUS_M, HEIGHT_M = 0.092, 0.095
OUTSIDE = ((0.082, 0.0), (0.090, 0.008), (RADIUS_M, 0.030), (RADIUS_M, HEIGHT_M))
INSIDE = ((0.076, 0.006), (0.085, 0.012), (RADIUS_M - 0.004, 0.030), (RADIUS_M - 0.004, HEIGHT_M))
HANDLE_HEIGHT_M = 0.068
HANDLE_REACH_M = 0.040
HANDLE_HALF_WIDTH_M = 0.021
BAR_HALF_M = (0.004, 0.008)
"""Half of a handle's thickness and of its height."""
HALF_OPEN = 0.7
GRIP_OUT_M = RADIUS_M + 0.023
LIFT_TO_M = 0.88
"""Of the pot's foot in the world, as in RoboTwin; `check_success` asks for 0.82."""
POTS = {
    "steel": (STEEL, STEEL, GRAPHITE),
    "red": (ENAMEL_RED, CREAM_GLAZE, STEEL),
    "green": (ENAMEL_GREEN, CREAM_GLAZE, STEEL),
}
"""Colour -> finishes of the outside, the inside and the handles."""


class lift_pot(EmbeddedTask):
    step_lim = 400
    stages = ("one handle grasped", "both handles grasped", "off the table", "lifted")

    def load_actors(self) -> None:
        pot_at = self.rand_pose(
            xlim=(-0.05, 0.05),
            ylim=(-0.05, 0.05),
            z=self.table_top_m + 0.001,
            rotate_lim_rad=np.pi / 8,
        )
        self.color = str(self.rng.choice(list(POTS)))
        self.pot = self.create_actor(
            "pot",
            pot_parts(*POTS[self.color]),
            pot_at,
            density_kg_m3=1500.0,
            contact_points=[
                ContactPoint((sign * GRIP_OUT_M, 0.0, HANDLE_HEIGHT_M)) for sign in (-1, 1)
            ],
        )
        x, y = self.pot.get_pose().p[:2]
        self.prohibited_area.append((x - 0.3, y - 0.1, x + 0.3, y + 0.1))

    def play_once(self) -> dict[str, Any]:
        self.move(
            *(
                # The arms lag behind their targets: they close once they have come down.
                self.grasp_actor(
                    self.pot, side, pre_grasp_dis=0.08, contact_point=point, closing=HALF_OPEN
                )
                + self.stay(side, 60)
                + self.close_gripper(side)
                for point, side in enumerate(SIDES)
            )
        )
        rise_m = LIFT_TO_M - float(self.pot.get_pose().p[2])
        self.move(*(self.move_by_displacement(side, z=rise_m, pace=0.6) for side in SIDES))
        self.move(*(self.stay(side, 75) for side in SIDES))
        self.info["info"] = {"{A}": f"the {self.color} pot", "{a}": "left", "{b}": "right"}
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        holders = self.holders(self.pot)
        both = len(holders) == 2
        return bool(holders), both, both and self.rise_m(self.pot) > 0.02

    def check_success(self) -> bool:
        pose = self.pot.get_pose()
        at_handles = all(
            np.linalg.norm(self.arms[side].endpose()[:3] - self.pot.get_contact_point(point).p)
            < 0.03
            for point, side in enumerate(SIDES)
        )
        return bool(pose.p[2] > 0.82 and at_handles and pose.rotation[2, 2] > 0.8)


def pot_parts(outside: Finish, inside: Finish, handle: Finish) -> list[Part]:
    """A pot with a looped handle on either side, along x."""
    parts = vessel(OUTSIDE, INSIDE, outside, inside)
    r, top = RADIUS_M, HEIGHT_M
    rim = (
        *((r - 0.005, top - 0.003), (r + 0.002, top - 0.003), (r + 0.002, top + 0.001)),
        (r - 0.005, top + 0.001),
    )
    parts.append(Part("mesh", (), STEEL, collides=False, mesh=revolved((*rim, rim[0]))))
    bar, bar_height = BAR_HALF_M
    # Out of the wall's middle, so that nothing shows inside.
    leg_half_m = (HANDLE_REACH_M + 0.0035) / 2
    for end in (-1, 1):
        for side in (-1, 1):
            at = (end * (r - 0.0035 + leg_half_m), side * (HANDLE_HALF_WIDTH_M - bar), 0.0)
            parts.append(Part("box", (leg_half_m, bar, bar_height), handle, _raised(at)))
        at = (end * (r + HANDLE_REACH_M - bar), 0.0, 0.0)
        parts.append(Part("box", (bar, HANDLE_HALF_WIDTH_M, bar_height), handle, _raised(at)))
    return parts


def _raised(at_m: tuple[float, float, float]) -> tuple[float, float, float]:
    return at_m[0], at_m[1], HANDLE_HEIGHT_M
