"""Videos of episodes: which are filmed, and when a picture is worth its price."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from twin_env.mp4 import BAR_HEIGHT, MIN_WIDTH, Array, Canvas, frame_size, write_mp4
from twin_eval.records import Outcome

logger = logging.getLogger(__name__)

HOLD_FRAMES = 30
"""How long the last picture stays, with the result on it; an action lasts one frame."""
HELD_PICTURES = 2
"""The last one is encoded where it begins and where it ends."""

COST_SHARE = 0.07
"""What filming may cost of what the episode costs without it, in wall and in CPU time; the goal
is a tenth at most, and the encoder's cost is an estimate."""
START_S, MEGAPIXEL_S = 0.045, 0.016
"""CPU time of starting the encoder and of a million pixels, before any was measured."""
MIN_GAP = 2
"""Actions since the last picture after which one is rendered: policies that look after every
action give better ones for nothing."""
MAX_PICTURES = 240
"""Kept in memory: 55 MB of one camera's, 320x240."""

CAMERAS: Mapping[str, tuple[str, ...]] = {
    "head": ("head_camera",),
    "all": ("left_camera", "head_camera", "right_camera"),
}
"""From left to right in the video."""


@dataclass(frozen=True)
class VideoMode:
    """Which episodes of a cell are filmed, and which videos are kept."""

    first: int | None = None
    """So many from the start of the plan; None for all."""
    only_failures: bool = False
    """Keep those of failures and errors."""

    @classmethod
    def none(cls) -> VideoMode:
        """Films nothing."""
        return cls(first=0)

    @classmethod
    def parse(cls, text: str) -> VideoMode:
        """Reads `off`, `failures`, `first:K` (or just K) or `all`.

        Raises:
            ValueError: if it is none of these.
        """
        named = {"off": cls.none(), "failures": cls(only_failures=True), "all": cls()}
        if text in named:
            return named[text]
        number = text.removeprefix("first:")
        if number.isascii() and number.isdigit():
            return cls(first=int(number))
        raise ValueError(
            f"videos are one of off, failures, first:K or all (K a whole number): got {text!r}"
        )

    def wants(self, index: int) -> bool:
        """Whether to film the episode at this place of the plan."""
        return self.first is None or index < self.first

    def keeps(self, index: int, outcome: Outcome) -> bool:
        """Whether to keep its video."""
        return self.wants(index) and not (self.only_failures and outcome == "success")


@dataclass(frozen=True)
class Picture:
    """What the cameras saw after `step` actions."""

    step: int
    stage: str
    views: Sequence[Array]
    """RGB (H, W, 3) a camera, from left to right."""


class Film:
    """Pictures of one episode, made into an MP4 when it is over.

    What a policy looked at is taken as it is. Between that, a picture is rendered where the
    episode's time so far can pay for it and for its encoding (`COST_SHARE`), and of all pictures
    so many are encoded as can be paid for: others are left out and the one before stays, so that
    the video keeps its pace. The first and the last are always there, whatever they cost.
    Whatever goes wrong is logged and never reaches the episode.
    """

    _slowness: ClassVar[float] = 1.0
    """CPU time of the last encoding in this process, in units of what was expected above."""
    _rendering: ClassVar[dict[tuple[str, ...], NDArray[np.float64]]] = {}
    """Cameras -> [wall s, CPU s] of the last picture that they rendered in this process."""

    def __init__(self, path: Path, title: str, cameras: str = "head") -> None:
        if cameras not in CAMERAS:
            raise ValueError(f"cameras must be one of {sorted(CAMERAS)}: got {cameras!r}")
        self.path = path
        self._title = title
        self._cameras = CAMERAS[cameras]
        self._names: tuple[str, ...] = ()
        """The cameras that this episode has, known from the first picture on."""
        self._pictures: list[Picture] = []
        self._stride = 1
        self._step, self._stage = 0, ""
        self._failed = ""
        self._began = _clocks()
        self._spent = np.zeros(2)
        """Like the one before [wall s, CPU s]."""

    def saw(self, env: Any, observation: Any) -> None:
        """Keeps the pictures that a policy's `get_obs` rendered."""
        with self._filming() as going:
            views = _views(observation) if going else {}
            if going and (views or not self._pictures):
                self._keep(env, views or self._render(env))

    def acted(self, env: Any) -> None:
        """Renders a picture after an action, if it is the last one or can be paid for."""
        with self._filming() as going:
            if not going:
                return
            over = env.eval_success or env.take_action_cnt >= env.step_lim
            due = not self._pictures or env.take_action_cnt - self._pictures[-1].step >= MIN_GAP
            if over or (due and self._affords_one()):
                self._keep(env, self._render(env), always=over)
            self._step, self._stage = int(env.take_action_cnt), _stage(env)

    def finish(self, outcome: Outcome, keep: bool) -> bool:
        """Encodes the video, with the result held at its end; True if it is at `path`."""
        if not keep:
            self._pictures = []
            return False
        affordable = self._affordable_pictures()
        with self._filming() as going:
            if going and self._pictures:
                self._encode(self._chosen(affordable), outcome)
                return True
        logger.warning("no video %s: %s", self.path, self._failed or "the episode had no picture")
        return False

    # Pictures -----------------------------------------------------------------------------

    @contextmanager
    def _filming(self) -> Iterator[bool]:
        """Counts what happens inside as filming, and keeps its errors from the episode.

        Yields whether filming goes on: not after an error.
        """
        before = _clocks()
        try:
            yield not self._failed
        except Exception as error:  # noqa: BLE001 - a video is never worth an episode
            self._failed, self._pictures = f"{type(error).__name__}: {error}", []
        finally:
            self._spent += _clocks() - before

    def _keep(self, env: Any, views: Mapping[str, Array], *, always: bool = False) -> None:
        self._names = self._names or tuple(name for name in self._cameras if name in views)
        step = int(env.take_action_cnt)
        if not self._names or any(name not in views for name in self._names):
            return
        last = self._pictures[-1].step if self._pictures else -self._stride
        if step - last < self._stride and not (always and step > last):
            return
        copies = [_copied(views[name]) for name in self._names]
        self._pictures.append(Picture(step, _stage(env), copies))
        if len(self._pictures) > MAX_PICTURES:
            del self._pictures[1:-1:2]
            self._stride *= 2

    def _render(self, env: Any) -> Mapping[str, Array]:
        """The views of now, none where the simulator has no way to tell."""
        before = _clocks()
        views: Mapping[str, Array] = {}
        wanted = self._names or self._cameras
        if len(wanted) > 1 and hasattr(env, "render_cameras"):
            views = env.render_cameras(wanted)
        elif hasattr(env, "render_video_frame"):
            views = {"head_camera": env.render_video_frame()}
        self._rendering[self._cameras] = _clocks() - before
        return views

    # What they cost -----------------------------------------------------------------------

    def _budget(self) -> NDArray[np.float64]:
        """[wall, CPU] that is left for filming."""
        unfilmed = _clocks() - self._began - self._spent
        return np.asarray(COST_SHARE * unfilmed - self._spent)

    def _affords_one(self) -> bool:
        """Whether a picture more can be paid for, besides the last one and the encoding."""
        encoding = self._encoding_s(len(self._pictures) + 1 + HELD_PICTURES)
        rendering = self._rendering.get(self._cameras, np.zeros(2))
        return bool(np.all(2 * rendering + encoding <= self._budget()))

    def _affordable_pictures(self) -> int:
        left = float(np.min(self._budget())) - self._encoding_s(HELD_PICTURES)
        return int(max(left, 0) / (self._encoding_s(1) - self._encoding_s(0)))

    def _encoding_s(self, pictures: int) -> float:
        size = (MIN_WIDTH, MIN_WIDTH * 3 // 4 + BAR_HEIGHT)
        width, height = frame_size(self._pictures[0].views) if self._pictures else size
        return self._slowness * (START_S + MEGAPIXEL_S * pictures * width * height / 1e6)

    def _chosen(self, most: int) -> list[Picture]:
        """At most `most` pictures, evenly, with the first and the last; at least these two."""
        count = min(max(most, 2), len(self._pictures))
        places = np.linspace(0, len(self._pictures) - 1, count).round().astype(int)
        return [self._pictures[place] for place in places]

    # The file -----------------------------------------------------------------------------

    def _encode(self, pictures: list[Picture], outcome: Outcome) -> None:
        before_s = time.process_time()
        last = replace(pictures[-1], step=self._step, stage=self._stage)
        while pictures and pictures[-1].step >= self._step:
            pictures.pop()
        starts = [picture.step for picture in pictures]
        starts += [self._step, self._step + HOLD_FRAMES - 1]
        starts[0] = 0
        labels = [name.removesuffix("_camera") for name in self._names if len(self._names) > 1]
        canvas = Canvas(last.views, title=self._title, labels=labels)

        def frames() -> Iterator[memoryview]:
            for picture in pictures:
                yield canvas.draw(picture.views, step=picture.step, stage=picture.stage)
            final = canvas.draw(last.views, step=last.step, stage=last.stage, outcome=outcome)
            yield from HELD_PICTURES * [final]

        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part.mp4")
        try:
            cpu_s = write_mp4(part, frames(), starts, width=canvas.width, height=canvas.height)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        cpu_s += time.process_time() - before_s
        Film._slowness = max(0.1, self._slowness * cpu_s / self._encoding_s(len(starts)))


def _views(observation: Any) -> dict[str, Array]:
    """Camera to RGB picture in an observation of RoboTwin's shape; empty if it is of another."""
    cameras = observation.get("observation") if isinstance(observation, Mapping) else None
    if not isinstance(cameras, Mapping):
        return {}
    return {
        name: camera["rgb"]
        for name, camera in cameras.items()
        if isinstance(camera, Mapping) and "rgb" in camera
    }


def _copied(picture: Array) -> Array:
    """A picture (H, W, 3) of one's own: what the policy was given is the policy's."""
    # Renderers show three of four channels; copied together, they take five times as long.
    return np.dstack([picture[..., channel] for channel in range(3)])


def _stage(env: Any) -> str:
    """Name of the furthest stage so far; empty where none is reached or known."""
    reached = int(getattr(env, "stages_reached", 0))
    return str(env.stages[reached - 1]) if reached else ""


def _clocks() -> NDArray[np.float64]:
    """[wall, CPU of this process], seconds."""
    return np.array([time.perf_counter(), time.process_time()])
