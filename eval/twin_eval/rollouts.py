"""Rollouts: episodes of an evaluation kept as replay data, successes and failures alike."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twin_env.episodes_layouts import STABLE_JOINTS
from twin_env.episodes_pictures import encode_recorded
from twin_env.replay_files import ReplayAbout, ReplayFrames, sparse_labels, write_replay
from twin_eval.records import Outcome

logger = logging.getLogger(__name__)

FOLDER = "rollouts"
"""In a run's folder."""


@dataclass(frozen=True)
class RolloutMode:
    """Which episodes of a cell are kept. One that ended in an error never is."""

    first: int | None = None
    """So many from the start of the plan; None for all."""
    only: Outcome | None = None
    """Those that ended so; None for all."""

    @classmethod
    def none(cls) -> RolloutMode:
        """Keeps nothing."""
        return cls(first=0)

    @classmethod
    def parse(cls, text: str) -> RolloutMode:
        """Reads `off`, `all`, `successes`, `failures` or `first:K`.

        Raises:
            ValueError: if it is none of these.
        """
        named = {
            "off": cls.none(),
            "all": cls(),
            "successes": cls(only="success"),
            "failures": cls(only="failure"),
        }
        if text in named:
            return named[text]
        number = text.removeprefix("first:")
        if number != text and number.isascii() and number.isdigit():
            return cls(first=int(number))
        raise ValueError(
            f"rollouts are one of {', '.join(named)} or first:K (K a whole number): got {text!r}"
        )

    def wants(self, index: int) -> bool:
        """Whether to record the episode at this place of the plan."""
        return self.first is None or index < self.first

    def keeps(self, index: int, outcome: Outcome) -> bool:
        """Whether to keep it, as it ended."""
        return self.wants(index) and outcome != "error" and self.only in (None, outcome)


def rollout_path(run_folder: Path, index: int) -> Path:
    """The file of the episode at a place of the plan."""
    return run_folder / FOLDER / "data" / f"episode{index}.hdf5"


@dataclass(frozen=True)
class RolloutOrigin:
    """What is known of an episode before it is played."""

    task: str
    policy: str
    """Its label."""
    checkpoint: str
    """Digest of its checkpoint; `none` if it has none."""
    seed: int
    noise_seed: int
    instruction: str


class Rollout:
    """One episode's frames and actions, compressed as they come, made into a file when it is over.

    What the policy looked at is taken as it is; between two actions without a look, and after the
    last, it looks itself, and leaves the global generators as they were. Whatever goes wrong is
    logged and never reaches the episode.
    """

    def __init__(self, path: Path, origin: RolloutOrigin) -> None:
        self.path = path
        self._origin = origin
        self._joints: list[dict[str, Any]] = []
        self._pictures: list[dict[str, bytes]] = []
        self._stages: list[int] = []
        self._n_stages = 0
        self._actions: list[np.ndarray] = []
        self._failed = ""

    def saw(self, env: Any, observation: Any) -> None:
        """Keeps what was looked at, the first time after an action."""
        with self._recording() as going:
            if going and len(self._joints) == len(self._actions):
                self._keep(env, observation)

    def look(self, env: Any) -> None:
        """Looks itself, unless the moment was seen; before each action and after the last."""
        with self._recording() as going:
            if going and len(self._joints) == len(self._actions):
                with _generators_kept():
                    observation = env.get_obs()
                self._keep(env, observation)

    def acted(self, action: Any, action_type: str) -> None:
        """Keeps an action that counted."""
        with self._recording() as going:
            if not going:
                return
            if action_type != "qpos":
                raise ValueError(
                    f"replay data holds joint targets, and this policy's actions are {action_type}"
                )
            self._actions.append(np.array(action, dtype=np.float64))

    def finish(self, outcome: Outcome, keep: bool) -> bool:
        """Writes the file, or sees to it that there is none; True if there is."""
        kept = False
        with self._recording() as going:
            if going and keep:
                self._write(outcome)
                kept = True
        self._joints, self._pictures, self._actions = [], [], []
        if keep and not kept:
            logger.warning("no rollout %s: %s", self.path, self._failed)
        if not kept:
            self.path.unlink(missing_ok=True)  # Of an earlier attempt.
        return kept

    @contextmanager
    def _recording(self) -> Iterator[bool]:
        """Keeps errors from the episode; yields whether recording goes on: not after one."""
        try:
            yield not self._failed
        except Exception as error:  # noqa: BLE001 - a recording is never worth an episode
            self._failed = f"{type(error).__name__}: {error}"
            self._joints, self._pictures, self._actions = [], [], []

    def _keep(self, env: Any, observation: Mapping[str, Any]) -> None:
        cameras = observation.get("observation") or {}
        pictures = {n: view["rgb"] for n, view in cameras.items() if "rgb" in view}
        joints = observation.get("joint_action") or {}
        lacking = [name for name in (*STABLE_JOINTS, "vector") if name not in joints]
        if lacking or not pictures:
            what = f"joint_action/{lacking[0]}" if lacking else "pictures (observation/CAMERA/rgb)"
            raise ValueError(
                f"the observations of {self._origin.task} have no {what}: turn `rgb` and `qpos` on "
                "in the environment config's data_type"
            )
        self._pictures.append({n: encode_recorded(_packed(rgb)) for n, rgb in pictures.items()})
        self._joints.append(
            {name: np.array(joints[name], np.float64) for name in (*STABLE_JOINTS, "vector")}
        )
        self._n_stages = len(getattr(env, "stages", ()))
        self._stages.append(int(getattr(env, "stages_reached", 0)))

    def _write(self, outcome: Outcome) -> None:
        if not self._actions:
            raise ValueError("the episode had no action")
        assert outcome != "error"
        origin = self._origin
        reward, terminal, truncated = sparse_labels(len(self._actions), outcome)
        write_replay(
            self.path,
            frames=ReplayFrames(
                joints={
                    name: np.stack([joints[name] for joints in self._joints])
                    for name in self._joints[0]
                },
                pictures={
                    name: [views[name] for views in self._pictures] for name in self._pictures[0]
                },
            ),
            action=np.stack(self._actions),
            reward=reward,
            terminal=terminal,
            truncated=truncated,
            stage=np.array(self._stages, np.int16) if self._n_stages else None,
            about=ReplayAbout(
                task=origin.task,
                outcome=outcome,
                seed=origin.seed,
                noise_seed=origin.noise_seed,
                source=origin.policy,
                checkpoint=None if origin.checkpoint == "none" else origin.checkpoint,
                n_stages=self._n_stages or None,
            ),
            instructions=[origin.instruction] if origin.instruction else (),
        )


@contextmanager
def _generators_kept() -> Iterator[None]:
    """RoboTwin's cameras draw from numpy's global generator where its lights flicker, and policies
    draw from any: a look that nobody asked for must not move them on."""
    torch = sys.modules.get("torch")
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002 - see above
    torchs = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002 - see above
        if torch is not None:
            torch.set_rng_state(torchs)


def _packed(picture: Any) -> np.ndarray:
    """(H, W, 3), contiguous: renderers show three of four channels, and copied together they take
    five times as long."""
    array = np.asarray(picture)
    if array.flags.c_contiguous or array.ndim != 3:
        return array
    return np.dstack([array[..., channel] for channel in range(array.shape[2])])
