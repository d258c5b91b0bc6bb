"""One training run from folders of episodes to a folder with a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from twin_env.episodes import list_episodes
from twin_policy.action_space import JointLayout
from twin_policy.checkpoint import is_prepared, prepare_checkpoint
from twin_policy.diffusion import (
    ChunkPolicy,
    DenoisingPolicy,
    count_parameters,
    parameter_table,
)
from twin_policy.encoders import check_encoder
from twin_policy.files import remove_partial
from twin_policy.normalizer import Normalizer
from twin_policy.policies import TaskSpec, create_policy, statistics_group
from twin_policy.pretrained import complete, is_tower, resolve
from twin_policy.specs import TaskEntry
from twin_train.card import has_card, write_card
from twin_train.claim import RunConflict, claim
from twin_train.config import RunConfig
from twin_train.dataset import Windows, fit_normalizer, split_episodes
from twin_train.feature_use import check_trainable_from_features, use_features
from twin_train.figure import draw_losses
from twin_train.log import LOG, check_wandb, read_log
from twin_train.loop import BEST, Result, TaskWindows, train
from twin_train.processes import in_turn, open_accelerator
from twin_train.provenance import RANDOM_WEIGHTS, describe, describe_data
from twin_train.sharing import Shared
from twin_train.state import STATE
from twin_train.store import Store, is_store

__all__ = ["RunConflict", "build_policy", "open_run_store", "resolve_config", "train_run"]

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The episodes of one task, opened."""

    data: Path
    """The folder of episodes, or the store."""
    store: Store
    split: tuple[list[int], list[int]]
    """Positions of the episodes for training and for validation."""
    windows: TaskWindows

    @property
    def layout(self) -> JointLayout:
        return JointLayout(self.store.left_arm, self.store.right_arm)


def train_run(
    config: RunConfig,
    *,
    data: Mapping[str, Path],
    folder: Path,
    name: str = "policy",
    episodes: int | None = None,
    env_config: str | None = None,
    device: torch.device,
    threads: int,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    shared: Shared | None = None,
) -> Result:
    """Trains a policy, or goes on training the one in `folder`.

    Args:
        data: task to its folder of episodes, or store.
        name: of the policy config, for the figure's title.
        episodes: use this many of the episodes of each task, the first ones; all by default.
        env_config: environment config of the episodes, where it is not the default one.
        shared: what other runs of this process read, too; what comes out does not depend on it.

    Raises:
        ValueError: `episodes` is not positive; a policy of one task for several; wandb or a
            precision is asked for that is not there.
        WeightsError: pretrained weights that are missing or do not fit; before data are converted.
        FileNotFoundError: no episodes, or fewer than asked for.
        RunConflict: `folder` holds a run of another config or of other episodes.
    """
    check_wandb(config.train.wandb)
    _check_asked(config, list(data), episodes)
    config = resolve_config(config)
    if config.policy.cameras:
        check_encoder(config.policy.cameras, config.policy.encoder, config.policy.n_obs_steps)
    shared = shared or Shared()
    if config.policy.lapo is not None:
        from twin_train.lapo_run import train_lapo_run

        return train_lapo_run(
            config, data=data, folder=folder, name=name, episodes=episodes, env_config=env_config,
            device=device, threads=threads, stop=stop, quiet=quiet, shared=shared,
        )  # fmt: skip
    accelerator = open_accelerator(
        device,
        mixed_precision=config.train.mixed_precision,
        # A step may have windows of some of the tasks only, and so use some of the heads; nothing
        # is used of a tower beyond the layer that is read.
        partly_used=len(data) > 1 or is_tower(config.policy.encoder.backbone),
    )

    def open_stores() -> dict[str, Store]:
        return {
            task: open_run_store(
                path, task, config, shared, episodes=episodes, env_config=env_config,
                threads=threads, quiet=quiet,
            )
            for task, path in sorted(data.items())
        }  # fmt: skip

    stores = in_turn(accelerator, open_stores)
    if accelerator.is_main_process:
        fingerprints = {task: store.fingerprint for task, store in stores.items()}
        claim(folder, config, data_sha256=fingerprints, processes=accelerator.num_processes)
        for written in (folder, folder / BEST, (folder / STATE).parent):
            remove_partial(written)
    budget_mb = config.train.image_cache_mb / len(stores)
    tasks = {
        task: _cut(
            task, data[task], store, config, shared, cache_mb=budget_mb, threads=threads,
            device=device,
        )
        for task, store in stores.items()
    }  # fmt: skip
    policy = build_policy(config, tasks)
    weights = policy.encoder.load_pretrained()
    features: dict[str, Any] = {}
    if (choice := config.train.features) is not None:
        features = in_turn(
            accelerator,
            lambda: use_features(
                choice,
                policy.encoder,
                {task: (each.store, each.windows.each) for task, each in tasks.items()},
                cache_mb=budget_mb,
                device=device,
                threads=threads,
                quiet=quiet,
                say=LOGGER.info,
                shared=shared,
            ),
        )
    policy.encoder.add_adapters(seed=config.train.seed)
    if accelerator.is_main_process:
        entries = {
            task: TaskEntry.describe(
                config.policy,
                layout=each.layout,
                cameras=each.store.source_shapes,
                embodiment=each.store.embodiment,
            )
            for task, each in tasks.items()
        }
        prepare_run(folder, policy, entries)
    accelerator.wait_for_everyone()
    result = train(
        policy,
        tasks={task: each.windows for task, each in tasks.items()},
        config=config.train,
        folder=folder,
        provenance=describe(
            config,
            tasks={task: _described(each, policy, task) for task, each in tasks.items()},
            parameters=_count_parameters(config, policy),
            backbone_weights=weights,
            processes=accelerator.num_processes,
        )
        | {"features": features},
        accelerator=accelerator,
        device=device,
        stop=stop,
        quiet=quiet,
    )
    # Evaluations know a checkpoint by its files: asked again for a finished run, none is touched.
    if accelerator.is_main_process and not has_card(folder):
        count = sum(len(store.episodes) for store in stores.values())
        title = f"{', '.join(tasks)}: {name}, {count} episodes"
        if weights["source"] == RANDOM_WEIGHTS:
            title += f", backbone of {RANDOM_WEIGHTS}"
        ends = [stage.end for stage in config.train.stages[:-1]]
        draw_losses(read_log(folder / LOG), folder / "loss.png", title=title, stages=ends)
        # The card reads the checkpoint: two of a policy of 7 GB would not fit everywhere.
        accelerator.free_memory()
        del policy
        write_card(folder, name=name, result=result, device=device)
    return result


def resolve_config(config: RunConfig) -> RunConfig:
    """With all decided that the encoder's config leaves open.

    Raises:
        ValueError: features are asked for that cannot be; an unknown backbone.
        WeightsError: a tag that is unknown, missing or contradicted; no such weight file.
    """
    encoder = complete(config.policy.encoder)
    policy = replace(config.policy, encoder=encoder)
    if config.train.features is not None:
        check_trainable_from_features(policy)
    if policy.cameras:
        policy = replace(policy, encoder=resolve(encoder))
    return replace(config, policy=policy)


def _check_asked(config: RunConfig, tasks: list[str], episodes: int | None) -> None:
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes must be at least 1, and is {episodes}")
    kind = config.policy.action_space.kind
    if kind == "joint" and len(tasks) > 1:
        raise ValueError(
            f"policy.action_space.kind joint is for one task, and got {', '.join(tasks)}: "
            "set it to heads or unified"
        )


def open_run_store(
    data: Path,
    task: str,
    config: RunConfig,
    shared: Shared,
    *,
    episodes: int | None,
    env_config: str | None,
    threads: int,
    quiet: bool,
) -> Store:
    """The episodes of a task that a run learns from, converted first where they are not.

    Raises:
        FileNotFoundError: no episodes, or fewer than asked for.
    """
    if not is_store(data):
        _check_there(data, task, episodes, env_config)
    store = shared.store(
        data, config.policy.cameras, episodes=episodes, workers=threads, quiet=quiet
    )
    if episodes is not None and len(store.episodes) < episodes:
        raise ValueError(
            f"{data} holds {len(store.episodes)} episodes, not {episodes}: ask for fewer, or give "
            "the folder of episodes that it was made of, once that has more"
        )
    return store


def _cut(
    task: str,
    data: Path,
    store: Store,
    config: RunConfig,
    shared: Shared,
    *,
    cache_mb: float,
    threads: int,
    device: torch.device,
) -> TaskData:
    """Splits a task's episodes and cuts their windows."""
    split = split_episodes(
        len(store.episodes), val_ratio=config.train.val_ratio, seed=config.train.seed
    )
    transitions = shared.transitions(
        store,
        cache_mb=cache_mb,
        threads=threads,
        device=device,
        pictures=config.train.features is None,
    )
    training, validation = (
        Windows(
            transitions,
            chosen,
            n_obs_steps=config.policy.n_obs_steps,
            horizon=config.policy.horizon,
            task=task,
            noop_filter_rad=config.train.noop_filter_rad,
        )
        if chosen
        else None
        for chosen in split
    )
    assert training is not None
    return TaskData(data, store, split, TaskWindows(training, validation))


def build_policy(config: RunConfig, tasks: Mapping[str, TaskData]) -> DenoisingPolicy:
    """A policy with fresh weights, which depend on the seed alone, and fitted statistics."""
    groups: dict[str, list[str]] = {}
    for task, each in tasks.items():
        group = statistics_group(config.policy, task, each.layout, each.store.embodiment)
        groups.setdefault(group, []).append(task)
    normalizers: dict[str, Normalizer] = {}
    for members in groups.values():
        windows = [tasks[task].windows.training for task in members]
        fitted = fit_normalizer(windows, config.policy, tasks[members[0]].layout)
        normalizers |= dict.fromkeys(members, fitted)
    specs = {
        task: TaskSpec(each.layout, normalizers[task], each.store.embodiment)
        for task, each in tasks.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        policy = create_policy(config.policy, specs)
    assert isinstance(policy, DenoisingPolicy)
    return policy


def prepare_run(folder: Path, policy: ChunkPolicy, entries: Mapping[str, TaskEntry]) -> None:
    """Writes what does not change during a run, unless weights of this run belong to it already.

    A later version may write the same settings with more keys, which older weights do not know.
    """
    if not ((folder / STATE).is_file() and is_prepared(folder)):
        prepare_checkpoint(folder, policy=policy, tasks=entries)


def _described(task_data: TaskData, policy: ChunkPolicy, task: str) -> dict[str, Any]:
    return describe_data(
        task_data.data,
        task_data.store,
        split=task_data.split,
        n_windows=len(task_data.windows.training),
        policy=policy,
        task=task,
    )


def _count_parameters(config: RunConfig, policy: ChunkPolicy) -> dict[str, Any]:
    """Of the parts; `learning` are those that get gradients in the last stage."""
    policy.encoder.freeze_backbones(config.train.stages[-1].freeze_backbone)
    return {**parameter_table(policy), "learning": count_parameters(policy, learning=True)}


def _check_there(data: Path, task: str, episodes: int | None, env_config: str | None) -> None:
    wanted = 50 if episodes is None else episodes
    option = f" --config {env_config}" if env_config else ""
    remedy = f"record them with `twinbench collect {task}{option} --episodes {wanted}`"
    try:
        paths = list_episodes(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no episodes in {data}: {remedy}") from error
    if episodes is not None and len(paths) < episodes:
        raise FileNotFoundError(f"{data} holds {len(paths)} episodes, not {episodes}: {remedy}")
