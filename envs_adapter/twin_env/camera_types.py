"""RoboTwin's camera models by name."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CameraType:
    """Picture size and field of view of a camera model."""

    width: int
    height: int
    fovy_rad: float


CAMERA_TYPES = {
    "D435": CameraType(320, 240, math.radians(37.0)),
    "Large_D435": CameraType(640, 480, math.radians(37.0)),
    "L515": CameraType(320, 180, math.radians(45.0)),
    "Large_L515": CameraType(640, 360, math.radians(45.0)),
}
