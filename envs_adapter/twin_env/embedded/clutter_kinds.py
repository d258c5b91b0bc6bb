"""The kinds of things that stand about on a cluttered table, from cans to calculators.

An object's frame is on its underside, z up. Every kind stands still where it is put: round things
have a flat foot, and what would roll collides as a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twin_env.embedded.materials import GRAPHITE, RUBBER, STEEL, WHITE_PLASTIC, Finish
from twin_env.embedded.scene import Part
from twin_env.embedded.shapes import Profile, revolved, turned_body

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Kind:
    """One kind of clutter."""

    build: Callable[[Color], list[Part]]
    radius_m: float
    """Of the circle about its origin that it stands within."""
    colors: tuple[Color, ...]
    """sRGB; one an `object_index`."""
    resembles: tuple[str, ...] = ()
    """It is left out where an object of the task has one of these in its name."""


_UPRIGHT = (math.sqrt(0.5), 0.0, -math.sqrt(0.5), 0.0)
"""Turns a cylinder along x to stand along z."""
PAPER = Finish((0.93, 0.91, 0.85), 0.9)
CARDBOARD = Finish((0.74, 0.58, 0.40), 0.95)
STALK = Finish((0.36, 0.25, 0.14), 0.9)


def _plate(
    half_m: tuple[float, float, float],
    finish: Finish,
    at_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    collides: bool = False,
) -> Part:
    """A box whose underside's middle is `at_m`."""
    x, y, z = at_m
    return Part("box", half_m, finish, (x, y, z + half_m[2]), collides=collides)


def _turned(profile: Profile, finish: Finish) -> Part:
    """A surface about z, seen but not felt."""
    return Part("mesh", (), finish, collides=False, mesh=revolved(profile, 24))


def _column(radius: float, height: float) -> Part:
    """An upright cylinder, felt but not seen."""
    size = (radius, height / 2)
    return Part("cylinder", size, GRAPHITE, (0.0, 0.0, height / 2), _UPRIGHT, visible=False)


def _dark(color: Color, share: float = 0.6) -> Color:
    return color[0] * share, color[1] * share, color[2] * share


def _can(color: Color) -> list[Part]:
    rim = ((0.026, 0.0), (0.031, 0.006), (0.031, 0.010))
    body = ((0.031, 0.010), (0.031, 0.086))
    top = ((0.031, 0.086), (0.026, 0.094), (0.024, 0.095), (0.023, 0.091), (0.0, 0.091))
    metal = Finish((0.74, 0.76, 0.79), 0.3)
    band = ((0.0315, 0.030), (0.0315, 0.052))
    return [
        _column(0.030, 0.095),
        _turned(rim, metal),
        _turned(body, Finish(color, 0.35)),
        _turned(band, PAPER),
        _turned(top, metal),
    ]


def _carton(color: Color) -> list[Part]:
    return [
        _plate((0.032, 0.020, 0.042), Finish(color, 0.8), collides=True),
        _plate((0.0324, 0.0204, 0.012), PAPER, (0.0, 0.0, 0.034)),
        _plate((0.020, 0.0207, 0.004), Finish(_dark(color), 0.8), (0.0, 0.0, 0.042)),
    ]


def _book(color: Color) -> list[Part]:
    cover = Finish(color, 0.7)
    return [
        Part("box", (0.055, 0.040, 0.011), cover, (0.0, 0.0, 0.011), visible=False),
        _plate((0.055, 0.040, 0.0015), cover),
        _plate((0.053, 0.038, 0.008), PAPER, (0.001, 0.0, 0.003)),
        _plate((0.055, 0.040, 0.0015), cover, (0.0, 0.0, 0.019)),
        _plate((0.002, 0.040, 0.011), cover, (-0.053, 0.0, 0.0)),
        _plate((0.022, 0.012, 0.0003), PAPER, (0.012, 0.0, 0.022)),
    ]


def _apple(color: Color) -> list[Part]:
    profile = (
        (0.014, 0.0),
        (0.026, 0.007),
        (0.034, 0.020),
        (0.037, 0.034),
        (0.034, 0.048),
        (0.025, 0.058),
        (0.014, 0.061),
        (0.004, 0.055),
    )
    stalk = Part("cylinder", (0.002, 0.010), STALK, (0.0, 0.0, 0.062), _UPRIGHT, collides=False)
    return [*_rounded(profile, Finish(color, 0.45)), stalk]


def _orange(color: Color) -> list[Part]:
    peel = Finish(color, 0.7)
    radius, foot = 0.034, 0.031  # The sphere's lowest 3 mm are in the table.
    profile = ((0.014, 0.0), (0.034, foot), (0.014, foot + 0.031))
    seen = Part("sphere", (radius,), peel, (0.0, 0.0, foot), collides=False)
    return [seen, *turned_body(profile, peel)[1:]]


def _pear(color: Color) -> list[Part]:
    profile = (
        (0.013, 0.0),
        (0.026, 0.008),
        (0.032, 0.022),
        (0.029, 0.040),
        (0.019, 0.058),
        (0.014, 0.072),
        (0.006, 0.079),
        (0.0, 0.080),
    )
    stalk = Part("cylinder", (0.002, 0.009), STALK, (0.0, 0.0, 0.086), _UPRIGHT, collides=False)
    return [*_rounded(profile, Finish(color, 0.6)), stalk]


def _rounded(profile: Profile, finish: Finish) -> list[Part]:
    """A smooth turned body that collides as three frusta."""
    stages = [profile[i] for i in sorted({0, len(profile) // 3, 2 * len(profile) // 3})]
    felt = turned_body((*stages, profile[-1]), finish)[1:]
    return [_turned(((0.0, 0.0), *_smoothed(profile)), finish), *felt]


def _smoothed(profile: Profile, pieces: int = 4) -> Profile:
    """A curve through the same points (Catmull and Rom's)."""
    points = np.array([profile[0], *profile, profile[-1]])
    share = (np.arange(pieces) / pieces)[:, None]
    curve = [
        b
        + 0.5 * share * (c - a)
        + share**2 * (a - 2.5 * b + 2 * c - 0.5 * d)
        + 0.5 * share**3 * (3 * b - 3 * c + d - a)
        for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False)
    ]
    return tuple((float(r), float(z)) for r, z in [*np.concatenate(curve), points[-1]])


def _mug(color: Color) -> list[Part]:
    outside = ((0.0, 0.0), (0.030, 0.0), (0.034, 0.006), (0.035, 0.080))
    inside = ((0.035, 0.080), (0.032, 0.081), (0.031, 0.078), (0.030, 0.012), (0.0, 0.010))
    glaze = Finish(color, 0.4)
    bars = [
        ((0.045, 0.0, 0.062), (0.012, 0.005, 0.004)),
        ((0.055, 0.0, 0.043), (0.004, 0.005, 0.022)),
        ((0.045, 0.0, 0.024), (0.012, 0.005, 0.004)),
    ]
    handle = [Part("box", half, glaze, at) for at, half in bars]
    white = Finish((0.93, 0.93, 0.91), 0.4)
    return [_column(0.034, 0.081), _turned(outside, glaze), _turned(inside, white), *handle]


def _toy_brick(color: Color) -> list[Part]:
    plastic = Finish(color, 0.4)
    studs = [
        Part("cylinder", (0.0055, 0.002), plastic, (x, y, 0.026), _UPRIGHT, collides=False)
        for x in (-0.024, -0.008, 0.008, 0.024)
        for y in (-0.008, 0.008)
    ]
    return [_plate((0.032, 0.016, 0.012), plastic, collides=True), *studs]


def _eraser(color: Color) -> list[Part]:
    return [
        _plate((0.028, 0.012, 0.007), WHITE_PLASTIC, collides=True),
        _plate((0.017, 0.0124, 0.0074), Finish(color, 0.8), (-0.010, 0.0, 0.0)),
    ]


def _tape_roll(color: Color) -> list[Part]:
    band = ((0.026, 0.0), (0.040, 0.0), (0.040, 0.022), (0.026, 0.022))
    core = ((0.026, 0.022), (0.0255, 0.0222), (0.0255, 0.0))
    return [_column(0.040, 0.022), _turned(band, Finish(color, 0.5)), _turned(core, CARDBOARD)]


def _marker(color: Color) -> list[Part]:
    ink = Finish(color, 0.5)
    lying = [
        Part("cylinder", (0.0085, 0.040), WHITE_PLASTIC, (-0.018, 0.0, 0.0085), collides=False),
        Part("cylinder", (0.0088, 0.020), ink, (0.040, 0.0, 0.0088), collides=False),
        Part("cylinder", (0.0088, 0.004), ink, (-0.058, 0.0, 0.0088), collides=False),
    ]
    return [Part("box", (0.061, 0.008, 0.0085), ink, (0.0, 0.0, 0.0085), visible=False), *lying]


def _jar(color: Color) -> list[Part]:
    body = ((0.0, 0.0), (0.029, 0.0), (0.032, 0.005), (0.032, 0.050), (0.027, 0.058))
    lid = ((0.030, 0.056), (0.030, 0.070), (0.028, 0.072), (0.0, 0.072))
    label = ((0.0325, 0.014), (0.0325, 0.042))
    return [
        _column(0.031, 0.072),
        _turned(body, Finish((0.80, 0.62, 0.36), 0.3)),
        _turned(label, PAPER),
        _turned(lid, Finish(color, 0.45)),
    ]


def _flacon(color: Color) -> list[Part]:
    body = ((0.0, 0.0), (0.022, 0.0), (0.024, 0.004), (0.024, 0.066), (0.012, 0.078))
    cap = ((0.012, 0.076), (0.014, 0.077), (0.014, 0.094), (0.012, 0.096), (0.0, 0.096))
    label = ((0.0245, 0.020), (0.0245, 0.052))
    return [
        _column(0.023, 0.094),
        _turned(body, WHITE_PLASTIC),
        _turned(label, Finish(color, 0.6)),
        _turned(cap, Finish(_dark(color, 0.8), 0.5)),
    ]


def _sponge(color: Color) -> list[Part]:
    return [
        _plate((0.042, 0.028, 0.014), Finish(color, 1.0), collides=True),
        _plate((0.0424, 0.0284, 0.005), Finish((0.20, 0.42, 0.28)), (0.0, 0.0, 0.0236)),
    ]


def _telephone(color: Color) -> list[Part]:
    return [
        _plate((0.066, 0.033, 0.0045), Finish(color, 0.4), collides=True),
        _plate((0.061, 0.030, 0.0003), Finish((0.08, 0.09, 0.12), 0.15), (0.0, 0.0, 0.009)),
    ]


def _stapler(color: Color) -> list[Part]:
    lean = 0.10
    tilted = (math.cos(lean / 2), 0.0, -math.sin(lean / 2), 0.0)
    paint = Finish(color, 0.45)
    return [
        _plate((0.052, 0.016, 0.005), RUBBER, collides=True),
        _plate((0.010, 0.014, 0.014), paint, (-0.042, 0.0, 0.010), collides=True),
        Part("box", (0.050, 0.011, 0.004), STEEL, (0.0, 0.0, 0.022), tilted, collides=False),
        Part("box", (0.052, 0.014, 0.006), paint, (0.0, 0.0, 0.031), tilted),
    ]


def _calculator(color: Color) -> list[Part]:
    keys = [
        _plate((0.0055, 0.0055, 0.0012), PAPER, (x, y, 0.012))
        for x in (-0.040, -0.024, -0.008, 0.008)
        for y in (-0.020, 0.0, 0.020)
    ]
    return [
        _plate((0.055, 0.033, 0.006), Finish(color, 0.7), collides=True),
        _plate((0.012, 0.026, 0.0008), Finish((0.62, 0.70, 0.62), 0.3), (0.035, 0.0, 0.012)),
        *keys,
    ]


RED: Color = (0.76, 0.16, 0.15)
BLUE: Color = (0.16, 0.34, 0.66)
GREEN: Color = (0.22, 0.52, 0.30)
YELLOW: Color = (0.92, 0.76, 0.22)
PURPLE: Color = (0.46, 0.30, 0.58)
TEAL: Color = (0.14, 0.52, 0.54)
PINK: Color = (0.86, 0.50, 0.58)
SLATE: Color = (0.28, 0.32, 0.38)
CREAM: Color = (0.90, 0.86, 0.76)

KINDS: dict[str, Kind] = {
    "can": Kind(_can, 0.032, (RED, BLUE, GREEN, PURPLE), resembles=("can",)),
    "carton": Kind(_carton, 0.039, (TEAL, YELLOW, PINK, BLUE)),
    "book": Kind(_book, 0.069, (BLUE, RED, GREEN, SLATE)),
    "apple": Kind(_apple, 0.037, (RED, GREEN, YELLOW)),
    "orange": Kind(_orange, 0.034, ((0.93, 0.52, 0.12), (0.86, 0.78, 0.24))),
    "pear": Kind(_pear, 0.033, ((0.68, 0.74, 0.28), (0.84, 0.70, 0.30))),
    "mug": Kind(_mug, 0.060, (TEAL, CREAM, SLATE, PINK), resembles=("cup", "mug")),
    "toy_brick": Kind(_toy_brick, 0.036, (BLUE, GREEN, YELLOW, PURPLE), resembles=("block",)),
    "eraser": Kind(_eraser, 0.031, (BLUE, GREEN, PINK)),
    "tape_roll": Kind(_tape_roll, 0.041, (YELLOW, TEAL, CREAM)),
    "marker": Kind(_marker, 0.063, (BLUE, RED, GREEN, SLATE)),
    "jar": Kind(_jar, 0.033, (RED, GREEN, SLATE), resembles=("jar", "pot")),
    "flacon": Kind(_flacon, 0.025, (TEAL, PURPLE, PINK), resembles=("bottle",)),
    "sponge": Kind(_sponge, 0.052, (YELLOW, PINK)),
    "telephone": Kind(_telephone, 0.074, (SLATE, CREAM, BLUE)),
    "stapler": Kind(_stapler, 0.056, (RED, SLATE, TEAL)),
    "calculator": Kind(_calculator, 0.065, (SLATE, CREAM)),
}
