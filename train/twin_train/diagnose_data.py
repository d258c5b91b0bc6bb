"""A policy put to recorded frames, and to the same frames deliberately spoiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from twin_policy.diffusion import ChunkPolicy
from twin_policy.joints import Joints
from twin_policy.lapo_policy import LapoPolicy
from twin_policy.specs import TaskEntry
from twin_train.findings import Finding
from twin_train.predict import (
    BATCH,
    Pictures,
    Predictions,
    Recorded,
    compare,
    encode,
    histories,
    joint_names,
    read_parts,
    sample_chunks,
)

Array = NDArray[np.float64]

BETTER = 0.85
"""A spoiled input whose error is below this share of the true one's is no accident."""
BEYOND, BEYOND_SHARE = 1.5, 0.1
"""Normalised actions farther out than that; the share of them that is a fault."""
DRIFT = 0.05
"""Relative: bfloat16 and other kernels stay far below."""


@dataclass(frozen=True)
class Trial:
    """Some frames of an episode, and a policy that sees them."""

    policy: ChunkPolicy
    entry: TaskEntry
    task: str
    seed: int
    recorded: Recorded
    frames: NDArray[np.int64]
    features: Tensor
    """(n, F), of those frames, their histories and the neighbours."""

    @property
    def seen(self) -> NDArray[np.int64]:
        return histories(self.frames, self.policy.config.n_obs_steps)

    def predictions(
        self, *, features: Tensor | None = None, seen: NDArray[np.int64] | None = None
    ) -> Predictions:
        """With the same noise, whatever is changed."""
        chunks = sample_chunks(
            self.policy,
            self.features if features is None else features,
            self.recorded.state,
            self.seen if seen is None else seen,
            task=self.task,
            seed=self.seed,
            noise=self.frames,
        )
        return compare(self.policy, self.entry, self.recorded, self.frames, chunks)


def make_trial(
    policy: ChunkPolicy,
    entry: TaskEntry,
    recorded: Recorded,
    *,
    task: str,
    n_frames: int,
    seed: int = 0,
) -> Trial:
    """Chooses `n_frames` evenly, and encodes what they need."""
    n = len(recorded)
    frames = np.unique(np.linspace(0, n - 1, min(n, n_frames)).round().astype(np.int64))
    needed = _needed(frames, policy.config.n_obs_steps, n)
    features = encode(policy, recorded.images, needed)
    if not recorded.images:
        features = features.new_zeros((n, 0))
    return Trial(policy, entry, task, seed, recorded, frames, features)


def _needed(frames: NDArray[np.int64], n_obs_steps: int, n: int) -> NDArray[np.int64]:
    seen = histories(frames, n_obs_steps)
    return np.concatenate([(seen + shift).clip(0, n - 1) for shift in (-1, 0, 1)], axis=1)


def frame_errors(each: Predictions) -> Array:
    """(N,): of the executed steps of each frame."""
    executed = each.errors[:, : each.n_action_steps]
    mean: Array = np.nanmean(executed, axis=(1, 2))
    return mean


def clearly_less(spoiled: Array, true: Array) -> bool:
    """Whether errors (N,) of the same frames fell by more than chance would."""
    if not len(true) or spoiled.mean() >= BETTER * true.mean():
        return False
    gain = true - spoiled
    spread = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > 2 * spread)


def check_range(trials: Sequence[Trial]) -> Finding:
    """Whether the recorded actions lie where the normaliser expects them."""
    first = trials[0]
    joints = first.policy.joints_of(first.task)
    parts = [_normalised(joints, trial) for trial in trials]
    values = np.abs(np.concatenate(parts))
    names = joint_names(first.entry)
    driven = [names[dim] for dim in first.entry.action_spec.driven_dims]
    share = (values > BEYOND).mean(axis=0)
    worst = int(np.argmax(share))
    numbers = {"largest": dict(zip(driven, values.max(axis=0).tolist(), strict=True))}
    if share[worst] > BEYOND_SHARE:
        return Finding(
            "action range",
            "fault",
            f"{share[worst]:.0%} of {driven[worst]}'s targets lie beyond {BEYOND} of the range in "
            f"training, up to {values[:, worst].max():.2g} times it",
            "the policy cannot give them: its samples are clipped to the training's range",
            "train on data that covers it; check the units (rad) and the robot of these episodes",
            numbers,
        )
    said = f"normalised targets reach {values.max():.2f} (training: 1), {driven[worst]} most"
    if values.max() < 0.05:
        return Finding(
            "action range",
            "note",
            f"normalised targets reach only {values.max():.3f}",
            "the statistics are of far wider motions: a network's smallest errors are large here",
            "check the units of the training data, or train on this data",
            numbers,
        )
    return Finding("action range", "ok", said, values=numbers)


def _normalised(joints: Joints, trial: Trial) -> Array:
    """Targets of the executed steps, (m, Da): as the network learns them, or where it clips by
    a range of its own, 1 at that range's ends."""
    found = compare_steps(trial)
    if isinstance(trial.policy, LapoPolicy):
        low, high = trial.policy.action_low, trial.policy.action_high
        driven = joints.driven(found[0].to(low))
        scaled = (2 * driven - low - high) / (high - low)
        return rearrange(scaled, "n k d -> (n k) d").double().cpu().numpy()
    # `Joints` itself: in the slots of several robots, others would be among them.
    targets = Joints.targets(joints, found[0].to(trial.policy.device), found[1])
    return rearrange(targets, "n k d -> (n k) d").double().cpu().numpy()


def compare_steps(trial: Trial) -> tuple[Tensor, Tensor]:
    """Whole recorded vectors (N, Ta, D) of each frame's executed steps, and its state (N, D)."""
    steps = trial.frames[:, None] + np.arange(trial.policy.config.n_action_steps)
    action = trial.recorded.action[steps.clip(max=len(trial.recorded) - 1)]
    state = torch.from_numpy(trial.recorded.state[trial.frames])
    return torch.from_numpy(action), state.to(trial.policy.device)


def check_features(trials: Sequence[Trial]) -> Iterator[Finding]:
    """Scale of what the encoder gives, and whether it changes with the pictures."""
    if not trials[0].recorded.images:
        yield Finding("features", "ok", "a policy without cameras has none")
        return
    used = [trial.features[torch.from_numpy(np.unique(trial.seen))] for trial in trials]
    features = torch.cat(used).double().cpu()
    if not bool(torch.isfinite(features).all()):
        yield Finding(
            "features",
            "fault",
            "the encoder gives NaN or infinity for recorded pictures",
            "so does the policy",
            "train again; with mixed precision, try train.mixed_precision: no",
        )
        return
    size = float(features.square().mean().sqrt())
    change = float(features.std(dim=0).mean()) if len(features) > 1 else 0.0
    numbers = {"rms": size, "change": change}
    if change <= 1e-6 * max(size, 1e-6):
        yield Finding(
            "features",
            "fault",
            f"they are the same for every frame (size {size:.3g}, change {change:.1g})",
            "the policy is blind: it acts on the joint state alone",
            "look at what the encoder gives with `twinbench features show`, and train again",
            numbers,
        )
    elif not 1e-3 < size < 1e3:
        yield Finding(
            "features",
            "note",
            f"their size is {size:.3g}, beside states within 1",
            "the network may hear only the louder of the two",
            "set policy.encoder.feature_dim, whose layer scales them",
            numbers,
        )
    else:
        yield Finding(
            "features", "ok", f"size {size:.3g}, changing by {change:.2g}", values=numbers
        )


def check_drift(trial: Trial, choice: str) -> Finding:
    """Whether stored features are what the backbone gives now.

    Raises:
        FileNotFoundError, ValueError: as `predict.stored_features`: there is nothing to compare.
    """
    encoder, images = trial.policy.encoder, trial.recorded.images
    parts = read_parts(encoder, dict(trial.policy.config.cameras), trial.recorded.path, choice)
    frames = trial.frames[:BATCH]
    pictures = {c: torch.from_numpy(each[frames]) for c, each in images.items()}
    with torch.no_grad():
        live = encoder.read_frames({c: p.to(trial.policy.device) for c, p in pictures.items()})
    drift = max(
        float((live[camera].cpu().float() - stored.take(frames).float()).norm())
        / max(float(live[camera].float().norm()), 1e-12)
        for camera, stored in parts.items()
    )
    said = f"stored and live features differ by {drift:.2%}"
    if drift <= DRIFT:
        return Finding("feature drift", "ok", said, values={"relative": drift})
    return Finding(
        "feature drift",
        "fault",
        said,
        "what the head was trained on is not what it gets in a closed loop",
        "delete the feature store, extract anew, and train again",
        {"relative": drift},
    )


def check_colours(trials: Sequence[Trial], true: Array) -> Finding:
    """Whether pictures with red and blue swapped suit the policy better."""
    spoiled = []
    for trial in trials:
        swapped: Pictures = {
            camera: np.ascontiguousarray(each[..., ::-1])
            for camera, each in trial.recorded.images.items()
        }
        features = encode(trial.policy, swapped, trial.seen)
        spoiled.append(frame_errors(trial.predictions(features=features)))
    swapped_errors = np.concatenate(spoiled)
    said = f"error {true.mean():.4f}, with red and blue swapped {swapped_errors.mean():.4f}"
    numbers = {"error": float(true.mean()), "swapped": float(swapped_errors.mean())}
    if clearly_less(swapped_errors, true):
        return Finding(
            "colour order",
            "fault",
            said,
            "the policy was trained on BGR, or these pictures are BGR",
            "record and train with RGB: `twinbench data inspect` tells the order of a file",
            numbers,
        )
    return Finding("colour order", "ok", said, values=numbers)


def _histories(trial: Trial) -> dict[str, Callable[[], Predictions]]:
    """Histories spoiled, by what would make them the right ones."""
    last = len(trial.features) - 1
    rows = torch.arange(last + 1, device=trial.features.device)
    older, newer = trial.features[(rows - 1).clamp(0)], trial.features[(rows + 1).clamp(max=last)]
    seen = trial.seen
    # Of two that do as well, the first one is named: the likelier mistake.
    found: dict[str, Callable[[], Predictions]] = {}
    if trial.recorded.images:
        found["pictures one frame older"] = lambda: trial.predictions(features=older)
        found["pictures one frame newer"] = lambda: trial.predictions(features=newer)
    found["all one frame older"] = lambda: trial.predictions(seen=(seen - 1).clip(0))
    if seen.shape[1] > 1:
        found["newest frame repeated"] = lambda: trial.predictions(
            seen=np.repeat(seen[:, -1:], seen.shape[1], axis=1)
        )
        found["oldest frame last"] = lambda: trial.predictions(seen=seen[:, ::-1].copy())
    return found


def check_history(trials: Sequence[Trial], true: Array) -> Finding:
    """Whether another history than the trained one suits the policy better."""
    errors = {
        name: np.concatenate([frame_errors(_histories(trial)[name]()) for trial in trials])
        for name in _histories(trials[0])
    }
    numbers = {"as trained": float(true.mean())}
    numbers |= {name: float(each.mean()) for name, each in errors.items()}
    listed = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    config = trials[0].policy.config
    said = f"To {config.n_obs_steps}, H {config.horizon}, Ta {config.n_action_steps}: {listed}"
    best = min(errors, key=lambda name: float(errors[name].mean()))
    if clearly_less(errors[best], true):
        return Finding(
            "history",
            "fault",
            said,
            f"the policy does best with {best}: its training aligned frames and actions otherwise",
            "train again on these episodes; features extracted elsewhere may be shifted",
            numbers,
        )
    return Finding("history", "ok", said, values=numbers)
