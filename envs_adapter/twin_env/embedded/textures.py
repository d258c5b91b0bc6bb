"""Procedural surface textures, made from their names: `seen/0` to `seen/31` for collection,
`unseen/0` to `unseen/15` for evaluation, of other families and palettes.

Every texture repeats without a seam. Coordinates u (to the right) and v (down) run over [0, 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from twin_env.names import unknown

SIZE = 256
"""Pixels along each side."""
Array = NDArray[np.float64]
Color = tuple[int, int, int]
Palette = Sequence[Color]
"""sRGB in [0, 255]; what each stands for is the family's."""


def texture_names(split: str) -> tuple[str, ...]:
    """All names of `seen` or of `unseen`."""
    families = _FAMILIES[split]
    count = sum(len(palettes) for _, palettes in families.values())
    return tuple(f"{split}/{index}" for index in range(count))


def family_of(name: str) -> str:
    """What kind of surface a texture shows, such as `wood`."""
    return _place_of(name)[0]


@functools.lru_cache(maxsize=48)
def texture(name: str) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3) sRGB; the same array for the same name, not to be written to.

    Raises:
        ValueError: no texture has this name.
    """
    family, variant = _place_of(name)
    split, index = name.split("/")
    draw, palettes = _FAMILIES[split][family]
    rng = np.random.default_rng([int(index), split == "unseen"])
    colors = draw(rng, np.array(palettes[variant], np.float64), variant)
    pixels = np.clip(np.rint(colors), 0, 255).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


def _place_of(name: str) -> tuple[str, int]:
    """Family and variant: neighbouring numbers are of different families."""
    split, _, index = name.partition("/")
    if split not in _FAMILIES or name not in texture_names(split):
        raise unknown("texture", name, [n for split in _FAMILIES for n in texture_names(split)])
    families = list(_FAMILIES[split])
    return families[int(index) % len(families)], int(index) // len(families)


# What textures are made of ----------------------------------------------------------------

_STEPS = (np.arange(SIZE) + 0.5) / SIZE
U, V = np.meshgrid(_STEPS, _STEPS)


def _noise(
    rng: np.random.Generator, scale: float | tuple[float, float], fall: float = 2.0
) -> Array:
    """(SIZE, SIZE) of mean 0.5 within [0, 1]; `scale` is how many blotches fit along u and v, and
    a steeper `fall` leaves out more of what is finer."""
    along_u, along_v = scale if isinstance(scale, tuple) else (scale, scale)
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    v = np.fft.fftfreq(SIZE, 1.0 / SIZE)[:, None] / along_v
    u = np.fft.rfftfreq(SIZE, 1.0 / SIZE)[None, :] / along_u
    spectrum *= (1.0 + u * u + v * v) ** -fall
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    return np.clip(0.5 + 0.25 * field / field.std(), 0.0, 1.0)


def _sample(field: Array, u: Array, v: Array) -> Array:
    """`field` at shifted places, wrapped round."""
    rows = np.floor(v * SIZE).astype(np.int64) % SIZE
    columns = np.floor(u * SIZE).astype(np.int64) % SIZE
    return field[rows, columns]


def _blend(palette: Array, share: Array) -> Array:
    """(..., 3): from the palette's first colour at share 0 to its last at 1."""
    at = np.clip(share, 0.0, 1.0) * (len(palette) - 1)
    low = np.minimum(at.astype(np.int64), len(palette) - 2)
    part = (at - low)[..., None]
    return palette[low] * (1.0 - part) + palette[low + 1] * part


def _shade(colors: Array, by: Array) -> Array:
    """Lighter or darker by a share around 0."""
    return colors * (1.0 + by[..., None])


def _edge(share: Array, width: float) -> Array:
    """1 on the rim of a cell whose coordinate runs over [0, 1), 0 inside."""
    return (np.minimum(share, 1.0 - share) < width).astype(np.float64)


def _per_cell(rng: np.random.Generator, rows: Array, columns: Array) -> Array:
    """A number in [0, 1) for each cell of a grid, over its pixels."""
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    table = rng.random((rows.max() + 1, columns.max() + 1))
    return table[rows, columns]


def _cells(points: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """Of each pixel: distance to the nearest and to the second nearest of the points (n, 2), all
    wrapped round, and which is the nearest."""
    nearest = np.full((SIZE, SIZE), np.inf)
    second, which = nearest.copy(), np.zeros((SIZE, SIZE), np.int64)
    for index, (u, v) in enumerate(points):
        du = np.abs(_STEPS - u)[None, :]
        dv = np.abs(_STEPS - v)[:, None]
        distance = np.minimum(du, 1.0 - du) ** 2 + np.minimum(dv, 1.0 - dv) ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        which[closer] = index
    return np.sqrt(nearest), np.sqrt(second), which


def _honeycomb_points(columns: int, rows: int) -> Array:
    """Middles of hexagons; `rows` is even, so that the pattern closes."""
    return np.array(
        [
            ((column + 0.5 * (row % 2) + 0.25) / columns, (row + 0.5) / rows)
            for row in range(rows)
            for column in range(columns)
        ]
    )


# Seen families ----------------------------------------------------------------------------


def _wood(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    planks = (3, 4, 2, 5)[variant]
    plank = np.floor(V * planks)
    shift = _per_cell(rng, plank, np.zeros_like(U))
    warp = _sample(_noise(rng, (2.0, 8.0)), U + shift, V)
    fibre = _sample(_noise(rng, (3.0, 90.0), fall=1.2), U + 0.37 * shift, V)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (4 * V * planks + 2.4 * warp + 3 * shift))
    colors = _blend(palette, 0.55 * fibre + 0.25 * rings + 0.35 * (shift - 0.5) + 0.1)
    return _shade(colors, -0.35 * _edge(V * planks % 1.0, 0.018))


def _marble(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    bend = 0.16 * (_noise(rng, 2.5) - 0.5), 0.16 * (_noise(rng, 2.5) - 0.5)
    veins = _sample(_noise(rng, 2.0, fall=1.6), U + bend[0], V + bend[1])
    sharp = np.exp(-(((veins - 0.5) / (0.02 + 0.008 * variant)) ** 2))
    fine = np.exp(-(((_noise(rng, 5.0, fall=1.6) - 0.5) / 0.012) ** 2))
    cloud = _noise(rng, 3.0)
    return _blend(palette, 0.35 * cloud + 0.55 * sharp + 0.2 * fine)


def _checks(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    count = (4, 6, 8, 4)[variant]
    odd = (np.floor(U * count) + np.floor(V * count)) % 2
    return _shade(_blend(palette, odd), 0.10 * (_noise(rng, 40.0) - 0.5))


def _stripes(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    along = (U, V, U, (U + V) % 1.0)[variant]
    ends = np.cumsum(rng.uniform(0.5, 1.6, size=(8, 12, 6, 10)[variant]))
    band = np.searchsorted(ends / ends[-1], along, side="right")
    return _shade(palette[band % len(palette)], 0.08 * (_noise(rng, (4.0, 60.0), 1.2) - 0.5))


def _tiles(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    count = (4, 3, 6, 5)[variant]
    tone = _per_cell(rng, np.floor(V * count), np.floor(U * count))
    glaze = _blend(palette[1:], 0.6 * tone + 0.4 * _noise(rng, 9.0))
    grout = np.maximum(_edge(U * count % 1.0, 0.025), _edge(V * count % 1.0, 0.025))[..., None]
    return glaze * (1.0 - grout) + palette[0] * grout


def _plaster(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    broad, fine = _noise(rng, 2.0 + variant), _noise(rng, 60.0, fall=1.0)
    return _shade(_blend(palette, 0.15 + 0.7 * broad), 0.16 * (fine - 0.5))


def _fabric(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    threads = (32, 24, 16, 32)[variant]
    across = 0.5 + 0.5 * np.cos(2 * np.pi * U * threads)
    along = 0.5 + 0.5 * np.cos(2 * np.pi * V * threads)
    over = (np.floor(U * threads + 0.5) + np.floor(V * threads + 0.5)) % 2
    weave = np.where(over > 0, across, along)
    uneven = _noise(rng, (2.0, 50.0)) + _noise(rng, (50.0, 2.0))
    return _shade(_blend(palette, 0.6 * weave + 0.2 * uneven), 0.05 * (uneven - 1.0))


def _brick(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    rows, columns = ((8, 4), (10, 5), (12, 4), (8, 3))[variant]
    row = np.floor(V * rows)
    along = (U * columns + 0.5 * (row % 2)) % columns
    tone = _per_cell(rng, row, np.floor(along))
    face = _shade(_blend(palette[1:], tone), 0.22 * (_noise(rng, 45.0, 1.2) - 0.5))
    joint = np.maximum(_edge(along % 1.0, 0.022), _edge(V * rows % 1.0, 0.05))[..., None]
    return face * (1.0 - joint) + palette[0] * joint


# Unseen families --------------------------------------------------------------------------


def _honeycomb(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    columns, rows = ((4, 4), (6, 8))[variant]
    near, next_, which = _cells(_honeycomb_points(columns, rows))
    tone = rng.random(columns * rows)[which]
    rim = (next_ - near < 0.035 / columns * 2)[..., None]
    return np.where(rim, palette[0], _blend(palette[1:], tone))


def _pebbles(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    count = (36, 60)[variant]
    near, next_, which = _cells(rng.random((count, 2)))
    tone = rng.random(count)[which]
    round_ = np.clip((next_ - near) * (14.0, 18.0)[variant], 0.0, 1.0)
    stone = _shade(_blend(palette[1:], tone), 0.2 * (_noise(rng, 30.0) - 0.5))
    return palette[0] + (stone - palette[0]) * np.sqrt(round_)[..., None]


def _terrazzo(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    count = 60
    near, next_, which = _cells(rng.random((count, 2)))
    # Chips of uneven size: each keeps its own distance from its neighbours.
    gap = rng.uniform(0.015, 0.075, size=count)[which]
    ground = _shade(np.broadcast_to(palette[0], (SIZE, SIZE, 3)), 0.1 * (_noise(rng, 50.0) - 0.5))
    chip = palette[1:][rng.integers(len(palette) - 1, size=count)[which]]
    return np.where((next_ - near > gap)[..., None], chip, ground)


def _herringbone(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    cells = (8, 12)[variant]
    column, row = np.floor(U * cells), np.floor(V * cells)
    piece = (column - row) % 4
    flat = piece < 2
    # Both cells of a board share the place of its first one, and so its tone.
    first_column = (column - np.where(piece == 1, 1, 0)) % cells
    first_row = (row - np.where(piece == 2, 1, 0)) % cells
    tone = _per_cell(rng, first_row, first_column)
    grain = np.where(flat, _noise(rng, (3.0, 80.0), 1.2), _noise(rng, (80.0, 3.0), 1.2))
    u, v = U * cells % 1.0, V * cells % 1.0
    along, across = np.where(flat, u, v), np.where(flat, v, u)
    half = np.where((piece == 0) | (piece == 3), along, 1.0 - along)
    joint = np.maximum(_edge(across, 0.03), (half < 0.03).astype(np.float64))
    return _shade(_blend(palette, 0.5 * tone + 0.5 * grain), -0.45 * joint)


def _tartan(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    ends = np.cumsum(rng.uniform(0.3, 1.5, size=(7, 9)[variant]))
    sett = rng.permutation(np.arange(len(ends)) % len(palette))
    doubled = _STEPS * 2 % 1.0
    band = sett[np.searchsorted(ends / ends[-1], doubled, side="right")]
    twill = ((np.arange(SIZE)[:, None] + np.arange(SIZE)[None, :]) // 2 % 2)[..., None]
    warp = np.broadcast_to(palette[band][None, :, :], (SIZE, SIZE, 3))
    weft = np.broadcast_to(palette[band][:, None, :], (SIZE, SIZE, 3))
    return 0.5 * (warp + weft) + 0.12 * (twill - 0.5) * (warp - weft)


def _dots(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    columns, rows = ((6, 6), (4, 4))[variant]
    near, _, which = _cells(_honeycomb_points(columns, rows))
    kind = rng.integers(len(palette) - 1, size=columns * rows)[which]
    soft = np.clip((0.30 / columns - near) * SIZE, 0.0, 1.0)[..., None]
    ground = _shade(np.broadcast_to(palette[0], (SIZE, SIZE, 3)), 0.06 * (_noise(rng, 50.0) - 0.5))
    return ground + (palette[1:][kind] - ground) * soft


def _waves(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    bend = 0.05 * np.sin(2 * np.pi * 3 * U) + 0.12 * (_noise(rng, 2.0) - 0.5)
    band = 0.5 + 0.5 * np.sin(2 * np.pi * (8, 5)[variant] * (V + bend))
    return _blend(palette, band)


def _camouflage(rng: np.random.Generator, palette: Array, variant: int) -> Array:
    colors = np.broadcast_to(palette[0], (SIZE, SIZE, 3))
    for color in palette[1:]:
        blotch = _noise(rng, (4.0, 3.0)[variant], fall=2.5) > 0.60
        colors = np.where(blotch[..., None], color, colors)
    return colors


Draw = Callable[[np.random.Generator, Array, int], Array]
_FAMILIES: dict[str, dict[str, tuple[Draw, Sequence[Palette]]]] = {
    "seen": {
        "wood": (
            _wood,
            (
                ((112, 72, 42), (168, 118, 74), (205, 160, 110)),
                ((74, 46, 32), (110, 72, 50), (146, 104, 76)),
                ((178, 140, 96), (214, 182, 138), (234, 208, 168)),
                ((120, 54, 38), (160, 82, 58), (190, 116, 84)),
            ),
        ),
        "marble": (
            _marble,
            (
                ((238, 236, 232), (216, 214, 212), (128, 128, 134)),
                ((44, 46, 52), (70, 72, 78), (196, 190, 178)),
                ((212, 228, 216), (168, 196, 180), (72, 104, 92)),
                ((240, 222, 206), (222, 194, 172), (150, 100, 80)),
            ),
        ),
        "checks": (
            _checks,
            (
                ((232, 228, 218), (92, 116, 146)),
                ((224, 206, 178), (148, 96, 70)),
                ((206, 214, 206), (112, 142, 116)),
                ((70, 74, 82), (190, 192, 194)),
            ),
        ),
        "stripes": (
            _stripes,
            (
                ((226, 218, 200), (92, 128, 148), (226, 218, 200), (196, 142, 84)),
                ((74, 92, 120), (214, 212, 204)),
                ((206, 172, 160), (240, 230, 220), (148, 108, 112)),
                ((210, 204, 150), (236, 232, 210), (132, 150, 110)),
            ),
        ),
        "tiles": (
            _tiles,
            (
                ((206, 202, 196), (120, 158, 168), (170, 200, 204)),
                ((90, 86, 82), (202, 176, 148), (226, 206, 182)),
                ((226, 226, 222), (60, 96, 132), (116, 150, 180)),
                ((180, 172, 164), (170, 98, 72), (204, 140, 108)),
            ),
        ),
        "plaster": (
            _plaster,
            (
                ((214, 204, 186), (238, 230, 216)),
                ((150, 168, 176), (186, 200, 204)),
                ((206, 158, 122), (228, 190, 156)),
                ((128, 130, 128), (172, 172, 168)),
            ),
        ),
        "fabric": (
            _fabric,
            (
                ((58, 78, 112), (120, 144, 176)),
                ((132, 116, 92), (214, 200, 172)),
                ((104, 46, 52), (172, 96, 96)),
                ((70, 92, 78), (142, 164, 144)),
            ),
        ),
        "brick": (
            _brick,
            (
                ((198, 190, 180), (150, 78, 58), (186, 110, 84)),
                ((168, 166, 162), (206, 196, 184), (232, 226, 216)),
                ((92, 88, 86), (122, 104, 94), (168, 146, 130)),
                ((220, 214, 204), (188, 150, 102), (214, 182, 136)),
            ),
        ),
    },
    "unseen": {
        "honeycomb": (
            _honeycomb,
            (
                ((60, 58, 66), (196, 158, 70), (232, 206, 130)),
                ((236, 236, 236), (150, 120, 164), (206, 186, 214)),
            ),
        ),
        "pebbles": (
            _pebbles,
            (
                ((64, 60, 56), (140, 134, 128), (208, 200, 190)),
                ((52, 64, 66), (96, 128, 128), (180, 198, 186)),
            ),
        ),
        "terrazzo": (
            _terrazzo,
            (
                ((228, 224, 218), (200, 120, 96), (96, 120, 112), (220, 180, 110), (90, 90, 96)),
                ((76, 82, 92), (206, 206, 200), (150, 170, 190), (190, 140, 150)),
            ),
        ),
        "herringbone": (
            _herringbone,
            (
                ((140, 120, 104), (176, 158, 140), (206, 192, 176)),
                ((64, 58, 60), (96, 86, 84), (126, 114, 108)),
            ),
        ),
        "tartan": (
            _tartan,
            (
                ((150, 44, 48), (36, 56, 46), (220, 206, 170)),
                ((40, 70, 110), (90, 130, 110), (216, 216, 206), (56, 56, 70)),
            ),
        ),
        "dots": (
            _dots,
            (
                ((232, 220, 208), (178, 92, 112), (92, 140, 150)),
                ((74, 104, 104), (228, 214, 160)),
            ),
        ),
        "waves": (
            _waves,
            (
                ((52, 104, 124), (126, 176, 184), (222, 232, 226)),
                ((196, 144, 96), (224, 190, 146), (172, 112, 92)),
            ),
        ),
        "camouflage": (
            _camouflage,
            (
                ((142, 148, 104), (88, 98, 66), (172, 150, 112), (60, 58, 48)),
                ((176, 184, 192), (124, 136, 150), (210, 212, 214), (84, 94, 110)),
            ),
        ),
    },
}
