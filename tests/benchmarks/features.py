"""Epochs from a feature store against epochs with the frozen tower live: one Markdown table.

Not a test: timings never decide whether anything passes. The two ways take their epochs in turns,
in one process, so that a busy machine changes both alike. The default tower is ViT-B/32 in depth,
patch and picture size, with its width reduced; `--full` is the whole one, with random weights.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from twin_env.episodes import write_episode
from twin_policy.parsing import parse
from twin_policy.pretrained import complete
from twin_train.card import describe_machine
from twin_train.commands.train import count_cpus, keep_freed_memory
from twin_train.config import RunConfig
from twin_train.conversion import open_or_build_store
from twin_train.dataset import Windows, read_transitions, rows_of_step
from twin_train.extraction import choose_readouts, extract
from twin_train.features import read_features, wanted_of
from twin_train.loop import TaskWindows
from twin_train.run import TaskData, build_policy
from twin_train.store import Store

NARROW = {"width": 192, "layers": 12, "head_width": 64, "embed_dim": 64}
CAMERA, PICTURE = "head_camera", (240, 320)


def write_toy(folder: Path, episodes: int, frames: int) -> None:
    """Episodes of noise: what is in the pictures costs nothing here."""
    random = np.random.default_rng(0)
    for number in range(episodes):
        written = []
        for _ in range(frames):
            vector = random.normal(size=14)
            picture = np.kron(
                random.integers(0, 255, (15, 20, 3), np.uint8), np.ones((16, 16, 1), np.uint8)
            )
            written.append(
                {
                    "observation": {CAMERA: {"rgb": picture}},
                    "joint_action": {
                        "left_arm": vector[:6],
                        "left_gripper": vector[6],
                        "right_arm": vector[7:13],
                        "right_gripper": vector[13],
                        "vector": vector,
                    },
                }
            )
        write_episode(folder / "data" / f"episode{number}.hdf5", written)


def make_config(*, full: bool, batch_size: int) -> RunConfig:
    encoder = {
        "clip_model_name": "ViT-B/32",
        "clip_layer": 11,
        "feature_dim": 512,
        "pretrained_backbone_weights": "random",
        "resize_shape": [224, 224],
        "overrides": {} if full else NARROW,
    }
    policy = {
        "cameras": {CAMERA: list(PICTURE)},
        "n_obs_steps": 3,
        "horizon": 8,
        "n_action_steps": 6,
        "encoder": encoder,
        "denoiser": {"name": "mlp", "hidden_dim": 256, "n_blocks": 3},
    }
    values = {"policy": policy, "train": {"num_steps": 1, "batch_size": batch_size}}
    return parse(RunConfig, values, source="benchmark")


def make_windows(store: Store, config: RunConfig) -> Windows:
    data = read_transitions(store, cache_mb=4000, threads=1)
    episodes = range(len(store.episodes))
    policy = config.policy
    return Windows(data, episodes, n_obs_steps=policy.n_obs_steps, horizon=policy.horizon)


def epoch(policy, optimizer, windows: Windows, batch_size: int, device: torch.device) -> float:
    """Seconds of one epoch of training: batches, loss, gradients, optimiser."""
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    for step in range(-(-len(windows) // batch_size)):
        rows = rows_of_step(step, n=len(windows), batch_size=batch_size, seed=0)
        optimizer.zero_grad(set_to_none=True)
        loss = policy.compute_loss(windows.batch(rows).to(device), generator)
        loss.backward()
        optimizer.step()
        float(loss.detach())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole ViT-B/32")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packages = ("torch", "open_clip_torch", "numpy")
    tower = "ViT-B/32" if args.full else f"ViT-B/32 of width {NARROW['width']} instead of 768"
    print(
        f"{describe_machine(device)} ({args.threads} used of {count_cpus()} cores, load "
        f"{os.getloadavg()[0]:.1f}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in packages)
        + f"; {tower}, random weights, one camera; medians of {args.turns}\n"
    )
    print("| what | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "toy"
        write_toy(source, args.episodes, args.frames)
        store = open_or_build_store(source, None, {CAMERA: PICTURE}, workers=1, quiet=True)
        config = make_config(full=args.full, batch_size=args.batch_size)
        measure(store, config, args.turns, device)


def measure(store: Store, config: RunConfig, turns: int, device: torch.device) -> None:
    live, stored = make_windows(store, config), make_windows(store, config)
    tasks = TaskWindows(live, None)
    split = (list(range(len(store.episodes))), [])
    policy = build_policy(config, {"toy": TaskData(store.path, store, split, tasks)})
    tower = policy.to(device).train().encoder.tower
    began = time.perf_counter()
    held = choose_readouts(tower, range(tower.num_layers), ["class_token"])
    features = extract(store, tower, held=held, device=device, quiet=True)
    extraction = time.perf_counter() - began
    pictures = sum(each.n_frames for each in store.episodes)
    print(
        f"| extracting {len(held)} layers of {pictures} pictures, once | {extraction:.1f} s, "
        f"{1e3 * extraction / pictures:.0f} ms a picture |"
    )
    policy.train()
    wanted = wanted_of(complete(config.policy.encoder), tower)
    began = time.perf_counter()
    stored.use_features(read_features(features, wanted, store, cache_mb=4000))
    opening = time.perf_counter() - began
    learning = [each for each in policy.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    size = config.train.batch_size
    for windows in (live, stored):  # once without a clock, which decodes pictures, too
        epoch(policy, optimizer, windows, size, device)
    seconds: dict[str, list[float]] = {"live": [], "stored": []}
    for _ in range(turns):
        for way, windows in (("live", live), ("stored", stored)):
            seconds[way].append(epoch(policy, optimizer, windows, size, device))
    spent = {way: float(np.median(each)) for way, each in seconds.items()}
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    print(f"| checking and opening the store | {1e3 * opening:.0f} ms |")
    print(f"| an epoch of {len(live)} windows, tower live | {spent['live']:.2f} s |")
    print(f"| the same from the store | {spent['stored']:.3f} s |")
    print(f"| ratio | {np.median(ratios):.0f} x (from {min(ratios):.0f} to {max(ratios):.0f}) |")


if __name__ == "__main__":
    main()
