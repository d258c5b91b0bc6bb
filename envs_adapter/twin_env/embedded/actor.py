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


@dataclass
class Actor:
    """An entity with points fixed to it, each given as an offset in its own frame."""

    entity: sapien.Entity
    functional_points_m: Sequence[tuple[float, float, float]] = ()
    """Where it acts or is acted on: a hammer's face, a block's top."""
    contact_points_m: Sequence[tuple[float, float, float]] = ()
    """Where fingers take it; they close along the object's y axis."""
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
        return self._point(self.contact_points_m[index])

    def get_body(self) -> sapien.physx.PhysxRigidBaseComponent:
        return self._body

    def speed_m_s(self) -> float:
        """Speed of its centre; 0 for a static object."""
        velocity = getattr(self._body, "linear_velocity", None)
        return 0.0 if velocity is None else float(np.linalg.norm(velocity))

    def _point(self, offset_m: tuple[float, float, float]) -> Frame:
        return _frame(self.entity.pose * sapien.Pose(offset_m))


def _frame(pose: sapien.Pose) -> Frame:
    return Frame(pose.p.astype(np.float64), pose.q.astype(np.float64))
