"""A checkpoint of RoboTwin's DP, as read from its file, to a policy of ours with equal outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from twin_policy.action_space import JointLayout
from twin_policy.config import (
    DenoiserConfig,
    EncoderConfig,
    NoiseSchedulerConfig,
    NormalizerConfig,
    PolicyConfig,
)
from twin_policy.diffusion import DiffusionPolicy
from twin_policy.normalizer import DimensionNormalizer, Normalizer
from twin_policy.policies import TaskSpec, create_policy
from twin_train.restricted_pickle import Record, read_bytes

CAMERAS = {
    "head_cam": "head_camera",
    "front_cam": "front_camera",
    "left_cam": "left_camera",
    "right_cam": "right_camera",
}
"""RoboTwin DP's observation keys to the names that RoboTwin's environments use."""
STATE_KEY = "agent_pos"
ARMS_OF_DIM = {14: (6, 6), 16: (7, 7)}
"""Joints of the two arms by the vector's length: RoboTwin's configs are for these two."""
REMARK = (
    "RoboTwin's own deployment puts the newest frame into the history twice at each replanning "
    "(frames t-1, t, t); TwinBench shows t-2, t-1, t, as in training. Success rates may differ."
)


class NotConvertible(ValueError):
    """Not a checkpoint of RoboTwin's DP, or one of a kind that has no counterpart here."""


@dataclass(frozen=True)
class Converted:
    """What a converted checkpoint holds."""

    policy: DiffusionPolicy
    """In evaluation mode."""
    layout: JointLayout
    camera_shapes: dict[str, tuple[int, int, int]]
    """Camera to the (H, W, 3) of its pictures."""
    task: str
    """As the training config names it."""
    origin: dict[str, Any]
    """For the provenance: which weights, after how many epochs and steps, with what config."""


def plain_config(node: Any) -> Any:
    """An OmegaConf tree, read as inert records, to dicts, lists and scalars."""
    if not isinstance(node, Record):
        return node
    state = node.state if isinstance(node.state, Mapping) else {}
    if "_content" not in state:
        # A value's node; other objects of a config (types, metadata) say nothing to us.
        return plain_config(state.get("_val"))
    content = state["_content"]
    if isinstance(content, Mapping):
        return {str(key): plain_config(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [plain_config(value) for value in content]
    return content


def convert(payload: Any, *, layout: JointLayout | None = None) -> Converted:
    """The policy of a payload of `restricted_pickle.read_file`.

    Args:
        layout: of the robot's vector; where its length leaves no doubt, it need not be given.

    Raises:
        NotConvertible: the message says which part is missing or has no counterpart.
    """
    if not isinstance(payload, Mapping) or not {"cfg", "state_dicts"} <= set(payload):
        raise NotConvertible(
            "not a checkpoint of RoboTwin's DP: it must hold 'cfg' and 'state_dicts'"
        )
    config = plain_config(payload["cfg"])
    states = payload["state_dicts"]
    # RoboTwin deploys the moving average wherever training kept one.
    averaged = bool(_get(config, "training.use_ema"))
    name = "ema_model" if averaged else "model"
    if not isinstance(states, Mapping) or name not in states:
        raise NotConvertible(f"not a checkpoint of RoboTwin's DP: no state_dicts.{name} in it")
    weights: dict[str, Tensor] = dict(states[name])
    policy_config, shapes = _policy_config(config, weights)
    dim = _state_dim(config)
    layout = layout or _layout(dim)
    if layout.dim != dim:
        raise NotConvertible(
            f"arms of {layout.left_arm} and {layout.right_arm} joints make a vector of "
            f"{layout.dim} numbers; the checkpoint's has {dim}"
        )
    spec = TaskSpec(layout, _normalizer(weights), embodiment="")
    policy = create_policy(policy_config, {"": spec})
    assert isinstance(policy, DiffusionPolicy)
    keys = [key for key, camera in CAMERAS.items() if camera in shapes]
    mapped = rename_weights(weights, keys, shared=bool(policy_config.encoder.shared_backbone))
    _reorder_condition(mapped, policy, sorted(keys))
    _load(policy, mapped)
    origin = {"weights": name, **_counters(payload.get("pickles")), "robotwin_config": config}
    task = str(_get(config, "task.name", default="") or "")
    return Converted(policy.eval(), layout, shapes, task, origin)


def _get(config: Any, path: str, **default: Any) -> Any:
    place = config
    for part in path.split("."):
        if not isinstance(place, Mapping) or part not in place:
            if "default" in default:
                return default["default"]
            raise NotConvertible(f"not a config of RoboTwin's DP: {path!r} is missing")
        place = place[part]
    if isinstance(place, str) and "${" in place:
        raise NotConvertible(f"the config is not resolved: {path!r} is {place!r}")
    return place


def _require(config: Any, path: str, *accepted: Any) -> None:
    value = _get(config, path)
    if value not in accepted:
        wanted = " or ".join(repr(choice) for choice in accepted)
        raise NotConvertible(f"{path} is {value!r}; only {wanted} can be converted")


def _policy_config(
    config: Any, weights: Mapping[str, Tensor]
) -> tuple[PolicyConfig, dict[str, tuple[int, int, int]]]:
    """The counterpart of a config, and the shapes of its cameras' pictures."""
    _require(config, "policy.obs_as_global_cond", True)
    _require(config, "policy.n_groups", 8)
    _require(config, "policy.noise_scheduler.variance_type", "fixed_small")
    _require(config, "policy.noise_scheduler.beta_schedule", "squaredcos_cap_v2")
    _require(config, "policy.obs_encoder.imagenet_norm", True)
    _require(config, "policy.obs_encoder.rgb_model.name", "resnet18")
    _require(config, "policy.obs_encoder.rgb_model.weights", None, "IMAGENET1K_V1")
    for part in ("resize_shape", "crop_shape"):
        _require(config, f"policy.obs_encoder.{part}", None)
    shared = bool(_get(config, "policy.obs_encoder.share_rgb_model"))
    # RoboTwin leaves a shared network its BatchNorm whatever use_group_norm says.
    has_batch_norm = any(name.endswith("bn1.running_mean") for name in weights)
    shapes = {}
    for key, entry in _get(config, "policy.shape_meta.obs").items():
        if entry.get("type", "low_dim") == "rgb":
            if key not in CAMERAS:
                raise NotConvertible(f"unknown camera {key!r}; known: {', '.join(CAMERAS)}")
            _, height, width = entry["shape"]
            shapes[CAMERAS[key]] = (int(height), int(width), 3)
            _check_image_range(weights, key)
        elif key != STATE_KEY:
            raise NotConvertible(f"unknown observation {key!r}; only {STATE_KEY!r} is known")
    scheduler = _get(config, "policy.noise_scheduler")
    steps = int(scheduler["num_train_timesteps"])
    denoiser = _get(config, "policy")
    converted = PolicyConfig(
        cameras={camera: shape[:2] for camera, shape in shapes.items()},
        n_obs_steps=int(_get(config, "policy.n_obs_steps")),
        horizon=int(_get(config, "policy.horizon")),
        n_action_steps=int(_get(config, "policy.n_action_steps")),
        encoder=EncoderConfig(
            backbone="resnet18_frozen_bn" if has_batch_norm else "resnet18",
            image_normalization="robotwin",
            shared_backbone=shared,
            pooling="avg",
        ),
        denoiser=DenoiserConfig(
            diffusion_step_embed_dim=int(denoiser["diffusion_step_embed_dim"]),
            down_dims=tuple(int(dim) for dim in denoiser["down_dims"]),
            kernel_size=int(denoiser["kernel_size"]),
            n_groups=8,
            use_film_scale_modulation=bool(denoiser["cond_predict_scale"]),
        ),
        noise_scheduler=NoiseSchedulerConfig(
            num_train_timesteps=steps,
            prediction_type=scheduler["prediction_type"],
            clip_sample=bool(scheduler["clip_sample"]),
            sampler="ddpm",
            num_inference_steps=int(denoiser.get("num_inference_steps") or steps),
        ),
        normalizer=NormalizerConfig(mode="robotwin"),
    )
    return converted, shapes


def _state_dim(config: Any) -> int:
    (state,) = _get(config, f"policy.shape_meta.obs.{STATE_KEY}.shape")
    (action,) = _get(config, "policy.shape_meta.action.shape")
    if state != action:
        raise NotConvertible(f"states of {state} and actions of {action} numbers")
    return int(action)


def _layout(dim: int) -> JointLayout:
    if dim not in ARMS_OF_DIM:
        raise NotConvertible(
            f"vectors of {dim} numbers do not tell how many joints each arm has: say it with "
            "--left-arm and --right-arm"
        )
    return JointLayout(*ARMS_OF_DIM[dim])


def _check_image_range(weights: Mapping[str, Tensor], key: str) -> None:
    """Pictures in [0, 1] are brought to [-1, 1] by a factor 2 and an offset -1."""
    found = [
        weights.get(f"normalizer.params_dict.{key}.{part}", torch.zeros(0)).tolist()
        for part in ("scale", "offset")
    ]
    if found != [[2.0], [-1.0]]:
        raise NotConvertible(f"{key}: pictures are scaled by {found}, not by 2 and -1")


def _normalizer(weights: Mapping[str, Tensor]) -> Normalizer:
    def part(key: str) -> DimensionNormalizer:
        prefix = f"normalizer.params_dict.{key}"
        names = (f"{prefix}.scale", f"{prefix}.offset", f"{prefix}.input_stats.mean")
        for name in names:
            if name not in weights:
                raise NotConvertible(f"the weights lack {name!r}")
        scale, offset, mean = (weights[name].double().numpy() for name in names)
        return DimensionNormalizer(
            scale=scale, offset=offset, mean=mean, frozen=np.zeros(len(scale), bool)
        )

    return Normalizer(part(STATE_KEY), part("action"))


RENAMED = (
    (r"model\.diffusion_step_encoder\.1\.(.*)", r"head.denoiser.step_embedding.mlp.0.\1"),
    (r"model\.diffusion_step_encoder\.3\.(.*)", r"head.denoiser.step_embedding.mlp.2.\1"),
    (r"model\.(down|up)_modules\.(\d+)\.0\.(.*)", r"head.denoiser.\1.\2.first.\3"),
    (r"model\.(down|up)_modules\.(\d+)\.1\.(.*)", r"head.denoiser.\1.\2.second.\3"),
    (r"model\.(down|up)_modules\.(\d+)\.2\.conv\.(.*)", r"head.denoiser.\1.\2.resample.\3"),
    (r"model\.mid_modules\.(\d+)\.(.*)", r"head.denoiser.middle.\1.\2"),
    (r"model\.final_conv\.0\.block\.(.*)", r"head.denoiser.final.0.\1"),
    (r"model\.final_conv\.1\.(.*)", r"head.denoiser.final.1.\1"),
    # Within a residual block.
    (r"(head\.denoiser\..*)\.blocks\.0\.block\.(.*)", r"\1.conv1.\2"),
    (r"(head\.denoiser\..*)\.blocks\.1\.block\.(.*)", r"\1.conv2.\2"),
    (r"(head\.denoiser\..*)\.cond_encoder\.1\.(.*)", r"\1.film.linear.\2"),
    (r"(head\.denoiser\..*)\.residual_conv\.(.*)", r"\1.skip.\2"),
)
IGNORED = re.compile(r"normalizer\..*|(.*\.)?_dummy_variable|.*\.num_batches_tracked")
"""Not weights of ours: statistics are read apart, and the rest has no effect on outputs."""


def rename_weights(
    weights: Mapping[str, Tensor], keys: Sequence[str], *, shared: bool
) -> dict[str, Tensor]:
    """RoboTwin's parameter names to ours; what does not match a rule keeps its name."""
    backbones = {"rgb": "shared"} if shared else {key: CAMERAS[key] for key in keys}
    renamed = {}
    for name, tensor in weights.items():
        if IGNORED.fullmatch(name):
            continue
        for key, ours in backbones.items():
            prefix = f"obs_encoder.key_model_map.{key}."
            if name.startswith(prefix):
                name = f"encoder.backbones.{ours}.trunk.{name.removeprefix(prefix)}"
        for pattern, replacement in RENAMED:
            name = re.sub(f"^{pattern}$", replacement, name)
        renamed[name] = tensor
    return renamed


def _reorder_condition(
    weights: dict[str, Tensor], policy: DiffusionPolicy, sorted_keys: Sequence[str]
) -> None:
    """Puts FiLM's columns in the order of our condition vector.

    RoboTwin's goes step by step: the cameras' features, sorted by key, and then the state. Ours
    is asked for its order by passing it the places of RoboTwin's numbers as values.
    """
    encoder, n_obs_steps = policy.encoder, policy.config.n_obs_steps
    places = rearrange(torch.arange(encoder.dim).double(), "(t n) -> 1 t n", t=n_obs_steps)
    widths = [encoder.pools[CAMERAS[key]].dim for key in sorted_keys]
    *features, state = places.split([*widths, policy.joints.state_dim], dim=-1)
    by_camera = dict(zip((CAMERAS[key] for key in sorted_keys), features, strict=True))
    frames = torch.cat([by_camera[camera] for camera in encoder.cameras], dim=-1)
    order = encoder.condition(frames, state)[0].long()
    step_dim = policy.config.denoiser.diffusion_step_embed_dim
    for name, weight in weights.items():
        if name.endswith(".film.linear.weight"):
            if weight.shape[1] != step_dim + len(order):
                raise NotConvertible(
                    f"{name} takes {weight.shape[1]} numbers; steps, features and states make "
                    f"{step_dim + len(order)}"
                )
            weights[name] = torch.cat([weight[:, :step_dim], weight[:, step_dim:][:, order]], 1)


def _load(policy: DiffusionPolicy, weights: Mapping[str, Tensor]) -> None:
    wanted = policy.state_dict()
    missing, strange = sorted(wanted.keys() - weights), sorted(weights.keys() - wanted)
    if missing or strange:
        raise NotConvertible(
            f"the weights do not fit the config: {len(missing)} are missing "
            f"({', '.join(missing[:3]) or 'none'}), {len(strange)} are too many "
            f"({', '.join(strange[:3]) or 'none'})"
        )
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise NotConvertible(f"the weights do not fit the config: {error}") from error


def _counters(pickles: Any) -> dict[str, int]:
    """Epochs and steps of the training, pickled once more each; left out if they are not there."""
    stored = pickles if isinstance(pickles, Mapping) else {}
    counters = {
        name: read_bytes(stored[name])
        for name in ("epoch", "global_step")
        if isinstance(stored.get(name), bytes)
    }
    return {name: value for name, value in counters.items() if isinstance(value, int)}
