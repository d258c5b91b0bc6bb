"""G16: what each of the three updates of an iteration changes, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lapo_fixtures import make_batch, make_config, make_policy
from torch import Tensor

from twin_policy.lapo_policy import LapoBatch, LapoPolicy
from twin_train.config import TrainConfig
from twin_train.lapo_loop import make_optimizer, update

TRAIN = TrainConfig(num_steps=10, lr=1e-2, weight_decay=0.1, lr_warmup_steps=0, grad_clip_norm=1.0)
PARTS = (
    "encoder.backbones",
    "encoder.pools",
    "fusion",
    "nets.critic",
    "nets.vae.encoder",
    "nets.vae.decoder",
    "nets.actor",
    "nets.targets.q1",
    "nets.targets.q2",
    "nets.targets.decoder",
    "nets.targets.actor",
    "joints",
    "action_",
)
CRITIC, VAE, ACTOR = {"nets.critic"}, {"nets.vae.encoder", "nets.vae.decoder"}, {"nets.actor"}
ENCODER = {"encoder.backbones", "encoder.pools", "fusion"}
TARGETS = {part for part in PARTS if part.startswith("nets.targets")}

Snapshot = dict[str, Tensor]


def part_of(name: str) -> str:
    (part,) = [part for part in PARTS if name.startswith(part)]
    return part


class Watched:
    """A policy of this config and its optimiser, whose steps are watched."""

    def __init__(self, **changes: Any) -> None:
        self.policy = make_policy(make_config(**changes)).train()
        self.optimizer = make_optimizer(self.policy, TRAIN)
        self.names = {id(value): name for name, value in self.policy.named_parameters()}
        self.batch: LapoBatch = make_batch(self.policy.config)

    def snapshot(self) -> Snapshot:
        """Weights, buffers and the optimiser's moments."""
        found = dict(self.policy.state_dict())
        for parameter, moments in self.optimizer.state.items():
            for key, value in moments.items():
                found[f"{self.names[id(parameter)]}/{key}"] = value
        return {name: value.clone() for name, value in found.items()}

    def iterate(self, step: int) -> list[Snapshot]:
        """An iteration: as it was, after each step of the optimiser, and at its end."""
        taken = [self.snapshot()]
        original = self.optimizer.step

        def spy(*args: Any, **kwargs: Any) -> Any:
            done = original(*args, **kwargs)
            taken.append(self.snapshot())
            return done

        self.optimizer.step = spy  # type: ignore[method-assign]
        update(self.policy, self.optimizer, self.batch, step=step, config=TRAIN)
        self.optimizer.step = original  # type: ignore[method-assign]
        return [*taken, self.snapshot()]


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("behaviour", ["lapo", "bc"])
@pytest.mark.parametrize(
    ("gradient", "by_critic", "by_vae"),
    [
        ("critic", ENCODER, set()),
        ("critic+vae", ENCODER, ENCODER),
        ("vae", set(), ENCODER),
        ("frozen", ENCODER - {"encoder.backbones"}, set()),
    ],
)
def test_each_update_changes_its_own_part_and_nothing_else(
    behaviour: str, gradient: str, by_critic: set[str], by_vae: set[str]
) -> None:
    watched = Watched(lapo={"behaviour": behaviour, "encoder_gradient": gradient})
    # Once before: without a gradient of its own, a part would still be moved by its moments.
    watched.iterate(0)
    *steps, after = watched.iterate(1)
    expected = [CRITIC | by_critic, VAE | by_vae, *([ACTOR] if behaviour == "lapo" else [])]
    assert len(steps) == 1 + len(expected)
    for one, other, parts in zip(steps[:-1], steps[1:], expected, strict=True):
        moved = changed(one, other)
        assert {part_of(name) for name in moved} == parts
        weights = {n for n in one if n.endswith("weight") and part_of(n) in parts}
        assert weights <= moved
    moving = TARGETS if behaviour == "lapo" else TARGETS - {"nets.targets.actor"}
    assert {part_of(name) for name in changed(steps[-1], after)} == moving


def test_targets_follow_what_an_iteration_has_made() -> None:
    watched = Watched(lapo={"tau": 0.3})
    *_, before, after = watched.iterate(0)
    for name, value in after.items():
        if not name.startswith("nets.targets."):
            continue
        part, _, rest = name.removeprefix("nets.targets.").partition(".")
        fast = {"decoder": "nets.vae.decoder", "actor": "nets.actor"}.get(
            part, f"nets.critic.{part}"
        )
        expected = 0.7 * before[name] + 0.3 * after[f"{fast}.{rest}"]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_what_is_next_is_seen_by_the_encoder_that_learns_and_augmented_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without gradients; the same change of colours and noise as the observation before it."""
    encoder = {"color_jitter": 0.5, "state_noise": 0.5, "crop_ratio": 0.8}
    watched = Watched(encoder=encoder)
    seen: list[tuple[Any, Tensor]] = []
    original = LapoPolicy.features

    def spy(policy: LapoPolicy, images: Any, *rest: Any) -> Tensor:
        features = original(policy, images, *rest)
        seen.append((images, features.detach()))
        return features

    monkeypatch.setattr(LapoPolicy, "features", spy)
    batch = watched.batch
    same = {"next_images": batch.images, "next_state": batch.state}
    watched.batch = LapoBatch(**vars(batch) | same)
    update(watched.policy, watched.optimizer, watched.batch, step=0, config=TRAIN)
    (_, following), (_, before) = seen
    assert torch.equal(following, before)
    seen.clear()
    update(watched.policy, watched.optimizer, watched.batch, step=1, config=TRAIN)
    (_, following), (_, before) = seen
    assert torch.equal(following, before)
    plain = watched.policy.eval().features(batch.images, batch.state)
    assert not torch.allclose(plain, following, atol=1e-2)


def test_rates_of_the_backbones_apply_to_them_alone() -> None:
    policy = make_policy(make_config())
    rates = TrainConfig(num_steps=1, lr=1e-3, backbone_lr=1e-4)
    names = {id(value): name for name, value in policy.named_parameters()}
    found: dict[float, set[str]] = {}
    for group in make_optimizer(policy, rates).param_groups:
        parts = {part_of(names[id(each)]) for each in group["params"]}
        found.setdefault(group["peak_lr"], set()).update(parts)
    assert found[1e-4] == {"encoder.backbones"}
    assert found[1e-3] == (ENCODER | CRITIC | VAE | ACTOR) - {"encoder.backbones"}
