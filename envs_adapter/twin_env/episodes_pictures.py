"""JPEG pictures of episode files: two orders of their colours, told apart by a marker."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

ColorKind = Literal["swapped", "standard"]
"""`swapped`: an RGB array was given to `cv2.imencode`, which takes it for BGR, so that
`cv2.imdecode` gives RGB and every other reader swaps red and blue. `standard`: an ordinary JPEG
that says so by the comment `STANDARD_COMMENT` (RoboTwin and XPolicyLab since September 2026)."""

STANDARD_COMMENT = b"XPL-RGB1"
_PREFIX, _START, _SCAN, _END, _COMMENT = 0xFF, 0xD8, 0xDA, 0xD9, 0xFE


def color_kind(jpeg: bytes) -> ColorKind:
    """Looks for the comment among the segments that precede the picture itself."""
    at = 2 if jpeg[:2] == bytes((_PREFIX, _START)) else len(jpeg)
    while at + 4 <= len(jpeg) and jpeg[at] == _PREFIX:
        marker = jpeg[at + 1]
        if marker == _PREFIX:  # padding between segments
            at += 1
            continue
        if marker in (_SCAN, _END):
            break
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == _COMMENT and jpeg[at + 4 : at + 2 + length] == STANDARD_COMMENT:
            return "standard"
        at += 2 + length
    return "swapped"


def decode_rgb(jpeg: bytes) -> NDArray[np.uint8] | None:
    """uint8 (H, W, 3), true RGB whichever kind it is; None if it is no picture."""
    data = np.frombuffer(jpeg, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        return None
    if color_kind(jpeg) == "standard":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return np.asarray(picture, np.uint8)


def encode_recorded(picture: NDArray[np.uint8]) -> bytes:
    """A JPEG of uint8 (H, W, 3), RGB, as RoboTwin's collection makes it: swapped, cv2's defaults.

    Raises:
        ValueError: not a picture.
    """
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture))
    if not done:
        raise ValueError(f"no JPEG of a picture of shape {np.shape(picture)}")
    return bytes(encoded)


def encode_jpeg(picture: NDArray[np.uint8], kind: ColorKind) -> bytes:
    """A JPEG of either kind of uint8 (H, W, 3), RGB; a standard one carries the comment.

    Colours are kept at full resolution: where a picture is encoded for the second time, halving
    them again would cost the edges (every tenth of an episode's pictures: differences up to 15
    instead of 34 in 255, for 14% more bytes).

    Raises:
        ValueError: not a picture.
    """
    pixels = np.ascontiguousarray(picture if kind == "swapped" else picture[..., ::-1])
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, encoded = cv2.imencode(".jpg", pixels, options)
    if not done:
        raise ValueError(f"no JPEG of a picture of shape {np.shape(picture)}")
    jpeg = encoded.tobytes()
    if kind == "swapped":
        return jpeg
    length = (len(STANDARD_COMMENT) + 2).to_bytes(2, "big")
    return jpeg[:2] + bytes((_PREFIX, _COMMENT)) + length + STANDARD_COMMENT + jpeg[2:]
