"""The one way in which pictures become policy input, in training and in deployment."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_rgb(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes one picture by area averaging.

    Args:
        picture: uint8 (H, W, 3); may be read-only or non-contiguous.
        size: the (height, width) wanted.

    Returns:
        uint8 (height, width, 3), C-contiguous, never a view of the input.

    Raises:
        ValueError: not an uint8 picture of three channels.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture must be uint8 (H, W, 3), and is {picture.dtype} {picture.shape}"
        )
    if picture.shape[:2] == tuple(size):
        return np.array(picture, order="C")
    height, width = size
    resized = cv2.resize(
        np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(resized, np.uint8)
