"""How far a task has come: its stages in order, looked at in the physics, and where it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from twin_env.embedded.actor import Actor
from twin_env.embedded.robot import Arm
from twin_env.embedded.rotations import Array, quaternion_to_matrix
from twin_env.embedded.scene import Scene

CONTACT_SEPARATION_M = 5e-4
FACING = 0.4
"""A finger holds what it presses on by its face: the least cosine between the contact's normal and
the way that it closes (an edge of a round thing is met at 45 degrees, a top at 90)."""
STAGES_EVERY_TICKS = 5
GRIPPER_OPEN, GRIPPER_CLOSED = 0.8, 0.2
"""RoboTwin's thresholds on the gripper's drive target."""


class Stages:
    """Questions that a task file asks of the physics; mixed into `EmbeddedTask`.

    A task names its `stages`, the last of which is success itself, and tells by `check_stages`
    which of the others hold now.
    """

    stages: ClassVar[tuple[str, ...]] = ()
    stages_reached: int = 0
    """How many were seen in this episode's actions, each after those before it; all at success."""

    arms: dict[str, Arm]
    actors: list[Actor]
    _settled_m: dict[str, Array]
    """Object name -> (3,) where it came to rest."""

    @property
    def scene(self) -> Scene:
        raise NotImplementedError

    def check_stages(self) -> Sequence[bool]:
        """Whether each of `stages[:-1]` holds now."""
        raise NotImplementedError

    def scene_layout(self) -> dict[str, list[float]]:
        """Object name -> [x, y, z] in metres where it came to rest before the first action; empty
        without a scene."""
        return {name: [round(float(v), 6) for v in at] for name, at in self._settled_m.items()}

    def check_actors_contact(self, first: Actor, second: Actor) -> bool:
        """Whether the two objects touch now."""
        wanted = {first.get_body(), second.get_body()}
        for contact in self.scene.physics.get_contacts():
            # A listed contact may still have a gap.
            if set(contact.bodies) == wanted and any(
                point.separation <= CONTACT_SEPARATION_M for point in contact.points
            ):
                return True
        return False

    def holders(self, actor: Actor) -> set[str]:
        """The arms (`left`, `right`) that have the object between their two fingers now: each
        touches it with the face that closes, not with its tip or edge."""
        body = actor.get_body()
        pressed: dict[object, list[Array]] = {}
        for contact in self.scene.physics.get_contacts():
            if body in contact.bodies:
                normals = [p.normal for p in contact.points if p.separation <= CONTACT_SEPARATION_M]
                for other in contact.bodies:
                    pressed.setdefault(other, []).extend(normals)
        holding = set()
        for side, arm in self.arms.items():
            closing = quaternion_to_matrix(arm.hand().pose.q)[:, 1]
            if all(
                any(abs(normal @ closing) > FACING for normal in pressed.get(finger, ()))
                for finger in arm.fingers
            ):
                holding.add(side)
        return holding

    def gripper_contacts_m(self, actor: Actor) -> list[Array]:
        """Points (3,) at which a hand or a finger touches the object now."""
        body = actor.get_body()
        hands = {link for arm in self.arms.values() for link in (*arm.fingers, arm.link("hand"))}
        return [
            np.asarray(point.position, np.float64)
            for contact in self.scene.physics.get_contacts()
            if body in contact.bodies and not hands.isdisjoint(contact.bodies)
            for point in contact.points
            if point.separation <= CONTACT_SEPARATION_M
        ]

    def is_left_gripper_open(self) -> bool:
        return self.arms["left"].gripper > GRIPPER_OPEN

    def is_right_gripper_open(self) -> bool:
        return self.arms["right"].gripper > GRIPPER_OPEN

    def is_left_gripper_close(self) -> bool:
        return self.arms["left"].gripper < GRIPPER_CLOSED

    def is_right_gripper_close(self) -> bool:
        return self.arms["right"].gripper < GRIPPER_CLOSED

    def rise_m(self, actor: Actor) -> float:
        """How much higher the object is than where it came to rest."""
        return float(actor.get_pose().p[2] - self._settled_m[actor.get_name()][2])

    def _look_at_stages(self) -> None:
        """Goes on to the next stage, and to those after it, while they hold now."""
        before_success = len(self.stages) - 1
        if self.stages_reached < before_success:
            hold = self.check_stages()
            assert len(hold) == before_success, f"{self.stages}: one answer each but the last's"
            while self.stages_reached < before_success and hold[self.stages_reached]:
                self.stages_reached += 1
