"""Point clouds: depth turned into points of the world, cropped, and thinned to a fixed number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CROP_M = ((-0.6, -0.35, 0.7401), (0.6, 0.35, 2.0))
"""RoboTwin's box over the table: lowest and highest corner, just above a table of 0.74 m."""
CANDIDATES_PER_POINT = 10


@dataclass(frozen=True)
class CloudSpec:
    """Which points of what the cameras see are kept."""

    n_points: int = 1024
    """So many, chosen farthest first; 0 keeps all."""
    crop_m: tuple[tuple[float, float, float], ...] | None = CROP_M
    """Lowest and highest corner of a box in the world; None keeps what is outside, too."""
    all_cameras: bool = False
    """The head camera's alone, or every camera's."""


def crop_over_table(table_z_bias_m: float) -> tuple[tuple[float, float, float], ...]:
    """RoboTwin's box over a table that is so much higher than its 0.74 m."""
    (x, y, z), high = CROP_M
    return (x, y, z + table_z_bias_m), high


def colored_points(
    depth_m: NDArray[np.float64],
    rgb: NDArray[np.uint8],
    intrinsic_cv: NDArray[np.float32],
    cam2world_gl: NDArray[np.float32],
) -> NDArray[np.float32]:
    """What a camera sees as points: (n, 6), xyz of the world in metres and RGB in [0, 1].

    Args:
        depth_m: (H, W) along the camera's axis; where it is 0 there is no point.
        rgb: (H, W, 3).
        intrinsic_cv: (3, 3).
        cam2world_gl: (4, 4) pose of a camera that looks along -z, with y up.
    """
    v, u = np.nonzero(depth_m)
    z = depth_m[v, u]
    k = intrinsic_cv.astype(np.float64)
    x = (u + 0.5 - k[0, 2]) / k[0, 0] * z
    y = (v + 0.5 - k[1, 2]) / k[1, 1] * z
    pose = cam2world_gl.astype(np.float64)
    points = np.empty((len(z), 6), np.float32)
    for axis in range(3):
        points[:, axis] = pose[axis, 0] * x - pose[axis, 1] * y - pose[axis, 2] * z + pose[axis, 3]
    points[:, 3:] = rgb[v, u] / np.float32(255.0)
    return points


def choose_points(points: NDArray[np.float32], spec: CloudSpec) -> NDArray[np.float32]:
    """Crop and thin (n, 6) points as RoboTwin does; (spec.n_points, 6), zeros where too few."""
    if spec.crop_m is not None:
        low, high = np.asarray(spec.crop_m, np.float32)
        inside = np.all((points[:, :3] >= low) & (points[:, :3] <= high), axis=1)
        points = points[inside]
    if spec.n_points == 0:
        return points
    if len(points) < spec.n_points:
        missing = np.zeros((spec.n_points - len(points), points.shape[1]), points.dtype)
        return np.concatenate([points, missing])
    candidates = points[:: max(1, len(points) // (CANDIDATES_PER_POINT * spec.n_points))]
    return candidates[farthest_points(candidates[:, :3], spec.n_points)]


def farthest_points(points: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Indices (number,) of points that cover (n, 3) `points`: the first one, then again and again
    the one farthest from those chosen; of equally far ones the first.

    Raises:
        ValueError: there are fewer points.
    """
    if len(points) < number:
        raise ValueError(f"{number} points cannot be chosen of {len(points)}")
    x, y, z = (np.ascontiguousarray(points[:, axis], np.float32) for axis in range(3))
    nearest = np.full(len(points), np.inf, np.float32)
    squared, part = np.empty_like(nearest), np.empty_like(nearest)
    chosen = np.empty(number, np.int64)
    last = 0
    # Plain elementwise arithmetic: what a matrix product gives depends on the machine.
    for place in range(number):
        chosen[place] = last
        np.subtract(x, x[last], out=squared)
        np.multiply(squared, squared, out=squared)
        for axis in (y, z):
            np.subtract(axis, axis[last], out=part)
            np.multiply(part, part, out=part)
            np.add(squared, part, out=squared)
        np.minimum(nearest, squared, out=nearest)
        last = int(nearest.argmax())
    return chosen
