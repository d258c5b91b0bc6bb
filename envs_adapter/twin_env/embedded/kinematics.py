"""Closed-form forward and inverse kinematics of the arms of `assets/arm6.urdf` and `arm7.urdf`.

Joints: yaw, shoulder pitch, (upper-arm roll,) elbow pitch, forearm roll, wrist pitch, hand roll.
The roll of the upper arm, which moves the elbow sideways, is what the seven-joint arm has more. At
zero an arm points straight up. The tool centre point (tcp) lies between the fingertips; its frame
has x along the approach direction, y along the fingers' opening.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from twin_env.embedded.rotations import Array, rotation_y, rotation_z

SHOULDER_HEIGHT_M = 0.15
UPPER_ARM_M = 0.32
FOREARM_M = 0.32
HAND_M = 0.20
ROLL_STEP_RAD = 0.2
"""How finely other elbow rolls are tried where the present one cannot reach."""

# Columns: the tcp's axes in the hand's frame (hand: z along the approach).
_TCP_IN_HAND = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


class UnreachableError(ValueError):
    """No joint configuration within limits reaches the pose."""


@dataclass(frozen=True)
class ArmModel:
    """The joints of one kind of arm, six or seven."""

    name: str
    urdf: str
    """File name in `assets/`."""
    lower_rad: tuple[float, ...]
    upper_rad: tuple[float, ...]
    rest_roll_rad: float = 0.0
    """The left arm's elbow roll at rest, of seven joints; the right arm's is its mirror image."""
    _limits: tuple[Array, Array] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = np.array(self.lower_rad), np.array(self.upper_rad)
        object.__setattr__(self, "_limits", limits)

    @property
    def joints(self) -> int:
        return len(self.lower_rad)

    @property
    def rolls(self) -> bool:
        """Whether the upper arm rolls: seven joints."""
        return self.joints == 7

    @property
    def limits_rad(self) -> tuple[Array, Array]:
        """Lower and upper (joints,)."""
        return self._limits

    def forward(self, joints_rad: Array) -> tuple[Array, Array]:
        """Position (3,) in metres and rotation (3, 3) of the tcp in the arm's base frame."""
        yaw, shoulder, *roll, elbow, q_forearm, q_wrist, q_hand = joints_rad
        turn = rotation_z(yaw) @ rotation_y(shoulder)
        elbow_at = np.array([0.0, 0.0, SHOULDER_HEIGHT_M]) + turn[:, 2] * UPPER_ARM_M
        if roll:
            turn = turn @ rotation_z(roll[0])
        forearm = turn @ rotation_y(elbow)
        hand = forearm @ rotation_z(q_forearm) @ rotation_y(q_wrist) @ rotation_z(q_hand)
        wrist = elbow_at + forearm[:, 2] * FOREARM_M
        return wrist + hand[:, 2] * HAND_M, hand @ _TCP_IN_HAND

    def inverse(self, position_m: Array, rotation: Array, near_rad: Array) -> Array:
        """Joints (joints,) that put the tcp at a pose in the arm's base frame, the solution nearest
        to `near_rad`; a seven-joint arm keeps its elbow roll, or the nearest roll that reaches.

        Raises:
            UnreachableError: too far, too near, or outside the joint limits.
        """
        hand = rotation @ _TCP_IN_HAND.T
        wrist = position_m - hand[:, 2] * HAND_M
        wrist[2] -= SHOULDER_HEIGHT_M
        distance = float(np.linalg.norm(wrist))
        cos_elbow = (distance**2 - UPPER_ARM_M**2 - FOREARM_M**2) / (2 * UPPER_ARM_M * FOREARM_M)
        if not -1.0 <= cos_elbow <= 1.0:
            raise UnreachableError(
                f"the wrist would be {distance:.3f} m from the shoulder; the arm spans "
                f"{abs(UPPER_ARM_M - FOREARM_M):.2f} to {UPPER_ARM_M + FOREARM_M:.2f} m"
            )
        for roll in self._rolls_near(near_rad):
            found = self._solutions(wrist, math.acos(cos_elbow), hand, roll, near_rad)
            best = min(found, key=lambda joints: np.max(np.abs(joints - near_rad)), default=None)
            if best is not None:
                return best
        raise UnreachableError("the pose is in reach, but only outside the joint limits")

    def _rolls_near(self, near_rad: Array) -> Iterator[float]:
        if not self.rolls:
            yield 0.0
            return
        yield float(near_rad[2])
        lower, upper = self.lower_rad[2], self.upper_rad[2]
        for step in range(1, math.ceil((upper - lower) / ROLL_STEP_RAD) + 1):
            for roll in (near_rad[2] - step * ROLL_STEP_RAD, near_rad[2] + step * ROLL_STEP_RAD):
                if lower <= roll <= upper:
                    yield float(roll)

    def _solutions(
        self, wrist: Array, elbow_rad: float, hand: Array, roll: float, near_rad: Array
    ) -> Iterator[Array]:
        """All joint configurations within limits for a wrist point (3,) from the shoulder."""
        for sign, backwards in itertools.product((1, -1), (False, True)):
            elbow = sign * elbow_rad
            # The wrist as the shoulder's frame sees it, before the shoulder's yaw and pitch.
            x = FOREARM_M * math.sin(elbow) * math.cos(roll)
            y = FOREARM_M * math.sin(elbow) * math.sin(roll)
            z = UPPER_ARM_M + FOREARM_M * math.cos(elbow)
            span = math.hypot(x, z)
            if span < 1e-9 or abs(wrist[2]) > span:
                continue
            lean = math.acos(wrist[2] / span) * (-1 if backwards else 1)
            shoulder = lean - math.atan2(x, z)
            yaw = math.atan2(wrist[1], wrist[0]) - math.atan2(y, span * math.sin(lean))
            arm = (yaw, shoulder, roll, elbow) if self.rolls else (yaw, shoulder, elbow)
            wrapped = self._within_limits(arm, near_rad, first=0)
            if wrapped is None:
                continue
            turn = rotation_z(yaw) @ rotation_y(shoulder)
            turn = turn @ rotation_z(roll) if self.rolls else turn
            local = (turn @ rotation_y(elbow)).T @ hand
            for flip in (1, -1):
                angles = _wrist_angles(local, flip, float(near_rad[-3]))
                rest = self._within_limits(angles, near_rad, first=len(arm))
                if rest is not None:
                    yield np.array(wrapped + rest)

    def _within_limits(
        self, joints: tuple[float, ...], near_rad: Array, *, first: int
    ) -> list[float] | None:
        """Each joint turned by whole turns: near `near_rad`, unless only another turn fits the
        limits; None if none does."""
        turned = []
        for place, joint in enumerate(joints, start=first):
            near, lower, upper = (
                float(near_rad[place]),
                self.lower_rad[place],
                self.upper_rad[place],
            )
            value = float(near) + (joint - float(near) + math.pi) % (2 * math.pi) - math.pi
            if value > upper:
                value -= 2 * math.pi
            elif value < lower:
                value += 2 * math.pi
            if not lower <= value <= upper:
                return None
            turned.append(value)
        return turned


def _wrist_angles(local: Array, flip: int, near_rad: float) -> tuple[float, float, float]:
    """ZYZ angles of the hand's rotation (3, 3) in the forearm's frame; where roll and roll
    coincide, the forearm keeps its angle."""
    pitch = flip * math.acos(min(1.0, max(-1.0, local[2, 2])))
    if abs(math.sin(pitch)) < 1e-6:
        return near_rad, pitch, math.atan2(local[1, 0], local[0, 0]) - near_rad
    return (
        math.atan2(flip * local[1, 2], flip * local[0, 2]),
        pitch,
        math.atan2(flip * local[2, 1], -flip * local[2, 0]),
    )


ARM6 = ArmModel(
    name="twin-arm6",
    urdf="arm6.urdf",
    lower_rad=(-2.6, -2.0, -2.7, -3.0, -2.2, -3.1),
    upper_rad=(2.6, 2.0, 2.7, 3.0, 2.2, 3.1),
)
ARM7 = ArmModel(
    name="twin-arm7",
    urdf="arm7.urdf",
    lower_rad=(-2.6, -2.0, -2.6, -2.7, -3.0, -2.2, -3.1),
    upper_rad=(2.6, 2.0, 2.6, 2.7, 3.0, 2.2, 3.1),
    rest_roll_rad=0.4,
)
ARM_MODELS = {model.name: model for model in (ARM6, ARM7)}
