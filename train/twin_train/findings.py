"""What a check of a trained policy found, and what it is found wanting in by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from twin_policy.checkpoint import Checkpoint
from twin_policy.normalizer import DimensionNormalizer
from twin_policy.specs import TaskEntry
from twin_train.feature_use import wanted_of
from twin_train.predict import joint_names

RETRAIN = "train again with `bash train.sh TASK POLICY`, which fits and stores them"
LARGEST_RANGE = 100.0
"""Of a joint, rad: no arm turns so far; degrees, or a frame number, would."""


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    check: str
    verdict: Literal["ok", "note", "fault"]
    """A fault makes the policy wrong; a note is worth knowing."""
    said: str
    """What was found, with numbers."""
    meaning: str = ""
    """What follows from it for the policy."""
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Numbers behind it, for JSON."""


def check_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Whether all numbers are finite."""
    tensors = checkpoint.policy.state_dict()
    broken = [name for name, each in tensors.items() if not bool(torch.isfinite(each).all())]
    if broken:
        yield Finding(
            "weights",
            "fault",
            f"{len(broken)} of {len(tensors)} tensors hold NaN or infinity, such as {broken[0]}",
            "every action will be refused as not finite",
            "train again with a smaller train.lr, and look at loss.png for where it left",
            {"tensors": broken},
        )
    else:
        yield Finding("weights", "ok", f"{len(tensors)} tensors, all finite")
    source = str(checkpoint.provenance.get("backbone_weights", {}).get("source", ""))
    if source == "random weights":
        yield Finding(
            "weights",
            "note",
            "the backbone has random weights, by choice",
            "it has seen nothing: good for trying out, not for results",
            "set policy.encoder.pretrained_backbone_weights, and train again",
        )


def check_normaliser(checkpoint: Checkpoint, entry: TaskEntry, task: str) -> Iterator[Finding]:
    """Whether statistics are there, and can be those of a robot."""
    normalizer = checkpoint.policy.joints_of(task).normalizer
    names = joint_names(entry)
    driven = [names[dim] for dim in entry.action_spec.driven_dims]
    for kind, part, joints in (
        ("state", normalizer.state, names),
        ("action", normalizer.action, driven),
    ):
        fault = _fault_of(part, joints)
        frozen = [joint for joint, idle in zip(joints, part.frozen.tolist(), strict=True) if idle]
        if fault:
            yield Finding(
                "normaliser",
                "fault",
                f"{kind}: {fault}",
                "what the network gives is not brought to the robot's units as in training",
                RETRAIN,
                part.to_dict(),
            )
        else:
            yield Finding(
                "normaliser",
                "ok",
                f"{kind}: {len(joints)} dimensions; idle in training: "
                f"{', '.join(frozen) or 'none'}",
                values={"idle": frozen},
            )


def _fault_of(part: DimensionNormalizer, joints: list[str]) -> str:
    scale, offset, mean, frozen = (
        each.double().cpu().numpy() for each in (part.scale, part.offset, part.mean, part.frozen)
    )
    if not (np.isfinite(scale).all() and np.isfinite(offset).all() and np.isfinite(mean).all()):
        return "statistics that are not finite"
    if (scale <= 0).any():
        return f"{joints[int(np.argmin(scale))]} is scaled by {scale.min():g}, not above 0"
    live = ~frozen.astype(bool)
    if not live.any():
        return "every dimension counts as idle, so nothing ever moves"
    if (scale == 1).all() and (offset == 0).all():
        return "statistics are missing: nothing is scaled (scale 1, offset 0 everywhere)"
    span = np.where(live, 2 / scale, 0)
    if span.max() > LARGEST_RANGE:
        worst = int(np.argmax(span))
        return (
            f"{joints[worst]} ranges over {span[worst]:g} rad: no joint does; its training data "
            "was in other units"
        )
    return ""


def check_source_of_features(checkpoint: Checkpoint, task: str) -> Iterator[Finding]:
    """Whether the head was trained on features of the very backbone that the checkpoint holds."""
    used = checkpoint.provenance.get("features") or {}
    said = used.get(task) if task in used else next(iter(used.values()), None)
    if not said:
        return
    encoder = checkpoint.policy.encoder
    differing = []
    for name, (config, backbone) in encoder.stored_parts().items():
        about = said if "backbone_sha256" in said else said.get(name, {})
        now = wanted_of(config, backbone).fingerprint
        then = str(about.get("backbone_sha256", "nothing of it"))
        if now != then:
            differing.append(f"{name} is {now[:12]}, and the head was trained with {then[:13]}")
    if differing:
        yield Finding(
            "backbone",
            "fault",
            "; ".join(differing),
            "the head was trained on features of another backbone, and means nothing on this one",
            "train again with train.features: auto, which checks it, or with train.features null",
        )
    else:
        yield Finding("backbone", "ok", "trained on stored features of the backbone it holds")


def check_idle(
    checkpoint: Checkpoint, entry: TaskEntry, task: str, action: NDArray[np.float64]
) -> Finding:
    """Whether what counts as idle is idle in the data too, and what is not driven.

    Args:
        action: (n, D), the recorded targets.
    """
    names, spec = joint_names(entry), entry.action_spec
    frozen = checkpoint.policy.joints_of(task).normalizer.action.frozen.tolist()
    floor = max(checkpoint.policy.config.normalizer.range_floor, 1e-4)
    span = np.ptp(action, axis=0)
    held = [dim for dim, idle in zip(spec.driven_dims, frozen, strict=True) if idle]
    moving = [names[dim] for dim in held if span[dim] > 5 * floor]
    undriven = [
        names[dim]
        for dim in range(spec.layout.dim)
        if dim not in spec.driven_dims and span[dim] > floor
    ]
    values = {"moving_but_idle": moving, "moving_but_not_driven": undriven}
    if moving:
        return Finding(
            "idle dimensions",
            "fault",
            f"idle in the policy's training, and moving here: {', '.join(moving)}",
            "the policy holds them at one value, whatever it sees",
            "train on episodes in which they move, or lower policy.normalizer.range_floor",
            values,
        )
    if undriven:
        return Finding(
            "idle dimensions",
            "note",
            f"not driven by the policy, and moving here: {', '.join(undriven)}",
            "a rule fills them in (complete_actions), which does not do the task's part of them",
            "if the task needs them: action_space.arms both, include_gripper true",
            values,
        )
    return Finding("idle dimensions", "ok", "what the policy leaves idle is idle here", "")
