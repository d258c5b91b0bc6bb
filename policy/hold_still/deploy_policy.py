"""The policy that never moves: the floor of every comparison, and the shortest example of one."""

from __future__ import annotations

from typing import Any

import numpy as np


def get_model(usr_args: dict[str, Any]) -> None:
    """There is nothing to load."""


def eval(TASK_ENV: Any, model: None, observation: dict[str, Any]) -> None:
    """Sends the present drive target, float64 (Da,) in rad and gripper opening, back once."""
    TASK_ENV.take_action(np.asarray(observation["joint_action"]["vector"], dtype=np.float64))


def reset_model(model: None) -> None:
    """There is no state to forget."""
