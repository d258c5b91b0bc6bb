"""Closed-form forward and inverse kinematics of the six-joint arm of `assets/arm6.urdf`.

Joints: yaw, shoulder pitch, elbow pitch, forearm roll, wrist pitch, hand roll. At zero the arm
points straight up. The tool centre point (tcp) lies between the fingertips; its frame has x along
the approach direction, y along the fingers' opening.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from twin_env.embedded.rotations import Array, rotation_y, rotation_z

SHOULDER_HEIGHT_M = 0.15
UPPER_ARM_M = 0.32
FOREARM_M = 0.32
HAND_M = 0.20
JOINT_LOWER_RAD = np.array([-2.6, -2.0, -2.7, -3.0, -2.2, -3.1])
JOINT_UPPER_RAD = np.array([2.6, 2.0, 2.7, 3.0, 2.2, 3.1])

# Columns: the tcp's axes in the hand's frame (hand: z along the approach).
_TCP_IN_HAND = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


class UnreachableError(ValueError):
    """No joint configuration within limits reaches the pose."""


def forward(joints_rad: Array) -> tuple[Array, Array]:
    """Position (3,) in metres and rotation (3, 3) of the tcp in the arm's base frame."""
    q1, q2, q3, q4, q5, q6 = joints_rad
    turn = rotation_z(q1) @ rotation_y(q2)
    elbow = np.array([0.0, 0.0, SHOULDER_HEIGHT_M]) + turn[:, 2] * UPPER_ARM_M
    forearm = turn @ rotation_y(q3)
    hand = forearm @ rotation_z(q4) @ rotation_y(q5) @ rotation_z(q6)
    wrist = elbow + forearm[:, 2] * FOREARM_M
    return wrist + hand[:, 2] * HAND_M, hand @ _TCP_IN_HAND


def inverse(position_m: Array, rotation: Array, near_rad: Array) -> Array:
    """Joints (6,) that put the tcp at a pose in the arm's base frame, the solution nearest to
    `near_rad`.

    Raises:
        UnreachableError: too far, too near, or outside the joint limits.
    """
    hand = rotation @ _TCP_IN_HAND.T
    wrist = position_m - hand[:, 2] * HAND_M
    radius = math.hypot(wrist[0], wrist[1])
    height = wrist[2] - SHOULDER_HEIGHT_M
    cos_elbow = (radius**2 + height**2 - UPPER_ARM_M**2 - FOREARM_M**2) / (
        2 * UPPER_ARM_M * FOREARM_M
    )
    if not -1.0 <= cos_elbow <= 1.0:
        distance = math.hypot(radius, height)
        raise UnreachableError(
            f"the wrist would be {distance:.3f} m from the shoulder; the arm spans "
            f"{abs(UPPER_ARM_M - FOREARM_M):.2f} to {UPPER_ARM_M + FOREARM_M:.2f} m"
        )
    best: Array | None = None
    best_distance = math.inf
    for backwards, elbow_sign, flip in itertools.product((False, True), (1, -1), (1, -1)):
        q1 = math.atan2(wrist[1], wrist[0]) + (math.pi if backwards else 0.0)
        reach = -radius if backwards else radius
        q3 = elbow_sign * math.acos(cos_elbow)
        q2 = math.atan2(reach, height) - math.atan2(
            FOREARM_M * math.sin(q3), UPPER_ARM_M + FOREARM_M * math.cos(q3)
        )
        joints = np.array([q1, q2, q3, *_wrist_angles(q1, q2, q3, hand, flip, near_rad)])
        joints = _wrap_near(joints, near_rad)
        if np.any(joints < JOINT_LOWER_RAD) or np.any(joints > JOINT_UPPER_RAD):
            continue
        distance = float(np.max(np.abs(joints - near_rad)))
        if distance < best_distance:
            best, best_distance = joints, distance
    if best is None:
        raise UnreachableError("the pose is in reach, but only outside the joint limits")
    return best


def _wrist_angles(
    q1: float, q2: float, q3: float, hand: Array, flip: int, near_rad: Array
) -> tuple[float, float, float]:
    """ZYZ angles of the wrist; where roll and roll coincide, the forearm keeps its angle."""
    local = (rotation_z(q1) @ rotation_y(q2 + q3)).T @ hand
    q5 = flip * math.acos(min(1.0, max(-1.0, local[2, 2])))
    if abs(math.sin(q5)) < 1e-6:
        q4 = float(near_rad[3])
        return q4, q5, math.atan2(local[1, 0], local[0, 0]) - q4
    return (
        math.atan2(flip * local[1, 2], flip * local[0, 2]),
        q5,
        math.atan2(flip * local[2, 1], -flip * local[2, 0]),
    )


def _wrap_near(joints: Array, near_rad: Array) -> Array:
    """Turn each joint by whole turns: near `near_rad`, unless only another turn fits the limits."""
    wrapped = near_rad + (joints - near_rad + np.pi) % (2 * np.pi) - np.pi
    over, under = wrapped > JOINT_UPPER_RAD, wrapped < JOINT_LOWER_RAD
    return wrapped - 2 * np.pi * over + 2 * np.pi * under
