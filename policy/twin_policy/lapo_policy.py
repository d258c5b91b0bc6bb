"""LAPO on pictures and joints: the encoder, what is learnt on its features, and how it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor, nn

from twin_policy.config import PolicyConfig
from twin_policy.diffusion import ChunkPolicy
from twin_policy.images import resize_rgb
from twin_policy.joints import Joints
from twin_policy.lapo import Lapo, Transition
from twin_policy.lapo_config import ActWith, LapoConfig
from twin_policy.normalizer import Normalizer

VIEWS = ("left_camera", "right_camera", "head_camera")
"""The cameras of `select_action`: left, right, global."""


@dataclass(frozen=True)
class LapoBatch:
    """Action chunks, the observations before and after them, and what they earned."""

    images: Mapping[str, Tensor]
    """Camera to uint8 RGB (B, 1, H, W, 3), before the chunk."""
    next_images: Mapping[str, Tensor]
    """After it, or at the episode's end where that comes first."""
    state: Tensor
    """The robot's whole vector: float32 (B, 1, D), physical units."""
    next_state: Tensor
    action: Tensor
    """The robot's whole vector: float32 (B, H, D), physical units, absolute targets."""
    valid: Tensor
    """bool (B, H): False beyond the episode's end, where the chunk repeats its last action."""
    reward: Tensor
    """Discounted rewards of the valid steps, summed: float32 (B,)."""
    discount: Tensor
    """Of the value after the chunk: discount^k, and 0 after a terminal: float32 (B,)."""
    read: Mapping[str, Tensor] = field(default_factory=dict)
    """Instead of pictures: camera to what a frozen encoder's `read_frames` gives, (B, 1, ...)."""
    next_read: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> LapoBatch:
        """The same, there."""
        parts: dict[str, Any] = {
            name: {key: tensor.to(device) for key, tensor in value.items()}
            if isinstance(value, Mapping)
            else value.to(device)
            for name, value in vars(self).items()
        }
        return LapoBatch(**parts)


class LapoPolicy(ChunkPolicy):
    """An encoder of pictures and joints, and LAPO on its features.

    Which of it a loss may change is said by `learns_from`.
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        config: PolicyConfig,
        normalizer: Normalizer,
        *,
        state_dim: int,
        gripper_dims: Sequence[int],
        driven_dims: Sequence[int],
    ) -> None:
        """Args:
        normalizer: of the whole vector as state, of the driven dimensions as action.
        state_dim: length of the robot's vector.
        gripper_dims: which of its numbers are grippers.
        driven_dims: which of its numbers the policy gives.
        """
        super().__init__(config, state_dim=state_dim)
        assert config.lapo is not None
        self.lapo: LapoConfig = config.lapo
        self.joints = Joints(
            normalizer,
            driven_dims=driven_dims,
            gripper_dims=gripper_dims,
            relative=config.action_representation == "relative",
        )
        width = self.lapo.feature_dim
        self.fusion = nn.Sequential(
            nn.Linear(self.encoder.dim, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )
        self.nets = Lapo(
            self.lapo, feature_dim=width, action_dim=config.horizon * self.joints.action_dim
        )
        self.act_with: ActWith = self.lapo.act_with
        """How actions are chosen; never `auto` in a checkpoint."""
        self._grippers = [i for i, dim in enumerate(driven_dims) if dim in gripper_dims]
        unbounded = torch.full((self.joints.action_dim,), torch.inf)
        self.register_buffer("action_low", -unbounded)
        self.register_buffer("action_high", unbounded)
        self.freeze()

    # What is learnt

    def freeze(self) -> None:
        """Holds the backbones still where no loss trains them."""
        self.encoder.freeze_backbones(self.lapo.encoder_gradient == "frozen")

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the part that they are of; those that nothing trains are left out."""
        encoder = [
            p for m in (self.encoder, self.fusion) for p in m.parameters() if p.requires_grad
        ]
        return {"encoder": encoder, **self.nets.parts()}

    def learns_from(self, loss: str) -> list[nn.Parameter]:
        """What the loss `critic`, `vae` or `actor` changes."""
        groups, gradient = self.groups(), self.lapo.encoder_gradient
        led = {"critic": ("critic", "critic+vae", "frozen"), "vae": ("vae", "critic+vae")}
        trains_encoder = gradient in led.get(loss, ())
        return [*groups[loss], *(groups["encoder"] if trains_encoder else [])]

    def set_action_range(self, actions: Tensor) -> None:
        """Actions will be clipped to those of the data (n, Da), driven; arms to a margin beyond."""
        margin = torch.full_like(self.action_low, self.lapo.action_margin)
        margin[list(self._grippers)] = 0
        self.action_low.copy_(actions.amin(0) - margin)
        self.action_high.copy_(actions.amax(0) + margin)

    # Observations to features

    def features(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        generator: torch.Generator | None = None,
        read: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """(B, F) of pictures uint8 (B, 1, H, W, 3) and states float32 (B, 1, D).

        Args:
            generator: of the augmentations: two observations are changed alike by two generators
                of the same seed.
            read: instead of the pictures.
        """
        cond = self.encoder(images, self.joints.state_input(state), generator, read)
        return self._fused(cond)

    def fuse(self, encoded: Tensor, state: Tensor) -> Tensor:
        """(B, F) of pictures that are encoded already, (B, 1, E), and states (B, 1, D)."""
        return self._fused(self.encoder.condition(encoded, self.joints.state_input(state)))

    def _fused(self, cond: Tensor) -> Tensor:
        fused: Tensor = self.fusion(cond)
        return fused

    def transition(self, batch: LapoBatch) -> Transition:
        """A batch as the networks see it, but for its observations."""
        valid = repeat(batch.valid, "b h -> b (h d)", d=self.joints.action_dim)
        return Transition(
            action=self.flat_action(batch.action, batch.state),
            valid=valid,
            reward=batch.reward,
            discount=batch.discount,
        )

    def flat_action(self, action: Tensor, state: Tensor) -> Tensor:
        """Whole vectors (B, H, D) at states (B, 1, D) as the networks see them: (B, H * Da)."""
        return rearrange(self.joints.targets(action, state[:, -1]), "b h d -> b (h d)")

    # Acting

    def joints_of(self, task: str) -> Joints:
        return self.joints

    @torch.no_grad()
    def predict_from_features(
        self,
        features: Tensor,
        state: Tensor,
        generators: Sequence[torch.Generator],
        task: str = "",
    ) -> Tensor:
        """As `ChunkPolicy.predict_from_features`; the generators are needed by `prior` only."""
        fused = self.fuse(features, state)
        if self.act_with == "policy":
            latent = self.nets.latent(fused)
        elif self.act_with == "prior":
            shape = (self.lapo.latent_dim,)
            latent = torch.stack([torch.randn(shape, generator=each) for each in generators])
        else:
            latent = fused.new_zeros((len(fused), self.lapo.latent_dim))
        decoded = self.nets.decode(fused, latent.to(fused))
        chunk = rearrange(decoded, "b (h d) -> b h d", h=self.config.horizon)
        actions = self.joints.actions(chunk, state[:, -1])
        return actions.clamp(self.action_low, self.action_high)

    def select_action(
        self,
        left_img: NDArray[np.uint8],
        right_img: NDArray[np.uint8],
        global_img: NDArray[np.uint8],
        joint: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The chunk for one observation: float64 (H, Da), absolute targets, physical units.

        The same for the same observation, also where `act_with` is `prior`.

        Args:
            left_img, right_img, global_img: uint8 RGB (H, W, 3) of the left wrist's, the right
                wrist's and the head camera, of any size.
            joint: the robot's whole vector (D,).

        Raises:
            ValueError: the policy sees other cameras, or was trained on another number of joints.
        """
        cameras = self.config.cameras
        if set(cameras) != set(VIEWS):
            raise ValueError(
                f"select_action is for policies that see {', '.join(VIEWS)}, and this one sees "
                f"{', '.join(cameras)}: use its Agent"
            )
        if np.shape(joint) != (self.joints.state_dim,):
            raise ValueError(
                f"joint must be the robot's whole vector of {self.joints.state_dim} numbers, and "
                f"is of shape {np.shape(joint)}"
            )
        pictures = dict(zip(VIEWS, (left_img, right_img, global_img), strict=True))
        images = {
            camera: torch.from_numpy(resize_rgb(np.asarray(pictures[camera]), size))[None, None]
            for camera, size in cameras.items()
        }
        state = torch.from_numpy(np.asarray(joint, np.float32))[None, None].to(self.device)
        was_training = self.training
        self.eval()
        try:
            moved = {camera: image.to(self.device) for camera, image in images.items()}
            generator = torch.Generator().manual_seed(0)
            chunk = self.predict_chunk(moved, state, [generator])
        finally:
            self.train(was_training)
        return chunk[0].double().cpu().numpy()
