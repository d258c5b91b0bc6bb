"""Policies as their configs ask for them, for one task or for several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twin_policy.action_space import JointLayout
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import ChunkPolicy, DiffusionPolicy
from twin_policy.joints import Joints, SlottedJoints
from twin_policy.lapo_policy import LapoPolicy
from twin_policy.multitask import MultiTaskPolicy
from twin_policy.normalizer import Normalizer


@dataclass(frozen=True)
class TaskSpec:
    """What the data says about a task that a policy is to learn."""

    layout: JointLayout
    normalizer: Normalizer
    """Its state part over the whole vector, its action part over the driven dimensions."""
    embodiment: str
    """The robot's name: `unified` keeps statistics for each."""


def statistics_group(config: PolicyConfig, task: str, layout: JointLayout, embodiment: str) -> str:
    """Tasks of one group share their normaliser, and so must be fitted together."""
    kind = config.action_space.kind
    if kind == "unified":
        return f"robot_{embodiment}"
    if kind == "heads" and config.action_space.head_per == "task":
        return f"task_{task}"
    # Joints of one layout: not of one length alone, since 6 + 7 and 7 + 6 joints do not match.
    return f"arms_{layout.left_arm}_{layout.right_arm}" if kind == "heads" else "all"


def create_policy(config: PolicyConfig, tasks: Mapping[str, TaskSpec]) -> ChunkPolicy:
    """A policy with fresh weights, from torch's global generator.

    Raises:
        ValueError: no tasks; several for `kind: joint`; tasks of one statistics group with
            different layouts or normalisers; a robot that does not fit the unified slots.
    """
    _check_groups(config, tasks)
    relative = config.action_representation == "relative"
    if config.action_space.kind == "joint":
        (spec,) = tasks.values()
        if config.lapo is not None:
            return LapoPolicy(
                config,
                spec.normalizer,
                state_dim=spec.layout.dim,
                gripper_dims=spec.layout.gripper_dims,
                driven_dims=spec.layout.driven_dims(config.action_space),
            )
        return DiffusionPolicy(
            config,
            spec.normalizer,
            state_dim=spec.layout.dim,
            action_dim=spec.layout.dim,
            gripper_dims=spec.layout.gripper_dims,
            driven_dims=spec.layout.driven_dims(config.action_space),
        )
    # Sorted: fresh weights do not depend on the order in which tasks are named.
    ordered = {task: tasks[task] for task in sorted(tasks)}
    if config.action_space.kind == "unified":
        slotted = {
            task: SlottedJoints(
                spec.normalizer,
                layout=spec.layout,
                action_space=config.action_space,
                relative=relative,
                n_obs_steps=config.n_obs_steps if config.encoder.use_state else 0,
            )
            for task, spec in ordered.items()
        }
        return MultiTaskPolicy(config, slotted, dict.fromkeys(ordered, "unified"))
    joints = {
        task: Joints(
            spec.normalizer,
            driven_dims=spec.layout.driven_dims(config.action_space),
            gripper_dims=spec.layout.gripper_dims,
            relative=relative,
        )
        for task, spec in ordered.items()
    }
    return MultiTaskPolicy(config, joints, _groups(config, ordered))


def _groups(config: PolicyConfig, tasks: Mapping[str, TaskSpec]) -> dict[str, str]:
    return {
        task: statistics_group(config, task, spec.layout, spec.embodiment)
        for task, spec in tasks.items()
    }


def _check_groups(config: PolicyConfig, tasks: Mapping[str, TaskSpec]) -> None:
    kind = config.action_space.kind
    if not tasks or (kind == "joint" and len(tasks) > 1):
        named = ", ".join(sorted(tasks)) or "none"
        raise ValueError(
            f"action_space.kind {kind} is for {'one task' if tasks else 'at least one task'}, and "
            f"got {named}: use heads or unified for several"
        )
    first: dict[str, str] = {}
    for task, group in _groups(config, tasks).items():
        if "." in task:
            raise ValueError(f"a task's name must not hold a dot, and is {task!r}: rename it")
        mine, other = tasks[task], tasks[first.setdefault(group, task)]
        if mine.layout != other.layout:
            raise ValueError(
                f"{first[group]} and {task} are of one robot ({group}) but have {other.layout} "
                f"and {mine.layout}: name different robots differently"
            )
        if mine.normalizer.to_dict() != other.normalizer.to_dict():
            raise ValueError(
                f"{first[group]} and {task} are of the statistics group {group} but are "
                "normalised differently: fit one normaliser on the windows of both"
            )
