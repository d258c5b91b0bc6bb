"""The diffusion policy: its loss, and how it samples an action chunk (arXiv 2303.04137)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from twin_policy.config import DenoiserConfig, NoiseSchedulerConfig, PolicyConfig
from twin_policy.encoders import ObsEncoder
from twin_policy.mlp import FilmMLP
from twin_policy.names import Registry
from twin_policy.normalizer import Normalizer
from twin_policy.unet import ConditionalUnet1D

DENOISERS: Registry = Registry("denoiser")


@DENOISERS.register("unet")
def build_unet(
    config: DenoiserConfig, *, action_dim: int, horizon: int, cond_dim: int
) -> nn.Module:
    return ConditionalUnet1D(
        action_dim=action_dim,
        cond_dim=cond_dim,
        diffusion_step_embed_dim=config.diffusion_step_embed_dim,
        down_dims=config.down_dims,
        kernel_size=config.kernel_size,
        n_groups=config.n_groups,
        use_film_scale_modulation=config.use_film_scale_modulation,
    )


@DENOISERS.register("mlp")
def build_mlp(config: DenoiserConfig, *, action_dim: int, horizon: int, cond_dim: int) -> nn.Module:
    return FilmMLP(
        action_dim=action_dim,
        horizon=horizon,
        cond_dim=cond_dim,
        diffusion_step_embed_dim=config.diffusion_step_embed_dim,
        hidden_dim=config.hidden_dim,
        n_blocks=config.n_blocks,
        use_film_scale_modulation=config.use_film_scale_modulation,
    )


def training_scheduler(config: NoiseSchedulerConfig) -> Any:
    """The forward process: a diffusers DDPMScheduler."""
    return DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        clip_sample=config.clip_sample,
        variance_type="fixed_small",
    )


def sampling_scheduler(config: NoiseSchedulerConfig) -> Any:
    """The reverse process, with its timesteps set."""
    scheduler: Any
    if config.sampler == "ddpm":
        scheduler = training_scheduler(config)
    else:
        kind = config.prediction_type
        if kind == "sample" and ddim_takes_clean_for_noise():
            kind = "epsilon"
        scheduler = _ddim_scheduler(config, kind)
    scheduler.set_timesteps(config.num_inference_steps)
    return scheduler


def _ddim_scheduler(config: NoiseSchedulerConfig, prediction_type: str) -> Any:
    return DDIMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type=prediction_type,
        clip_sample=config.clip_sample,
        set_alpha_to_one=True,
        steps_offset=0,
    )


@lru_cache(maxsize=1)
def ddim_takes_clean_for_noise() -> bool:
    """Whether this diffusers has the early fault of its DDIM step.

    With `prediction_type="sample"`, diffusers 0.11 puts the clean prediction where the noise
    belongs, and so denoises to something else, without a word.
    """
    scheduler = _ddim_scheduler(NoiseSchedulerConfig(), "sample")
    scheduler.set_timesteps(10)
    clean, noise = torch.tensor([0.25]), torch.tensor([0.5])
    now, before = scheduler.alphas_cumprod[50], scheduler.alphas_cumprod[40]
    noisy = now.sqrt() * clean + (1 - now).sqrt() * noise
    expected = before.sqrt() * clean + (1 - before).sqrt() * noise
    return not torch.allclose(scheduler.step(clean, 50, noisy).prev_sample, expected, atol=1e-4)


def reverse_step(
    scheduler: Any,
    config: NoiseSchedulerConfig,
    *,
    output: Tensor,
    step: int,
    sample: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """One step towards clean actions.

    Args:
        scheduler: from `sampling_scheduler`.
        output: what the denoiser predicts for `sample`, float (B, H, Da).
        generators: one a row; DDPM draws from them.
    """
    if config.sampler == "ddpm":
        rows = [
            scheduler.step(output[i : i + 1], step, sample[i : i + 1], generator=generator)
            for i, generator in enumerate(generators)
        ]
        return torch.cat([row.prev_sample for row in rows])
    if scheduler.config.prediction_type != config.prediction_type:
        kept = scheduler.alphas_cumprod[step]
        output = (sample - kept.sqrt() * output) / (1 - kept).sqrt()
    stepped: Tensor = scheduler.step(output, step, sample).prev_sample
    return stepped


@dataclass(frozen=True)
class Batch:
    """Windows of episodes; step To-1 of each is the present."""

    images: Mapping[str, Tensor]
    """Camera to uint8 RGB (B, To, H, W, 3)."""
    state: Tensor
    """float32 (B, To, Ds), physical units."""
    action: Tensor
    """float32 (B, H, Da), physical units, absolute targets."""
    valid: Tensor
    """bool (B, H): False where the window reaches beyond its episode."""

    def to(self, device: torch.device) -> Batch:
        images = {name: pixels.to(device) for name, pixels in self.images.items()}
        return Batch(images, self.state.to(device), self.action.to(device), self.valid.to(device))


def relative_targets(action: Tensor, present: Tensor, absolute_dims: Sequence[int]) -> Tensor:
    """Targets (B, H, D) as differences to the state (B, D), but for the absolute dimensions."""
    return action - _reference(present, absolute_dims)


def absolute_targets(relative: Tensor, present: Tensor, absolute_dims: Sequence[int]) -> Tensor:
    """The inverse of `relative_targets`."""
    return relative + _reference(present, absolute_dims)


def _reference(present: Tensor, absolute_dims: Sequence[int]) -> Tensor:
    kept = present.clone()
    kept[:, list(absolute_dims)] = 0
    return rearrange(kept, "b d -> b 1 d")


def masked_mean(errors: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, K, H, D) over the steps that exist, valid bool (B, H)."""
    weights = rearrange(valid, "b h -> b 1 h 1").to(errors.dtype)
    count = weights.sum() * errors.shape[1] * errors.shape[3]
    return (errors * weights).sum() / count


class DiffusionPolicy(nn.Module):
    """Observations to action chunks."""

    def __init__(
        self,
        config: PolicyConfig,
        normalizer: Normalizer,
        *,
        state_dim: int,
        action_dim: int,
        gripper_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if config.action_representation == "relative" and state_dim != action_dim:
            raise ValueError(
                "action_representation 'relative' needs states and actions of one dimension; "
                f"they have {state_dim} and {action_dim}"
            )
        self.config = config
        self.normalizer = normalizer
        self.action_dim = action_dim
        self.gripper_dims = tuple(gripper_dims)
        self.encoder = ObsEncoder(
            cameras=config.cameras,
            n_obs_steps=config.n_obs_steps,
            state_dim=state_dim,
            config=config.encoder,
        )
        self.denoiser = DENOISERS[config.denoiser.name](
            config.denoiser,
            action_dim=action_dim,
            horizon=config.horizon,
            cond_dim=self.encoder.dim,
        )
        self._noiser = training_scheduler(config.noise_scheduler)

    def encode(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Observations in physical units, as in `Batch`, to condition vectors (B, F)."""
        encoded: Tensor = self.encoder(images, self.normalizer.state.normalize(state), generator)
        return encoded

    def compute_loss(
        self, batch: Batch, generator: torch.Generator, *, noise_draws: int = 1
    ) -> Tensor:
        """Mean squared error of the denoiser over the valid steps.

        Args:
            generator: a CPU generator: augmentation, noise and diffusion steps come from it.
            noise_draws: noise samples for each encoded observation.
        """
        cond = self.encode(batch.images, batch.state, generator)
        action = batch.action
        if self.config.action_representation == "relative":
            action = relative_targets(action, batch.state[:, -1], self.gripper_dims)
        clean = self.normalizer.action.normalize(action)
        clean = repeat(clean, "b h d -> (b k) h d", k=noise_draws)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        n_steps = self.config.noise_scheduler.num_train_timesteps
        steps = torch.randint(n_steps, (len(clean),), generator=generator).to(clean.device)
        noisy = self._noiser.add_noise(clean, noise, steps)
        errors = (self.denoiser(noisy, steps, cond) - self._target(clean, noise, steps)).square()
        return masked_mean(rearrange(errors, "(b k) h d -> b k h d", k=noise_draws), batch.valid)

    def _target(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        kind = self.config.noise_scheduler.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return clean
        velocity: Tensor = self._noiser.get_velocity(clean, noise, steps)
        return velocity

    @torch.no_grad()
    def predict_chunk(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Samples all H steps: float (B, H, Da), physical units, absolute targets.

        Args:
            images: camera to uint8 RGB (B, To, H, W, 3).
            state: float32 (B, To, Ds), physical units.
            generators: one CPU generator a row, so that a row does not depend on its batch.
        """
        cond = self.encode(images, state)
        noise = torch.stack(
            [
                torch.randn((self.config.horizon, self.action_dim), generator=generator)
                for generator in generators
            ]
        ).to(cond)
        chunk = self.normalizer.action.unnormalize(self._denoise(noise, cond, generators))
        if self.config.action_representation == "relative":
            chunk = absolute_targets(chunk, state[:, -1], self.gripper_dims)
        return chunk

    def predict_action(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """The steps to execute: float (B, Ta, Da), the first one at the newest observation."""
        first = self.config.n_obs_steps - 1
        chunk = self.predict_chunk(images, state, generators)
        return chunk[:, first : first + self.config.n_action_steps]

    def _denoise(
        self, sample: Tensor, cond: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        config = self.config.noise_scheduler
        scheduler = sampling_scheduler(config)
        for step in scheduler.timesteps.tolist():
            steps = torch.full((len(sample),), step, device=sample.device)
            sample = reverse_step(
                scheduler,
                config,
                output=self.denoiser(sample, steps, cond),
                step=step,
                sample=sample,
                generators=generators,
            )
        return sample


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def action_error(
    policy: DiffusionPolicy, batch: Batch, generators: Sequence[torch.Generator]
) -> dict[str, float]:
    """Sampled actions against the recorded ones, over the valid steps that would be executed.

    Returns:
        `mean_abs` over all dimensions and `max_dim_abs`, the mean of the worst dimension; rad
        (grippers: their own units).
    """
    first, count = policy.config.n_obs_steps - 1, policy.config.n_action_steps
    predicted = policy.predict_action(batch.images, batch.state, generators)
    errors = (predicted - batch.action[:, first : first + count]).abs()
    valid = batch.valid[:, first : first + count].to(errors.dtype)
    weighted = errors * rearrange(valid, "b t -> b t 1")
    per_dim = reduce(weighted, "b t d -> d", "sum") / valid.sum()
    return {"mean_abs": float(per_dim.mean()), "max_dim_abs": float(per_dim.max())}


def parameter_table(policy: DiffusionPolicy) -> dict[str, Any]:
    """Parameter counts of the parts."""
    return {
        "encoder": count_parameters(policy.encoder),
        "denoiser": count_parameters(policy.denoiser),
        "all": count_parameters(policy),
    }
