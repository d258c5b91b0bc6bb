"""The policy that never moves: the floor of every comparison, and the shortest example of one."""

from __future__ import annotations

from typing import Any

import numpy as np

CHUNK = 20
"""Actions for one observation: nothing that it could see would change them."""


def get_model(usr_args: dict[str, Any]) -> None:
    """There is nothing to load."""


def eval(TASK_ENV: Any, model: None, observation: dict[str, Any]) -> None:
    """Sends the present drive target, float64 (Da,) in rad and gripper opening, back."""
    target = np.asarray(observation["joint_action"]["vector"], dtype=np.float64)
    for _ in range(CHUNK):
        if TASK_ENV.eval_success or TASK_ENV.take_action_cnt >= TASK_ENV.step_lim:
            return
        TASK_ENV.take_action(target)


def reset_model(model: None) -> None:
    """There is no state to forget."""
