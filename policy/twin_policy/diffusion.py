"""Policies: observations in, action chunks out; by diffusion (arXiv 2303.04137) or otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from twin_policy.config import PolicyConfig
from twin_policy.encoders import create_encoder
from twin_policy.head import DiffusionHead
from twin_policy.joints import Joints
from twin_policy.lora import merged
from twin_policy.normalizer import Normalizer


@dataclass(frozen=True)
class Batch:
    """Windows of episodes; step To-1 of each is the present."""

    images: Mapping[str, Tensor]
    """Camera to uint8 RGB (B, To, H, W, 3)."""
    state: Tensor
    """The robot's whole vector: float32 (B, To, D), physical units."""
    action: Tensor
    """The robot's whole vector: float32 (B, H, D), physical units, absolute targets."""
    valid: Tensor
    """bool (B, H): False where the window reaches beyond its episode."""
    task: str = ""
    """All windows of a batch are of one task; a policy of a single task does not ask which."""
    read: Mapping[str, Tensor] = field(default_factory=dict)
    """Instead of pictures: camera to what a frozen encoder's `read_frames` gives, (B, To, ...)."""

    def to(self, device: torch.device) -> Batch:
        images, read = (
            {name: values.to(device) for name, values in part.items()}
            for part in (self.images, self.read)
        )
        state, action, valid = (part.to(device) for part in (self.state, self.action, self.valid))
        return Batch(images, state, action, valid, self.task, read)


class ChunkPolicy(nn.Module):
    """Observations to action chunks; a subclass says which joints a task has, and how it acts."""

    def __init__(self, config: PolicyConfig, *, state_dim: int) -> None:
        """`state_dim`: of the state that the encoder's own length counts."""
        super().__init__()
        self.config = config
        self.encoder = create_encoder(
            cameras=config.cameras,
            n_obs_steps=config.n_obs_steps,
            state_dim=state_dim,
            config=config.encoder,
        )

    def joints_of(self, task: str) -> Joints:
        """A task's joints, which others may share."""
        raise NotImplementedError

    def each_head(self) -> list[DiffusionHead]:
        return [module for module in self.modules() if isinstance(module, DiffusionHead)]

    def driven_dims(self, task: str = "") -> tuple[int, ...]:
        """Which numbers of the robot's vector the actions drive."""
        return self.joints_of(task).driven_dims

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def deployable_state(self) -> dict[str, Tensor]:
        """The state dict that a policy built from `config` takes: low-rank adapters merged."""
        return merged(self)

    @torch.no_grad()
    def encode_frames(self, images: Mapping[str, Tensor]) -> Tensor:
        """Features of single frames: camera to uint8 RGB (N, H, W, 3) -> float (N, F)."""
        return self.encoder.encode_frames(images)

    @torch.no_grad()
    def encode_batch(self, batch: Batch) -> Tensor:
        """Features of a batch's frames: float (B, To, F)."""
        rows = len(batch.state)
        frames, read = (
            {name: rearrange(value, "b t ... -> (b t) ...") for name, value in part.items()}
            for part in (batch.images, batch.read)
        )
        if not frames and not read:
            return batch.state[..., :0]
        features = self.encoder.reduce(read) if read else self.encode_frames(frames)
        return rearrange(features, "(b t) f -> b t f", b=rows)

    def predict_from_features(
        self,
        features: Tensor,
        state: Tensor,
        generators: Sequence[torch.Generator],
        task: str = "",
    ) -> Tensor:
        """As `predict_chunk`, of frames that are encoded already: features float (B, To, F)."""
        raise NotImplementedError

    def predict_chunk(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generators: Sequence[torch.Generator],
        task: str = "",
    ) -> Tensor:
        """Samples all H steps: float (B, H, Da), physical units, absolute driven targets.

        Args:
            images: camera to uint8 RGB (B, To, H, W, 3).
            state: the whole vector, float32 (B, To, D), physical units.
            generators: one CPU generator a row, so that a row does not depend on its batch.
        """
        features = state[..., :0]
        if images:
            frames = {
                name: rearrange(image, "b t ... -> (b t) ...") for name, image in images.items()
            }
            features = rearrange(self.encode_frames(frames), "(b t) f -> b t f", b=len(state))
        return self.predict_from_features(features, state, generators, task)

    def predict_action(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generators: Sequence[torch.Generator],
        task: str = "",
    ) -> Tensor:
        """The steps to execute: float (B, Ta, Da), the first one at the newest observation."""
        first = self.config.n_obs_steps - 1
        chunk = self.predict_chunk(images, state, generators, task)
        return chunk[:, first : first + self.config.n_action_steps]


class DenoisingPolicy(ChunkPolicy):
    """Action chunks by diffusion; a subclass says which head a task has."""

    def part(self, task: str) -> tuple[Joints, DiffusionHead]:
        """What belongs to a task: its joints and its head, which others may share."""
        raise NotImplementedError

    def joints_of(self, task: str) -> Joints:
        return self.part(task)[0]

    def _new_head(self, action_dim: int, cond_dim: int) -> DiffusionHead:
        return DiffusionHead(
            self.config.denoiser,
            self.config.noise_scheduler,
            action_dim=action_dim,
            horizon=self.config.horizon,
            cond_dim=cond_dim,
        )

    def forward(self, batch: Batch, generator: torch.Generator, noise_draws: int = 1) -> Tensor:
        """`compute_loss`, under the name that wrappers of modules call."""
        return self.compute_loss(batch, generator, noise_draws=noise_draws)

    def compute_loss(
        self, batch: Batch, generator: torch.Generator, *, noise_draws: int = 1
    ) -> Tensor:
        """Mean squared error of the denoiser over the valid steps.

        Args:
            generator: a CPU generator: augmentation, noise and diffusion steps come from it.
            noise_draws: noise samples for each encoded observation.
        """
        joints, head = self.part(batch.task)
        state = joints.state_input(batch.state)
        cond = self.encoder(batch.images, state, generator, batch.read)
        return head.loss(
            joints.targets(batch.action, batch.state[:, -1]),
            joints.extend(cond),
            valid=batch.valid,
            live=joints.live(len(batch.state)),
            generator=generator,
            noise_draws=noise_draws,
        )

    @torch.no_grad()
    def predict_from_features(
        self,
        features: Tensor,
        state: Tensor,
        generators: Sequence[torch.Generator],
        task: str = "",
    ) -> Tensor:
        joints, head = self.part(task)
        cond = joints.extend(self.encoder.condition(features, joints.state_input(state)))
        sample = head.sample(cond, generators, live=joints.live(len(state)))
        return joints.actions(sample, state[:, -1])


class DiffusionPolicy(DenoisingPolicy):
    """One head on the joints of one robot, whatever the task."""

    def __init__(
        self,
        config: PolicyConfig,
        normalizer: Normalizer,
        *,
        state_dim: int,
        action_dim: int,
        gripper_dims: Sequence[int] = (),
        driven_dims: Sequence[int] | None = None,
    ) -> None:
        """Args:
        normalizer: its action part is of the driven dimensions.
        state_dim: length of the robot's vector as state.
        action_dim: length of the vectors in `Batch.action`.
        gripper_dims: which of its numbers are grippers.
        driven_dims: which of its numbers the policy gives; all, if None.
        """
        super().__init__(config, state_dim=state_dim)
        relative = config.action_representation == "relative"
        if relative and state_dim != action_dim:
            raise ValueError(
                "action_representation 'relative' needs states and actions of one dimension; "
                f"they have {state_dim} and {action_dim}"
            )
        self.normalizer = normalizer
        self.gripper_dims = tuple(gripper_dims)
        self.joints = Joints(
            normalizer,
            driven_dims=range(action_dim) if driven_dims is None else driven_dims,
            gripper_dims=gripper_dims,
            relative=relative,
        )
        self.head = self._new_head(self.joints.action_dim, self.encoder.dim)

    def part(self, task: str) -> tuple[Joints, DiffusionHead]:
        return self.joints, self.head


def count_parameters(module: nn.Module, *, learning: bool = False) -> int:
    """All of them, or those that get gradients as the module stands."""
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.requires_grad or not learning
    )


def action_error(
    policy: ChunkPolicy, batch: Batch, generators: Sequence[torch.Generator]
) -> dict[str, float]:
    """Sampled actions against the recorded ones, over the valid steps that would be executed.

    Returns:
        `mean_abs` over the driven dimensions and `max_dim_abs`, the mean of the worst one; rad
        (grippers: their own units).
    """
    features = policy.encode_batch(batch)
    chunk = policy.predict_from_features(features, batch.state, generators, batch.task)
    return chunk_error(policy, chunk, batch.action, batch.valid, batch.task)


def chunk_error(
    policy: ChunkPolicy, chunk: Tensor, action: Tensor, valid: Tensor, task: str = ""
) -> dict[str, float]:
    """As `action_error`, of chunks (B, H, Da) against whole vectors (B, H, D)."""
    first, count = policy.config.n_obs_steps - 1, policy.config.n_action_steps
    predicted = chunk[:, first : first + count]
    recorded = policy.joints_of(task).driven(action[:, first : first + count])
    errors = (predicted - recorded).abs()
    valid = valid[:, first : first + count].to(errors.dtype)
    weighted = errors * rearrange(valid, "b t -> b t 1")
    per_dim = reduce(weighted, "b t d -> d", "sum") / valid.sum()
    return {"mean_abs": float(per_dim.mean()), "max_dim_abs": float(per_dim.max())}


def parameter_table(policy: ChunkPolicy) -> dict[str, Any]:
    """Parameter counts of the parts."""
    return {
        "encoder": count_parameters(policy.encoder),
        "denoiser": sum(count_parameters(head) for head in policy.each_head()),
        "all": count_parameters(policy),
    }
