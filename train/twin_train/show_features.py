"""What networks make of recorded pictures, drawn: a page of maps, or a film of an episode."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from tqdm import tqdm

from twin_env.mp4 import write_mp4
from twin_env.names import unknown
from twin_policy.files import write_atomically
from twin_train.feature_sheet import Group, Sheet, sheet_width
from twin_train.looking import Network, Recording
from twin_train.token_maps import TokenColours, draw_attention, draw_tokens, fit_colours

Array = NDArray[np.uint8]

MAX_TOKENS = 8192
"""Of a network and layer, that colours are fitted to."""
BRIGHTEST_PERCENT = 99.0
"""Of the patches; a trained network often attends to a few of them far more than to all others."""
SAMPLED_FRAMES = 32
"""Of an episode, that the colours of its video are fitted to."""
BATCH_FRAMES = 8
PICTURE_WIDTHS = (160, 320)
"""Least and greatest width of a cell."""
PAGE_WIDTH, FILM_WIDTH = 2400, 1920


@dataclass(frozen=True)
class Palette:
    """Colours on which all pictures of a page or a film agree."""

    colours: Mapping[tuple[int, str, str], TokenColours]
    """By network, layer and backbone (`Network.key`)."""
    brightest: Mapping[tuple[int, str], float]
    """The attention drawn brightest by network and layer, for those that have any."""
    counts: Mapping[tuple[int, str], int]
    """Tokens attended to."""
    n_pictures: int
    """That decided it."""


def fit_palette(
    recording: Recording, networks: Sequence[Network], cameras: Sequence[str], frames: Sequence[int]
) -> Palette:
    """Decides the colours from these frames, in bounded memory."""
    tokens: dict[tuple[int, str, str], list[NDArray[np.float32]]] = {}
    attention: dict[tuple[int, str], list[NDArray[np.float32]]] = {}
    counts: dict[tuple[int, str], int] = {}
    share = max(1, MAX_TOKENS // (len(frames) * len(cameras)))
    for batch in _batches(frames):
        for camera in cameras:
            pictures = [recording.read(camera, frame) for frame in batch]
            for index, network in enumerate(networks):
                for layer, look in network.look(camera, pictures).items():
                    flat = rearrange(look.tokens, "n h w c -> n (h w) c")
                    step = -(-flat.shape[1] // share)
                    some = rearrange(flat[:, ::step], "n k c -> (n k) c")
                    tokens.setdefault((index, layer, network.key(camera)), []).append(some.copy())
                    if look.attention is not None:
                        attention.setdefault((index, layer), []).append(look.attention.reshape(-1))
                        counts[index, layer] = look.count
    colours = {key: fit_colours(np.concatenate(parts)) for key, parts in tokens.items()}
    brightest = {
        key: float(np.percentile(np.concatenate(parts), BRIGHTEST_PERCENT))
        for key, parts in attention.items()
    }
    return Palette(colours, brightest, counts, len(frames) * len(cameras))


def _batches(frames: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(frames), BATCH_FRAMES):
        yield frames[begin : begin + BATCH_FRAMES]


@dataclass(frozen=True)
class Show:
    """An episode, the networks to look through, and the colours they agree on."""

    recording: Recording
    networks: Sequence[Network]
    cameras: Sequence[str]
    frames: Sequence[int]
    """Of the page."""
    palette: Palette

    def write_page(self, path: Path) -> None:
        """A PNG with a row for each frame and camera."""
        labels, rows = [], []
        for batch in _batches(self.frames):
            for frame, of_frame in zip(batch, self._cells(batch), strict=True):
                labels += [f"{camera}, frame {frame}" for camera in self.cameras]
                rows += of_frame
        sheet = self._sheet(len(self.frames), PAGE_WIDTH)
        image = cv2.cvtColor(sheet.draw(labels, rows), cv2.COLOR_RGB2BGR)
        encoded, png = cv2.imencode(".png", image)
        assert encoded
        write_atomically(path, lambda part: part.write_bytes(png.tobytes()))

    def write_film(self, path: Path, *, quiet: bool = False) -> None:
        """An MP4 of all frames, with a row for each camera; a few frames are held at a time.

        Raises:
            RuntimeError: the encoder fails.
        """
        sheet = self._sheet(1, FILM_WIDTH)
        n_frames = self.recording.n_frames
        interval_s = 0.3 if sys.stderr.isatty() else 15.0

        def frames() -> Iterator[memoryview]:
            with tqdm(
                total=n_frames, desc="video", unit="frame", disable=quiet, mininterval=interval_s
            ) as bar:
                for batch in _batches(range(n_frames)):
                    for frame, rows in zip(batch, self._cells(batch), strict=True):
                        labels = [f"{each}, frame {frame} of {n_frames}" for each in self.cameras]
                        image = sheet.draw(labels, rows)
                        yield cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).data
                        bar.update()

        starts, sides = range(n_frames), {"width": sheet.width, "height": sheet.height}
        write_atomically(
            path, lambda part: write_mp4(part, frames(), starts, **sides, timeout_s=None)
        )

    def _cells(self, frames: Sequence[int]) -> list[list[list[Array]]]:
        """Of each frame and camera, the pictures from left to right."""
        found: list[list[list[Array]]] = [[] for _ in frames]
        for camera in self.cameras:
            pictures = [self.recording.read(camera, frame) for frame in frames]
            for rows, picture in zip(found, pictures, strict=True):
                rows.append([picture])
            for index, network in enumerate(self.networks):
                views = [network.view(camera, picture) for picture in pictures]
                for layer, look in network.look(camera, pictures).items():
                    colours = self.palette.colours[index, layer, network.key(camera)]
                    for row, (rows, view) in enumerate(zip(found, views, strict=True)):
                        rows[-1].append(draw_tokens(view, colours(look.tokens[row])))
                        if look.attention is not None:
                            highest = self.palette.brightest[index, layer]
                            rows[-1].append(draw_attention(view, look.attention[row], highest))
        return found

    def _sheet(self, n_frames: int, room: int) -> Sheet:
        groups = [Group("", "", ("picture",), ("",)), *map(self._group, range(len(self.networks)))]
        counts = [len(group.columns) for group in groups]
        least, most = PICTURE_WIDTHS
        widths = range(most, least, -8)
        cell_width = next((each for each in widths if sheet_width(counts, each) <= room), least)
        shapes = [self.recording.shapes[camera] for camera in self.cameras] * n_frames
        title = f"{self.recording.title}: what networks make of the pictures"
        return Sheet(groups, shapes, title=title, notes=self._notes(), cell_width=cell_width)

    def _group(self, index: int) -> Group:
        network = self.networks[index]
        columns, remarks = [], []
        for layer in network.layers:
            shares = [
                round(100 * colours.share)
                for (of, name, _), colours in self.palette.colours.items()
                if (of, name) == (index, layer)
            ]
            low, high = min(shares), max(shares)
            columns.append(f"{layer}: tokens")
            remarks.append(f"{low}% of variance" if low == high else f"{low}-{high}% of variance")
            if (index, layer) in self.palette.brightest:
                columns.append(f"{layer}: attention")
                even = 1 / self.palette.counts[index, layer]
                highest = self.palette.brightest[index, layer]
                remarks.append(f"brightest from {highest:.2g}; even: {even:.2g}")
        return Group(
            network.title, network.weights, tuple(columns), tuple(remarks), warns=network.is_random
        )

    def _notes(self) -> list[str]:
        """What is drawn, and what is left out."""
        notes = [
            "Tokens: their first three principal components as red, green and blue over the "
            "picture in grey, of each network and layer by itself, fitted to "
            f"{self.palette.n_pictures} pictures. Colours of different columns mean nothing to "
            "each other."
        ]
        if self.palette.brightest:
            notes.append(
                "Attention: of the class token to each patch, mean over heads, dark (0) to bright "
                "(the share named, or more); even: were all tokens attended to alike."
            )
        shown = {index for index, _ in self.palette.brightest}
        without = [each.title for i, each in enumerate(self.networks) if i not in shown]
        if without:
            names = ", ".join(dict.fromkeys(without))
            notes.append(f"Without a column of attention, for no class token has any: {names}.")
        if any(network.is_random for network in self.networks):
            notes.append("Random weights: such a network has seen nothing.")
        return notes


def make_show(
    recording: Recording,
    networks: Sequence[Network],
    *,
    cameras: Sequence[str],
    frames: Sequence[int],
    fitted: Sequence[int] | None = None,
) -> Show:
    """Checks what is asked for, and decides the colours.

    Args:
        frames: of the page.
        fitted: frames that the colours are fitted to, instead of those of the page.

    Raises:
        ValueError: a camera or frame that the episode or a network lacks; nothing to show.
    """
    if not (networks and cameras and frames):
        raise ValueError("name at least one network, one camera and one frame")
    for camera in cameras:
        if camera not in recording.shapes:
            raise unknown(f"camera of {recording.title}", camera, recording.shapes)
        for network in networks:
            network.key(camera)
    for frame in frames:
        if not 0 <= frame < recording.n_frames:
            raise ValueError(
                f"{recording.title} has frames 0 to {recording.n_frames - 1}, and no {frame}"
            )
    palette = fit_palette(recording, networks, cameras, frames if fitted is None else fitted)
    return Show(recording, networks, cameras, frames, palette)


def sampled_frames(n_frames: int) -> list[int]:
    """Evenly spaced ones, the first and last among them."""
    spread = np.linspace(0, n_frames - 1, min(SAMPLED_FRAMES, n_frames))
    return sorted({round(frame) for frame in spread.tolist()})
