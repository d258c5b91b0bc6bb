"""Named surface finishes of the embedded scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sapien

from twin_env.embedded.textures import SIZE, texture

_MIP_LEVELS = SIZE.bit_length()
_BRIGHTEST = 0.85
"""Share of the light that a texture's white reflects: more would glare under the table's lamp."""
_LINEAR = _BRIGHTEST * np.square(np.arange(256) / 255.0)
_STORED = np.where(_LINEAR <= 0.0031308, 12.92 * _LINEAR, 1.055 * _LINEAR ** (1 / 2.4) - 0.055)
_STORED_BYTES = np.rint(255.0 * _STORED).astype(np.uint8)
"""Of each byte, the one that the renderer's sRGB textures decode to the linear value meant: its
square, since the shader takes the square root."""


@dataclass(frozen=True)
class Finish:
    """How a surface looks."""

    color: tuple[float, float, float]
    """sRGB in [0, 1], as an artist names it."""
    roughness: float = 1.0
    """1 is matt, 0 is a mirror-like highlight."""
    texture: str | None = None
    """A name in `textures`, shown in place of the color."""
    repeat_m: float = 1.0
    """After how far a texture on a box comes again."""

    def render_material(self) -> sapien.render.RenderMaterial:
        linear = np.square(self.color)  # The shader takes the square root.
        material = sapien.render.RenderMaterial(base_color=[*linear, 1.0])
        material.roughness = self.roughness
        if self.texture is not None:
            material.base_color_texture = _uploaded(self.texture)
        return material


def _uploaded(name: str) -> sapien.render.RenderTexture2D:
    pixels = _STORED_BYTES[texture(name)]
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return sapien.render.RenderTexture2D(
        np.concatenate([pixels, opaque], axis=2), "R8G8B8A8Unorm", _MIP_LEVELS, srgb=True
    )


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
GREEN = Finish((0.16, 0.60, 0.24), 0.7)
BLUE = Finish((0.13, 0.32, 0.78), 0.7)
CHROME = Finish((0.64, 0.67, 0.71), 0.15)
BRASS = Finish((0.84, 0.66, 0.26), 0.2)
BLUE_GLAZE = Finish((0.16, 0.38, 0.72), 0.35)
GREEN_GLAZE = Finish((0.22, 0.55, 0.38), 0.35)
YELLOW_GLAZE = Finish((0.95, 0.74, 0.20), 0.35)
PINK_GLAZE = Finish((0.88, 0.45, 0.50), 0.35)
CREAM_GLAZE = Finish((0.93, 0.90, 0.83), 0.75)
ENAMEL_RED = Finish((0.72, 0.12, 0.12), 0.4)
ENAMEL_GREEN = Finish((0.15, 0.38, 0.30), 0.4)
CORK = Finish((0.72, 0.52, 0.33), 0.95)
BUN = Finish((0.87, 0.58, 0.26), 0.7)
SESAME = Finish((0.97, 0.90, 0.72), 0.8)
LETTUCE = Finish((0.42, 0.72, 0.22), 0.8)
TOMATO = Finish((0.84, 0.20, 0.14), 0.5)
CHEESE = Finish((0.98, 0.74, 0.16), 0.7)
PATTY = Finish((0.36, 0.20, 0.12), 0.9)
FRIED_POTATO = Finish((0.98, 0.80, 0.32), 0.8)
TRAY_BROWN = Finish((0.45, 0.29, 0.18), 0.8)
TRAY_TEAL = Finish((0.14, 0.45, 0.47), 0.7)
TRAY_GREY = Finish((0.42, 0.44, 0.48), 0.7)
GREEN_GLASS = Finish((0.20, 0.58, 0.26), 0.25)
COLA_BROWN = Finish((0.30, 0.16, 0.10), 0.25)
SKY_PLASTIC = Finish((0.55, 0.78, 0.93), 0.25)
LABEL_WHITE = Finish((0.94, 0.94, 0.92), 0.7)
LABEL_RED = Finish((0.84, 0.12, 0.14), 0.7)
LABEL_BLUE = Finish((0.13, 0.30, 0.75), 0.7)
LABEL_YELLOW = Finish((0.97, 0.78, 0.12), 0.7)
BIN_TEAL = Finish((0.10, 0.52, 0.56), 0.6)
BIN_GREEN = Finish((0.22, 0.50, 0.30), 0.6)
BIN_DARK = Finish((0.16, 0.17, 0.19), 0.8)
