"""Clutter: which everyday things, of no task, stand where on the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twin_env.embedded.actor import Actor
from twin_env.embedded.clutter_kinds import KINDS
from twin_env.embedded.rotations import Array, matrix_to_quaternion, rotation_z
from twin_env.embedded.scene import TABLE_SIZE_M, Scene

PREFIX = "clutter_"
WANTED = 10
"""How many stand on a cluttered table, as in RoboTwin."""
CANDIDATES = 200
"""How many places are tried before a table counts as full."""
GAP_M = 0.012
"""Between the circles round two clutter objects, and to the table's edge and prohibited areas."""
HAND_CLEARANCE_M = 0.06
ACTOR_CLEARANCE_M = 0.02
STRAY_M = 0.01
"""How far an object may slide or sink while the scene settles."""
DENSITY_KG_M3 = 350.0

Box = tuple[float, float, float, float]
"""[x0, y0, x1, y1] in metres in the world."""


@dataclass(frozen=True)
class Candidate:
    """An object at a place, to be tried."""

    kind: str
    object_index: int
    """Which of the kind's colours."""
    across: float
    along: float
    """Where, as shares of the table's width and depth."""
    yaw_rad: float


@dataclass(frozen=True)
class Placed:
    """An object that stands on the table."""

    candidate: Candidate
    actor: Actor
    stood_m: Array
    """(3,) where it was put."""

    def stands(self, speed_m_s: float) -> bool:
        """Whether it is slower than that, and upright where it was put."""
        pose = self.actor.get_pose()
        upright = pose.rotation[2, 2] > math.cos(math.radians(5.0))
        strayed = float(np.linalg.norm(pose.p - self.stood_m))
        return bool(self.actor.speed_m_s() < speed_m_s and upright and strayed < STRAY_M)

    def record(self) -> dict[str, object]:
        """As RoboTwin's `cluttered_table_info` lists it."""
        return {"object_type": self.candidate.kind, "object_index": self.candidate.object_index}


def draw_candidates(rng: np.random.Generator) -> tuple[Candidate, ...]:
    """What is tried, in this order."""
    names = tuple(KINDS)
    return tuple(
        Candidate(
            kind := names[int(which * len(names))],
            int(index * len(KINDS[kind].colors)),
            across,
            along,
            (2 * turn - 1) * math.pi,
        )
        for which, index, across, along, turn in rng.random((CANDIDATES, 5)).tolist()
    )


def choose(
    candidates: Sequence[Candidate],
    *,
    table_at_m: tuple[float, float],
    keep_out: Sequence[Box],
    hands_m: Sequence[tuple[float, float]],
    actor_names: Sequence[str],
) -> list[tuple[Candidate, tuple[float, float]]]:
    """The first `WANTED` that fit, each with its place (x, y) in the world: on the table, outside
    `keep_out`, clear of the resting hands and of each other. Fewer, where the table is full."""
    chosen: list[tuple[Candidate, tuple[float, float]]] = []
    circles = [(hand, HAND_CLEARANCE_M) for hand in hands_m]
    taken = " ".join(actor_names).lower()
    for candidate in candidates:
        kind = KINDS[candidate.kind]
        if len(chosen) == WANTED:
            break
        if any(word in taken for word in kind.resembles):
            continue
        room = [size / 2 - kind.radius_m - GAP_M for size in TABLE_SIZE_M[:2]]
        x = table_at_m[0] + (2 * candidate.across - 1) * room[0]
        y = table_at_m[1] + (2 * candidate.along - 1) * room[1]
        clear = kind.radius_m + GAP_M
        if any(_distance_to(box, x, y) < clear for box in keep_out):
            continue
        if any(math.dist((x, y), at) < clear + radius for at, radius in circles):
            continue
        circles.append(((x, y), kind.radius_m))
        chosen.append((candidate, (x, y)))
    return chosen


def scatter(
    scene: Scene,
    candidates: Sequence[Candidate],
    *,
    table_at_m: tuple[float, float, float],
    actors: Sequence[Actor],
    prohibited: Sequence[Box],
    hands_m: Sequence[Array],
) -> list[Placed]:
    """Put what fits on the table (see `choose`), whose top's middle is `table_at_m`; the task's
    objects keep `ACTOR_CLEARANCE_M` in any case. Their names begin with `PREFIX`."""
    chosen = choose(
        candidates,
        table_at_m=table_at_m[:2],
        keep_out=[*prohibited, *map(_around, actors)],
        hands_m=[(float(hand[0]), float(hand[1])) for hand in hands_m],
        actor_names=[actor.get_name() for actor in actors],
    )
    placed = []
    for number, (candidate, (x, y)) in enumerate(chosen):
        kind = KINDS[candidate.kind]
        at = np.array([x, y, table_at_m[2]])
        entity = scene.add_object(
            f"{PREFIX}{number}_{candidate.kind}",
            kind.build(kind.colors[candidate.object_index]),
            at.tolist(),
            matrix_to_quaternion(rotation_z(candidate.yaw_rad)).tolist(),
            density_kg_m3=DENSITY_KG_M3,
        )
        placed.append(Placed(candidate, Actor(entity), at))
    return placed


def keep_standing(scene: Scene, placed: Sequence[Placed], speed_m_s: float) -> list[Placed]:
    """Those that stand still where they were put, once the scene has settled; the others are taken
    away."""
    kept = []
    for thing in placed:
        if thing.stands(speed_m_s):
            kept.append(thing)
        else:
            scene.sapien.remove_entity(thing.actor.entity)
    return kept


def describe(
    candidates: Sequence[Candidate], placed: Sequence[Placed], kept: Sequence[Placed]
) -> dict[str, Any]:
    """Entries for a task's `info`; `clutter` only where there was to be any."""
    if not candidates:
        return {"cluttered_table_info": []}
    return {
        "cluttered_table_info": [thing.record() for thing in kept],
        "clutter": {
            "wanted": WANTED,
            "without_room": WANTED - len(placed),
            "taken_away": len(placed) - len(kept),
        },
    }


def _around(actor: Actor) -> Box:
    low, high = actor.extent_m()
    pad = ACTOR_CLEARANCE_M
    return float(low[0]) - pad, float(low[1]) - pad, float(high[0]) + pad, float(high[1]) + pad


def _distance_to(box: Box, x: float, y: float) -> float:
    """From a point to a rectangle; 0 inside."""
    return math.hypot(max(box[0] - x, 0.0, x - box[2]), max(box[1] - y, 0.0, y - box[3]))
