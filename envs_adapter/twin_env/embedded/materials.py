"""Named surface finishes of the embedded scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sapien


@dataclass(frozen=True)
class Finish:
    """How a surface looks."""

    color: tuple[float, float, float]
    """sRGB in [0, 1], as an artist names it."""
    roughness: float = 1.0
    """1 is matt, 0 is a mirror-like highlight."""

    def render_material(self) -> sapien.render.RenderMaterial:
        linear = np.square(self.color)  # The shader takes the square root.
        material = sapien.render.RenderMaterial(base_color=[*linear, 1.0])
        material.roughness = self.roughness
        return material


WHITE_PLASTIC = Finish((0.86, 0.87, 0.88), 0.55)
GRAPHITE = Finish((0.20, 0.21, 0.24), 0.6)
RUBBER = Finish((0.10, 0.10, 0.11), 0.9)
ACCENT = Finish((0.93, 0.45, 0.13), 0.6)
STEEL = Finish((0.55, 0.58, 0.62), 0.35)
WOOD = Finish((0.80, 0.58, 0.34), 0.8)
TABLE = Finish((0.80, 0.77, 0.72), 0.95)
TABLE_EDGE = Finish((0.52, 0.40, 0.29), 0.9)
FLOOR = Finish((0.47, 0.50, 0.54))
WALL = Finish((0.70, 0.76, 0.80))
RED = Finish((0.86, 0.14, 0.12), 0.7)
