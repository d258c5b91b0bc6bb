"""The scripted expert as a policy: the ceiling of every comparison.

It plays the actions with which the expert does this very scene, so what it loses is what is lost in
sending a smooth motion through `take_action`.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any


def get_model(usr_args: dict[str, Any]) -> None:
    """There is nothing to load."""


def eval(TASK_ENV: Any, model: None, observation: dict[str, Any]) -> None:
    """Plays the expert's actions for this scene, float64 (T, Da), until success or the step limit.

    After the last one it stays there: played from the start again, they would fit no scene.

    Raises:
        RuntimeError: if the simulator cannot tell them.
    """
    expert_actions = getattr(TASK_ENV, "expert_actions", None)
    if expert_actions is None:
        raise RuntimeError(
            "expert_replay needs a simulator with `expert_actions()`: "
            f"{type(TASK_ENV).__name__} has none; evaluate it with --backend embedded"
        )
    actions = expert_actions()
    for action in chain(actions, repeat(actions[-1])):
        if TASK_ENV.eval_success or TASK_ENV.take_action_cnt >= TASK_ENV.step_lim:
            return
        TASK_ENV.take_action(action)


def reset_model(model: None) -> None:
    """There is no state to forget."""
