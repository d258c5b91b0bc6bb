"""Procedural bodies: closed, seen from outside, solid where they should be and hollow inside."""

from collections import Counter

import numpy as np
import pytest

from twin_env.embedded import shapes
from twin_env.embedded.materials import STEEL
from twin_env.embedded.scene import Mesh, Part, Scene

OUTSIDE = ((0.030, 0.0), (0.045, 0.015), (0.060, 0.045))
INSIDE = ((0.026, 0.006), (0.041, 0.019), (0.056, 0.045))
BOTTLE = ((0.03, 0.0), (0.03, 0.12), (0.012, 0.15), (0.012, 0.18))


def volume_m3(mesh: Mesh) -> float:
    corners = mesh.vertices_m[mesh.triangles].astype(np.float64)
    return float(np.sum(np.linalg.det(corners)) / 6)


def test_a_turned_surface_has_its_volume_and_looks_outwards() -> None:
    closed = ((0.0, 0.0), (0.03, 0.0), (0.03, 0.1), (0.0, 0.1))
    mesh = shapes.revolved(closed, facets=256)
    assert volume_m3(mesh) == pytest.approx(np.pi * 0.03**2 * 0.1, rel=1e-3)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    corners = mesh.vertices_m[mesh.triangles]
    facing = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    along_normals = np.sum(facing * mesh.normals[mesh.triangles].mean(axis=1), axis=1)
    assert np.all(along_normals >= -1e-12)


def test_a_vessel_is_a_closed_surface_and_one_wall_piece_a_sector() -> None:
    shell, hollow, bottom, *wall = shapes.vessel(OUTSIDE, INSIDE, STEEL)
    assert shell.mesh is not None
    assert hollow.mesh is not None
    assert bottom.mesh is not None
    assert len(wall) == shapes.SECTORS * (len(OUTSIDE) - 1)
    # Each edge is shared by two triangles, after vertices at one place are taken as one.
    vertices_m = np.concatenate([shell.mesh.vertices_m, hollow.mesh.vertices_m])
    corners = np.concatenate(
        [shell.mesh.triangles, hollow.mesh.triangles + len(shell.mesh.vertices_m)]
    )
    places = np.unique(np.round(vertices_m, 6), axis=0, return_inverse=True)[1]
    triangles = places.reshape(-1)[corners]
    triangles = [t for t in triangles.tolist() if len(set(t)) == 3]
    edges = Counter(frozenset(pair) for a, b, c in triangles for pair in ((a, b), (b, c), (c, a)))
    assert set(edges.values()) == {2}


@pytest.mark.simulator
def test_a_ball_dropped_over_a_bowl_lies_on_its_bottom_and_a_bottle_stands() -> None:
    scene = Scene(render=False)
    top = 0.74
    scene.add_object("bowl", shapes.vessel(OUTSIDE, INSIDE, STEEL), (0.0, 0.0, top + 0.001))
    bottle = scene.add_object("bottle", shapes.turned_body(BOTTLE, STEEL), (0.3, 0.0, top + 0.001))
    ball = scene.add_object("ball", [Part("sphere", (0.01,), STEEL)], (0.02, 0.0, top + 0.2))
    for _ in range(400):
        scene.step()
    assert ball.pose.p[2] == pytest.approx(top + INSIDE[0][1] + 0.01, abs=0.003)
    assert np.hypot(*ball.pose.p[:2]) < INSIDE[0][0]
    np.testing.assert_allclose(bottle.pose.p, [0.3, 0.0, top], atol=0.002)
