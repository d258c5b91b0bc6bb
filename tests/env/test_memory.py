"""A process that builds scene after scene holds no more memory for it."""

from __future__ import annotations

from typing import Any

import pytest

from twin_env import UnstableError, load_env_config, make_env
from twin_env.watchdog import resident_mb
from twin_env.workers import Done, WorkerPool

pytestmark = pytest.mark.simulator

WARM_UP, REBUILDS = 10, 50
SMALL = {"head_camera_type": "L515", "collect_wrist_camera": False}
SCENES = [
    ("beat_block_hammer", "demo_clean"),
    # Textures drawn by the seed, clutter, lights; and bowls of many convex pieces.
    ("stack_bowls_two", "demo_randomized"),
]


def rebuild(scene: tuple[str, str]) -> tuple[float, float]:
    """Runs in a worker: resident MB after the warm-up and after all rebuilds."""
    task, config_name = scene
    config = load_env_config(config_name)
    config["camera"].update(SMALL)
    env: Any = make_env(task)
    held: list[float] = []
    for seed in range(WARM_UP + REBUILDS):
        try:
            env.setup_demo(seed=seed, **config)
        except UnstableError:
            continue
        finally:
            held.append(resident_mb() or 0.0)
        env.get_obs()
    return held[WARM_UP - 1], held[-1]


def test_rebuilding_scenes_leaves_memory_flat() -> None:
    with WorkerPool(2, rebuild) as pool:
        for scene, outcome in pool.run(SCENES):
            assert isinstance(outcome, Done), (scene, outcome)
            warm, after = outcome.value
            assert after < 1.05 * warm, f"{scene}: {warm:.0f} MB, then {after:.0f} MB"
