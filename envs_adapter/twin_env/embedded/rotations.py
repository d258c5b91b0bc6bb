"""Rotation matrices and quaternions [w, x, y, z], float64, as SAPIEN orders them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rotation_z(angle_rad: float) -> Array:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_y(angle_rad: float) -> Array:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def rotation_about(axis: Array, angle_rad: float) -> Array:
    """Rotation (3, 3) about a unit axis (3,)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * cross @ cross


def interpolate(start: Array, end: Array) -> tuple[float, Callable[[float], Array]]:
    """The angle in rad from one rotation (3, 3) to another, and what turns evenly on the way: a
    share in [0, 1] -> rotation."""
    w, *vector = matrix_to_quaternion(start.T @ end)
    sine = float(np.linalg.norm(vector))
    if sine < 1e-9:
        return 0.0, lambda share: end
    angle = 2.0 * math.atan2(sine, float(w))
    axis = np.array(vector) / sine
    return angle, lambda share: start @ rotation_about(axis, share * angle)


def matrix_to_quaternion(rotation: Array) -> Array:
    """Unit quaternion [w, x, y, z] with w >= 0 of a (3, 3) rotation."""
    m = rotation
    # Four times the squared components; the largest one divides safely.
    squares = np.array(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    i = int(np.argmax(squares))
    w, x, y, z = 0, 1, 2, 3
    q = np.empty(4)
    q[i] = squares[i]
    pairs = {
        (w, x): m[2, 1] - m[1, 2],
        (w, y): m[0, 2] - m[2, 0],
        (w, z): m[1, 0] - m[0, 1],
        (x, y): m[1, 0] + m[0, 1],
        (x, z): m[0, 2] + m[2, 0],
        (y, z): m[2, 1] + m[1, 2],
    }
    for (a, b), value in pairs.items():
        if a == i:
            q[b] = value
        elif b == i:
            q[a] = value
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def quaternion_to_matrix(quaternion: Array) -> Array:
    """(3, 3) rotation of a quaternion [w, x, y, z], normalised first."""
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
