"""LAPO's training loop: critic, VAE, actor, targets; figures that tell whether it is sound."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twin_policy.checkpoint import save_weights
from twin_policy.lapo_policy import LapoBatch, LapoPolicy
from twin_train.config import TrainConfig
from twin_train.dataset import rows_of_step
from twin_train.lapo_data import ReplayData
from twin_train.lapo_judgement import judge
from twin_train.loading import prefetch
from twin_train.log import TrainingLog
from twin_train.loop import (
    NOISE_STREAM,
    Interrupted,
    LossNotFinite,
    Result,
    learning_rate_scale,
    seeded_generator,
)
from twin_train.state import load_moments, load_state, save_state

AUGMENTATION, NOISE = 0, 1
"""Places within a step's random numbers."""


@dataclass
class LapoReached:
    """How far a run is, besides its tensors; what JSON can hold."""

    step: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    """The VAE's, the last one that was logged."""
    val: dict[str, float] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)
    """Losses and figures of the steps since they were last logged."""


class LatentCollapse(ValueError):
    """The latent vector tells nothing of the action, so an actor would have nothing to choose."""


def train_lapo(
    policy: LapoPolicy,
    *,
    data: ReplayData,
    config: TrainConfig,
    folder: Path,
    provenance: Mapping[str, Any],
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Result:
    """Trains to `config.num_steps`, from the state in `folder` if there is one.

    Raises:
        Interrupted: `stop` said so; everything is saved.
        LossNotFinite: remedies are in the message.
        LatentCollapse: no latent dimension is active; remedies are in the message.
    """
    policy.to(device).train()
    run = _Run(policy, data, config, folder, provenance, device)
    run.restore()
    stage, reached = config.stages[0], run.reached
    if reached.step == config.num_steps:
        run.check_latent()  # What stopped a run at its end is no less so when it is asked again.
    log = TrainingLog(
        folder,
        step=reached.step,
        total=config.num_steps,
        wandb=config.wandb,
        config=provenance,
        quiet=quiet,
    )
    with log, closing(run.batches(reached.step)) as batches:
        for step in range(reached.step, config.num_steps):
            if stop():
                run.save()
                raise Interrupted
            scale = learning_rate_scale(step, stage, config.lr_scheduler)
            for group in run.optimizer.param_groups:
                group["lr"] = scale * group["peak_lr"]
            run.record(update(policy, run.optimizer, next(batches), step=step, config=config))
            reached.step = done = step + 1
            log.advance()
            last = done == config.num_steps
            if done % config.log_every == 0 or last:
                log.write(done, {**run.means(), "lr": scale * config.lr})
            if done % config.val_every == 0 or last:
                log.write(done, {f"val_{name}": value for name, value in run.validate().items()})
                run.check_latent()
            if done % config.checkpoint_every == 0 or last:
                run.save()
    return Result(reached.step, reached.train_loss, reached.val, {}, reached.seconds)


def make_optimizer(policy: LapoPolicy, config: TrainConfig) -> torch.optim.AdamW:
    """One for all parts: a parameter without a gradient is left alone, its moments included."""
    apart = set() if config.backbone_lr is None else set(policy.encoder.backbone_parameters())
    groups = [
        {"params": chosen, "peak_lr": rate}
        for name, parameters in policy.groups().items()
        for rate, chosen in (
            (config.lr, [each for each in parameters if each not in apart]),
            (config.backbone_lr, [each for each in parameters if each in apart]),
        )
        if chosen
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def update(
    policy: LapoPolicy,
    optimizer: torch.optim.Optimizer,
    batch: LapoBatch,
    *,
    step: int,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """One iteration; returns losses and figures.

    The VAE and the actor learn on the features that the critic has just learnt from; where the
    VAE trains the encoder, they are computed anew, by the encoder as it then is.
    """
    nets, gradient, bc = policy.nets, policy.lapo.encoder_gradient, policy.lapo.behaviour == "bc"
    transition = policy.transition(batch)
    noise = seeded_generator(config.seed, NOISE_STREAM, step, NOISE)

    def features() -> Tensor:
        same = seeded_generator(config.seed, NOISE_STREAM, step, AUGMENTATION)
        return policy.features(batch.images, batch.state, same, batch.read)

    def learn(loss: Tensor, name: str) -> Tensor:
        mine = policy.learns_from(name)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=mine)
        if config.grad_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(mine, config.grad_clip_norm)
        optimizer.step()
        return loss.detach()

    with torch.no_grad():
        same = seeded_generator(config.seed, NOISE_STREAM, step, AUGMENTATION)
        following = policy.features(batch.next_images, batch.next_state, same, batch.next_read)
    with torch.set_grad_enabled(gradient != "vae"):
        seen = features()
    if gradient == "vae":
        seen = seen.detach()
    loss, figures = nets.critic_loss(seen, following, transition, noise)
    losses = {"critic_loss": learn(loss, "critic")}

    with_encoder = gradient in ("vae", "critic+vae")
    detached = seen.detach()
    loss, more = nets.vae_loss(
        features() if with_encoder else detached, detached, following, transition, noise
    )
    losses["vae_loss"] = learn(loss, "vae")
    if not bc:
        losses["actor_loss"] = learn(nets.actor_loss(detached), "actor")
    optimizer.zero_grad(set_to_none=True)
    nets.follow()
    return {**losses, **{name: value.detach() for name, value in (figures | more).items()}}


class _Run:
    """What a run has: weights, optimiser, how far it is, its folder."""

    def __init__(
        self,
        policy: LapoPolicy,
        data: ReplayData,
        config: TrainConfig,
        folder: Path,
        provenance: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.policy, self.data, self.config = policy, data, config
        self.folder, self.provenance, self.device = folder, provenance, device
        self.optimizer = make_optimizer(policy, config)
        self.reached = LapoReached()
        self._recent: dict[str, list[Tensor]] = {}
        self._began = time.perf_counter()

    def restore(self) -> None:
        """Takes up the saved state, if there is one."""
        saved = load_state(self.folder, policy=self.policy, average=self.policy)
        if saved is None:
            return
        self.reached = LapoReached(**saved[0])
        self._began -= self.reached.seconds
        load_moments(self.optimizer, saved[1])
        self._recent = {
            name: [torch.tensor(value, device=self.device) for value in values]
            for name, values in self.reached.recent.items()
        }

    def batches(self, begin: int) -> Generator[LapoBatch, None, None]:
        """Of each step from `begin` on, made ahead of its use."""

        def make(step: int) -> LapoBatch:
            rows = rows_of_step(
                step,
                n=len(self.data.training),
                batch_size=self.config.batch_size,
                seed=self.config.seed,
            )
            return self.data.training.batch(rows).to(self.device)

        yield from prefetch(make, range(begin, self.config.num_steps))

    def record(self, figures: Mapping[str, Tensor]) -> None:
        for name, value in figures.items():
            self._recent.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Over the steps since the last call; `loss` is the VAE's."""
        found = {name: float(torch.stack(values).mean()) for name, values in self._recent.items()}
        self._recent.clear()
        self._check_finite(found)
        self.reached.train_loss = found["vae_loss"]
        return {"loss": found["vae_loss"], **found}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures of the networks as they are, on episodes kept apart where there are some."""
        windows = self.data.validation or self.data.training
        self.policy.eval()
        try:
            self.reached.val = judge(self.policy, windows, self.data, self.config, self.device)
        finally:
            self.policy.train()
        return self.reached.val

    def check_latent(self) -> None:
        """Raises `LatentCollapse` where an actor would choose among nothing."""
        lapo = self.policy.lapo
        if lapo.act_with != "policy" or self.reached.step < lapo.latent_check_after:
            return
        if self.reached.val["active_units"] == 0:
            self.save()
            raise LatentCollapse(
                f"no latent dimension is active at step {self.reached.step}: every latent action "
                "decodes to the same, and an actor has nothing to choose from. policy.lapo.beta is "
                f"{lapo.beta:g}: lower it, since what varies by less than beta / 2 "
                "(normalised), given the observation, never reaches the latent vector; or set "
                "policy.lapo.behaviour to bc"
            )

    def save(self) -> None:
        """Writes the checkpoint, and all that is needed to go on from here."""
        self._check_finite({})
        self.reached.seconds = time.perf_counter() - self._began
        self.reached.recent = {
            name: [float(value) for value in values] for name, values in self._recent.items()
        }
        save_weights(self.folder, self.policy, self._describe())
        save_state(
            self.folder,
            policy=self.policy,
            average=self.policy,
            optimizer=self.optimizer,
            reached=asdict(self.reached),
        )

    def _describe(self) -> dict[str, Any]:
        reached = self.reached
        seconds = round(reached.seconds, 1)
        return {
            **self.provenance,
            "steps": reached.step,
            "train_seconds": seconds,
            "validation": reached.val,
            "best": {},
        }

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        weights = all(bool(each.isfinite().all()) for each in self.policy.parameters())
        if wrong or not weights:
            raise LossNotFinite(
                f"{wrong[0] if wrong else 'a weight'} is not finite at step {self.reached.step}: "
                "lower train.lr or set train.grad_clip_norm"
            )
