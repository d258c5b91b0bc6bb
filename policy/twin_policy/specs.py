"""What a policy wants to see and what it gives; compared with what an environment offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from twin_policy.names import unknown


class SpecMismatch(ValueError):
    """The environment does not offer what the policy was trained on."""


@dataclass(frozen=True)
class ObsSpec:
    """Observations that the policy was trained on."""

    cameras: dict[str, tuple[int, int, int]]
    """Camera name to the (H, W, 3) of its pictures before resizing: uint8, true RGB."""
    state_dim: int
    """Length of `joint_action/vector`: drive targets in rad, grippers in [0, 1]."""
    n_obs_steps: int
    color: Literal["rgb"] = "rgb"

    def check(self, observation: Mapping[str, Any]) -> None:
        """Compares a live observation of RoboTwin's structure.

        Raises:
            SpecMismatch: with what was trained on, what is offered, and where.
        """
        offered = observation.get("observation")
        joints = observation.get("joint_action")
        if not isinstance(offered, Mapping) or not isinstance(joints, Mapping):
            raise SpecMismatch(
                "an observation must have RoboTwin's groups 'observation' and 'joint_action', "
                f"and has {sorted(observation)}"
            )
        for camera, shape in self.cameras.items():
            if camera not in offered:
                raise SpecMismatch(f"the environment lacks: {unknown('camera', camera, offered)}")
            picture = np.asarray(offered[camera]["rgb"])
            if picture.shape != tuple(shape) or picture.dtype != np.uint8:
                raise SpecMismatch(
                    f"{camera}: the policy was trained on uint8 {tuple(shape)}, "
                    f"the environment gives {picture.dtype} {picture.shape}"
                )
        dim = np.size(joints["vector"])
        if dim != self.state_dim:
            raise SpecMismatch(
                f"joint_action/vector: the policy was trained on {self.state_dim} numbers, "
                f"the environment gives {dim}"
            )


@dataclass(frozen=True)
class ActionSpec:
    """Actions that the policy gives."""

    dim: int
    """[left arm, left gripper, right arm, right gripper]: absolute targets, rad and [0, 1]."""
    gripper_dims: tuple[int, ...]
    """Which of them are grippers."""
    n_action_steps: int
    action_type: Literal["qpos"] = "qpos"

    def check_dim(self, dim: int) -> None:
        """Raises:
        SpecMismatch: the environment takes another number of joints.
        """
        if dim != self.dim:
            raise SpecMismatch(
                f"the policy gives actions of {self.dim} numbers, the environment takes {dim}: "
                "it was trained for another robot; train one on this robot's episodes"
            )


def bimanual_gripper_dims(dim: int) -> tuple[int, ...]:
    """Where the grippers are in [left arm, gripper, right arm, gripper] of 14 or 16 numbers.

    Raises:
        ValueError: an odd number cannot be two equal arms.
    """
    if dim < 4 or dim % 2:
        raise ValueError(
            f"actions of two equal arms have an even number of dimensions (14, 16), not {dim}"
        )
    return (dim // 2 - 1, dim - 1)
