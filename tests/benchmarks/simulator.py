"""What the embedded simulator costs on this machine: `make benchmark` prints one Markdown table.

Not a test: timings never decide whether anything passes. Run it on an idle machine.
"""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sapien

from twin_env import load_env_config, make_env
from twin_env.collect import Recording, collect

TASK = "beat_block_hammer"
CONFIG = load_env_config("demo_clean")
EXPERT_SEEDS = range(200_000, 200_100)
COLLECTED = 12


def times_ms(action: Callable[[], Any], repeats: int) -> np.ndarray:
    """Wall milliseconds (repeats,) of each call, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1e3)
    return np.array(taken)


def row(what: str, ms: np.ndarray) -> None:
    low, high = np.quantile(ms, [0.1, 0.9])
    print(f"| {what} | {np.median(ms):.1f} ms | {low:.1f} to {high:.1f} | {len(ms)} |", flush=True)


def main() -> None:
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SAPIEN {sapien.__version__}; median, 10th to 90th percentile, n\n"
    )
    print("| what | median | spread | n |\n|---|---|---|---|")
    env: Any = make_env(TASK)
    row("setup_demo, with pictures", times_ms(lambda: env.setup_demo(seed=1, **CONFIG), 20))
    row("get_obs, three cameras at 320x240", times_ms(env.get_obs, 60))
    head_only = {**CONFIG, "camera": {**CONFIG["camera"], "collect_wrist_camera": False}}
    env.setup_demo(seed=1, **head_only)
    row("get_obs, head camera at 320x240", times_ms(env.get_obs, 60))
    flat = {**CONFIG, "shadow_map_size": 0}
    env.setup_demo(seed=1, **flat)
    row("get_obs, three cameras, no shadow", times_ms(env.get_obs, 60))

    env.setup_demo(seed=1, render=False, **CONFIG)
    actions = iter(env.expert_actions())
    row("take_action, along the expert's way", times_ms(lambda: env.take_action(next(actions)), 40))

    successes, episode_ms = 0, []
    for seed in EXPERT_SEEDS:
        started = time.perf_counter()
        env.setup_demo(seed=seed, render=False, **CONFIG)
        env.play_once()
        successes += env.plan_success and env.check_success()
        episode_ms.append((time.perf_counter() - started) * 1e3)
    row("expert episode, without pictures", np.array(episode_ms))
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    print(f"\nexpert: {successes} of {len(EXPERT_SEEDS)} seeds from {EXPERT_SEEDS.start}")
    print(f"peak memory of this process: {memory_mib:.0f} MiB")
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            records = collect(
                Recording(TASK, "embedded", CONFIG, Path(folder)),
                episodes=COLLECTED,
                workers=workers,
            )
            rate = len(records) / (time.perf_counter() - started) * 60
        print(
            f"collection, {workers} worker(s), start-up included: {rate:.0f} episodes a minute "
            f"({COLLECTED} episodes of about {np.mean([r.frames for r in records]):.0f} frames)"
        )


if __name__ == "__main__":
    main()
