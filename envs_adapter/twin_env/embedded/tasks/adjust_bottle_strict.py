"""Raise a lying bottle at its side with its head up, and hold it there."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from twin_env.embedded.tasks.adjust_bottle import adjust_bottle

HEAD_UP_RAD = 0.3


class adjust_bottle_strict(adjust_bottle):
    stages: ClassVar[tuple[str, ...]] = (
        "bottle grasped",
        "lifted",
        "head up",
        "raised at its side",
    )

    def check_stages(self) -> tuple[bool, ...]:
        held, lifted = super().check_stages()
        return held, lifted, lifted and self._head_is_up()

    def check_success(self) -> bool:
        raised = super().check_success() and self._head_is_up()
        return raised and bool(self.holders(self.bottle))

    def _head_is_up(self) -> bool:
        return bool(self.bottle.get_pose().rotation[2, 2] > np.cos(HEAD_UP_RAD))
