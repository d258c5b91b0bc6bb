"""How features are laid out: a row for each picture, columns of each network, captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]

MARGIN, GAP, GROUP_GAP = 14, 6, 20
LABEL_HEIGHT = 24
"""Above each row of cells."""
TITLE_SIZE, TEXT_SIZE, NOTE_SIZE = 17, 14, 12
LINE = 1.35
"""Height of a line of text, in its size."""
WHITE, INK, GREY, WARNING = (255, 255, 255), (25, 25, 25), (105, 105, 105), (196, 60, 20)
ELLIPSIS = "..."


@dataclass(frozen=True)
class Group:
    """Columns that belong together: those of one network."""

    title: str
    note: str
    """Where the weights are from."""
    columns: tuple[str, ...]
    """What each shows."""
    remarks: tuple[str, ...]
    """Smaller, below; one for each column."""
    warns: bool = False
    """Whether the note is to be seen."""


class Sheet:
    """A page of pictures that is drawn anew for other pictures of the same sizes."""

    def __init__(
        self,
        groups: Sequence[Group],
        shapes: Sequence[tuple[int, int]],
        *,
        title: str,
        notes: Sequence[str],
        cell_width: int,
    ) -> None:
        """
        Args:
            shapes: (H, W) of the picture of each row; cells have its proportions.
        """
        self._cell_width = cell_width
        self._lefts, right = _place(groups, cell_width)
        self.width = _even(right + MARGIN)
        heights = [round(cell_width * height / width) for height, width in shapes]
        top = MARGIN + sum(_line(size) for size in (TITLE_SIZE, TEXT_SIZE, NOTE_SIZE))
        top += GAP + _line(TEXT_SIZE) + _line(NOTE_SIZE)
        self._cells: list[tuple[int, int]] = []
        """(top, height) of each row's cells."""
        for height in heights:
            top += LABEL_HEIGHT
            self._cells.append((top, height))
            top += height + GAP
        wrapped = [line for note in notes for line in self._wrapped(note)]
        bottom = top + (GAP + len(wrapped) * _line(NOTE_SIZE) if wrapped else 0)
        self.height = _even(bottom + MARGIN)
        self._ground = self._draw_ground(groups, title, wrapped, top + GAP)

    def draw(self, labels: Sequence[str], rows: Sequence[Sequence[Array]]) -> Array:
        """RGB (height, width, 3), both even.

        Args:
            labels: of the rows.
            rows: RGB (H, W, 3) of each column.
        """
        image = self._ground.copy()
        for cells, (top, height) in zip(rows, self._cells, strict=True):
            for cell, left in zip(cells, self._lefts, strict=True):
                larger = self._cell_width > cell.shape[1]
                way = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
                image[top : top + height, left : left + self._cell_width] = cv2.resize(
                    cell, (self._cell_width, height), interpolation=way
                )
        for label, (top, _) in zip(labels, self._cells, strict=True):
            strip = np.full((LABEL_HEIGHT, self.width - MARGIN, 3), WHITE, np.uint8)
            write(strip, label, (0, LABEL_HEIGHT - _line(TEXT_SIZE)), TEXT_SIZE)
            image[top - LABEL_HEIGHT : top, MARGIN:] = strip
        return image

    def _draw_ground(
        self, groups: Sequence[Group], title: str, notes: Sequence[str], foot: int
    ) -> Array:
        """All that stays the same."""
        ground = np.full((self.height, self.width, 3), WHITE, np.uint8)
        top = MARGIN
        write(ground, title, (MARGIN, top), TITLE_SIZE, bold=True, room=self.width - 2 * MARGIN)
        top += _line(TITLE_SIZE) + GAP
        first = 0
        for group in groups:
            lefts = self._lefts[first : first + len(group.columns)]
            first += len(group.columns)
            room = lefts[-1] + self._cell_width - lefts[0]
            line = top
            write(ground, group.title, (lefts[0], line), TEXT_SIZE, bold=True, room=room)
            line += _line(TEXT_SIZE)
            colour = WARNING if group.warns else GREY
            write(
                ground,
                group.note,
                (lefts[0], line),
                NOTE_SIZE,
                colour=colour,
                bold=group.warns,
                room=room,
            )
            line += _line(NOTE_SIZE)
            for left, column, remark in zip(lefts, group.columns, group.remarks, strict=True):
                room = self._cell_width
                write(ground, column, (left, line), TEXT_SIZE, room=room)
                below = (left, line + _line(TEXT_SIZE))
                write(ground, remark, below, NOTE_SIZE, colour=GREY, room=room)
        for number, note in enumerate(notes):
            where = (MARGIN, foot + number * _line(NOTE_SIZE))
            write(ground, note, where, NOTE_SIZE, colour=GREY)
        return ground

    def _wrapped(self, note: str) -> list[str]:
        letter = _font(NOTE_SIZE, bold=False).getlength("n")
        return textwrap.wrap(note, max(20, int((self.width - 2 * MARGIN) / letter)))


def sheet_width(counts: Sequence[int], cell_width: int) -> int:
    """Of a page with so many columns in each of its groups."""
    groups = [Group("", "", ("",) * count, ("",) * count) for count in counts]
    return _even(_place(groups, cell_width)[1] + MARGIN)


def _place(groups: Sequence[Group], cell_width: int) -> tuple[list[int], int]:
    """The left of each column, and the right end of the last."""
    lefts, left = [], MARGIN
    for group in groups:
        for _ in group.columns:
            lefts.append(left)
            left += cell_width + GAP
        left += GROUP_GAP - GAP
    return lefts, left - GROUP_GAP


def write(
    image: Array,
    text: str,
    where: tuple[int, int],
    size: int,
    *,
    colour: tuple[int, int, int] = INK,
    bold: bool = False,
    room: int | None = None,
) -> None:
    """Text on an RGB image, cut to the room there is; `where` is its left and top in pixels."""
    from PIL import Image, ImageDraw

    left, top = where
    font = _font(size, bold=bold)
    while room is not None and text and font.getlength(text) > room:
        text = text.removesuffix(ELLIPSIS)[:-1].rstrip() + ELLIPSIS if len(text) > 4 else ""
    strip = image[top : top + _line(size) + 2, left:]
    drawn = Image.fromarray(np.ascontiguousarray(strip))
    ImageDraw.Draw(drawn).text((0, 0), text, fill=colour, font=font)
    strip[...] = np.asarray(drawn)


@lru_cache
def _font(size: int, *, bold: bool) -> Any:
    """matplotlib's own, which comes with it."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), size)


def _line(size: int) -> int:
    return round(size * LINE)


def _even(length: int) -> int:
    """At least so much, as videos need it."""
    return length + length % 2
