"""One evaluation episode by RoboTwin's loop, whatever breaks in it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from twin_eval.environments import EnvironmentSpec
from twin_eval.records import EpisodeRecord, Outcome

IDLE_LIMIT = 10
"""Consecutive calls of a policy's `eval` without any action that end the episode as an error."""


class IdlePolicyError(RuntimeError):
    """The policy's `eval` returned again and again without acting: RoboTwin would loop forever."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRequest:
    """What to run, decided before anything is dispatched."""

    index: int
    """Place in the run, from 0."""
    seed: int
    """Seed of the scene."""
    instruction_type: str
    """`seen` or `unseen`: the list that the instruction is drawn from."""
    video: str = ""
    """Where to put the MP4, relative to the run's folder; empty for none."""
    attempt: int = 1


def draw_instruction(choices: Sequence[str], seed: int) -> str:
    """One of the choices, by the episode's seed alone; empty if there is none."""
    return random.Random(seed).choice(choices) if choices else ""


def seed_global_generators(seed: int) -> None:
    """As RoboTwin's `setup_demo` does, for policies that draw from global generators.

    Without it, their results would depend on which worker plays which episode.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - it is the global generator that policies draw from
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def run_episode(
    environment: EnvironmentSpec,
    policy: ModuleType,
    model: Any,
    request: EpisodeRequest,
    *,
    policy_name: str,
    policy_seed: int,
    watch: Callable[[Any], Any] = lambda env: env,
) -> EpisodeRecord:
    """Runs the episode to its record; a crash of anybody's code becomes an `error` with its reason.

    `watch` may wrap the environment that the policy sees, to film it.
    """
    started = time.perf_counter()
    env: Any = None
    outcome: Outcome
    instruction = ""
    seed_global_generators(request.seed)
    try:
        env = environment.make()
        env.setup_demo(
            now_ep_num=request.index, seed=request.seed, is_test=True, **environment.config
        )
        instruction = draw_instruction(env.instructions()[request.instruction_type], request.seed)
        env.set_instruction(instruction)
        policy.reset_model(model)
        _act(watch(env), policy, model)
        outcome = "success" if env.eval_success else "failure"
        reason = "" if env.eval_success else f"no success within {env.step_lim} steps"
    except Exception as error:  # noqa: BLE001 - a crash of policy or simulator is an outcome
        outcome, reason = "error", describe_error(error)
    steps = int(getattr(env, "take_action_cnt", 0) or 0)
    try:
        if env is not None:
            env.close_env()
    except Exception as error:  # noqa: BLE001 - as above; the first error explains more
        if outcome != "error":
            outcome, reason = "error", f"closing the scene: {describe_error(error)}"
    return EpisodeRecord(
        task=environment.task,
        policy=policy_name,
        index=request.index,
        seed=request.seed,
        policy_seed=policy_seed,
        outcome=outcome,
        reason=reason,
        steps=steps,
        clamped_actions=int(getattr(env, "clamped_actions", 0)),
        instruction=instruction,
        wall_s=round(time.perf_counter() - started, 3),
        attempts=request.attempt,
        video=request.video,
    )


def describe_error(error: BaseException) -> str:
    """One line: the error's type, its text, and the innermost line of code that raised it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = ""
    if frame is not None:
        code = frame.tb_frame.f_code
        place = f" ({code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}, {code.co_name})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _act(env: Any, policy: ModuleType, model: Any) -> None:
    idle = 0
    while env.take_action_cnt < env.step_lim and not env.eval_success:
        before = env.take_action_cnt
        policy.eval(env, model, env.get_obs())
        idle = idle + 1 if env.take_action_cnt == before else 0
        if idle >= IDLE_LIMIT:
            raise IdlePolicyError(
                f"the policy's eval returned {idle} times without calling take_action"
            )
