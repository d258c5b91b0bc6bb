"""Several tasks, and robots, behind one encoder of pictures."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from twin_policy.config import PolicyConfig
from twin_policy.diffusion import DenoisingPolicy
from twin_policy.head import DiffusionHead
from twin_policy.joints import Joints
from twin_policy.names import unknown


class MultiTaskPolicy(DenoisingPolicy):
    """Each task has its own joints; tasks whose joints look alike to a network may share a head."""

    def __init__(
        self, config: PolicyConfig, joints: Mapping[str, Joints], head_names: Mapping[str, str]
    ) -> None:
        """Args:
        joints: of each task.
        head_names: the head of each task, by any name that tasks of one head have in common.
        """
        super().__init__(config, state_dim=0)
        self.head_names = dict(head_names)
        self.joints = nn.ModuleDict(dict(joints))
        self.heads = nn.ModuleDict()
        for task, name in head_names.items():
            mine = joints[task]
            if name not in self.heads:
                states = config.n_obs_steps * mine.state_dim if config.encoder.use_state else 0
                cond_dim = self.encoder.dim + states + mine.extra_dim
                self.heads[name] = self._new_head(mine.action_dim, cond_dim)

    def part(self, task: str) -> tuple[Joints, DiffusionHead]:
        """Raises:
        ValueError: an unknown task, with the nearest match; none named where there are several.
        """
        if not task and len(self.joints) == 1:
            (task,) = self.joints
        if task not in self.joints:
            raise unknown("task", task, self.joints)
        return self.joints[task], self.heads[self.head_names[task]]  # type: ignore[return-value]
