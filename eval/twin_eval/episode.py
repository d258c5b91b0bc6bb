"""One evaluation episode by RoboTwin's loop, whatever breaks in it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from twin_env.expert_attributes import restore
from twin_env.task_env import BrokenSimulatorError, UnstableError
from twin_env.workers import guard, unguard
from twin_eval.environments import EnvironmentSpec
from twin_eval.measured import MeasuredEnv
from twin_eval.records import EpisodeRecord, Outcome
from twin_eval.rollouts import Rollout
from twin_eval.video import Film

IDLE_LIMIT = 10
"""Consecutive calls of a policy's `eval` without any action that end the episode as an error."""


class IdlePolicyError(RuntimeError):
    """The policy's `eval` returned again and again without acting: RoboTwin would loop forever."""


class PolicyError(RuntimeError):
    """What broke in a policy's own process, described there."""


class Actor(Protocol):
    """A loaded policy, here or in another process."""

    def reset(self) -> None:
        """RoboTwin's `reset_model`."""

    def eval(self, env: Any, observation: Any) -> None:
        """RoboTwin's `eval`: acts on `env` at least once."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRequest:
    """What to run, decided before anything is dispatched."""

    index: int
    """Place in the cell, from 0."""
    seed: int
    """Seed of the scene."""
    noise_seed: int
    """Seed of the policy's randomness."""
    instruction: str = ""
    """What the policy is told."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the expert set on the task, which some tasks' `check_success` reads."""
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class EpisodeIdentity:
    """The fields of a record that say whose episode it is."""

    session: str
    policy: str
    """Its label in the run."""
    checkpoint: str


def noise_seed(scene_seed: int, repetition: int) -> int:
    """Seed of the policy's randomness: the scene's in repetition 0, an independent one after."""
    if repetition == 0:
        return scene_seed
    words = np.random.SeedSequence([scene_seed, repetition]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def seed_global_generators(seed: int) -> None:
    """As RoboTwin's `setup_demo` does, for policies that draw from global generators.

    Without it, their results would depend on which worker plays which episode.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the generator that policies draw from
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def run_episode(
    environment: EnvironmentSpec,
    actor: Actor,
    request: EpisodeRequest,
    identity: EpisodeIdentity,
    *,
    film: Film | None = None,
    keep_video: Callable[[Outcome], bool] = lambda outcome: True,
    rollout: Rollout | None = None,
    keep_rollout: Callable[[Outcome], bool] = lambda outcome: True,
    step_limit_s: float | None = None,
) -> EpisodeRecord:
    """Runs the episode to its record; a crash of anybody's code becomes an `error` with its reason.

    A worker process that makes no progress within `step_limit_s` ends there and then.

    Raises:
        BrokenSimulatorError: no episode can be played here, this one or another.
    """
    measured = MeasuredEnv(
        noise_seed=request.noise_seed, film=film, rollout=rollout, step_limit_s=step_limit_s
    )
    env: Any = None
    outcome: Outcome
    layout: dict[str, list[float]] = {}
    guard(step_limit_s)
    seed_global_generators(request.noise_seed)
    try:
        with measured.times.part("setup"):
            env = environment.make()
            measured.begin(env)
            env.setup_demo(
                now_ep_num=request.index, seed=request.seed, is_test=True, **environment.config
            )
            seed_global_generators(request.noise_seed)
            restore(env, request.attributes)
            env.set_instruction(request.instruction)
            layout = getattr(env, "scene_layout", dict)()
        with measured.times.part("policy"):
            actor.reset()
            _act(measured, actor)
        measured.look()
        outcome = "success" if env.eval_success else "failure"
        reason = "" if env.eval_success else f"no success within {env.step_lim} steps"
    except BrokenSimulatorError:
        _abandon(env, film)
        raise
    except Exception as error:  # noqa: BLE001 - a crash of policy or simulator is an outcome
        outcome, reason = "error", describe_error(error)
    facts = measured.facts()
    try:
        if env is not None:
            env.close_env()
    except Exception as error:  # noqa: BLE001 - as above; the first error explains more
        if outcome != "error":
            outcome, reason = "error", f"closing the scene: {describe_error(error)}"
    video = ""
    if film is not None:
        with measured.times.part("video"):
            if film.finish(outcome, keep_video(outcome)):
                video = f"{film.path.parent.name}/{film.path.name}"
    if rollout is not None:
        with measured.times.part("other"):
            rollout.finish(outcome, keep_rollout(outcome))
    unguard()
    return EpisodeRecord(
        **_settled_beforehand(environment, request, identity),
        outcome=outcome,
        reason=reason,
        layout=layout,
        times=measured.times.rounded(),
        video=video,
        **facts,
    )


def _abandon(env: Any, film: Film | None) -> None:
    """Leaves an episode that nothing will be said of."""
    unguard()
    with contextlib.suppress(Exception):
        if env is not None:
            env.close_env()
    if film is not None:
        film.finish("error", keep=False)


def record_of_loss(
    environment: EnvironmentSpec, request: EpisodeRequest, identity: EpisodeIdentity, reason: str
) -> EpisodeRecord:
    """The record of an episode whose process was lost: an `error`."""
    return EpisodeRecord(
        **_settled_beforehand(environment, request, identity),
        outcome="error",
        reason=reason,
        steps=0,
        clamped_actions=0,
        actions_digest="",
        video="",
    )


def _settled_beforehand(
    environment: EnvironmentSpec, request: EpisodeRequest, identity: EpisodeIdentity
) -> dict[str, Any]:
    """Fields of the record that do not depend on how the episode goes."""
    return {
        "session": identity.session,
        "task": environment.task,
        "config": environment.config_name,
        "policy": identity.policy,
        "checkpoint": identity.checkpoint,
        "index": request.index,
        "seed": request.seed,
        "noise_seed": request.noise_seed,
        "instruction": request.instruction,
        "attempts": request.attempt,
    }


def describe_error(error: BaseException) -> str:
    """One line: the error's type, its text, and the innermost line of code that raised it."""
    if isinstance(error, PolicyError):
        return str(error)
    if isinstance(error, UnstableError):
        return f"unstable: {error}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = ""
    if frame is not None:
        code = frame.tb_frame.f_code
        place = f" ({code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}, {code.co_name})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _act(env: Any, actor: Actor) -> None:
    idle = 0
    while env.take_action_cnt < env.step_lim and not env.eval_success:
        before = env.take_action_cnt
        actor.eval(env, env.get_obs())
        idle = idle + 1 if env.take_action_cnt == before else 0
        if idle >= IDLE_LIMIT:
            raise IdlePolicyError(
                f"the policy's eval returned {idle} times without calling take_action"
            )
