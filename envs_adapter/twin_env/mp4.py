"""How a video looks and is written: views side by side, a caption below, pictures that stay."""

from __future__ import annotations

import resource
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]

FPS = 20
"""Frames a second of a video."""
MIN_WIDTH = 640
"""Smaller pictures are enlarged by a whole number, so that the caption can be read."""
BAR_HEIGHT = 48
TIMEOUT_S = 60.0

COLOURS = {"success": (56, 178, 110), "failure": (222, 96, 70), "error": (160, 110, 200)}
"""RGB of the results."""
BRIGHT, DIM, GROUND = (235, 235, 235), (170, 170, 170), (24, 24, 24)


class Canvas:
    """One frame of a video, drawn anew for each picture.

    `views` are an example of what will be shown, RGB (H, W, 3) from left to right; they may differ
    in size.
    """

    def __init__(self, views: Sequence[Array], *, title: str, labels: Sequence[str] = ()) -> None:
        self._sizes = _sizes(views)
        self._title, self._labels = title, labels
        self.width, self.height = frame_size(views)
        self._image = np.empty((self.height, self.width, 3), dtype=np.uint8)
        self._i420 = np.empty((self.height * 3 // 2, self.width), dtype=np.uint8)

    def draw(
        self, views: Sequence[Array], *, step: int, stage: str, outcome: str = ""
    ) -> memoryview:
        """The frame as the encoder wants it; valid until the next one is drawn.

        The bar has the title, the step, the furthest stage, and the outcome if it is known yet.
        """
        height, left = self.height - BAR_HEIGHT, 0
        for view, size in zip(views, self._sizes, strict=True):
            target = self._image[:height, left : left + size[0]]
            cv2.resize(view, size, dst=target, interpolation=cv2.INTER_LINEAR)
            left += size[0]
        self._label(height)
        corner = (self.width - 1, self.height - 1)
        cv2.rectangle(self._image, (0, height), corner, GROUND, cv2.FILLED)
        self._put(_fitting(self._title, self.width - 24), 12, height + 19, BRIGHT)
        self._put(f"step {step}", 12, height + 39, DIM)
        self._put(stage.replace("_", " "), 112, height + 39, BRIGHT)
        if outcome:
            text = outcome.upper()
            self._put(text, self.width - 12 - _width(text), height + 39, COLOURS[outcome])
            corner = (self.width - 1, height - 1)
            cv2.rectangle(self._image, (0, 0), corner, COLOURS[outcome], 6)
        cv2.cvtColor(self._image, cv2.COLOR_RGB2YUV_I420, dst=self._i420)
        return self._i420.data

    def _label(self, height: int) -> None:
        rights = np.cumsum([width for width, _ in self._sizes])
        for label, right in zip(self._labels, rights, strict=False):
            left = int(right) - 16 - _width(label)
            corner = (int(right) - 1, height - 1)
            cv2.rectangle(self._image, (left, height - 24), corner, GROUND, cv2.FILLED)
            self._put(label, left + 8, height - 7, BRIGHT)

    def _put(self, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(self._image, text, (x, y), font, 0.5, colour, 1, cv2.LINE_AA)


def frame_size(views: Sequence[Array]) -> tuple[int, int]:
    """(width, height) of a frame with these views and its bar; both even."""
    sizes = _sizes(views)
    return sum(width for width, _ in sizes), sizes[0][1] + BAR_HEIGHT


def write_mp4(
    path: Path,
    frames: Iterable[memoryview],
    starts: Sequence[int],
    *,
    width: int,
    height: int,
    timeout_s: float | None = TIMEOUT_S,
) -> float:
    """Writes H.264 frames (planar YUV 4:2:0), each shown from its start on, counted in 1/FPS s.

    The first starts at 0; the last is shown for 1/FPS s. Each frame is done with before the next is
    asked for. Returns the encoder's CPU time in seconds.

    Args:
        timeout_s: after which an encoder that has not ended counts as one that hangs; None where
            the frames themselves take long to make.

    Raises:
        RuntimeError: if the encoder fails or hangs.
    """
    import imageio_ffmpeg

    # Only pictures that change are encoded: those that stay cost nothing.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}"]
    command += ["-r", str(FPS), "-i", "pipe:0", "-filter_threads", "1"]
    command += ["-vf", f"setpts='{_start_of_frame(starts)}/({FPS}*TB)'", "-fps_mode", "passthrough"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "23", "-threads", "1"]
    command += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    before_s = _children_s()
    with tempfile.TemporaryFile() as log:
        encoder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, bufsize=0
        )
        deadline = threading.Timer(timeout_s or 0, encoder.kill)
        if timeout_s is not None:
            deadline.start()
        try:
            _feed(encoder, frames)
        finally:
            if encoder.poll() is None:
                encoder.kill()
            status = encoder.wait()
            deadline.cancel()
        log.seek(0)
        said = " ".join(log.read().decode(errors="replace").split())
    if status != 0:
        raise RuntimeError(f"ffmpeg ended with status {status}: {said[-300:]}")
    return _children_s() - before_s


def _start_of_frame(starts: Sequence[int], first: int = 0) -> str:
    """ffmpeg's expression for the start of frame N; a tree, because it cannot read a long sum."""
    if len(starts) == 1:
        return str(starts[0])
    half = len(starts) // 2
    before = _start_of_frame(starts[:half], first)
    after = _start_of_frame(starts[half:], first + half)
    return f"if(lt(N,{first + half}),{before},{after})"


def _feed(encoder: subprocess.Popen[bytes], frames: Iterable[memoryview]) -> None:
    """Returns when the encoder has ended."""
    assert encoder.stdin is not None
    try:
        with encoder.stdin as pipe:
            for frame in frames:
                rest = frame.cast("B")
                while rest:
                    rest = rest[pipe.write(rest) :]
    except BrokenPipeError:
        pass  # Its status says more.
    encoder.wait()


def _sizes(views: Sequence[Array]) -> list[tuple[int, int]]:
    """(width, height) of each view in the video: even, equally high, enlarged if they are small."""
    height = views[0].shape[0]
    widths = [view.shape[1] * height / view.shape[0] for view in views]
    scale = max(1, round(MIN_WIDTH / sum(widths)))
    return [(round(width * scale / 2) * 2, height * scale // 2 * 2) for width in widths]


def _fitting(text: str, width: int) -> str:
    """As much of the text, from its start, as fits."""
    if _width(text) <= width:
        return text
    while text and _width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])


def _children_s() -> float:
    """CPU time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
