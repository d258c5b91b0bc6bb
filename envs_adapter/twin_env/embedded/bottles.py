"""Bottles: a turned body with a label and a cap, gripped around the middle of its body.

The bottle's z runs along its axis, from its bottom to its cap; its origin is in the middle of the
body, where a gripper takes it and where it is nearly balanced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twin_env.embedded import shapes
from twin_env.embedded.actor import Actor
from twin_env.embedded.expert import Expert, Plan
from twin_env.embedded.materials import (
    COLA_BROWN,
    GREEN_GLASS,
    LABEL_BLUE,
    LABEL_RED,
    LABEL_WHITE,
    LABEL_YELLOW,
    SKY_PLASTIC,
    Finish,
)
from twin_env.embedded.rotations import Array
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import Profile
from twin_env.embedded.side_grips import side_grips

if TYPE_CHECKING:
    import sapien

RADIUS_M = 0.030
GRIP_HEIGHT_M = 0.078
"""Of the origin over the bottom."""
HEIGHT_M = 0.200
BODY: Profile = (
    (0.000, 0.000),
    (0.026, 0.000),
    (RADIUS_M, 0.006),
    (RADIUS_M, 0.125),
    (0.027, 0.140),
    (0.019, 0.157),
    (0.0125, 0.170),
    (0.0125, 0.184),
)
CAP: Profile = (
    (0.0125, 0.176),
    (0.0170, 0.176),
    (0.0170, 0.180),
    (0.0155, 0.182),
    (0.0155, 0.198),
    (0.0140, HEIGHT_M),
    (0.0000, HEIGHT_M),
)
LABEL: Profile = ((RADIUS_M + 3e-4, 0.040), (RADIUS_M + 3e-4, 0.112))
LABEL_STRIPE: Profile = ((RADIUS_M + 6e-4, 0.062), (RADIUS_M + 6e-4, 0.090))
DENSITY_KG_M3 = 250.0
GRIP_DEPTH_M = 0.012
"""How far the tool goes beyond the axis, so that the fingers cover the facets they close on."""


@dataclass(frozen=True)
class BottleKind:
    """How one bottle looks, and what people call it."""

    phrase: str
    glass: Finish
    label: Finish
    stripe: Finish
    cap: Finish


GREEN = BottleKind("the green bottle", GREEN_GLASS, LABEL_WHITE, GREEN_GLASS, LABEL_WHITE)
BROWN = BottleKind(
    "the brown bottle with the red label", COLA_BROWN, LABEL_RED, LABEL_WHITE, LABEL_RED
)
BLUE = BottleKind("the blue bottle", SKY_PLASTIC, LABEL_WHITE, LABEL_BLUE, LABEL_BLUE)
YELLOW = BottleKind(
    "the bottle with the yellow label", SKY_PLASTIC, LABEL_YELLOW, LABEL_RED, LABEL_YELLOW
)
KINDS = (GREEN, BROWN, BLUE, YELLOW)


def bottle_parts(kind: BottleKind) -> list[Part]:
    """Body and cap collide; label and stripe are paint."""
    painted = [
        Part("mesh", (), finish, collides=False, mesh=shapes.revolved(profile))
        for profile, finish in ((LABEL, kind.label), (LABEL_STRIPE, kind.stripe))
    ]
    solid = [
        *shapes.turned_body(BODY, kind.glass),
        *shapes.turned_body(CAP, kind.cap),
    ]
    return [replace(part, at_m=(0.0, 0.0, -GRIP_HEIGHT_M)) for part in (*solid, *painted)]


def create_bottle(task: Expert, name: str, kind: BottleKind, pose: sapien.Pose) -> Actor:
    """A bottle whose functional point 0 is its origin, where it can be gripped from the side."""
    return task.create_actor(
        name,
        bottle_parts(kind),
        pose,
        density_kg_m3=DENSITY_KG_M3,
        functional_points_m=[(0.0, 0.0, 0.0)],
        contact_points=side_grips(),
    )


def lying_rotation(heading_rad: float) -> Array:
    """Rotation (3, 3) of a bottle that lies on a facet, its head towards `heading_rad` about z."""
    along = np.array([np.cos(heading_rad), np.sin(heading_rad), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    return np.stack([np.cross(up, along), up, along], axis=1)


def grasp_lying(task: Expert, bottle: Actor, arm_tag: str, pre_grasp_m: float = 0.1) -> Plan:
    """Take a bottle that lies on a facet from above, such that it stands once the hand is level
    and its camera on top."""
    down, head = np.array([0.0, 0.0, -1.0]), bottle.get_pose().rotation[:, 2]
    rotation = np.stack([down, np.cross(head, down), head], axis=1)
    at = bottle.get_pose().p
    return (
        task.move_to_pose(arm_tag, at - pre_grasp_m * down, rotation)
        + task.move_to_pose(arm_tag, at + GRIP_DEPTH_M * down, rotation, straight=True)
        + task.close_gripper(arm_tag)
    )
