"""Put the burger and the fries on the tray, gripped by both arms at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from twin_env.embedded.actor import Actor, ContactPoint
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.expert import Plan
from twin_env.embedded.materials import (
    BUN,
    CHEESE,
    CREAM_GLAZE,
    ENAMEL_RED,
    FRIED_POTATO,
    LETTUCE,
    PATTY,
    SESAME,
    TOMATO,
    TRAY_BROWN,
    TRAY_GREY,
    TRAY_TEAL,
    Finish,
)
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_about, rotation_z
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import Profile, extruded, hull, revolved, turned_body

TRAY_HALF_M = (0.125, 0.095)
TRAY_FLOOR_M = 0.005
TRAYS = {"brown": TRAY_BROWN, "teal": TRAY_TEAL, "grey": TRAY_GREY}
SPOT_M = 0.06
"""How far left and right of the tray's middle the burger and the fries belong."""
ON_SPOT_M = 0.08

BURGER_RADIUS_M, BURGER_HEIGHT_M = 0.035, 0.058
CARTON_HALF_DEPTH_M = 0.019
FRONT = (
    (-0.024, 0.0),
    (0.024, 0.0),
    (0.032, 0.058),
    (0.021, 0.050),
    (0.0, 0.046),
    (-0.021, 0.050),
    (-0.032, 0.058),
)
FILLING = ((-0.024, 0.0), (0.024, 0.0), (0.030, 0.044), (-0.030, 0.044))
BADGE = tuple(
    (0.011 * float(np.cos(a)), 0.024 + 0.011 * float(np.sin(a)))
    for a in np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
)
BACK = ((-0.024, 0.0), (0.024, 0.0), (0.032, 0.058), (0.020, 0.070), (-0.020, 0.070), FRONT[-1])


class place_burger_fries(EmbeddedTask):
    step_lim = 500
    stages = (
        "burger or fries grasped",
        "both grasped",
        "both lifted",
        "burger on its spot",
        "fries over the tray",
        "both on the tray",
    )

    def load_actors(self) -> None:
        """RoboTwin's places, but the outer ones drawn nearer by 2 cm (burger) and up to 9 cm
        (fries): the head camera's view ends at x = 0.27 there."""
        table_m = self.table_top_m
        tray_at = self.rand_pose(xlim=(0.0, 0.0), ylim=(-0.15, -0.1), z=table_m)
        burger_at = self.rand_pose(xlim=(-0.28, -0.23), ylim=(-0.15, -0.07), z=table_m + 0.001)
        fries_at = self.rand_pose(xlim=(0.175, 0.21), ylim=(-0.15, -0.07), z=table_m + 0.001)
        self.tray_color = str(self.rng.choice(list(TRAYS)))
        self.tray = self.create_actor(
            "tray",
            tray_parts(TRAYS[self.tray_color]),
            tray_at,
            is_static=True,
            functional_points_m=[(-SPOT_M, 0.0, TRAY_FLOOR_M), (SPOT_M, 0.0, TRAY_FLOOR_M)],
        )
        self.burger = self._food("burger", burger_parts(), burger_at, grip_m=0.018)
        self.fries = self._food("fries", fries_parts(), fries_at, grip_m=0.030)
        self.add_prohibit_area(self.tray, padding=0.1)
        self.add_prohibit_area(self.burger, padding=0.05)
        self.add_prohibit_area(self.fries, padding=0.05)

    def play_once(self) -> dict[str, Any]:
        self.move(self.grasp_actor(self.burger, "left"), self.grasp_actor(self.fries, "right"))
        self.move(
            self.move_by_displacement("left", z=0.1), self.move_by_displacement("right", z=0.1)
        )
        self.move(self._set_down(self.burger, "left", spot=0))
        self.move(self.move_by_displacement("left", z=0.08))
        self.move(self._set_down(self.fries, "right", spot=1), self.back_to_origin("left"))
        self.move(self.move_by_displacement("right", z=0.08))
        self.info["info"] = {
            "{A}": "the burger",
            "{B}": f"the {self.tray_color} tray",
            "{C}": "the box of fries",
            "{a}": "left",
            "{b}": "right",
        }
        return self.info

    def check_stages(self) -> tuple[bool, ...]:
        food = (self.burger, self.fries)
        held = [bool(self.holders(actor)) for actor in food]
        lifted = all(held) and all(self.rise_m(actor) > 0.03 for actor in food)
        burger_there = self._off_spot_m(0) < ON_SPOT_M and not held[0]
        fries_over = burger_there and held[1] and self._off_spot_m(1) < ON_SPOT_M
        return any(held), all(held), lifted, burger_there, fries_over

    def check_success(self) -> bool:
        """RoboTwin's rule, which looks at the plan view only: `place_burger_fries_strict` asks for
        more."""
        return (
            self._off_spot_m(0) < ON_SPOT_M
            and self._off_spot_m(1) < ON_SPOT_M
            and self.is_left_gripper_open()
            and self.is_right_gripper_open()
        )

    def _food(self, name: str, parts: list[Part], at: sapien.Pose, *, grip_m: float) -> Actor:
        return self.create_actor(
            name,
            parts,
            at,
            density_kg_m3=350.0,
            functional_points_m=[(0.0, 0.0, 0.0)],
            contact_points=[ContactPoint((0.0, 0.0, grip_m))],
        )

    def _set_down(self, actor: Actor, arm_tag: str, *, spot: int) -> Plan:
        target = self.tray.get_functional_point(spot).p
        return self.place_actor(
            actor, arm_tag, target, pre_dis=0.1, dis=0.002, hold_ticks=75, is_open=True
        )

    def _off_spot_m(self, spot: int) -> float:
        """How far from its spot on the tray the burger (0) or the box of fries (1) is, in plan."""
        actor = (self.burger, self.fries)[spot]
        away = self.tray.get_functional_point(spot).p - actor.get_functional_point(0).p
        return float(np.linalg.norm(away[:2]))


def tray_parts(finish: Finish) -> list[Part]:
    width, depth = TRAY_HALF_M
    parts = [Part("box", (width, depth, TRAY_FLOOR_M / 2), finish, (0.0, 0.0, TRAY_FLOOR_M / 2))]
    for sign in (-1, 1):
        # Edges lean outwards.
        lean = _quaternion(rotation_about(np.array([1.0, 0.0, 0.0]), -0.5 * sign))
        at = (0.0, sign * (depth + 0.003), 0.009)
        parts.append(Part("box", (width + 0.007, 0.002, 0.010), finish, at, lean))
        lean = _quaternion(rotation_about(np.array([0.0, 1.0, 0.0]), 0.5 * sign))
        at = (sign * (width + 0.003), 0.0, 0.009)
        parts.append(Part("box", (0.002, depth + 0.007, 0.010), finish, at, lean))
    paper = (width - 0.012, depth - 0.012, 0.0004)
    parts.append(Part("box", paper, CREAM_GLAZE, (0.0, 0.0, TRAY_FLOOR_M), collides=False))
    return parts


def burger_parts() -> list[Part]:
    """Bun, lettuce, patty, cheese, tomato and the bun's upper half with sesame; it collides as one
    body, whose straight waist the fingers take."""
    r = BURGER_RADIUS_M
    layers = (
        (((0.0, 0.0), (r - 0.004, 0.0), (r, 0.006), (r, 0.013), (r - 0.002, 0.015)), BUN),
        (((0.0, 0.014), (r + 0.001, 0.0145), (r + 0.001, 0.0175), (0.0, 0.018)), LETTUCE),
        (((0.0, 0.0175), (r - 0.001, 0.018), (r, 0.021), (r - 0.001, 0.026), (0.0, 0.0262)), PATTY),
        (((0.0, 0.0285), (r - 0.002, 0.0285), (r - 0.002, 0.0325), (0.0, 0.0325)), TOMATO),
        (_dome(r, 0.032, BURGER_HEIGHT_M), BUN),
    )
    parts = [
        Part("mesh", (), finish, collides=False, mesh=revolved(profile))
        for profile, finish in layers
    ]
    # A square slice, whose corners look out and hang down.
    slice_half_m = (0.0255, 0.0255, 0.0014)
    parts.append(_seen_box(slice_half_m, CHEESE, (0.0, 0.0, 0.0275), yaw_rad=np.pi / 8))
    for angle in (np.arange(4) + 0.75) * np.pi / 2:
        at = (*_around(r - 0.001, angle), 0.0245)
        parts.append(_seen_box((0.0012, 0.006, 0.004), CHEESE, at, yaw_rad=angle))
    for count, radius, height in ((1, 0.0, 0.0575), (6, 0.014, 0.0550), (9, 0.024, 0.0493)):
        for angle in np.arange(count) * 2 * np.pi / count + 9 * radius:
            at = (*_around(radius, angle), height)
            parts.append(_seen_box((0.0022, 0.0013, 0.0012), SESAME, at, yaw_rad=angle))
    waist = ((r - 0.005, 0.0), (r, 0.005), (r, 0.034), (r - 0.009, 0.050), (0.0, BURGER_HEIGHT_M))
    return parts + [part for part in turned_body(waist, BUN) if part.collides]


def fries_parts() -> list[Part]:
    """A carton, narrow below, whose flat front and back the fingers take, and fries in it."""
    depth, wall = CARTON_HALF_DEPTH_M, 0.0015
    parts = [
        _panel(FRONT, wall, ENAMEL_RED, at_y_m=wall - depth),
        _panel(BACK, wall, ENAMEL_RED, at_y_m=depth - wall),
        _panel(FILLING, depth - wall, ENAMEL_RED, at_y_m=0.0),
        _panel(BADGE, 0.0004, SESAME, at_y_m=-depth),
    ]
    growth = np.random.default_rng(7)
    for row in range(4):
        for x in np.linspace(-0.024, 0.024, 6):
            tip_m = 0.066 + 0.007 * row + growth.uniform(-0.007, 0.007)
            lean = rotation_about(np.array([0.0, 1.0, 0.0]), 6 * x + growth.uniform(-0.12, 0.12))
            parts.append(
                Part(
                    "box",
                    (0.0034, 0.0034, (tip_m - 0.03) / 2),
                    FRIED_POTATO,
                    (float(x), -0.0115 + 0.0077 * row, (tip_m + 0.03) / 2),
                    _quaternion(lean),
                    collides=False,
                )
            )
    carton = [(x, y, z) for x, z in (*FRONT[:3], FRONT[-1]) for y in (-depth, depth)]
    parts.append(Part("mesh", (), ENAMEL_RED, visible=False, mesh=hull(*carton)))
    stick_out = (0.026, 0.013, 0.012)
    parts.append(Part("box", stick_out, FRIED_POTATO, (0.0, 0.002, 0.068), visible=False))
    return parts


def _dome(radius: float, low: float, high: float) -> Profile:
    """A profile of half an ellipse, closed below."""
    angles = np.linspace(0.0, np.pi / 2, 8)
    rise = [(radius * float(np.cos(a)), low + (high - low) * float(np.sin(a))) for a in angles]
    return ((0.0, low), *rise)


def _panel(outline: Profile, half_depth_m: float, finish: Finish, *, at_y_m: float) -> Part:
    mesh = extruded(outline, half_depth_m)
    return Part("mesh", (), finish, (0.0, at_y_m, 0.0), collides=False, mesh=mesh)


def _seen_box(
    half_m: tuple[float, float, float],
    finish: Finish,
    at_m: tuple[float, float, float],
    *,
    yaw_rad: float,
) -> Part:
    return Part("box", half_m, finish, at_m, _quaternion(rotation_z(yaw_rad)), collides=False)


def _around(radius: float, angle_rad: float) -> tuple[float, float]:
    return radius * float(np.cos(angle_rad)), radius * float(np.sin(angle_rad))


def _quaternion(rotation: Array) -> tuple[float, float, float, float]:
    w, x, y, z = matrix_to_quaternion(rotation).tolist()
    return w, x, y, z
