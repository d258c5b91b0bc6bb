"""The tasks as gymnasium environments: one action of RoboTwin's a step, a reward for success."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from twin_env.backends import BACKENDS, ROBOTWIN, make_env
from twin_env.config import complete_env_config, load_env_config
from twin_env.gym_spaces import (
    ACTION_TYPES,
    Layout,
    action_space,
    as_member,
    embedded_layout,
    observation_space,
    shows_pictures,
)
from twin_env.instructions import draw_instruction
from twin_env.names import unknown
from twin_env.task_env import Observation, TaskEnv, UnstableError

RENDER_FPS = 20
UNSTABLE_SEEDS = 10
"""So many scenes in a row that do not come to rest are no accident."""
RESET_OPTIONS: dict[str, tuple[type, str]] = {
    "instruction": (str, "a text"),
    "is_test": (bool, "True or False"),
}
"""Name -> its type, and the type in words."""
RENDER_PX_MOST = 8192

Member = dict[str, Any]
"""Of the observation space."""
Info = dict[str, Any]


class ForkedRendererError(RuntimeError):
    """A process that was forked after rendering had begun would wait for pictures forever."""


class TwinBenchEnv(gymnasium.Env[Member, NDArray[Any]]):
    """One task in one simulator.

    A step is one of RoboTwin's actions: absolute targets that both arms drive to, however long
    that takes. The reward is 1 with success, which terminates the episode, else 0; it is truncated
    after the task's own `step_lim` actions, so no time limit is needed around it. An action beyond
    the bounds is clamped and counted (`clamped_actions`), one of a wrong shape or not finite raises
    `InvalidActionError` before the physics. Should the physics explode, the episode terminates with
    `info["error"]`, reward 0 and the observation of before; the next `reset` builds a new scene.

    Observations, as the config's `data_type` says: `agent_pos`, the drive targets (Da,), which is
    RoboTwin's state; `joint_state`, the joints as measured (Da,); `endpose` (16,), tool poses in
    the layout of an `ee` action; `pixels`, uint8 (H, W, 3) for each camera, and likewise `depth`,
    float64 (H, W) in mm, `mesh_segmentation`, `actor_segmentation`; `third_view`; `pointcloud`,
    float32 (N, 6). Without any pictures the scene is built with nothing visible.

    Info: `success` (and `is_success`), `stage`, the furthest reached by name, and
    `stages_reached`, its number; `seed` of the scene, `instruction`, `take_action_cnt`,
    `clamped_actions`. `reset` adds `skipped_seeds`.

    SAPIEN does not outlive a fork: `gymnasium.make_vec(..., vectorization_mode="async",
    vector_kwargs={"context": "spawn"})`. A child forked after rendering began raises
    `ForkedRendererError`, where it would otherwise hang.
    """

    metadata = {  # noqa: RUF012 - gymnasium's own annotation is of an instance's
        "render_modes": ["rgb_array"],
        "render_fps": RENDER_FPS,
    }

    def __init__(
        self,
        task: str,
        *,
        config: str | Path | Mapping[str, Any] = "demo_clean",
        embodiment: str | Sequence[Any] | None = None,
        backend: str = "embedded",
        robotwin_root: str | Path | None = None,
        action_type: str = "qpos",
        is_test: bool = False,
        render_mode: str | None = None,
        render_size: tuple[int, int] = (640, 480),
    ) -> None:
        """Nothing is built before the first `reset`.

        Args:
            config: Name or path of an environment config, or its keys. RoboTwin's are those of the
                checkout.
            embodiment: Overrides the config's: an arm's name, or the list as RoboTwin writes it.
            is_test: Whether textures and instructions are of the `unseen` split, as in RoboTwin's
                evaluation; `reset(options={"is_test": ...})` says it for one episode.
            render_size: (width, height) of `render`, the scene as a bystander sees it; RoboTwin
                has a bystander of its own size.

        Raises:
            ValueError: unknown task, config, key, or option; the error names the nearest match.
        """
        _check_choice("action_type", action_type, ACTION_TYPES)
        _check_choice("backend", backend, (*BACKENDS, ROBOTWIN))
        if render_mode is not None:
            _check_choice("render_mode", render_mode, self.metadata["render_modes"])
        if backend == ROBOTWIN and robotwin_root is None:
            raise ValueError(f"backend={ROBOTWIN!r} needs robotwin_root=, a RoboTwin checkout")
        _check_option("is_test", is_test)
        _check_render_size(render_size)
        self.task, self.backend = task, backend
        self.action_type, self.is_test = action_type, is_test
        self.render_mode, self.render_size = render_mode, render_size
        self.task_env: TaskEnv = make_env(task, backend, root=robotwin_root)
        self.config, layout = _read_config(backend, robotwin_root, config, embodiment)
        self.action_space = action_space(layout, action_type)
        self.observation_space = self._space = observation_space(layout, self.config)
        self._renders = shows_pictures(self._space) or render_mode is not None
        self._playing = False
        self._last: Observation = {}
        self._frame: NDArray[np.uint8] | None = None

    @property
    def task_description(self) -> str:
        """The instruction, by the name that LeRobot's evaluation asks for."""
        return self.task_env.get_instruction()

    @property
    def _max_episode_steps(self) -> int:
        """As on gymnasium's `TimeLimit`, for code that looks for one."""
        return self.task_env.step_lim

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Member, Info]:
        """Builds the scene of `seed`, or of one drawn from `np_random`.

        A scene that does not come to rest is passed over for the next seed's, as in RoboTwin's
        loop, and its seed noted in `info["skipped_seeds"]`.

        Args:
            options: `instruction` to give instead of the one that the seed draws, and `is_test`.
        """
        wanted = _checked_options(options)
        super().reset(seed=seed)
        is_test = wanted.get("is_test", self.is_test)
        if self._renders:
            _begin_rendering()
        self._playing, self._frame = False, None
        first = int(self.np_random.integers(2**31)) if seed is None else seed
        skipped = self._set_up(first, is_test)
        if "instruction" in wanted:
            self.task_env.set_instruction(wanted["instruction"])
        else:
            phrasings: Any = getattr(self.task_env, "instructions", dict)
            choices = phrasings()
            split = choices.get("unseen" if is_test else "seen", ())
            self.task_env.set_instruction(draw_instruction(split, self.task_env.seed))
        self._playing = True
        return self._observe(), {**self._info(), "skipped_seeds": skipped}

    def step(self, action: NDArray[np.float64]) -> tuple[Member, float, bool, bool, Info]:
        """One call of RoboTwin's `take_action`."""
        if not self._playing:
            raise ResetNeeded("the episode is over, or none has begun: call reset()")
        try:
            self.task_env.take_action(np.asarray(action, dtype=np.float64), self.action_type)
        except UnstableError as error:
            self._playing = False
            info = {**self._info(), "error": f"unstable: {error}"}
            self._frame = self._blank_frame() if self._frame is None else self._frame
            self.task_env.close_env()
            return as_member(self._last, self._space), 0.0, True, False, info
        self._frame = None
        observation = self._observe()
        success = bool(self.task_env.eval_success)
        truncated = not success and self.task_env.take_action_cnt >= self.task_env.step_lim
        self._playing = not (success or truncated)
        return observation, float(success), success, truncated, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB of the scene as a bystander sees it; None without a `render_mode`.

        After the physics exploded it is the last picture, or black.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs gymnasium.make(..., render_mode="rgb_array")')
            return None
        if self._frame is None:
            task: Any = self.task_env
            self._frame = np.array(task.render_video_frame(self.render_size), dtype=np.uint8)
        return self._frame.copy()

    def close(self) -> None:
        """Frees the scene."""
        self._playing = False
        self.task_env.close_env()

    def _set_up(self, seed: int, is_test: bool) -> list[int]:
        """Builds the scene of the first stable seed from `seed` up; returns those passed over."""
        config = dict(self.config)
        if self.backend == "embedded":
            config["render"] = self._renders
        skipped: list[int] = []
        while True:
            now = seed + len(skipped)
            try:
                self.task_env.setup_demo(now_ep_num=0, seed=now, is_test=is_test, **config)
            except UnstableError as error:
                skipped.append(now)
                if len(skipped) == UNSTABLE_SEEDS:
                    raise UnstableError(
                        f"none of the {UNSTABLE_SEEDS} scenes from seed {seed} up came to rest: "
                        f"{error}"
                    ) from error
            else:
                self.task_env.seed = now
                return skipped

    def _observe(self) -> Member:
        self._last = self.task_env.get_obs()
        return as_member(self._last, self._space)

    def _info(self) -> Info:
        env = self.task_env
        reached = getattr(env, "stages_reached", 0)
        return {
            "success": bool(env.eval_success),
            "is_success": bool(env.eval_success),
            "stage": getattr(env, "stages", ())[reached - 1] if reached else "",
            "stages_reached": reached,
            "seed": env.seed,
            "instruction": env.get_instruction(),
            "take_action_cnt": env.take_action_cnt,
            "clamped_actions": getattr(env, "clamped_actions", 0),
        }

    def _blank_frame(self) -> NDArray[np.uint8]:
        width, height = self.render_size
        return np.zeros((height, width, 3), np.uint8)


def _check_choice(name: str, given: object, choices: Collection[str]) -> None:
    if given not in choices:
        raise unknown(name, given, choices)


def _check_option(name: str, given: object) -> None:
    kind, words = RESET_OPTIONS[name]
    if not isinstance(given, kind):
        raise ValueError(f"{name} is {words}, not {given!r}")


def _checked_options(options: object) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(
            f"reset's options are a mapping of {' and '.join(RESET_OPTIONS)}, not {options!r}"
        )
    for name, given in options.items():
        _check_choice("reset option", name, RESET_OPTIONS)
        _check_option(name, given)
    return options


def _check_render_size(given: object) -> None:
    match given:
        case [int(width), int(height)] if all(1 <= x <= RENDER_PX_MOST for x in (width, height)):
            return
    raise ValueError(
        f"render_size is (width, height), whole numbers of pixels from 1 to {RENDER_PX_MOST}, "
        f"not {given!r}"
    )


def _read_config(
    backend: str,
    robotwin_root: str | Path | None,
    config: str | Path | Mapping[str, Any],
    embodiment: str | Sequence[Any] | None,
) -> tuple[dict[str, Any], Layout]:
    arms: dict[str, Any] = {}
    if embodiment is not None:
        if not isinstance(embodiment, (str, list, tuple)):
            raise ValueError(
                "embodiment is an arm's name, [arm] or [left arm, right arm, metres between their "
                f"bases], not {embodiment!r}"
            )
        arms["embodiment"] = [embodiment] if isinstance(embodiment, str) else list(embodiment)
    if backend == ROBOTWIN:
        from twin_env import robotwin_tasks

        assert robotwin_root is not None, "__init__ has asked for one"
        read = {**robotwin_tasks.load_robotwin_config(robotwin_root, config), **arms}
        return read, robotwin_tasks.robotwin_layout(robotwin_root, read)
    given = config if isinstance(config, Mapping) else load_env_config(str(config), option="config")
    read = complete_env_config({**given, **arms})
    return read, embedded_layout(read)


_rendered_here = _rendered_before_fork = False


def _remember_renderer() -> None:
    global _rendered_before_fork
    scene = sys.modules.get("twin_env.embedded.scene")
    embedded = scene is not None and scene._renderer.cache_info().currsize > 0
    _rendered_before_fork |= embedded or _rendered_here


os.register_at_fork(after_in_child=_remember_renderer)


def _begin_rendering() -> None:
    global _rendered_here
    if _rendered_before_fork:
        raise ForkedRendererError(
            "this process was forked from one that had rendered, and a renderer does not outlive "
            "a fork: start workers by spawn, with gymnasium.make_vec(..., "
            'vectorization_mode="async", vector_kwargs={"context": "spawn"})'
        )
    _rendered_here = True
