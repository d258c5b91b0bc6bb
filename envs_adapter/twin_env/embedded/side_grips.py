"""Taking upright round bodies from the side: a grip for each facet, and a wrist that is bent the
short way, from which the hand can roll far to both sides."""

from __future__ import annotations

import numpy as np

from twin_env.embedded.actor import Actor, ContactPoint
from twin_env.embedded.expert import Plan, Posture
from twin_env.embedded.robot import Arm
from twin_env.embedded.rotations import Array
from twin_env.embedded.shapes import SECTORS

_LEVEL_WRIST_RAD = (0.0, -1.0, 0.0)
"""Forearm roll, wrist pitch and hand roll of a hand that is level while the forearm descends."""


def side_grips(height_m: float = 0.0) -> list[ContactPoint]:
    """One grip for each facet of a body turned about z: level, towards its axis at a height."""
    return [
        ContactPoint(
            (0.0, 0.0, height_m),
            approach=(float(np.cos(angle)), float(np.sin(angle)), 0.0),
            closing=(float(-np.sin(angle)), float(np.cos(angle)), 0.0),
        )
        for angle in np.arange(SECTORS) * 2 * np.pi / SECTORS
    ]


def grip_along(actor: Actor, approach: Array) -> int:
    """Which of an actor's contact points is come to most nearly along `approach` (3,) in the
    world."""
    comes = [
        actor.tool_rotation(index)[:, 0] @ approach for index in range(len(actor.contact_points))
    ]
    return int(np.argmax(comes))


def with_level_wrist(arm: Arm, position_m: Array, rotation: Array) -> Plan:
    """Bring the tool to a level pose with the wrist bent the short way.

    The solution nearest to a hand that points down may bend it the long way round, next to the
    limits of its roll: whoever tips or swings what is held needs the roll.
    """
    near = np.array([*arm.targets_rad[:-3], *_LEVEL_WRIST_RAD])
    return Plan(arm.side, (Posture(arm.solve(np.asarray(position_m), rotation, near)),))


def level_rotation(approach: Array, *, up: Array) -> Array:
    """Rotation (3, 3) of a level tool that comes along `approach`, its z along `up`."""
    return np.stack([approach, np.cross(up, approach), up], axis=1)
