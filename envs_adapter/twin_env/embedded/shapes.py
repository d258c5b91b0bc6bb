"""Procedural shapes: bottles, bowls, cups and other bodies turned about an axis, as object parts.

A profile is a list of (radius, height) in metres from the bottom up; the axis is the object's z.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from twin_env.embedded.materials import Finish
from twin_env.embedded.rotations import rotation_z
from twin_env.embedded.scene import Mesh, Part

Profile = tuple[tuple[float, float], ...]
FACETS = 32
SECTORS = 16


@functools.lru_cache(maxsize=256)
def revolved(profile: Profile, facets: int = FACETS) -> Mesh:
    """The surface that a profile sweeps about z: outwards to the right of its direction of travel,
    so a closed body's profile goes up its outside and down its inside."""
    points = np.array(profile)
    angles = np.linspace(0.0, 2 * math.pi, facets + 1)
    vertices: list[tuple[float, float, float]] = []
    normals: list[tuple[float, float, float]] = []
    uvs: list[tuple[float, float]] = []
    triangles: list[tuple[int, int, int]] = []
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    for (one, other), (low, high) in zip(
        itertools.pairwise(points), itertools.pairwise(lengths), strict=True
    ):
        along = other - one
        if np.linalg.norm(along) < 1e-9:
            continue
        # One normal a band: edges between bands stay sharp, the way round is smooth.
        outwards = np.array([along[1], -along[0]]) / np.linalg.norm(along)
        first = len(vertices)
        for angle in angles:
            c, s = math.cos(angle), math.sin(angle)
            for (radius, height), v in ((one, low), (other, high)):
                vertices.append((radius * c, radius * s, height))
                normals.append((outwards[0] * c, outwards[0] * s, outwards[1]))
                uvs.append((angle / (2 * math.pi), v / lengths[-1]))
        for facet in range(facets):
            a = first + 2 * facet
            triangles += [(a, a + 2, a + 1), (a + 1, a + 2, a + 3)]
    return _mesh(vertices, triangles, normals, uvs)


@functools.lru_cache(maxsize=256)
def hull(*corners: tuple[float, float, float]) -> Mesh:
    """The convex hull of some points, for collisions; it is not meant to be seen."""
    points = np.array(corners, np.float32)
    nothing = np.zeros_like(points)
    return Mesh(points, np.array([[0, 1, 2]], np.uint32), nothing, nothing[:, :2])


@functools.lru_cache(maxsize=256)
def extruded(outline: tuple[tuple[float, float], ...], half_depth_m: float) -> Mesh:
    """What an outline of (x, z) points, counted against the clock as seen from -y, sweeps along y.
    The outline's own mean must see all of it: a star, not a spiral."""
    points = np.array(outline)
    middle = points.mean(axis=0)
    vertices: list[tuple[float, float, float]] = []
    normals: list[tuple[float, float, float]] = []
    for y in (-half_depth_m, half_depth_m):
        for one, other in itertools.pairwise((*points, points[0])):
            corners = (middle, one, other) if y < 0 else (middle, other, one)
            vertices += [(x, y, z) for x, z in corners]
            normals += [(0.0, math.copysign(1.0, y), 0.0)] * 3
    for one, other in itertools.pairwise((*points, points[0])):
        along = (other - one) / np.linalg.norm(other - one)
        for (x, z), side in ((one, -1), (one, 1), (other, 1), (one, -1), (other, 1), (other, -1)):
            vertices.append((x, side * half_depth_m, z))
            normals.append((along[1], 0.0, -along[0]))
    triangles = [(a, a + 1, a + 2) for a in range(0, len(vertices), 3)]
    return _mesh(vertices, triangles, normals, [(0.0, 0.0)] * len(vertices))


def turned_body(profile: Profile, finish: Finish) -> list[Part]:
    """A massive body (a bottle, a bun): each band of its profile collides as a convex frustum."""
    parts = [Part("mesh", (), finish, collides=False, mesh=revolved(profile))]
    for (low_radius, low), (high_radius, high) in itertools.pairwise(profile):
        if high - low > 1e-6:
            rings = _ring(low_radius, low) + _ring(high_radius, high)
            parts.append(Part("mesh", (), finish, visible=False, mesh=hull(*rings)))
    return parts


def vessel(
    outside: Profile, inside: Profile, finish: Finish, lining: Finish | None = None
) -> list[Part]:
    """A hollow body open at the top (a bowl, a cup, a bin), lined with another finish if one is
    given. Both profiles go from the bottom up and have equally many points; between each two of
    them the wall collides as `SECTORS` convex pieces, whose facets' middles lie at angle 0 and
    every 360 / SECTORS degrees. The bottom is massive."""
    assert len(outside) == len(inside), "a vessel's profiles have equally many points"
    shell = ((0.0, outside[0][1]), *outside, inside[-1])
    hollow = (*reversed(inside), (0.0, inside[0][1]))
    parts = [
        Part("mesh", (), seen_in, collides=False, mesh=revolved(seen))
        for seen_in, seen in ((finish, shell), (lining or finish, hollow))
    ]
    bottom = _ring(outside[0][0], outside[0][1]) + _ring(inside[0][0], inside[0][1])
    parts.append(Part("mesh", (), finish, visible=False, mesh=hull(*bottom)))
    half = math.pi / SECTORS
    for (out_low, out_high), (in_low, in_high) in zip(
        itertools.pairwise(outside), itertools.pairwise(inside), strict=True
    ):
        for sector in range(SECTORS):
            turn = rotation_z(2 * half * sector)
            # Flat facets that touch the circles with their middles.
            piece = [
                tuple(turn @ np.array([radius, sign * radius * math.tan(half), height]))
                for radius, height in (out_low, out_high, in_low, in_high)
                for sign in (-1.0, 1.0)
            ]
            parts.append(Part("mesh", (), finish, visible=False, mesh=hull(*piece)))
    return parts


def _ring(radius: float, height: float, corners: int = SECTORS) -> list[tuple[float, float, float]]:
    if radius < 1e-6:
        return [(0.0, 0.0, height)]
    angles = (np.arange(corners) + 0.5) * 2 * math.pi / corners
    reach = radius / math.cos(math.pi / corners)
    return [(reach * math.cos(angle), reach * math.sin(angle), height) for angle in angles]


def _mesh(
    vertices: Sequence[tuple[float, float, float]],
    triangles: Sequence[tuple[int, int, int]],
    normals: Sequence[tuple[float, float, float]],
    uvs: Sequence[tuple[float, float]],
) -> Mesh:
    return Mesh(
        np.array(vertices, np.float32),
        np.array(triangles, np.uint32),
        np.array(normals, np.float32),
        np.array(uvs, np.float32),
    )
