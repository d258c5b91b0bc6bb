"""What the embedded simulator costs on this machine: `make benchmark` prints one Markdown table.

Not a test: timings never decide whether anything passes. Run it on an idle machine; what is
compared is measured in turns within one run, and given as a ratio.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sapien

from twin_env import check_renderer, list_tasks, load_env_config, make_env
from twin_env.collect import Recording, collect
from twin_env.watchdog import resident_mb
from twin_env.workers import Done, WorkerPool
from twin_eval.provenance import usable_cores

CONFIG = load_env_config("demo_clean")
EXPERT_SEEDS = range(200_000, 200_030)
EPISODES = 12
CHUNK = 6
"""Actions for one observation, as RoboTwin's diffusion policy has them."""
REBUILDS = 50


def times_ms(action: Callable[[], Any], repeats: int) -> np.ndarray:
    """Wall milliseconds (repeats,) of each call, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1e3)
    return np.array(taken)


def row(what: str, ms: np.ndarray, beside: np.ndarray | None = None) -> None:
    """A line of the table; `beside` is what the median is divided by."""
    low, high = np.quantile(ms, [0.1, 0.9])
    ratio = "" if beside is None else f"{np.median(ms) / np.median(beside):.2f}"
    print(
        f"| {what} | {np.median(ms):.1f} ms | {low:.1f} to {high:.1f} | {len(ms)} | {ratio} |",
        flush=True,
    )


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    """The clean config with some keys of its sections changed."""
    return {**CONFIG, **{name: {**CONFIG[name], **keys} for name, keys in sections.items()}}


def measure_scene(task: str) -> None:
    env: Any = make_env(task)
    pictures = times_ms(lambda: env.setup_demo(seed=1, **CONFIG), 20)
    row("setup_demo", pictures)
    bare = times_ms(lambda: env.setup_demo(seed=1, render=False, **CONFIG), 20)
    row("setup_demo without pictures", bare, pictures)
    randomised = load_env_config("demo_randomized")
    rich = times_ms(lambda: env.setup_demo(seed=1, **randomised), 20)
    row("setup_demo, demo_randomized", rich, pictures)
    env.setup_demo(seed=1, **CONFIG)
    three = times_ms(env.get_obs, 60)
    row("get_obs, three cameras at 320x240", three)
    for what, config in (
        ("get_obs, head camera at 320x240", changed(camera={"collect_wrist_camera": False})),
        ("get_obs, three cameras, no shadows", {**CONFIG, "shadow_map_size": 0}),
        ("get_obs, three cameras, demo_randomized", randomised),
        ("get_obs, three cameras, with depth", changed(data_type={"depth": True})),
        (
            "get_obs, three cameras, with depth, segmentations and point cloud",
            changed(
                data_type={
                    "depth": True,
                    "mesh_segmentation": True,
                    "actor_segmentation": True,
                    "pointcloud": True,
                }
            ),
        ),
    ):
        env.setup_demo(seed=1, **config)
        row(what, times_ms(env.get_obs, 60), three)


def measure_motion(task: str) -> None:
    env: Any = make_env(task)
    env.setup_demo(seed=1, render=False, **CONFIG)
    still = env.drive_vector()
    row("take_action that moves nothing", times_ms(lambda: env.take_action(still), 20))
    env.setup_demo(seed=1, render=False, **CONFIG)
    actions = iter(env.expert_actions())
    row("take_action, along the expert's way", times_ms(lambda: env.take_action(next(actions)), 40))
    for what, render in (("expert episode, no pictures", False), ("the same, recorded", True)):
        seeds = iter(EXPERT_SEEDS)

        def episode(seeds: Any = seeds, render: bool = render) -> None:
            frames: list[Any] = []
            env.frame_sink = (lambda task: frames.append(task.get_obs())) if render else None
            env.setup_demo(seed=next(seeds), render=render, **CONFIG)
            env.play_once()

        row(what, times_ms(episode, len(EXPERT_SEEDS) - 1 if not render else 8))


def play_policy(job: tuple[str, int]) -> int:
    """Runs in a worker: the expert's actions as a policy would send them; returns their number."""
    task, seed = job
    env: Any = make_env(task)
    env.setup_demo(seed=seed, is_test=True, **CONFIG)
    for number, action in enumerate(env.expert_actions()):
        if number % CHUNK == 0:
            env.get_obs()
        env.take_action(action)
        if env.eval_success:
            break
    return int(env.take_action_cnt)


def rebuild(task: str) -> list[float]:
    """Runs in a worker: resident MB without pictures, with them, and after many scenes."""
    env: Any = make_env(task)
    env.setup_demo(seed=0, render=False, **CONFIG)
    held = [resident_mb() or 0.0]
    for seed in range(REBUILDS):
        env.setup_demo(seed=seed, **CONFIG)
        env.get_obs()
        if seed in (9, REBUILDS - 1):
            held.append(resident_mb() or 0.0)
    return held


def measure_throughput(task: str) -> None:
    print("\n| episodes an hour | 1 worker | 2 workers | ratio |\n|---|---|---|---|")
    recorded, evaluated = [], []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            recording = Recording(task, "embedded", CONFIG, Path(folder))
            collect(recording, episodes=EPISODES, workers=workers)
            recorded.append(EPISODES / (time.perf_counter() - started) * 3600)
        with WorkerPool(workers, play_policy) as pool:
            started = time.perf_counter()
            for _ in pool.run([(task, seed) for seed in range(EPISODES)]):
                pass
            evaluated.append(EPISODES / (time.perf_counter() - started) * 3600)
    for what, (one, two) in (
        (f"{EPISODES} recorded, with start-up", recorded),
        (f"{EPISODES} by a policy that costs nothing, with start-up", evaluated),
    ):
        print(f"| {what} | {one:.0f} | {two:.0f} | {two / one:.2f} |", flush=True)


def measure_memory(task: str) -> None:
    with WorkerPool(1, rebuild) as pool:
        ((_, outcome),) = pool.run([task])
    assert isinstance(outcome, Done), outcome
    bare, warm, after = outcome.value
    print(
        f"\nresident memory of a worker: {bare:.0f} MB without pictures, {warm:.0f} MB with them, "
        f"{after:.0f} MB after {REBUILDS} scenes ({100 * (after / warm - 1):+.1f}%)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="beat_block_hammer", choices=list_tasks())
    task = parser.parse_args().task
    print(
        f"{task} on {platform.machine()}, {usable_cores()} cores, "
        f"Python {platform.python_version()}, SAPIEN {sapien.__version__}, "
        f"{check_renderer().device}; ratio: to the one it varies\n"
    )
    print("| what | median | 10% to 90% | n | ratio |\n|---|---|---|---|---|")
    measure_scene(task)
    measure_motion(task)
    measure_throughput(task)
    measure_memory(task)


if __name__ == "__main__":
    main()
