"""Train a policy on recorded demonstrations; run it again to resume."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin_train.config import RunConfig
    from twin_train.loop import Result

ENV_CONFIG = "demo_clean"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="such as beat_block_hammer; several: TASK1,TASK2")
    parser.add_argument("policy", help="a policy config: a name in task_configs/policies or a YAML")
    parser.add_argument("--config", default=ENV_CONFIG, help="environment config of the episodes")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[TASK=]FOLDER",
        help="a folder of episodes, a store, or a RoboTwin checkout (or its data folder) with the "
        "task's episodes in it; default: outputs/data/TASK/CONFIG (of "
        "lapo, outputs/replay/TASK if it is there); several tasks: once for each",
    )
    parser.add_argument("--out", type=Path, help="default: outputs/checkpoints/TASK/POLICY")
    parser.add_argument("--episodes", type=int, help="use only the first N episodes (of each task)")
    parser.add_argument(
        "--action-dim",
        type=int,
        metavar="N",
        help="refuse episodes whose actions are not of N numbers: 14 for two arms of 6 joints",
    )
    parser.add_argument(
        "--data-only",
        action="store_true",
        help="convert the episodes to a store, which training does first, and stop there",
    )
    parser.add_argument("--seed", type=int, help="the same as --set train.seed=SEED")
    parser.add_argument("--steps", type=int, help="the same as --set train.num_steps=STEPS")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:N"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    parser.add_argument(
        "--processes", type=int, default=1, help="on this machine, one a GPU: torchrun, in short"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change the policy config, as in --set train.batch_size=64",
    )


def run(args: argparse.Namespace) -> int:
    for name in ("episodes", "steps", "threads", "processes", "action_dim"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, and is {value}")

    from twin_train.processes import count_local, is_first, launched, relaunch

    processes = count_local() if launched() else args.processes
    threads = args.threads or max(1, count_cpus() // processes)
    if args.processes > 1 and not launched():
        check_processes(args.policy)
        relaunch(sys.argv[1:], processes=processes, threads=threads)

    import torch

    from twin_policy.deploy import choose_device
    from twin_train.config import load_run_config
    from twin_train.processes import device_of
    from twin_train.run import train_run

    assignments = list(args.assignments)
    if args.seed is not None:
        assignments.append(f"train.seed={args.seed}")
    if args.steps is not None:
        assignments.append(f"train.num_steps={args.steps}")
    # That features are extracted first, say, and why those that are there do not serve.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("twin_train").setLevel(logging.INFO)
    config = load_run_config(args.policy, assignments)
    tasks = args.task.split(",")
    replay = config.policy.lapo is not None
    data = choose_data(tasks, args.data, args.config, replay=replay)
    if args.action_dim is not None:
        check_action_dim(data, args.action_dim)
    if args.data_only:
        return convert_only(config, data, args, threads=threads)
    name = Path(args.policy).stem
    folder = args.out or Path("outputs") / "checkpoints" / "+".join(sorted(tasks)) / name
    device = device_of(choose_device(args.device), named=args.device)
    torch.set_num_threads(threads)
    keep_freed_memory()
    # Activations that die out become denormal numbers, which a CPU multiplies slowly.
    torch.set_flush_denormal(True)
    with asked_to_stop() as stop:
        result = train_run(
            config,
            data=data,
            folder=folder,
            name=name,
            episodes=args.episodes,
            env_config=args.config if args.config != ENV_CONFIG else None,
            device=device,
            threads=threads,
            stop=lambda: bool(stop),
        )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if is_first():
        print(summary(result, folder))
    return 0


def check_processes(policy: str) -> None:
    """Raises `ValueError` where a policy trains in one process, before several are started."""
    from twin_train.config import load_run_config

    if load_run_config(policy).policy.lapo is not None:
        raise ValueError(f"{policy} is learnt by LAPO, in one process: leave --processes out")


def check_action_dim(data: Mapping[str, Path], wanted: int) -> None:
    """Looks into the first episode of each task.

    Raises:
        ValueError: its actions are of another length.
    """
    from twin_env.episodes import list_episodes, read_episode
    from twin_train.store import is_store, open_store

    for folder in data.values():
        if is_store(folder):
            store = open_store(folder)
            dim = store.left_arm + store.right_arm + 2
        else:
            dim = read_episode(list_episodes(folder)[0]).vector.shape[1]
        if dim != wanted:
            raise ValueError(
                f"{folder}: actions are of {dim} numbers, both arms and grippers, and --action-dim "
                f"says {wanted}: give {dim}, or the episodes of another robot"
            )


def convert_only(
    config: RunConfig, data: Mapping[str, Path], args: argparse.Namespace, *, threads: int
) -> int:
    """Makes the stores that `train_run` would make, and returns the exit status."""
    from twin_train.run import open_run_store
    from twin_train.sharing import Shared

    for task, folder in sorted(data.items()):
        store = open_run_store(
            folder,
            task,
            config,
            Shared(),
            episodes=args.episodes,
            env_config=args.config if args.config != ENV_CONFIG else None,
            threads=threads,
            quiet=False,
        )
        frames = sum(episode.n_frames for episode in store.episodes)
        print(f"{store.path}: {len(store.episodes)} episodes, {frames} frames")
    return 0


def summary(result: Result, folder: Path) -> str:
    """What a finished run is about."""
    error = (
        f", validation error {result.val['mean_abs']:.4f} rad" if "mean_abs" in result.val else ""
    )
    lines = [
        f"trained {result.steps} steps in {result.seconds:.0f} s "
        f"({1000 * result.seconds / result.steps:.0f} ms each): "
        f"loss {result.train_loss:.5f}{error}",
        f"checkpoint: {folder}",
    ]
    if result.best and result.best["step"] != result.steps:
        lines.append(
            f"best on validation: {folder / 'best'} (step {result.best['step']}, "
            f"{result.best['mean_abs']:.4f} rad)"
        )
    return "\n".join(lines)


def choose_data(
    tasks: Sequence[str], given: Sequence[str], env_config: str, *, replay: bool = False
) -> dict[str, Path]:
    """Task to folder: as given, by `TASK=FOLDER` or for the only task, else `collect`'s own.

    Args:
        replay: take replay data in outputs/replay/TASK, where there are some, before `collect`'s.

    Raises:
        ValueError: a task twice; a folder without a task, where there are several; several
            folders of a task's episodes in a tree of RoboTwin's.
        FileNotFoundError: a folder without episodes of the task.
    """
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"each task is named once, and these are {', '.join(tasks)}")
    folders: dict[str, Path] = {}
    for word in given:
        task, equals, folder = word.partition("=")
        if equals and task in tasks:
            folders[task] = Path(folder)
        elif len(tasks) == 1:
            folders[tasks[0]] = Path(word)
        else:
            raise ValueError(
                f"--data {word} must name one of the tasks {', '.join(tasks)}: --data TASK=FOLDER"
            )
    return {
        task: recorded_folder(folders[task], task, env_config)
        if task in folders
        else _default_folder(task, env_config, replay=replay)
        for task in tasks
    }


def _default_folder(task: str, env_config: str, *, replay: bool) -> Path:
    ours = Path("outputs") / "replay" / task
    return ours if replay and ours.is_dir() else episodes_folder(task, env_config)


def recorded_folder(given: Path, task: str, env_config: str) -> Path:
    """The task's folder in `given`, which may be a tree of RoboTwin's; stores stay as they are."""
    from twin_env.episodes_folders import find_task_folder
    from twin_train.store import is_store

    if not given.is_dir() or is_store(given):
        return given
    return find_task_folder(given, task, Path(env_config).stem)


def episodes_folder(task: str, env_config: str) -> Path:
    """Where `twinbench collect` puts the episodes of a task.

    Raises:
        ValueError: unknown task or environment config, with the nearest match.
    """
    from twin_env.backends import list_tasks
    from twin_env.config import load_env_config
    from twin_env.names import unknown

    if task not in list_tasks():
        reason = unknown("task", task, list_tasks())
        raise ValueError(f"{reason}. Episodes of any other task: --data {task}=FOLDER")
    load_env_config(env_config)
    return Path("outputs") / "data" / task / Path(env_config).stem


def count_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks instead of returning them to the system.

    A training step on a CPU frees and takes the same megabytes thousands of times; fetched anew,
    each page costs a fault (measured: 5,800 faults and 9 ms of a step of the demo's policy).
    Elsewhere than on glibc this does nothing.
    """
    mmap_threshold, trim_threshold = -3, -1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills on the first Ctrl-C or SIGTERM; the second one acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])
        print("\nstopping after this step, then saving ...", file=sys.stderr)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
