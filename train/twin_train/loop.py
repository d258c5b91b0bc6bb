"""The training loop of a policy, from first step to last.

What a step does is a function of the seed and of the step's number alone. A step is made of
pieces: `grad_accum_steps` batches in each process. Piece p of step s has the rows and the noise
that belong to the pair (s, p), so two processes do what one does that accumulates two batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from twin_policy.agent import noise_generator
from twin_policy.checkpoint import FIXED, save_weights
from twin_policy.diffusion import Batch, DenoisingPolicy, action_error
from twin_policy.ema import EMA, power_decay, ratio_decay
from twin_policy.files import write_text
from twin_train.config import EMAConfig, Stage, TrainConfig
from twin_train.dataset import Windows, rows_of_step
from twin_train.loading import prefetch
from twin_train.log import TrainingLog
from twin_train.processes import in_any, mean_over
from twin_train.state import load_moments, load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

BEST = "best"
NOISE_STREAM, VALIDATION_STREAM = 1, 2


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; the state is saved."""


class LossNotFinite(ValueError):
    """Training has diverged."""


@dataclass(frozen=True)
class TaskWindows:
    """The data of one task."""

    training: Windows
    validation: Windows | None

    @property
    def each(self) -> tuple[Windows, ...]:
        return (self.training,) if self.validation is None else (self.training, self.validation)


@dataclass(frozen=True)
class Result:
    """What a finished run reports."""

    steps: int
    train_loss: float
    val: dict[str, float]
    """`loss`, `mean_abs` and `max_dim_abs` of the moving average; empty without validation. Of
    several tasks their mean, and also each one's, as `mean_abs/TASK`."""
    best: dict[str, float]
    """`step` and `mean_abs` of the smallest sampled-action error; empty without validation."""
    seconds: float
    """Of training, earlier sessions included."""


@dataclass
class Reached:
    """How far a run is, besides its tensors; what JSON can hold."""

    step: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    """The last one that was logged."""
    val: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    recent: list[float] = field(default_factory=list)
    """Losses of the steps since the last one that was logged."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of the loss, with fp16."""


def train(
    policy: DenoisingPolicy,
    *,
    tasks: Mapping[str, TaskWindows],
    config: TrainConfig,
    folder: Path,
    provenance: Mapping[str, Any],
    accelerator: Accelerator,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Result:
    """Trains to `config.total_steps`, from the state in `folder` if there is one.

    The moving average goes to the checkpoint in `folder`, and where its sampled actions are the
    best so far on validation, to the one in `folder/best`.

    Raises:
        Interrupted: `stop` said so, in any process; everything is saved.
        LossNotFinite: remedies are in the message.
    """
    policy.to(device).train()
    run = _Run(policy, tasks, config, folder, provenance, accelerator, device)
    moments = run.restore()
    stop = in_any(accelerator, stop)
    log = TrainingLog(
        folder,
        step=run.reached.step,
        total=config.total_steps,
        wandb=config.wandb,
        config=provenance,
        writes=accelerator.is_main_process,
        quiet=quiet,
    )
    with log:
        for stage in config.stages[sum(run.reached.step >= each.end for each in config.stages) :]:
            begin = max(stage.begin, run.reached.step)
            model, optimizer = _prepare(policy, stage, config, accelerator)
            if begin > stage.begin:
                load_moments(optimizer, moments)
            with closing(_each_piece(run, begin, stage.end)) as pieces:
                for step in range(begin, stage.end):
                    if stop():
                        run.save(optimizer)
                        raise Interrupted
                    scale = learning_rate_scale(step - stage.begin, stage, config.lr_scheduler)
                    for group in optimizer.param_groups:
                        group["lr"] = scale * group["peak_lr"]

                    loss = _backward(model, pieces, step, run)
                    _update(optimizer, step, run)
                    run.losses.append(loss)
                    run.reached.step = done = step + 1
                    log.advance()

                    last = done == config.total_steps
                    if done % config.log_every == 0 or last:
                        log.write(done, {"loss": run.mean_loss(), "lr": scale * stage.lr})
                    if done % config.val_every == 0 or last:
                        log.write(done, run.validate())
                    if done % config.checkpoint_every == 0 or last:
                        run.save(optimizer)
    reached = run.reached
    return Result(reached.step, reached.train_loss, reached.val, reached.best, reached.seconds)


def _prepare(
    policy: DenoisingPolicy, stage: Stage, config: TrainConfig, accelerator: Accelerator
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """The network as a stage trains it, and the stage's optimiser."""
    accelerator.free_memory()
    policy.encoder.freeze_backbones(stage.freeze_backbone)
    apart = set() if stage.backbone_lr is None else set(policy.encoder.backbone_parameters())
    groups = [
        {"params": [each for each in chosen if each.requires_grad], "peak_lr": rate}
        for rate, chosen in (
            (stage.lr, [each for each in policy.parameters() if each not in apart]),
            (stage.backbone_lr, [each for each in policy.parameters() if each in apart]),
        )
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=stage.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        # A fused step under a loss scaler skips by itself, and nobody is told.
        fused=accelerator.scaler is None,
    )
    prepared = accelerator.prepare_optimizer(optimizer, device_placement=False)
    return accelerator.prepare_model(policy, device_placement=False), prepared


Piece = list[tuple[Batch, float]]
"""For each of some tasks, a batch and its share of the windows."""


def _each_piece(run: _Run, begin: int, end: int) -> Generator[Piece, None, None]:
    """This process's pieces of these steps, in order, made ahead of their use."""
    world, mine = run.accelerator.num_processes, run.accelerator.process_index
    rounds = range(begin * run.config.grad_accum_steps, end * run.config.grad_accum_steps)

    def make(number: int) -> Piece:
        parts = cut_piece(
            [task.training for task in run.tasks.values()],
            number * world + mine,
            batch_size=run.config.batch_size,
            seed=run.config.seed,
        )
        return [(batch.to(run.device), share) for batch, share in parts]

    yield from prefetch(make, rounds)


def cut_piece(tasks: Sequence[Windows], number: int, *, batch_size: int, seed: int) -> Piece:
    """Piece `number` of a run.

    The windows of all tasks are shuffled together, so a task appears as often as it has windows.
    """
    sizes = [len(windows) for windows in tasks]
    rows = rows_of_step(number, n=sum(sizes), batch_size=batch_size, seed=seed)
    ends = np.cumsum(sizes)
    owner = np.searchsorted(ends, rows, side="right")
    return [
        (windows.batch(rows[owner == index] - (ends[index] - len(windows))), float(share))
        for index, windows in enumerate(tasks)
        if (share := np.mean(owner == index)) > 0
    ]


def _backward(model: nn.Module, pieces: Iterator[Piece], step: int, run: _Run) -> Tensor:
    """Leaves the gradients of a step's mean loss, over all processes, in the network.

    Returns:
        The mean loss of this process's pieces.
    """
    accelerator, config = run.accelerator, run.config
    model.zero_grad(set_to_none=True)
    losses = []
    for index in range(config.grad_accum_steps):
        number = index * accelerator.num_processes + accelerator.process_index
        generator = seeded_generator(config.seed, NOISE_STREAM, step, number)
        piece = next(pieces)
        for position, (batch, share) in enumerate(piece, start=1):
            last = position == len(piece) and index == config.grad_accum_steps - 1
            # Only the last backward pass of a step exchanges gradients.
            with nullcontext() if last else accelerator.no_sync(model):
                loss = model(batch, generator, noise_draws=config.noise_draws)
                loss = loss * (share / config.grad_accum_steps)
                accelerator.backward(loss)
            losses.append(loss.detach())
    return torch.stack(losses).sum()


def _update(optimizer: AcceleratedOptimizer, step: int, run: _Run) -> None:
    """One step of the optimiser, and of the moving average after it."""
    if run.config.grad_clip_norm is not None:
        run.accelerator.clip_grad_norm_(run.policy.parameters(), run.config.grad_clip_norm)
    optimizer.step()
    # The loss scaler skips a step whose gradients overflowed.
    if not optimizer.step_was_skipped:
        run.ema.update(run.policy, ema_decay(step, run.config.ema))


class _Run:
    """What a run has besides its optimiser: weights, their average, how far it is, its folder."""

    def __init__(
        self,
        policy: DenoisingPolicy,
        tasks: Mapping[str, TaskWindows],
        config: TrainConfig,
        folder: Path,
        provenance: Mapping[str, Any],
        accelerator: Accelerator,
        device: torch.device,
    ) -> None:
        self.policy, self.tasks, self.config = policy, tasks, config
        self.folder, self.provenance = folder, provenance
        self.accelerator, self.device = accelerator, device
        self.ema = EMA(policy, constant=policy.encoder.constant())
        self.reached = Reached()
        self.losses: list[Tensor] = []
        """Of this process's steps since the last one that was logged."""
        self.has_validation = any(task.validation is not None for task in tasks.values())
        self._began = time.perf_counter()

    @property
    def average(self) -> DenoisingPolicy:
        """The moving average of the policy."""
        return self.ema.shadow  # type: ignore[return-value]

    def restore(self) -> dict[str, Tensor]:
        """Takes up the saved state, if there is one; returns the optimiser's part of it."""
        saved = load_state(self.folder, policy=self.policy, average=self.average)
        if saved is None:
            return {}
        self.reached = Reached(**saved[0])
        self.losses = [torch.tensor(loss, device=self.device) for loss in self.reached.recent]
        self._began -= self.reached.seconds
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.reached.scaler)
        return saved[1]

    def mean_loss(self) -> float:
        """Of the steps since the last call."""
        self._check_finite()
        mean = torch.stack(mean_over(self.accelerator, self.losses)).mean()
        self.losses.clear()
        self.reached.train_loss = float(mean)
        return self.reached.train_loss

    def validate(self) -> dict[str, float]:
        """Figures of the moving average for the log; keeps the best one. For one process alone."""
        if not (self.accelerator.is_main_process and self.has_validation):
            return {}
        values = {
            name: validate(self.average, task.validation, self.config, self.device)
            for name, task in self.tasks.items()
            if task.validation is not None
        }
        reached = self.reached
        reached.val = mean_of_tasks(values)
        if reached.val["mean_abs"] < reached.best.get("mean_abs", math.inf):
            reached.best = {"step": reached.step, "mean_abs": reached.val["mean_abs"]}
            for name in FIXED:
                write_text(self.folder / BEST / name, (self.folder / name).read_text("utf-8"))
            save_weights(self.folder / BEST, self.average, self._describe())
        return {f"val_{name}": value for name, value in reached.val.items()}

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes the checkpoint, and all that is needed to go on from here."""
        self._check_finite()
        reached, scaler = self.reached, self.accelerator.scaler
        self.losses = mean_over(self.accelerator, self.losses)
        reached.recent = [float(loss) for loss in self.losses]
        reached.seconds = time.perf_counter() - self._began
        reached.scaler = {} if scaler is None else scaler.state_dict()
        if self.accelerator.is_main_process:
            # The state last: killed between the two, the run goes back to the state before.
            save_weights(self.folder, self.average, self._describe())
            save_state(
                self.folder,
                policy=self.policy,
                average=self.average,
                optimizer=optimizer,
                reached=asdict(reached),
            )

    def _describe(self) -> dict[str, Any]:
        reached = self.reached
        seconds = round(time.perf_counter() - self._began, 1)
        figures = {"validation": reached.val, "best": reached.best}
        return {**self.provenance, "steps": reached.step, "train_seconds": seconds, **figures}

    def _check_finite(self) -> None:
        """Raises `LossNotFinite`: finite losses alone do not show what the last step did."""
        weights = list(self.policy.parameters())
        for what, tensors in (("loss", self.losses), ("network's weights", weights)):
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                verb = "is" if what == "loss" else "are"
                raise LossNotFinite(
                    f"the {what} {verb} not finite at step {self.reached.step}: lower train.lr or "
                    "set train.grad_clip_norm"
                )


def learning_rate(step: int, *, lr: float, warmup: int, total: int) -> float:
    """Linear warm-up from 0, then half a cosine to 0 at `total`."""
    if step < warmup:
        return lr * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def learning_rate_scale(step: int, stage: Stage, scheduler: str) -> float:
    """What the rates of a stage are multiplied by at its step `step`."""
    warmup, total = stage.lr_warmup_steps, stage.end - stage.begin
    if scheduler == "constant_with_warmup" and step >= warmup:
        return 1.0
    return learning_rate(step, lr=1.0, warmup=warmup, total=total)


def ema_decay(step: int, config: EMAConfig) -> float:
    """Decay of the update number `step`, counted from 0."""
    if config.schedule == "ratio":
        return ratio_decay(step, max_decay=config.max_decay)
    return power_decay(step, power=config.power, max_decay=config.max_decay)


def validate(
    policy: DenoisingPolicy, windows: Windows, config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """Loss and sampled-action error on windows spread over the validation episodes.

    The same windows and the same noise each time, so that figures can be compared.
    """
    count = min(config.val_windows, len(windows))
    rows = np.linspace(0, len(windows) - 1, count).round().astype(np.int64)
    batch = windows.batch(rows).to(device)
    with torch.no_grad():
        generator = seeded_generator(config.seed, VALIDATION_STREAM)
        loss = float(policy.compute_loss(batch, generator, noise_draws=4))
    noise = [noise_generator(config.seed, index) for index in range(count)]
    return {"loss": loss, **action_error(policy, batch, noise)}


def mean_of_tasks(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over the tasks, and of several tasks each one's, as `mean_abs/TASK`."""
    names = list(next(iter(values.values())))
    means = {name: float(np.mean([each[name] for each in values.values()])) for name in names}
    if len(values) == 1:
        return means
    apart = {f"{name}/{task}": each[name] for task, each in values.items() for name in names}
    return means | apart


def seeded_generator(seed: int, stream: int, *position: int) -> torch.Generator:
    """A CPU generator for one place of a run."""
    words = np.random.SeedSequence([seed, stream, *position]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) >> 1)
