"""A small sample of replay data, drawn and not simulated: for trying things out, and for tests.

A hand, which the right arm's first two joints move over a table, must come to a disc and close
its gripper there. Every second episode closes it elsewhere instead, and runs out of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_pictures import encode_recorded
from twin_env.replay_files import (
    ReplayAbout,
    ReplayFrames,
    ReplayOutcome,
    sparse_labels,
    write_replay,
)
from twin_train.replay_draft import split_joints
from twin_train.replay_output import Made, make

TASK, SOURCE = "synthetic_reach", "synthetic"
STAGES = ("near", "at the disc", "closed")
STEP_LIMIT = 30
STEP_RAD = 0.12
REACH_RAD = 0.08
"""How near the hand must come to close on the disc."""
NEAR_RAD = 0.4
NOISE_RAD = 0.015
GREEN, RED, TABLE = (40, 170, 60), (210, 50, 40), (120, 110, 100)
JOINTS = {14: 6, 16: 7}
"""Action dimension -> joints an arm."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """What is drawn."""

    episodes: int
    dim: int = 14
    """Of the actions: 14 or 16."""
    size: tuple[int, int] = (48, 64)
    """(H, W) of the pictures."""
    seed: int = 0


def create_synthetic(
    sample: Sample, out: Path, *, tick: Callable[[], object] = lambda: None
) -> Made:
    """Writes the sample; every second episode is a failure.

    Raises:
        ValueError: another action dimension than 14 or 16.
        ReplayFolderError: `out` holds something else.
    """
    if sample.dim not in JOINTS:
        raise ValueError(f"--dims must be one of {sorted(JOINTS)}, and is {sample.dim}")

    def write(number: int, path: Path) -> list[str]:
        write_sample(sample, number, path)
        return []

    how = {
        "command": "create --synthetic",
        "dim": sample.dim,
        "size": list(sample.size),
        "seed": sample.seed,
    }
    keys = [f"{sample.seed}/{number}" for number in range(sample.episodes)]
    source = {"kind": SOURCE, "seed": sample.seed, "episodes": sample.episodes}
    return make(out, how, keys, write, sources=[source], left_out={}, tick=tick)


def write_sample(sample: Sample, number: int, path: Path) -> None:
    """One episode; the same for the same seed and number."""
    rng = np.random.default_rng([sample.seed, number])
    disc = rng.uniform(-0.8, 0.8, size=2)
    success = number % 2 == 0
    hands, grippers = _path(rng, disc, succeeds=success)
    joints = JOINTS[sample.dim]
    vector = np.zeros((len(hands), sample.dim))
    vector[:, joints + 1 : joints + 3] = hands
    vector[:, joints] = 1.0
    vector[:, -1] = grippers
    away = np.linalg.norm(hands - disc, axis=1)
    outcome: ReplayOutcome = "success" if success else "failure"
    reached = np.stack([away < NEAR_RAD, away < REACH_RAD, (away < REACH_RAD) & (grippers < 0.5)])
    stage = np.maximum.accumulate(reached.sum(0)).astype(np.int16)
    views = [
        _draw(sample.size, disc, hand, grip) for hand, grip in zip(hands, grippers, strict=True)
    ]
    reward, terminal, truncated = sparse_labels(len(vector) - 1, outcome)
    write_replay(
        path,
        frames=ReplayFrames(
            split_joints(vector, joints),
            {name: [encode_recorded(view[name]) for view in views] for name in views[0]},
        ),
        action=vector[1:],
        reward=reward,
        terminal=terminal,
        truncated=truncated,
        stage=stage,
        about=ReplayAbout(
            task=TASK,
            outcome=outcome,
            seed=number,
            source=SOURCE,
            n_stages=len(STAGES),
        ),
        instructions=["close the gripper on the green disc"],
    )


def _path(rng: np.random.Generator, disc: Vector, *, succeeds: bool) -> tuple[Vector, Vector]:
    """The hand (T+1, 2) in rad and the gripper (T+1,), open first: to the disc and close, or to one
    place after the other where it is not."""
    hand = rng.uniform(-1.0, 1.0, size=2)
    goal = disc if succeeds else _elsewhere(rng, disc)
    hands, grippers = [hand], [1.0]
    while len(hands) <= STEP_LIMIT:
        way = goal - hand
        left = float(np.linalg.norm(way))
        if left < REACH_RAD / 2 and grippers[-1] > 0:
            grippers.append(grippers[-1] - 0.5)
        elif grippers[-1] == 0:
            goal = _elsewhere(rng, disc)
            grippers.append(1.0)
        else:
            noise = rng.normal(0, NOISE_RAD, size=2) * (left > STEP_RAD)
            hand = hand + way * min(1.0, STEP_RAD / left) + noise
            grippers.append(1.0)
        hands.append(hand)
        if succeeds and grippers[-1] == 0:
            break
    return np.stack(hands), np.array(grippers)


def _elsewhere(rng: np.random.Generator, disc: Vector) -> Vector:
    while True:
        place = rng.uniform(-1.2, 1.2, size=2)
        if np.linalg.norm(place - disc) > 2 * NEAR_RAD:
            return place


def _draw(
    size: tuple[int, int], disc: Vector, hand: Vector, gripper: float
) -> dict[str, NDArray[np.uint8]]:
    """Three views, uint8 (H, W, 3): the table, from the still left arm, and around the hand."""
    views = {}
    for camera, centre, span in (
        ("head_camera", np.zeros(2), 1.6),
        ("left_camera", np.array([-0.4, 0.0]), 1.6),
        ("right_camera", hand, 0.5),
    ):
        picture = np.full((*size, 3), TABLE, np.uint8)
        for place, color, radius in ((disc, GREEN, 0.25), (hand, RED, 0.05 + 0.06 * gripper)):
            x, y = ((place - centre) / span + 1) / 2 * (size[1], size[0])
            thick = -1 if color is GREEN else 2
            cv2.circle(
                picture, (round(x), round(y)), round(radius / span * size[0] / 2), color, thick
            )
        views[camera] = picture
    return views
