"""Videos of episodes: a picture after each action, with the step and, at the end, the result."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twin_eval.records import EpisodeRecord

logger = logging.getLogger(__name__)

FPS = 20
SCALE = 2
HOLD_FRAMES = 30
"""How long the last picture stays, with the result on it."""

COLOURS = {"success": (56, 178, 110), "failure": (222, 96, 70), "error": (160, 110, 200)}
"""RGB of the results."""


class FilmedEnv:
    """The environment as the policy sees it, with a picture taken after each `take_action`.

    Everything else, reading or setting an attribute, goes to the environment itself.
    """

    def __init__(self, env: Any, film: Film) -> None:
        object.__setattr__(self, "_env", env)
        object.__setattr__(self, "_film", film)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._env, name, value)

    def take_action(self, *args: Any, **kwargs: Any) -> Any:
        before = self._env.take_action_cnt
        result = self._env.take_action(*args, **kwargs)
        if self._env.take_action_cnt != before:
            self._film.shoot(self._env)
        return result


class Film:
    """An MP4 that grows while its episode runs and gets its final name when it is complete.

    Whatever goes wrong with it is logged and never reaches the episode.
    """

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self._title = title
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
        self._writer: Generator[None, Any, None] | None = None
        self._last: NDArray[np.uint8] | None = None
        self._step = 0
        self._failed = ""

    def watch(self, env: Any) -> FilmedEnv:
        """The environment to give to the policy; the first picture is taken now."""
        self.shoot(env)
        return FilmedEnv(env, self)

    def shoot(self, env: Any) -> None:
        """Adds a picture of the present state."""
        if self._failed:
            return
        try:
            self._step = env.take_action_cnt
            self._last = env.render_video_frame()
            self._write(annotate(self._last, self._title, f"step {self._step}", ""))
        except Exception as error:  # noqa: BLE001 - a video is never worth an episode
            self._failed = f"{type(error).__name__}: {error}"

    def finish(self, record: EpisodeRecord) -> bool:
        """Holds the last picture with the result on it and closes the file; False if none came."""
        try:
            if self._last is not None and not self._failed:
                step = f"step {self._step}"
                final = annotate(self._last, self._title, step, record.outcome)
                for _ in range(HOLD_FRAMES):
                    self._write(final)
            if self._writer is not None:
                self._writer.close()
            if self._last is not None and not self._failed:
                os.replace(self._part, self.path)
                return True
        except Exception as error:  # noqa: BLE001 - as above
            self._failed = f"{type(error).__name__}: {error}"
        self._part.unlink(missing_ok=True)
        logger.warning("no video %s: %s", self.path, self._failed or "the episode had no picture")
        return False

    def _write(self, picture: NDArray[np.uint8]) -> None:
        if self._writer is None:
            import imageio_ffmpeg

            self.path.parent.mkdir(parents=True, exist_ok=True)
            height, width = picture.shape[:2]
            writer = imageio_ffmpeg.write_frames(
                str(self._part),
                (width, height),
                fps=FPS,
                codec="libx264",
                quality=None,
                macro_block_size=2,
                output_params=["-crf", "23", "-preset", "veryfast", "-threads", "1"],
            )
            writer.send(None)
            self._writer = writer
        self._writer.send(np.ascontiguousarray(picture))


def annotate(picture: NDArray[np.uint8], title: str, step: str, outcome: str) -> NDArray[np.uint8]:
    """The RGB uint8 picture (H, W, 3) enlarged, with a caption bar below it.

    The bar shows the title, the step, and the outcome if it is known yet.
    """
    height, width = picture.shape[:2]
    size = (width * SCALE, height * SCALE)
    large = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_LINEAR)
    bar = np.full((40, size[0], 3), 24, dtype=np.uint8)
    _put(bar, title, 12, (235, 235, 235))
    colour = COLOURS.get(outcome, (170, 170, 170))
    text = outcome.upper() if outcome else step
    _put(bar, text, size[0] - 12 - _width(text), colour)
    if outcome:
        _put(bar, step, size[0] - 32 - _width(text) - _width(step), (170, 170, 170))
        cv2.rectangle(large, (0, 0), (size[0] - 1, size[1] - 1), colour, 6)
    return np.asarray(np.vstack([large, bar]), dtype=np.uint8)


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])


def _put(bar: NDArray[np.uint8], text: str, x: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(bar, text, (x, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
