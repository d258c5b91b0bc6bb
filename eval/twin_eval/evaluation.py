"""From what was asked for to run folders full of episodes: cells, plans, journals, one run."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin_eval.cells import Cell, Work
from twin_eval.environments import EnvironmentSpec
from twin_eval.episode import EpisodeRequest, noise_seed
from twin_eval.inference import PolicySpec
from twin_eval.journal import open_journal
from twin_eval.policies import (
    SETTINGS_FILE,
    digest_checkpoint,
    digest_policy,
    find_checkpoint,
    find_policy,
    list_policies,
    read_training_progress,
    read_usr_args,
    read_weights_source,
    working_folder,
)
from twin_eval.provenance import describe_host, describe_simulator, git_state
from twin_eval.rollouts import RolloutMode
from twin_eval.seed_plan import PlanEntry
from twin_eval.suites import PolicyChoice
from twin_eval.video import VideoMode


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all cells of an evaluation."""

    episodes: int
    seed: int = 0
    """Group of scenes: they start at 100000 * (1 + seed)."""
    noise_seed: int = 0
    """Which draw of the policies' randomness on these scenes."""
    instruction_type: str = "unseen"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the policies' `deploy_policy.yml`."""
    videos: VideoMode = field(default_factory=VideoMode.none)
    video_cameras: str = "head"
    rollouts: RolloutMode = field(default_factory=RolloutMode.none)
    set_aside: bool = False
    """Move results of a different run out of the way instead of refusing."""


def make_cell(
    environment: EnvironmentSpec, choice: PolicyChoice, folder: Path, settings: Settings
) -> Cell:
    """The cell of a policy in an environment, with all that its `get_model` will receive.

    Raises:
        FileNotFoundError: if its checkpoint is not there.
        ValueError: if there is no such policy or setting.
    """
    task, source = environment.task, _find_policy(choice.policy, environment.robotwin)
    if choice.checkpoint is None:
        checkpoint = find_checkpoint(task, source.name)
    else:
        checkpoint = Path(choice.checkpoint.replace("{task}", task))
    if checkpoint is not None and not checkpoint.exists():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    left_arm, right_arm = environment.arm_dims()
    harness = {
        "policy_name": source.name,
        "task_name": task,
        "task_config": environment.config_name,
        "ckpt_setting": checkpoint.name if checkpoint else environment.config_name,
        "seed": settings.seed,
        "instruction_type": settings.instruction_type,
        "left_arm_dim": left_arm,
        "right_arm_dim": right_arm,
        "checkpoint_path": _told(checkpoint, source),
    }
    usr_args = read_usr_args(source, harness, {**settings.settings, **choice.settings})
    policy = PolicySpec(
        name=choice.label,
        folder=source,
        usr_args=usr_args,
        checkpoint=digest_checkpoint(checkpoint) if checkpoint else "none",
    )
    return Cell(
        environment=environment,
        policy=policy,
        folder=folder,
        videos=settings.videos,
        video_cameras=settings.video_cameras,
        rollouts=settings.rollouts,
    )


def _find_policy(name_or_path: str, robotwin: str | None) -> Path:
    """Ours, else that of the RoboTwin checkout that is evaluated in."""
    if robotwin and os.sep not in name_or_path and name_or_path not in list_policies():
        theirs = Path(robotwin) / "policy" / name_or_path
        if (theirs / SETTINGS_FILE).exists():
            return find_policy(str(theirs))
    return find_policy(name_or_path)


def _told(checkpoint: Path | None, policy: Path) -> str | None:
    """The checkpoint's path as the policy can open it, wherever it works."""
    if checkpoint is None:
        return None
    return str(checkpoint if working_folder(policy) is None else checkpoint.absolute())


def training_of(cell: Cell) -> str:
    """A word on a checkpoint whose training has not finished; else empty."""
    checkpoint = cell.policy.usr_args["checkpoint_path"]
    return read_training_progress(Path(checkpoint)) if checkpoint else ""


def weights_of(cell: Cell) -> str:
    """Where the weights of the checkpoint's pretrained network came from; empty if not told."""
    checkpoint = cell.policy.usr_args["checkpoint_path"]
    return read_weights_source(Path(checkpoint)) if checkpoint else ""


def define(cell: Cell, settings: Settings) -> dict[str, Any]:
    """What makes this run this run: it must not change within a run folder."""
    definition: dict[str, Any] = {
        "environment": cell.environment.fingerprint(),
        "config": cell.environment.config_name,
        "policy": cell.policy.folder.name,
        "label": cell.policy.name,
        "policy_sources": digest_policy(
            cell.policy.folder, checkpoints=cell.policy.checkpoint == "none"
        ),
        "usr_args": {k: v for k, v in cell.policy.usr_args.items() if k != "checkpoint_path"},
        "checkpoint": cell.policy.checkpoint,
        "noise_seed": settings.noise_seed,
    }
    return definition


def plan_requests(entries: Sequence[PlanEntry], settings: Settings) -> list[EpisodeRequest]:
    """The fixed list of episodes."""
    return [
        EpisodeRequest(
            index=index,
            seed=entry.seed,
            noise_seed=noise_seed(entry.seed, settings.noise_seed),
            instruction=entry.instructions[settings.instruction_type],
            attributes=entry.attributes,
        )
        for index, entry in enumerate(entries[: settings.episodes])
    ]


@contextmanager
def open_works(
    cells: Sequence[Cell],
    entries: Callable[[EnvironmentSpec], Sequence[PlanEntry]],
    settings: Settings,
) -> Iterator[list[Work]]:
    """Each cell with its journal, held open, and its episodes; `entries` gives an environment's.

    Raises:
        JournalError: if a folder holds another run or is in use.
    """
    host = {"session": new_session_id(), **describe_host()}
    with ExitStack() as stack:
        journals = [
            stack.enter_context(
                open_journal(
                    cell.folder,
                    define(cell, settings),
                    {
                        **host,
                        "checkpoint_path": cell.policy.usr_args["checkpoint_path"],
                        "training": training_of(cell),
                        "weights": weights_of(cell),
                        "policy_git": git_state(cell.policy.folder),
                        **describe_simulator(cell.environment),
                    },
                    planned=settings.episodes,
                    set_aside=settings.set_aside,
                )
            )
            for cell in cells
        ]
        yield [
            Work(cell, journal, plan_requests(entries(cell.environment), settings))
            for cell, journal in zip(cells, journals, strict=True)
        ]


def new_session_id() -> str:
    """Sorts by time, and differs between processes that start in the same second."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(3)
