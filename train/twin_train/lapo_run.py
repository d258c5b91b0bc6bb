"""One training run of LAPO, from a folder of replay episodes to a folder with a checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from twin_policy.action_space import JointLayout
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import count_parameters
from twin_policy.files import remove_partial
from twin_policy.lapo_policy import LapoPolicy
from twin_policy.policies import TaskSpec, create_policy
from twin_policy.specs import TaskEntry
from twin_train.card import has_card, write_card
from twin_train.claim import claim
from twin_train.config import RunConfig, TrainConfig
from twin_train.feature_use import use_features
from twin_train.lapo_data import ReplayData, cut_replay, read_rewards
from twin_train.lapo_figure import draw_lapo
from twin_train.lapo_loop import train_lapo
from twin_train.loading import open_pictures
from twin_train.log import LOG, read_log
from twin_train.loop import Result
from twin_train.processes import launched
from twin_train.provenance import RANDOM_WEIGHTS, describe, describe_data
from twin_train.run import open_run_store, prepare_run
from twin_train.sharing import Shared
from twin_train.state import STATE
from twin_train.store import Store

LOGGER = logging.getLogger(__name__)

OF_DIFFUSION = (
    "grad_accum_steps",
    "noise_draws",
    "mixed_precision",
    "freeze_backbone",
    "ema",
    "fine_tuning",
    "noop_filter_rad",
)
"""Settings of a training that mean nothing here."""

NO_CONTRAST = (
    "the data holds no failures, so an advantage can only tell that one success was quicker than "
    "another: the policy will act by the VAE's prior. Record rollouts with `twinbench eval TASK "
    "POLICY --rollouts all` and mix them in with `twinbench replay create`, or set "
    "policy.lapo.act_with"
)


ROUNDING = 1e-5
"""Returns that are beyond their bounds by less are not."""


def train_lapo_run(
    config: RunConfig,
    *,
    data: Mapping[str, Path],
    folder: Path,
    name: str,
    episodes: int | None,
    env_config: str | None,
    device: torch.device,
    threads: int,
    stop: Callable[[], bool],
    quiet: bool,
    shared: Shared,
) -> Result:
    """As `twin_train.run.train_run`, of a resolved config with `policy.lapo`.

    Raises:
        ValueError: settings that mean nothing here; several processes; data without a success.
        LatentCollapse: see `train_lapo`.
    """
    _check_settings(config.train)
    ((task, source),) = data.items()
    store = open_run_store(
        source,
        task,
        config,
        shared,
        episodes=episodes,
        env_config=env_config,
        threads=threads,
        quiet=quiet,
    )
    claim(folder, config, data_sha256={task: store.fingerprint})
    for written in (folder, (folder / STATE).parent):
        remove_partial(written)
    replay = open_replay(source, store, config, threads=threads, device=device)
    if not replay.has_failures and _wants_contrast(config.policy):
        LOGGER.warning(NO_CONTRAST)
    _warn_of_returns(config.policy, replay)
    policy_config = _resolved(config.policy, replay)
    policy = build_lapo(policy_config, replay, store, seed=config.train.seed)
    weights = policy.encoder.load_pretrained()
    features: dict[str, Any] = {}
    if (choice := config.train.features) is not None:
        features = use_features(
            choice,
            policy.encoder,
            {task: (store, replay.each)},
            all_frames=True,
            cache_mb=config.train.image_cache_mb,
            device=device,
            threads=threads,
            quiet=quiet,
            say=LOGGER.info,
            shared=shared,
        )
    policy.encoder.add_adapters(seed=config.train.seed)
    policy.freeze()
    entry = TaskEntry.describe(
        policy_config,
        layout=JointLayout(store.left_arm, store.right_arm),
        cameras=store.source_shapes,
        embodiment=store.embodiment,
    )
    prepare_run(folder, policy, {task: entry})
    described = describe(
        replace(config, policy=policy_config),
        tasks={
            task: describe_data(
                source,
                store,
                split=replay.split,
                n_windows=len(replay.training),
                policy=policy,
                task=task,
            )
        },
        parameters=count_parts(policy),
        backbone_weights=weights,
    )
    result = train_lapo(
        policy,
        data=replay,
        config=config.train,
        folder=folder,
        provenance={
            **described,
            "features": features,
            "lapo": dataclasses.asdict(policy.lapo),
            "replay": {"sources": replay.counts(), "has_failures": replay.has_failures},
        },
        device=device,
        stop=stop,
        quiet=quiet,
    )
    if not has_card(folder):
        title = f"{task}: {name}, {len(store.episodes)} episodes"
        if weights["source"] == RANDOM_WEIGHTS:
            title += f", backbone of {RANDOM_WEIGHTS}"
        draw_lapo(read_log(folder / LOG), folder / "loss.png", title=title, lapo=policy.lapo)
        write_card(folder, name=name, result=result, device=device)
    return result


def open_replay(
    source: Path, store: Store, config: RunConfig, *, threads: int, device: torch.device
) -> ReplayData:
    """The episodes of a store with their rewards, split and cut.

    Raises:
        ValueError, EpisodeFileError: as `read_rewards` and `cut_replay`.
    """
    images = {}
    if config.train.features is None:
        images = open_pictures(
            store,
            cache_mb=config.train.image_cache_mb,
            threads=threads,
            device=device,
            all_frames=True,
        )
    return cut_replay(
        store,
        read_rewards(source, store),
        config.policy,
        images=images,
        val_ratio=config.train.val_ratio,
        seed=config.train.seed,
    )


def build_lapo(config: PolicyConfig, data: ReplayData, store: Store, *, seed: int) -> LapoPolicy:
    """With fresh weights, which depend on the seed alone, and the data's statistics."""
    layout = JointLayout(store.left_arm, store.right_arm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = create_policy(config, {"": TaskSpec(layout, data.normalizer, store.embodiment)})
    assert isinstance(policy, LapoPolicy)
    windows = data.training.windows
    chosen = windows.data.action[windows.steps[:, 0]]
    policy.set_action_range(policy.joints.driven(chosen))
    return policy


def count_parts(policy: LapoPolicy) -> dict[str, Any]:
    """Parameters of the parts; `learning` are those that some loss trains, `denoiser` none."""
    nets = policy.nets
    return {
        "encoder": count_parameters(policy.encoder) + count_parameters(policy.fusion),
        "denoiser": 0,
        "critic": count_parameters(nets.critic),
        "vae": count_parameters(nets.vae),
        "actor": count_parameters(nets.actor),
        "targets": count_parameters(nets.targets),
        "all": count_parameters(policy),
        "learning": sum(each.numel() for part in policy.groups().values() for each in part),
    }


def _wants_contrast(config: PolicyConfig) -> bool:
    """Whether failures would have been learnt from, had there been any."""
    assert config.lapo is not None
    return config.lapo.behaviour == "lapo" and config.lapo.learn_from == "all"


def _resolved(config: PolicyConfig, data: ReplayData) -> PolicyConfig:
    assert config.lapo is not None
    return replace(config, lapo=config.lapo.resolved(has_failures=data.has_failures))


def _warn_of_returns(config: PolicyConfig, data: ReplayData) -> None:
    """Rewards of the user's own may add up to more than the bounds, which are for sparse ones."""
    assert config.lapo is not None
    low, high = config.lapo.min_v, config.lapo.max_v
    least = min(float(each.future.min()) for each in data.each)
    most = max(float(each.future.max()) for each in data.each)
    if least < low - ROUNDING or most > high + ROUNDING:
        LOGGER.warning(
            "discounted returns of the data are from %.4g to %.4g, and the critic's targets are "
            "clamped to policy.lapo.min_v %g and max_v %g, beyond which it tells nothing apart: "
            "set the two to what returns can be",
            least,
            most,
            low,
            high,
        )


def _check_settings(train: TrainConfig) -> None:
    if launched():
        raise ValueError("LAPO trains in one process: leave --processes out")
    plain = TrainConfig(num_steps=1)
    for name in OF_DIFFUSION:
        if getattr(train, name) != getattr(plain, name):
            raise ValueError(
                f"train.{name} is of diffusion policies and means nothing to LAPO: leave it out; "
                f"it is {getattr(train, name)}"
            )
