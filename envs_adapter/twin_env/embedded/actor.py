"""An object of a task: where it is, and the named points at which it is gripped or works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import sapien

from twin_env.embedded.rotations import Array, quaternion_to_matrix


@dataclass(frozen=True)
class Frame:
    """A place and a direction in the world."""

    p: Array
    """(3,) metres."""
    q: Array
    """(4,) quaternion [w, x, y, z]."""

    @property
    def rotation(self) -> Array:
        """(3, 3), columns are the frame's axes."""
        return quaternion_to_matrix(self.q)


@dataclass(frozen=True)
class ContactPoint:
    """How a gripper takes an object, in the object's frame."""

    at_m: tuple[float, float, float]
    """Where the tool centre point goes."""
    approach: tuple[float, float, float] | None = None
    """The direction in which the tool comes; None: from above, however the object lies."""
    closing: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """The direction along which the fingers close."""


@dataclass
class Actor:
    """An entity with points fixed to it, each given as an offset in its own frame."""

    entity: sapien.Entity
    functional_points_m: Sequence[tuple[float, float, float]] = ()
    """Where it acts or is acted on: a hammer's face, a block's top."""
    contact_points: Sequence[ContactPoint] = ()
    _body: sapien.physx.PhysxRigidBaseComponent = field(init=False)

    def __post_init__(self) -> None:
        self._body = self.entity.find_component_by_type(sapien.physx.PhysxRigidBaseComponent)

    def get_name(self) -> str:
        return self.entity.name

    def get_pose(self) -> Frame:
        return _frame(self.entity.pose)

    def get_functional_point(self, index: int) -> Frame:
        return self._point(self.functional_points_m[index])

    def get_contact_point(self, index: int) -> Frame:
        """Where the tool centre point goes, and how the object is turned there."""
        return self._point(self.contact_points[index].at_m)

    def tool_rotation(self, index: int) -> Array:
        """Rotation (3, 3) of the tool that takes the object at a contact point; turned half round
        about its approach it does so too."""
        point = self.contact_points[index]
        turned = self.get_pose().rotation
        down = np.array([0.0, 0.0, -1.0])
        approach = down if point.approach is None else turned @ np.array(point.approach)
        return tool_rotation(approach, turned @ np.array(point.closing))

    def get_body(self) -> sapien.physx.PhysxRigidBaseComponent:
        return self._body

    def speed_m_s(self) -> float:
        """Speed of its centre; 0 for a static object."""
        velocity = getattr(self._body, "linear_velocity", None)
        return 0.0 if velocity is None else float(np.linalg.norm(velocity))

    def extent_m(self) -> tuple[Array, Array]:
        """Lowest and highest (3,) corner of the box along the world's axes that holds it."""
        low, high = self._body.compute_global_aabb_tight()
        return np.asarray(low, np.float64), np.asarray(high, np.float64)

    def _point(self, offset_m: tuple[float, float, float]) -> Frame:
        return _frame(self.entity.pose * sapien.Pose(offset_m))


def tool_rotation(approach: Array, closing: Array) -> Array:
    """Rotation (3, 3) of a tool that comes along `approach` and closes along `closing`, or as
    nearly so as its right angles allow."""
    x = approach / np.linalg.norm(approach)
    y = closing - (closing @ x) * x
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _frame(pose: sapien.Pose) -> Frame:
    return Frame(pose.p.astype(np.float64), pose.q.astype(np.float64))
