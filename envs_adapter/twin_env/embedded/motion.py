"""Rest-to-rest motion along joint-space lines, sampled at the physics rate."""

from __future__ import annotations

import math

import numpy as np

from twin_env.embedded.rotations import Array

PHYSICS_HZ = 250


def trapezoid_duration_s(distance: float, speed: float, acceleration: float) -> float:
    """Least time to cover `distance` from rest to rest under both limits."""
    if distance * acceleration <= speed**2:
        return 2.0 * math.sqrt(distance / acceleration)
    return distance / speed + speed / acceleration


def trapezoid_fraction(times_s: Array, distance: float, speed: float, acceleration: float) -> Array:
    """Share of `distance` covered at each of `times_s` (n,), in [0, 1]."""
    total = trapezoid_duration_s(distance, speed, acceleration)
    ramp = min(speed / acceleration, total / 2.0)
    peak = acceleration * ramp
    t = np.clip(times_s, 0.0, total)
    rising = 0.5 * acceleration * np.minimum(t, ramp) ** 2
    cruising = peak * np.clip(t - ramp, 0.0, total - 2.0 * ramp)
    braking_s = np.clip(t - (total - ramp), 0.0, ramp)
    braking = peak * braking_s - 0.5 * acceleration * braking_s**2
    return (rising + cruising + braking) / distance


def follow(knots: Array, *, speed: float, acceleration: float) -> Array:
    """Waypoints (n, d), one per physics tick, along the straight lines that join `knots` (k, d).

    Starts and ends at rest; the first knot is excluded, the last one included. The component that
    moves most keeps to `speed` and `acceleration` on each line; the others follow in proportion.
    No motion gives no waypoints.
    """
    legs = np.max(np.abs(np.diff(knots, axis=0)), axis=1)
    reached = np.concatenate([[0.0], np.cumsum(legs)])
    distance = float(reached[-1])
    if distance < 1e-9:
        return np.empty((0, knots.shape[1]))
    ticks = max(1, math.ceil(trapezoid_duration_s(distance, speed, acceleration) * PHYSICS_HZ))
    times = np.arange(1, ticks + 1) / PHYSICS_HZ
    at = trapezoid_fraction(times, distance, speed, acceleration) * distance
    at[-1] = distance
    return np.stack([np.interp(at, reached, column) for column in knots.T], axis=1)


def stretch(path: Array, ticks: int) -> Array:
    """The path (n, d) resampled to `ticks` waypoints that end where it ends."""
    if len(path) == ticks:
        return path
    at = np.linspace(len(path) / ticks - 1.0, len(path) - 1.0, ticks).clip(0.0)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(path) - 1)
    weight = (at - low)[:, None]
    return (1.0 - weight) * path[low] + weight * path[high]
