"""Shake a bottle, and be judged by the shaking: RoboTwin's own rule ends with the lifting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from twin_env.embedded.rotations import Array
from twin_env.embedded.tasks.shake_bottle import shake_bottle

SWINGS = 4
SWING_RAD = np.pi / 3


class shake_bottle_strict(shake_bottle):
    """Success: in the air, the bottle's axis went to and fro `SWINGS` times without a fall between,
    each time by `SWING_RAD` or more."""

    stages: ClassVar[tuple[str, ...]] = (
        "bottle grasped",
        "lifted",
        "first swing",
        "half of the swings",
        "shaken",
    )

    def load_actors(self) -> None:
        super().load_actors()
        self.swings = Swings()

    def watch(self) -> None:
        if super().check_success():
            self.swings.follow(self.bottle.get_pose().rotation[:, 2])
        elif self.swings.began is not None:
            self.swings = Swings()

    def check_stages(self) -> tuple[bool, ...]:
        done = self.swings.count
        lifted = super().check_success()
        return *super().check_stages(), lifted, done >= 1, done >= SWINGS // 2

    def check_success(self) -> bool:
        return super().check_success() and self.swings.count >= SWINGS


@dataclass
class Swings:
    """How often an axis went out by `SWING_RAD` and came back by as much; each way back is the next
    one's way out."""

    count: int = 0
    began: Array | None = None
    """The axis (3,) where the present swing began."""
    farthest: Array | None = None
    """The axis (3,) farthest from there since."""

    def follow(self, axis: Array) -> None:
        """The axis (3,), of length 1, one tick later."""
        if self.began is None or self.farthest is None:
            self.began = self.farthest = axis
            return
        # Cosines: the wider the angle, the smaller.
        out = float(self.began @ self.farthest)
        if self.began @ axis < out:
            self.farthest = axis
        elif self.farthest @ axis <= np.cos(SWING_RAD):
            self.count += bool(out <= np.cos(SWING_RAD))
            self.began, self.farthest = self.farthest, axis
