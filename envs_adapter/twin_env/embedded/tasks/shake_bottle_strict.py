"""Shake a bottle, and be judged by the shaking: RoboTwin's own rule ends with the lifting."""

from __future__ import annotations

import numpy as np

from twin_env.embedded.rotations import Array
from twin_env.embedded.tasks.shake_bottle import shake_bottle

SWINGS = 4
SWING_RAD = np.pi / 3


class shake_bottle_strict(shake_bottle):
    """Success: in the air, the bottle's axis went to and fro `SWINGS` times, each time by
    `SWING_RAD` or more."""

    stages = ("bottle grasped", "lifted", "first swing", "half of the swings", "shaken")

    def load_actors(self) -> None:
        super().load_actors()
        self._forget_swings()

    def watch(self) -> None:
        if not super().check_success():
            self._forget_swings()
            return
        axis = self.bottle.get_pose().rotation[:, 2]
        if self._farthest is None or self._turned_at is None:
            self._turned_at = self._farthest = axis
        elif _angle_rad(self._turned_at, axis) > _angle_rad(self._turned_at, self._farthest):
            self._farthest = axis
        elif (
            _angle_rad(self._turned_at, self._farthest) >= SWING_RAD
            and _angle_rad(self._farthest, axis) >= SWING_RAD
        ):
            # It swung out, and by now has swung back: the way back is the next swing's beginning.
            self.swings += 1
            self._turned_at, self._farthest = self._farthest, axis

    def check_stages(self) -> tuple[bool, ...]:
        lifted = super().check_success()
        return *super().check_stages(), lifted, self.swings >= 1, self.swings >= SWINGS // 2

    def check_success(self) -> bool:
        return super().check_success() and self.swings >= SWINGS

    def _forget_swings(self) -> None:
        self.swings = 0
        self._turned_at: Array | None = None
        """The axis (3,) where it last began to swing."""
        self._farthest: Array | None = None
        """The axis (3,) farthest from there since."""


def _angle_rad(one: Array, other: Array) -> float:
    return float(np.arccos(np.clip(one @ other, -1.0, 1.0)))
