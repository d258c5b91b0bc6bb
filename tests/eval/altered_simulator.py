"""The embedded simulator with altered tasks, for the harness's tests.

In `exploding`, what the config's `episode_num` says breaks on the odd seeds; even ones are sound.
`brief` ends after two chunks of a policy.
"""

from __future__ import annotations

import math
from typing import Any

import sapien

from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.tasks.beat_block_hammer import beat_block_hammer

BREAKS_AT_TICK = 200
FAULTS = ("shot", "lost", "broken arm", "dropped")
"""By `episode_num`, from 1: the hammer flies off; its pose is no number; neither are an arm's
joints; the hammer falls off the table, which is no fault."""


class exploding(beat_block_hammer):
    def load_actors(self) -> None:
        super().load_actors()
        self._ticks = 0

    def check_success(self) -> bool:
        self._ticks += 1
        if self._ticks == BREAKS_AT_TICK and self.seed % 2:
            self._break(FAULTS[int(self.config["episode_num"]) - 1])
        return super().check_success()

    def _break(self, fault: str) -> None:
        arm = self.arms["left"].articulation
        if fault == "shot":
            self.hammer.get_body().set_linear_velocity([0.0, 0.0, 1e3])
        elif fault == "lost":
            self.hammer.entity.set_pose(sapien.Pose([math.nan] * 3))
        elif fault == "broken arm":
            arm.set_qpos([math.nan] * len(arm.qpos))
        else:
            self.hammer.entity.set_pose(sapien.Pose([0.0, 0.6, 1.0]))


class brief(beat_block_hammer):
    step_lim = 24

    def instructions(self) -> dict[str, list[str]]:
        return {"seen": ["strike"], "unseen": ["strike at once"]}


TASKS = {"exploding": exploding, "brief": brief}


def list_tasks(backend: str = "embedded") -> list[str]:
    return sorted(TASKS)


def make_env(task: str, backend: str = "embedded") -> EmbeddedTask:
    return TASKS[task]()


def environment_fingerprint(task: str, config: dict[str, Any], backend: str) -> dict[str, str]:
    return {"task": task}
