"""The environment as a policy sees it: timed, its actions digested, filmed and recorded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from twin_env.workers import guard
from twin_eval.rollouts import Rollout
from twin_eval.video import Film


class PartTimes:
    """Wall and CPU time by part; a part within another interrupts it."""

    def __init__(self) -> None:
        self._spent: dict[str, list[float]] = {}
        self._part = "other"
        self._since = _clocks()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what happens inside for `name`."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def charge(self, name: str, cpu_s: float) -> None:
        """Adds CPU time that another process spent for a part."""
        self._spent.setdefault(name, [0.0, 0.0])[1] += cpu_s

    def rounded(self) -> dict[str, list[float]]:
        """Part to [wall, CPU], seconds, up to now."""
        self._switch(self._part)
        return {name: [round(spent, 4) for spent in both] for name, both in self._spent.items()}

    def _switch(self, name: str) -> str:
        now, before = _clocks(), self._part
        spent = self._spent.setdefault(before, [0.0, 0.0])
        spent[0] += now[0] - self._since[0]
        spent[1] += now[1] - self._since[1]
        self._part, self._since = name, now
        return before


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class MeasuredEnv:
    """Stands for the environment: reading or setting any attribute goes to the environment itself.

    Its `noise_seed` tells a policy which seed its randomness should come from.
    """

    def __init__(
        self,
        *,
        noise_seed: int,
        film: Film | None = None,
        rollout: Rollout | None = None,
        step_limit_s: float | None = None,
    ) -> None:
        set_own = object.__setattr__  # Ours would hand it to the environment.
        set_own(self, "noise_seed", noise_seed)
        set_own(self, "times", PartTimes())
        set_own(self, "_env", None)
        set_own(self, "_film", film)
        set_own(self, "_rollout", rollout)
        set_own(self, "_step_limit_s", step_limit_s)
        set_own(self, "_digest", hashlib.sha256())
        set_own(self, "_success_step", None)

    def begin(self, env: Any) -> None:
        """From now on it stands for `env`."""
        object.__setattr__(self, "_env", env)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._env, name, value)

    def get_obs(self) -> Any:
        """The environment's, timed, filmed and recorded."""
        guard(self._step_limit_s)
        with self.times.part("observation"):
            observation = self._env.get_obs()
        if self._film is not None:
            with self.times.part("video"):
                self._film.saw(self._env, observation)
        if self._rollout is not None:
            with self.times.part("other"):
                self._rollout.saw(self._env, observation)
        return observation

    def take_action(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        """As `get_obs` is; an action that counts enters the digest."""
        self.look()
        guard(self._step_limit_s)
        env, before = self._env, self._env.take_action_cnt
        with self.times.part("action"):
            result = env.take_action(action, *args, **kwargs)
        guard(self._step_limit_s)
        if env.take_action_cnt == before:
            return result
        self._digest.update(np.ascontiguousarray(action, dtype=np.float64).tobytes())
        if env.eval_success and self._success_step is None:
            object.__setattr__(self, "_success_step", int(env.take_action_cnt))
        if self._film is not None:
            with self.times.part("video"):
                self._film.acted(env)
        if self._rollout is not None:
            kind = kwargs.get("action_type", args[0] if args else "qpos")
            self._rollout.acted(action, kind)
        return result

    def look(self) -> None:
        """Lets the recording see this moment, if the policy has not looked at it."""
        if self._rollout is not None:
            guard(self._step_limit_s)
            with self.times.part("other"):
                self._rollout.look(self._env)

    def facts(self) -> dict[str, Any]:
        """Fields of the episode's record that the environment and its actions tell."""
        env = self._env
        sim_time_s = getattr(env, "sim_time_s", None)
        return {
            "steps": int(getattr(env, "take_action_cnt", 0) or 0),
            "clamped_actions": int(getattr(env, "clamped_actions", 0)),
            "stages": tuple(getattr(env, "stages", ())),
            "stages_reached": int(getattr(env, "stages_reached", 0)),
            "success_step": self._success_step,
            "sim_time_s": None if sim_time_s is None else round(float(sim_time_s), 4),
            "actions_digest": self._digest.hexdigest()[:16],
        }
