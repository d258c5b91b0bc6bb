"""What a training iteration of LAPO costs by its encoder, and how much memory reading takes.

Not a test: timings and sizes never decide whether anything passes. `encoders` prints a Markdown
table of `early9`, `shared` and `separate`, ResNet18s from scratch at three cameras, each in a
process of its own, beside what seed 004 says of its change from three networks to one. `reading`
goes once over a replay folder whose decoded pictures would be 18 GB and more, and tells by how
much memory grows; every episode of it is the same file under another name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from policy import LAYOUT, processor

from twin_policy.diffusion import count_parameters
from twin_policy.lapo_policy import LapoBatch, LapoPolicy
from twin_policy.normalizer import Normalizer
from twin_policy.policies import TaskSpec, create_policy
from twin_train.config import RunConfig, load_run_config

CAMERAS = ("head_camera", "left_camera", "right_camera")
ENCODERS: dict[str, dict[str, Any]] = {
    "early9": {"early_fusion": True},
    "shared": {"shared_backbone": True},
    "separate": {"shared_backbone": False},
}
SEED = {"parameters": "33.39 M -> 11.39 M", "ms": "1.6-2.2x quicker", "memory": "-60%"}
GIB = 1 << 30
PICTURE = (240, 320)
N_FRAMES = 401


def memory(field: str) -> int:
    """Of this process alone, in bytes: `VmRSS` now, `VmHWM` at most since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(found.split()[1]) * 1024


def make_config(**encoder: Any) -> RunConfig:
    config = load_run_config("lapo_small")
    changed = {"backbone": "resnet18", "pooling": "avg", "feature_dim": 256} | encoder
    policy = replace(
        config.policy,
        cameras=dict.fromkeys(CAMERAS, (224, 224)),
        encoder=replace(config.policy.encoder, **changed),
    )
    return replace(config, policy=policy)


def make_batch(config: RunConfig, size: int) -> LapoBatch:
    generator = torch.Generator().manual_seed(0)

    def pictures() -> dict[str, torch.Tensor]:
        return {
            camera: torch.randint(256, (size, 1, *shape, 3), generator=generator, dtype=torch.uint8)
            for camera, shape in config.policy.cameras.items()
        }

    horizon = config.policy.horizon
    return LapoBatch(
        images=pictures(),
        next_images=pictures(),
        state=torch.rand((size, 1, LAYOUT.dim), generator=generator),
        next_state=torch.rand((size, 1, LAYOUT.dim), generator=generator),
        action=torch.rand((size, horizon, LAYOUT.dim), generator=generator),
        valid=torch.ones((size, horizon), dtype=torch.bool),
        reward=torch.zeros(size),
        discount=torch.full((size,), 0.97),
    )


# Encoders


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One encoder, in this process: parameters, seconds of each iteration, memory."""
    from twin_train.lapo_loop import make_optimizer, update

    torch.set_num_threads(args.threads)
    config = make_config(**ENCODERS[name])
    batch = make_batch(config, args.batch)
    before = memory("VmRSS")
    torch.manual_seed(0)
    identity = Normalizer.identity(LAYOUT.dim, LAYOUT.dim)
    policy = create_policy(config.policy, {"task": TaskSpec(LAYOUT, identity, "aloha")})
    assert isinstance(policy, LapoPolicy)
    optimizer = make_optimizer(policy.train(), config.train)
    cpu, wall = [], []
    for step in range(args.repeats + 1):
        began = time.process_time(), time.perf_counter()
        update(policy, optimizer, batch, step=step, config=config.train)
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return {
        "backbones": count_parameters(policy.encoder.backbones),
        "encoder": count_parameters(policy.encoder) + count_parameters(policy.fusion),
        "all": count_parameters(policy),
        "cpu": statistics.median(cpu[1:]),
        "wall": statistics.median(wall[1:]),
        "resident": memory("VmRSS"),
        "peak": memory("VmHWM"),
        "before": before,
    }


def encoders(args: argparse.Namespace) -> None:
    """The table; a process for each encoder."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
    print(
        f"{processor()}, {args.threads} threads; Python {platform.python_version()}, {versions}. "
        f"ResNet18 with GroupNorm from scratch, three cameras of 224x224, batches of "
        f"{args.batch}, median of {args.repeats} iterations.\n"
    )
    found = {}
    for name in ENCODERS:
        words = ["--batch", str(args.batch), "--repeats", str(args.repeats)]
        command = [sys.executable, __file__, "one", name, *words, "--threads", str(args.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout)
    print(
        "| encoder | backbones | encoder and fusion | whole policy | CPU ms an iteration | wall ms "
        "| peak memory GiB | above the libraries GiB |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name, each in found.items():
        millions = " | ".join(f"{each[key] / 1e6:.2f} M" for key in ("backbones", "encoder", "all"))
        print(
            f"| `{name}` | {millions} | {1000 * each['cpu']:.0f} | {1000 * each['wall']:.0f} "
            f"| {each['peak'] / GIB:.2f} | {(each['peak'] - each['before']) / GIB:.2f} |"
        )
    old = found["separate"]

    def ratios(each: dict[str, Any]) -> str:
        above = (each["peak"] - each["before"]) / (old["peak"] - old["before"])
        return (
            f"{each['backbones'] / old['backbones'] - 1:+.1%} | "
            f"{old['cpu'] / each['cpu']:.2f}x quicker | {above - 1:+.0%}"
        )

    print(
        "\nAgainst `separate`:\n\n| encoder | parameters of the backbones | CPU time "
        "| memory above the libraries |\n|---|--:|--:|--:|"
    )
    for name in ("early9", "shared"):
        print(f"| `{name}` | {ratios(found[name])} |")
    print(f"| seed 004 | {SEED['parameters']} (-66%) | {SEED['ms']} | {SEED['memory']} |")


# Reading


def write_episode(path: Path) -> int:
    """A replay episode of moving blobs; returns what its pictures take decoded."""
    import cv2

    from twin_env.episodes_pictures import encode_recorded
    from twin_env.replay_files import ReplayAbout, ReplayFrames, sparse_labels, write_replay

    random = np.random.default_rng(0)
    ground = cv2.GaussianBlur(random.integers(0, 256, (*PICTURE, 3), np.uint8), (0, 0), 6)
    jpegs = []
    for frame in range(N_FRAMES):
        picture = ground.copy()
        cv2.circle(picture, (frame % PICTURE[1], 120), 20, (200, 40, 40), -1)
        jpegs.append(encode_recorded(picture))
    vector = np.cumsum(random.normal(0, 0.02, (N_FRAMES, LAYOUT.dim)), axis=0)
    reward, terminal, truncated = sparse_labels(N_FRAMES - 1, "success")
    arm = LAYOUT.left_arm
    joints = {
        "left_arm": vector[:, :arm],
        "left_gripper": vector[:, arm],
        "right_arm": vector[:, arm + 1 : -1],
        "right_gripper": vector[:, -1],
        "vector": vector,
    }
    write_replay(
        path,
        frames=ReplayFrames(joints, dict.fromkeys(CAMERAS, jpegs)),
        action=vector[1:],
        reward=reward,
        terminal=terminal,
        truncated=truncated,
        about=ReplayAbout(task="blobs", outcome="success", source="synthetic"),
    )
    return len(CAMERAS) * N_FRAMES * PICTURE[0] * PICTURE[1] * 3


def reading(args: argparse.Namespace) -> None:
    """Peak memory of converting a replay folder, and of one epoch over it."""
    torch.set_num_threads(args.threads)
    from twin_train.conversion import open_or_build_store
    from twin_train.dataset import rows_of_step
    from twin_train.lapo_run import open_replay
    from twin_train.loading import prefetch

    config = load_run_config("lapo_small")
    config = replace(
        config,
        policy=replace(config.policy, cameras=dict.fromkeys(CAMERAS, PICTURE)),
        train=replace(config.train, image_cache_mb=args.cache_mb, val_ratio=0.0),
    )
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch) / "blobs" / "data"
        each = write_episode(folder / "episode0.hdf5")
        count = -(-int(args.gigabytes * 1e9) // each)
        for number in range(1, count):
            os.link(folder / "episode0.hdf5", folder / f"episode{number}.hdf5")
        rows = [("libraries, and one episode written", memory("VmRSS"), memory("VmHWM"), 0.0)]

        def row(what: str, began: float) -> None:
            seconds = time.perf_counter() - began
            rows.append((what, memory("VmRSS"), memory("VmHWM"), seconds))
            print(f"  {what}: {seconds:.0f} s, peak {rows[-1][2] / GIB:.2f} GiB", file=sys.stderr)

        began = time.perf_counter()
        store = open_or_build_store(folder, None, config.policy.cameras, workers=1, quiet=True)
        row("convert it to a store", began)
        began = time.perf_counter()
        data = open_replay(folder, store, config, threads=1, device=torch.device("cpu"))
        row("open it, rewards read", began)
        n, size = len(data.training), config.train.batch_size
        began, seen = time.perf_counter(), 0

        def make(step: int) -> LapoBatch:
            return data.training.batch(rows_of_step(step, n=n, batch_size=size, seed=0))

        steps = n // size if args.steps is None else args.steps
        for batch in prefetch(make, range(steps)):
            pictures = (*batch.images.values(), *batch.next_images.values())
            seen += sum(picture.numel() for picture in pictures)
        row(f"{steps} batches of {size} ({steps * size / n:.2f} epochs)", began)
    print(
        f"{count} episodes of {N_FRAMES} frames and three cameras of {PICTURE[0]}x{PICTURE[1]}: "
        f"{count * each / 1e9:.1f} GB decoded; {args.cache_mb:.0f} MB of pictures kept; "
        f"{seen / 1e9:.1f} GB handed out.\n\n| after | memory GiB | peak GiB | above the libraries "
        "GiB | s |\n|---|--:|--:|--:|--:|"
    )
    base = rows[0][2]
    for what, now, peak, seconds in rows:
        print(
            f"| {what} | {now / GIB:.2f} | {peak / GIB:.2f} | {(peak - base) / GIB:.2f} "
            f"| {seconds:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("encoders", "reading", "one"))
    parser.add_argument("name", nargs="?", choices=list(ENCODERS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gigabytes", type=float, default=18.0)
    parser.add_argument("--cache-mb", type=float, default=100.0)
    parser.add_argument("--steps", type=int, help="batches to read; an epoch, if left out")
    parser.add_argument("--scratch", type=Path, help="where the episodes lie; the system's own")
    args = parser.parse_args()
    if args.what == "one":
        print(json.dumps(measure(args.name, args)))
    else:
        {"encoders": encoders, "reading": reading}[args.what](args)


if __name__ == "__main__":
    main()
