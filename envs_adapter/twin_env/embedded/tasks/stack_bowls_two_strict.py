"""Stack two bowls so that one really stands nested in the other, upright and at rest."""

from __future__ import annotations

import numpy as np

from twin_env.embedded.actor import Actor
from twin_env.embedded.tasks.stack_bowls_two import NEST_M, stack_bowls_two


class stack_bowls_two_strict(stack_bowls_two):
    def check_success(self) -> bool:
        if not super().check_success():
            return False
        bowls: list[Actor] = [self.bowl1, self.bowl2]
        outer, inner = sorted((bowl.get_pose() for bowl in bowls), key=lambda pose: pose.p[2])
        offset = inner.p - outer.p
        # Nested by the expert, bowls stand within 2 mm and 1 degree of straight.
        nested = np.linalg.norm(offset[:2]) < 0.015 and abs(offset[2] - NEST_M) < 0.006
        on_table = abs(outer.p[2] - self.table_top_m) < 0.005
        upright = all(pose.rotation[2, 2] > 0.97 for pose in (outer, inner))
        at_rest = all(bowl.speed_m_s() < self.settled_speed_m_s for bowl in bowls)
        return bool(nested and on_table and upright and at_rest)
