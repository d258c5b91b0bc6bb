"""A checkpoint made ready to act, as a deployment's settings say."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from twin_policy.checkpoint import Checkpoint, load_checkpoint
from twin_policy.config import NoiseSchedulerConfig
from twin_policy.deploy import choose_device
from twin_policy.diffusion import ChunkPolicy
from twin_policy.fusion_encoder import FusionEncoder
from twin_policy.lapo_policy import LapoPolicy
from twin_policy.parsing import parse, plain
from twin_policy.served_agent import ServedAgent

LOG = logging.getLogger(__name__)

OF_A_FUSION = ("model_devices", "models_in_turn")
OF_LAPO = ("act_with",)
OF_DIFFUSION = ("sampler", "num_inference_steps", "cuda_graph")

TEXTS = (
    "device",
    "sampler",
    "inference_dtype",
    "complete_actions",
    "act_with",
    "color_order",
    "action_type",
)
"""Options whose values are words."""


@dataclass(frozen=True)
class DeployOptions:
    """What `usr_args` may say to a policy; a key that is null or left out says nothing."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    threads: int | None = None
    """Of torch, in this process."""
    model_devices: tuple[str, ...] | None = None
    """Devices that a fusion's models are dealt to, instead of `device`."""
    models_in_turn: bool = False
    """A fusion's models are on their device only while they run, one after another."""
    n_action_steps: int | None = None
    """Steps of each chunk to execute; as configured."""
    temporal_ensemble_coeff: float | None = None
    """Averages overlapping chunks; needs n_action_steps 1."""
    sampler: str | None = None
    num_inference_steps: int | None = None
    inference_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and matrix products; positions and states stay float32."""
    cuda_graph: bool = False
    """On CUDA, records the denoising loop once and replays it: same kernels, quicker launches."""
    act_with: Literal["policy", "prior", "prior_mean"] | None = None
    """Of LAPO: the actor's latent action, one drawn from the prior, or the prior's mean."""
    complete_actions: str | None = None
    """What joints do that the policy does not drive (`twin_policy.completion`)."""
    full_video: bool = False
    """Look after every action: RoboTwin's video shows what was looked at."""
    color_order: Literal["rgb", "bgr"] | None = None
    """Declared, to be compared with the checkpoint; so are the following."""
    n_obs_steps: int | None = None
    action_type: Literal["qpos", "ee"] | None = None
    left_arm_dim: int | None = None
    right_arm_dim: int | None = None

    @classmethod
    def read(cls, usr_args: Mapping[str, Any]) -> DeployOptions:
        """Takes its own keys; RoboTwin and users put others beside them.

        RoboTwin's model server hands on as text what its command line gives and is no whole
        number, so text is read as YAML where none is meant.

        Raises:
            ConfigError: a value of another type, or none of the known ones.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        said = {name: usr_args[name] for name in names if usr_args.get(name) is not None}
        for name, value in said.items():
            if name not in TEXTS and isinstance(value, str):
                said[name] = yaml.safe_load(value)
        return parse(cls, said, source="usr_args (deploy_policy.yml)")


def load_agent(usr_args: Mapping[str, Any], folder: Path) -> ServedAgent:
    """The agent of a checkpoint folder.

    Raises:
        ValueError: an unknown device, sampler or rule, with the nearest match; values of another
            type or out of range.
        SpecMismatch: something declared is not what the policy was trained with.
    """
    options = DeployOptions.read(usr_args)
    task = usr_args.get("task_name")
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = _load_placed(folder, options)
    checkpoint.entry(task).check_declared(
        color_order=options.color_order,
        n_obs_steps=options.n_obs_steps,
        action_type=options.action_type,
        left_arm_dim=options.left_arm_dim,
        right_arm_dim=options.right_arm_dim,
    )
    if task and task not in checkpoint.tasks:
        LOG.warning("a policy trained on %s is put to %s", ", ".join(checkpoint.tasks), task)
    _prepare(checkpoint.policy, options)
    return ServedAgent(
        checkpoint,
        task=task,
        n_action_steps=options.n_action_steps,
        temporal_ensemble_coeff=options.temporal_ensemble_coeff,
        complete_actions=options.complete_actions,
        full_video=options.full_video,
    )


def _load_placed(folder: Path, options: DeployOptions) -> Checkpoint:
    device = choose_device(options.device)
    if not (options.model_devices or options.models_in_turn):
        return load_checkpoint(folder, device)
    checkpoint = load_checkpoint(folder)
    encoder = checkpoint.policy.encoder
    if not isinstance(encoder, FusionEncoder):
        raise ValueError(
            f"{' and '.join(OF_A_FUSION)} are for policies that fuse several models, and {folder} "
            "has one backbone: set them to null, and device instead"
        )
    devices = [choose_device(each) for each in options.model_devices or (str(device),)]
    encoder.towers.place(devices, in_turn=options.models_in_turn)
    checkpoint.policy.to(device)
    return checkpoint


def _prepare(policy: ChunkPolicy, options: DeployOptions) -> None:
    """How the policy computes."""
    changes = {
        key: value
        for key in ("num_inference_steps", "sampler")
        if (value := getattr(options, key)) is not None
    }
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.inference_dtype]
    _choose_behaviour(policy, options)
    for head in policy.each_head():
        settings = plain(head.noise_scheduler) | changes
        head.noise_scheduler = parse(NoiseSchedulerConfig, settings, source="usr_args")
        head.prepare_inference(dtype, cuda_graph=options.cuda_graph)
    policy.encoder.prepare_inference(dtype)
    if dtype == torch.bfloat16 and policy.device.type == "cpu" and not cpu_computes_in_bfloat16():
        LOG.warning(
            "this CPU has no instructions for bfloat16, which it can only emulate, at a third of "
            "the speed: set inference_dtype: float32"
        )


def _choose_behaviour(policy: ChunkPolicy, options: DeployOptions) -> None:
    if isinstance(policy, LapoPolicy):
        said = [name for name in OF_DIFFUSION if getattr(options, name)]
        if said:
            raise ValueError(
                f"{said[0]} is of diffusion policies, and this one was learnt by LAPO: set it to "
                "null"
            )
        if options.act_with == "policy" and policy.lapo.behaviour == "bc":
            raise ValueError(
                "act_with policy needs an actor, and behaviour bc trained none: set act_with to "
                "prior_mean or prior"
            )
        policy.act_with = options.act_with or policy.act_with
    elif options.act_with is not None:
        raise ValueError(
            f"act_with is of policies learnt by LAPO, and this one is none: set it to null; it is "
            f"{options.act_with}"
        )


def cpu_computes_in_bfloat16() -> bool:
    """False only where this is known: older versions of torch do not tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any("bf16" in name and has for name, has in capabilities.items())
