"""The fake simulator with whole observations and stages; its lights flicker as RoboTwin's do, by
numpy's global generator, so that a look that nobody asked for would change what comes after."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_simulator import TASKS, FakeEnv, environment_fingerprint, list_tasks
from numpy.typing import NDArray

__all__ = ["environment_fingerprint", "list_tasks", "make_env"]

CAMERAS = ("head_camera", "left_camera", "right_camera")


def make_env(task: str, backend: str = "embedded") -> FakeEnv:
    assert task in TASKS
    return RecordedEnv()


class RecordedEnv(FakeEnv):
    stages = ("begun", "solved")

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []
        """`take_action_cnt` at each look."""

    @property
    def stages_reached(self) -> int:
        return 2 if self.eval_success else int(self.take_action_cnt >= 2)

    def get_obs(self) -> dict[str, Any]:
        self.looks.append(self.take_action_cnt)
        light = np.random.uniform(0, 20)  # noqa: NPY002 - as RoboTwin draws it
        rgb = np.full((24, 32, 3), 8 * self.take_action_cnt + light, np.uint8)
        vector = self._vector.copy()
        return {
            "observation": {
                camera: {"rgb": rgb.copy(), "depth": rgb[..., 0]} for camera in CAMERAS
            },
            "joint_action": joints_of(vector),
            "target": self.target,
            "light": light,
        }


def joints_of(vector: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "left_arm": vector[:6].tolist(),
        "left_gripper": float(vector[6]),
        "right_arm": vector[7:13].tolist(),
        "right_gripper": float(vector[13]),
        "vector": vector,
    }
