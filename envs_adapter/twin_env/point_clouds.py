"""Point clouds: depth turned into points of the world, cropped, and thinned to a fixed number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CROP_M = ((-0.6, -0.35, 0.7401), (0.6, 0.35, 2.0))
"""RoboTwin's box over the table: lowest and highest corner, just above a table of 0.74 m."""
CANDIDATES_PER_POINT = 10
"""Of more points than so many (or twice that) for each to be kept, only every n-th may be chosen:
ten times less time, and gaps that grow by no more than those between the candidates."""


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
    k = intrinsic_cv.astype(np.float64)
    height, width = depth_m.shape
    # Where a pixel's ray is at depth 1, right and up.
    right = (np.arange(width) + 0.5 - k[0, 2]) / k[0, 0]
    up = -(np.arange(height)[:, None] + 0.5 - k[1, 2]) / k[1, 1]
    pose = cam2world_gl.astype(np.float64)
    points = np.empty((height, width, 6), np.float32)
    for axis in range(3):
        ray = pose[axis, 0] * right + pose[axis, 1] * up - pose[axis, 2]
        points[..., axis] = ray * depth_m + pose[axis, 3]
    points[..., 3:] = rgb
    points[..., 3:] *= np.float32(1 / 255)
    hit = depth_m > 0.0
    return points.reshape(-1, 6) if hit.all() else points[hit]


def choose_points(points: NDArray[np.float32], spec: CloudSpec) -> NDArray[np.float32]:
    """Crop and thin (n, 6) points as RoboTwin does; (spec.n_points, 6), zeros where too few."""
    if spec.crop_m is not None:
        inside = np.ones(len(points), bool)
        for axis, (low, high) in enumerate(np.asarray(spec.crop_m, np.float32).T):
            inside &= (points[:, axis] >= low) & (points[:, axis] <= high)
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
    axes = np.ascontiguousarray(points.T, np.float32)
    gaps = np.empty_like(axes)
    nearest = np.full(len(points), np.inf, np.float32)
    squared = gaps[0]
    chosen = np.empty(number, np.int64)
    last = 0
    # Plain elementwise arithmetic: what a matrix product gives depends on the machine.
    for place in range(number):
        chosen[place] = last
        np.subtract(axes, axes[:, last : last + 1], out=gaps)
        np.multiply(gaps, gaps, out=gaps)
        np.add(squared, gaps[1], out=squared)
        np.add(squared, gaps[2], out=squared)
        np.minimum(nearest, squared, out=nearest)
        last = int(nearest.argmax())
    return chosen
