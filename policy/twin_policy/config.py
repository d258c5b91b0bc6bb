"""What a diffusion policy can be told: frozen dataclasses, read from a YAML's `policy` part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from twin_policy.fusion_config import FusionConfig
from twin_policy.lapo_config import LapoConfig
from twin_policy.seed_names import SEED_NAMES, from_seed_names

Pooling = Literal["spatial_softmax", "avg", "class_token", "projected", "pooled", "grid"]
Tuning = Literal["frozen", "aligned", "last_blocks", "lora", "full"]
FUSION = "fusion"
"""What a complete config calls the backbone where `fusion` says more."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters inside a backbone that itself stays as it is (arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    """What the adapters add is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of linear layers; none: attention and MLP of every block."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(
                f"lora needs a rank of at least 1 and a positive alpha, and has {self.rank} and "
                f"{self.alpha}"
            )


@dataclass(frozen=True)
class EncoderConfig:
    """How pictures and joint state become a condition vector.

    A backbone is trained from the start on (`resnet18`, `resnet18_frozen_bn`, `small_cnn`), or it
    is a tower: pretrained, one for all cameras, frozen unless `tuning` says otherwise.
    """

    OTHER_NAMES: ClassVar[Any] = SEED_NAMES
    translate: ClassVar[Any] = staticmethod(from_seed_names)

    fusion: FusionConfig | None = None
    """Several frozen models at once, instead of a backbone; its models are described there."""
    use_state: bool = True
    """Whether the joint state is part of the condition vector, beside the pictures."""
    backbone: str = "resnet18"
    """One of `backbones.registry.names()`, another spelling of a CLIP (`ViT-B/32`), or
    `timm:NAME.TAG`."""
    pretrained_backbone_weights: str | None = None
    """For a pretrained backbone: a local file or folder, `hub:` and a tag, or `random` to go
    without. Read when training starts; a checkpoint holds what came of them."""
    weights_seed: int | None = None
    """Of `random` weights: every training that names the same one starts from the same backbone,
    whatever its own seed is, and so can share its features. Null: they come from `train.seed`."""
    tag: str | None = None
    """Of the weights, where neither their name nor the backbone's tells it."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Other widths and depths of the backbone, in the words of the library behind."""
    resize_shape: tuple[int, int] | None = None
    """(H, W) of a tower's input, which it resizes to; null: its own."""
    image_normalization: Literal["native", "imagenet", "clip", "robotwin"] | None = None
    """`native`: that of the weights, which null means for a tower; for the others it means
    `imagenet`. `robotwin` is RoboTwin DP's: to [-1, 1] first, and ImageNet's statistics on that."""
    shared_backbone: bool | None = None
    """One backbone for all cameras, instead of one each; null: a tower is shared."""
    early_fusion: bool = False
    """The pictures of all cameras on top of each other, as channels of one convolutional backbone;
    their order is that of `policy.cameras`."""
    early_fusion_weights: Literal["divided", "copied"] = "divided"
    """What the first convolution has for each camera: pretrained RGB weights divided by the number
    of cameras, so that equal pictures give what one would; or undivided copies."""
    layer: int | str = "final"
    """Which the features come from: a number from 0 (below 0: from the end), or a name."""
    pooling: Pooling = "spatial_softmax"
    """What is read from the layer: `class_token`; `projected`, CLIP's embedding (`final` only);
    `pooled`, the network's own; `avg`, the mean of the tokens; `grid`, their means in each cell of
    `grid_size`; `spatial_softmax`, where in the picture each of some learned keypoints is."""
    grid_size: tuple[int, int] = (2, 2)
    spatial_softmax_num_keypoints: int = 32
    spatial_softmax_temperature: float = 1.0
    """Factor on the logits at the start of training; it is learned."""
    feature_dim: int | None = None
    """Features a camera and step; null: as many as were read."""
    adapter: Literal["auto", "linear"] = "auto"
    """Brings what was read to `feature_dim`, for each camera its own. `auto`: a linear layer where
    the widths differ, nothing where they agree; `linear`: always a layer."""
    tuning: Tuning | None = None
    """What of the backbone learns: nothing, its last blocks up to `layer`, low-rank adapters (with
    the package peft), or all of it. Null: a tower is `frozen`, others learn in `full`.

    Of a fusion: nothing, the distilled encoder (`aligned`), that and the last blocks of each model,
    or all of them. What is fused by `mixing` learns in any case."""
    trainable_blocks: int = 2
    """`last_blocks`: how many."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    crop_ratio: float = 1.0
    """Side of the crop relative to the picture: random in training, central in evaluation."""
    color_jitter: float = 0.0
    """Half-width of the random change of contrast, brightness and colour in training."""
    state_noise: float = 0.0
    """Standard deviation of the noise on the state in training, in units of half its range."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be in (0, 1], and is {self.crop_ratio}")
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter must be in [0, 1), and is {self.color_jitter}")
        random_weights = self.pretrained_backbone_weights == "random"
        if self.weights_seed is not None and (self.weights_seed < 0 or not random_weights):
            raise ValueError(
                "weights_seed is of random weights, at least 0, and is "
                f"{self.weights_seed} with {self.pretrained_backbone_weights!r}: set "
                "pretrained_backbone_weights to random, or weights_seed to null"
            )
        if self.state_noise < 0:
            raise ValueError(f"state_noise must not be negative, and is {self.state_noise}")
        _check_sizes(self)
        if self.early_fusion and (self.shared_backbone is False or self.fusion is not None):
            raise ValueError(
                "early_fusion is one backbone for all cameras, so shared_backbone must not be "
                "false, nor fusion be set: drop them, or early_fusion"
            )
        if self.adapter == "linear" and self.feature_dim is None:
            raise ValueError("adapter linear needs a feature_dim, and that is null: set it")
        if self.fusion is not None:
            _check_fused(self, self.fusion)
        elif self.tuning == "aligned":
            raise ValueError(
                "tuning aligned is of a fusion's distilled encoder, and fusion is null: take "
                "last_blocks, lora or full"
            )


def _check_sizes(config: EncoderConfig) -> None:
    for name in ("spatial_softmax_num_keypoints", "feature_dim", "trainable_blocks"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, and is {value}")
    for name in ("resize_shape", "grid_size"):
        if (shape := getattr(config, name)) is not None and min(shape) < 1:
            raise ValueError(f"{name} needs a height and a width, and is {shape}")


OF_ONE_BACKBONE = (
    "pretrained_backbone_weights",
    "weights_seed",
    "tag",
    "overrides",
    "resize_shape",
    "layer",
)
"""Keys that a fusion has for each of its models instead."""


def _check_fused(config: EncoderConfig, fusion: FusionConfig) -> None:
    plain = EncoderConfig()
    said = [name for name in OF_ONE_BACKBONE if getattr(config, name) != getattr(plain, name)]
    if config.backbone not in (plain.backbone, FUSION):
        said.insert(0, "backbone")
    if said:
        raise ValueError(
            f"{said[0]} is of one backbone, and fusion has models of its own: set it there, in "
            "models, or set fusion to null"
        )
    if config.pooling not in ("spatial_softmax", "avg", "grid"):
        raise ValueError(
            "a fusion's tokens are pooled by spatial_softmax, avg or grid, and pooling is "
            f"{config.pooling}: take one of those"
        )
    height, width = fusion.read_grid
    rows, columns = config.grid_size
    if config.pooling == "grid" and (rows > height or columns > width):
        raise ValueError(
            f"grid_size must be at most what is read of a fusion's models, {height}x{width}, and "
            f"is {rows}x{columns}: lower it, or raise fusion.cells"
        )
    if config.tuning == "lora":
        raise ValueError("a fusion's models take no lora: set tuning to last_blocks or full")
    if config.tuning == "aligned" and not fusion.reads_aligned:
        raise ValueError(
            f"tuning aligned needs a distilled encoder, and scheme {fusion.scheme} reads none: "
            "set tuning to frozen"
        )


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts noise or clean actions; each kind uses its own fields."""

    name: str = "unet"
    """A registered denoiser: `unet` or `mlp`."""
    diffusion_step_embed_dim: int = 128
    down_dims: tuple[int, ...] = (256, 512, 1024)
    """U-Net: channels of each level."""
    kernel_size: int = 5
    """U-Net: odd."""
    n_groups: int = 8
    """U-Net: groups of GroupNorm."""
    use_film_scale_modulation: bool = True
    hidden_dim: int = 512
    """MLP: width."""
    n_blocks: int = 3
    """MLP: residual blocks."""

    def __post_init__(self) -> None:
        if self.diffusion_step_embed_dim < 4 or self.diffusion_step_embed_dim % 2:
            raise ValueError(
                "diffusion_step_embed_dim must be even and at least 4, and is "
                f"{self.diffusion_step_embed_dim}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, and is {self.kernel_size}")
        if not self.down_dims or self.n_groups < 1 or self.hidden_dim < 1 or self.n_blocks < 1:
            raise ValueError(
                "a denoiser needs at least one level of down_dims, and n_groups, hidden_dim and "
                f"n_blocks of at least 1; got {self.down_dims}, {self.n_groups}, "
                f"{self.hidden_dim}, {self.n_blocks}"
            )
        if any(dim % self.n_groups for dim in self.down_dims):
            raise ValueError(f"n_groups {self.n_groups} must divide down_dims {self.down_dims}")


@dataclass(frozen=True)
class NoiseSchedulerConfig:
    """The diffusion process, as diffusers names it."""

    num_train_timesteps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample: bool = True
    sampler: Literal["ddim", "ddpm"] = "ddim"
    num_inference_steps: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.num_inference_steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps {self.num_inference_steps} must be in "
                f"[1, num_train_timesteps = {self.num_train_timesteps}]"
            )


@dataclass(frozen=True)
class NormalizerConfig:
    """How states and actions are brought to one scale, [-1, 1] but for `zscore`."""

    mode: Literal["min_max", "zscore", "robotwin"] = "min_max"
    """`zscore`: mean 0 and deviation 1, which LAPO wants and a diffusion that clips must not have.
    `robotwin` is RoboTwin DP's rule: a range under 1e-4 keeps scale 1 and maps to 0."""
    range_floor: float = 0.01
    """A dimension with a smaller range (rad) is frozen: state input 0, action = mean; not with
    `robotwin`. At 0 even a range of rounding errors is scaled up to [-1, 1]."""

    def __post_init__(self) -> None:
        if self.range_floor < 0:
            raise ValueError(f"range_floor must not be negative, and is {self.range_floor}")


@dataclass(frozen=True)
class ActionSpaceConfig:
    """Which joints the actions drive, and how several tasks or robots share one policy."""

    kind: Literal["joint", "heads", "unified"] = "joint"
    """`joint`: one head on the driven joints of one robot. `heads`: a shared encoder and one head
    for each task or dimension. `unified`: one head on 16 slots, masked to what a robot has."""
    arms: Literal["both", "left", "right"] = "both"
    include_gripper: bool = True
    head_per: Literal["task", "dim"] = "dim"
    """`heads`: each task has its own, or robots with as many joints in each arm share one."""
    task_embedding_dim: int = 32
    """`unified`: length of the learned vector of each task."""

    def __post_init__(self) -> None:
        if self.task_embedding_dim < 1:
            raise ValueError(
                f"task_embedding_dim must be at least 1, and is {self.task_embedding_dim}"
            )


@dataclass(frozen=True)
class PolicyConfig:
    """One policy, apart from what the data decides (dimensions, statistics): a diffusion policy,
    or with `lapo` one that is learnt from rewards."""

    cameras: dict[str, tuple[int, int]]
    """Camera name to the (H, W) that its pictures are resized to; none: from the state alone."""
    n_obs_steps: int = 2
    """To: observations that the policy sees."""
    horizon: int = 16
    """H: actions that it predicts, the first one at the first observation."""
    n_action_steps: int = 8
    """Ta: of these, how many are executed, from the newest observation on."""
    action_representation: Literal["absolute", "relative"] = "absolute"
    """`relative`: arm targets as differences to the newest state; grippers stay absolute."""
    action_space: ActionSpaceConfig = field(default_factory=ActionSpaceConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    noise_scheduler: NoiseSchedulerConfig = field(default_factory=NoiseSchedulerConfig)
    normalizer: NormalizerConfig = field(default_factory=NormalizerConfig)
    lapo: LapoConfig | None = None
    """Offline reinforcement learning instead of diffusion; denoiser and noise_scheduler then mean
    nothing."""

    def __post_init__(self) -> None:
        for name in ("n_obs_steps", "n_action_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, and is {getattr(self, name)}")
        _check_cameras(self)
        if not self.cameras and not self.encoder.use_state:
            raise ValueError(
                "a policy needs cameras or the joint state, and has neither: set cameras, or "
                "encoder.use_state to true"
            )
        if self.lapo is not None:
            _check_lapo(self)
            return
        if self.n_action_steps > self.horizon - self.n_obs_steps + 1:
            raise ValueError(
                f"n_action_steps must be at most horizon - n_obs_steps + 1 = "
                f"{self.horizon - self.n_obs_steps + 1}, and is {self.n_action_steps}"
            )
        if self.normalizer.mode == "zscore" and self.noise_scheduler.clip_sample:
            raise ValueError(
                "normalizer.mode zscore brings actions beyond [-1, 1], where "
                "noise_scheduler.clip_sample cuts them off: set mode to min_max"
            )
        if self.denoiser.name == "unet" and self.horizon % self.unet_divisor:
            raise ValueError(
                f"horizon must be a multiple of {self.unet_divisor}, because the U-Net has "
                f"{len(self.denoiser.down_dims)} levels, and is {self.horizon}"
            )

    @property
    def unet_divisor(self) -> int:
        """The U-Net halves the horizon between its levels."""
        return int(2 ** (len(self.denoiser.down_dims) - 1))


def _check_cameras(config: PolicyConfig) -> None:
    for camera, size in config.cameras.items():
        if min(size) < 1:
            raise ValueError(f"camera {camera} needs a height and a width, and has {size}")
    if config.encoder.early_fusion and len(set(config.cameras.values())) > 1:
        raise ValueError(
            "encoder.early_fusion lays pictures on top of each other, so all cameras need one "
            f"size, and have {config.cameras}"
        )


def _check_lapo(config: PolicyConfig) -> None:
    if config.n_obs_steps != 1:
        raise ValueError(
            f"lapo sees one observation, so n_obs_steps must be 1, and is {config.n_obs_steps}"
        )
    if config.n_action_steps != config.horizon:
        raise ValueError(
            "lapo values whole chunks, so n_action_steps must be horizon = "
            f"{config.horizon}, and is {config.n_action_steps}"
        )
    if config.action_space.kind != "joint":
        raise ValueError(
            f"lapo is for one task, so action_space.kind must be joint, and is "
            f"{config.action_space.kind}"
        )
    assert config.lapo is not None
    frozen = config.lapo.encoder_gradient == "frozen"
    if frozen and config.encoder.tuning not in (None, "frozen"):
        raise ValueError(
            "lapo.encoder_gradient frozen lets no backbone learn, and encoder.tuning is "
            f"{config.encoder.tuning}: set it to frozen, or let the critic train it"
        )
