"""How far a task has come: its stages in order, looked at in the physics, and where it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from twin_env.embedded.actor import Actor
from twin_env.embedded.robot import Arm
from twin_env.embedded.rotations import Array
from twin_env.embedded.scene import Scene

CONTACT_SEPARATION_M = 5e-4
GRIPPER_OPEN, GRIPPER_CLOSED = 0.8, 0.2
"""RoboTwin's thresholds on the gripper's drive target."""


class Stages:
    """Questions that a task file asks of the physics; mixed into `EmbeddedTask`.

    A task names its `stages`, the last of which is success itself, and tells by `check_stages`
    which of the others hold now.
    """

    stages: ClassVar[tuple[str, ...]] = ()
    stages_reached: int = 0
    """How many, by the furthest that held after any action of this episode; all at success."""

    arms: dict[str, Arm]
    actors: list[Actor]
    _settled_m: dict[str, Array]
    """Object name -> (3,) where it came to rest."""

    @property
    def scene(self) -> Scene:
        raise NotImplementedError

    def check_stages(self) -> Sequence[bool]:
        """Whether each of `stages[:-1]` holds now; one that holds counts those before it too."""
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
        """The arms (`left`, `right`) whose two fingers both touch the object now."""
        body = actor.get_body()
        touching = set()
        for contact in self.scene.physics.get_contacts():
            if body in contact.bodies and any(
                point.separation <= CONTACT_SEPARATION_M for point in contact.points
            ):
                touching.update(contact.bodies)
        return {side for side, arm in self.arms.items() if touching.issuperset(arm.fingers)}

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
        before_success = len(self.stages) - 1
        if self.stages_reached < before_success:
            hold = self.check_stages()
            assert len(hold) == before_success, f"{self.stages}: one answer each but the last's"
            held = [place for place, holds in enumerate(hold, start=1) if holds]
            self.stages_reached = max([self.stages_reached, *held])
