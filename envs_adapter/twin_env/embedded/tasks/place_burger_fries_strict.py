"""Put the burger and the fries on the tray so that both stand on it, upright and at rest."""

from __future__ import annotations

import numpy as np

from twin_env.embedded.actor import Actor
from twin_env.embedded.tasks.place_burger_fries import place_burger_fries


class place_burger_fries_strict(place_burger_fries):
    def check_success(self) -> bool:
        return super().check_success() and all(
            self._stands(actor, spot) for spot, actor in enumerate((self.burger, self.fries))
        )

    def _stands(self, actor: Actor, spot: int) -> bool:
        above_m = actor.get_functional_point(0).p[2] - self.tray.get_functional_point(spot).p[2]
        upright = actor.get_pose().rotation[2, 2] > 0.97
        return bool(
            np.abs(above_m) < 0.005 and upright and actor.speed_m_s() < self.settled_speed_m_s
        )
