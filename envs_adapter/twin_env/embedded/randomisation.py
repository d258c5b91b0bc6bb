"""What one episode's domain randomisation is, drawn from its config section and seed.

Each axis has a generator of its own: it is the same alone as together with the others, and where
the task's objects lie (the task's own generator) depends on none. Numbers are drawn as shares and
scaled by the config afterwards, so two strengths of one axis are paired as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twin_env.embedded.clutter import Candidate, draw_candidates
from twin_env.embedded.scene import CLEAN_LIGHTING, DirectionalLight, Lighting, Triple
from twin_env.embedded.textures import texture_names

_BACKGROUND, _CLUTTER, _HEAD_CAMERA, _TABLE_HEIGHT, _LIGHT, _FLICKER = range(1, 7)
"""One stream of random numbers an axis: never renumber, or all seeds look different."""

FLICKER_STEP = 0.1
"""How far flickering ambient light strays from the episode's, each channel."""


@dataclass(frozen=True)
class Randomisation:
    """One episode's; the defaults are the clean scene."""

    table_z_bias_m: float = 0.0
    """How far the table stands above its usual height: negative, lower."""
    head_camera_offset_m: Triple = (0.0, 0.0, 0.0)
    """How far the head camera is moved, in the world."""
    wall_texture: str | None = None
    """A name in `textures`; None: plain."""
    table_texture: str | None = None
    lighting: Lighting = CLEAN_LIGHTING
    flicker_seed: int | None = None
    """The episode's seed where the colours of the lights change from moment to moment."""
    clutter: tuple[Candidate, ...] = ()
    """What is tried in this order until enough stands on the table; empty: no clutter."""

    def texture_info(self) -> dict[str, str | None]:
        """RoboTwin's record of it."""
        return {"wall_texture": self.wall_texture, "table_texture": self.table_texture}

    def flicker(self) -> Callable[[int], Lighting] | None:
        """The light at each physics tick, where it changes."""
        if self.flicker_seed is None:
            return None
        return functools.partial(flickering, self.lighting, self.flicker_seed)


def draw_randomisation(
    section: Mapping[str, Any], seed: int, *, is_test: bool = False
) -> Randomisation:
    """What the config's `domain_randomization` makes of a seed; `is_test` chooses the textures that
    collection never sees."""
    wall, table = _textures(section, seed, "unseen" if is_test else "seen")
    lighting, flickers = _lighting(section, seed)
    lowered = float(_stream(seed, _TABLE_HEIGHT).random())
    return Randomisation(
        table_z_bias_m=0.0 - float(section["random_table_height"]) * lowered,
        head_camera_offset_m=_camera_offset(float(section["random_head_camera_dis"]), seed),
        wall_texture=wall,
        table_texture=table,
        lighting=lighting,
        flicker_seed=seed if flickers else None,
        clutter=_clutter(section, seed),
    )


def flickering(lighting: Lighting, seed: int, tick: int) -> Lighting:
    """The light at a physics tick, whatever was looked at before: directional lights take new
    colours, ambient light strays a little."""
    rng = np.random.default_rng([seed, _FLICKER, tick])
    stray = rng.uniform(-FLICKER_STEP, FLICKER_STEP, size=3)
    return replace(
        lighting,
        ambient=_triple(np.clip(np.array(lighting.ambient) + stray, 0.0, 1.0)),
        key=replace(lighting.key, color=_triple(_tint(rng, (0.40, 0.90), 0.3))),
        fill=replace(lighting.fill, color=_triple(_tint(rng, (0.05, 0.30), 0.3))),
    )


def _stream(seed: int, axis: int) -> np.random.Generator:
    return np.random.default_rng([seed, axis])


def _textures(section: Mapping[str, Any], seed: int, split: str) -> tuple[str | None, str | None]:
    if not section["random_background"]:
        return None, None
    names = texture_names(split)
    wall, table, wall_clean, table_clean = _stream(seed, _BACKGROUND).random(4)
    rate = float(section["clean_background_rate"])
    return (
        None if wall_clean < rate else names[int(wall * len(names))],
        None if table_clean < rate else names[int(table * len(names))],
    )


def _clutter(section: Mapping[str, Any], seed: int) -> tuple[Candidate, ...]:
    if not section["cluttered_table"]:
        return ()
    rng = _stream(seed, _CLUTTER)
    if rng.random() < float(section["clean_background_rate"]):
        return ()
    return draw_candidates(rng)


def _camera_offset(up_to_m: float, seed: int) -> Triple:
    rng = _stream(seed, _HEAD_CAMERA)
    towards = rng.standard_normal(3)
    if up_to_m == 0.0:
        return (0.0, 0.0, 0.0)
    return _triple(up_to_m * rng.random() * towards / np.linalg.norm(towards))


def _lighting(section: Mapping[str, Any], seed: int) -> tuple[Lighting, bool]:
    """The light, and whether it flickers."""
    if not section["random_light"]:
        return CLEAN_LIGHTING, False
    rng = _stream(seed, _LIGHT)
    flickers = bool(rng.random() < float(section["crazy_random_light_rate"]))
    key = DirectionalLight(_downwards(rng, (10.0, 45.0)), _triple(_tint(rng, (0.40, 0.90), 0.5)))
    fill = DirectionalLight(_downwards(rng, (30.0, 60.0)), _triple(_tint(rng, (0.05, 0.30), 0.5)))
    ambient = _triple(_tint(rng, (0.30, 0.55), 0.85))
    # The table's farthest corner, seen along a light as slanting as it gets, is within.
    return Lighting(ambient, key, fill, shadow_far_m=0.70, shadow_half_size_m=0.80), flickers


def _downwards(rng: np.random.Generator, slant_deg: tuple[float, float]) -> Triple:
    """A direction so many degrees off straight down, towards any side."""
    slant = math.radians(rng.uniform(*slant_deg))
    azimuth = rng.uniform(-math.pi, math.pi)
    across = math.sin(slant)
    return across * math.cos(azimuth), across * math.sin(azimuth), -math.cos(slant)


def _tint(rng: np.random.Generator, level: tuple[float, float], weakest: float) -> np.ndarray:
    """(3,) of some brightness, of which each channel keeps a share from `weakest` to 1."""
    return rng.uniform(*level) * rng.uniform(weakest, 1.0, size=3)


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
