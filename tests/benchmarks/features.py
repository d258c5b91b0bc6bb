"""Learning from stored features against learning with the frozen tower live: a Markdown table.

Not a test: timings never decide whether anything passes. The two ways take their turns in one
process, so that a busy machine changes both alike. The default tower is ViT-B/32 in depth, patch
and picture size, with its width reduced; `--full` is the whole one, with random weights.

By default epochs are measured. `--sweep` compares the training of a head on each of the tower's
12 layers with one training on one layer with the tower live: it measures pictures of the
extraction, a few steps of each way and one whole short run, and adds them up for runs of `--steps`
steps on `--pictures` pictures.

Heads side by side or stacked: k heads of one shape as one network with `torch.func` (`vmap` over
stacked parameters, one AdamW and one moving average over them) were measured against one after
another, on one thread of a busy CPU. The MLP of clip_dp_small (3.3 million parameters, 128 rows)
is as fast either way, 0.95 times for k = 4 and 1.06 times for k = 12; the U-Net of dp_resnet_cpu
(19 million, 64 rows) is slower stacked, 0.79 times for k = 4, because its convolutions become
grouped ones. A step is bound by arithmetic that stacking does not save. So runs are trained one
after another.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twin_env.episodes import write_episode
from twin_policy.ema import EMA
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
from twin_train.run import TaskData, build_policy, train_run
from twin_train.store import Store

NARROW = {"width": 192, "layers": 12, "head_width": 64, "embed_dim": 64}
CAMERAS, PICTURE = ("head_camera", "left_camera", "right_camera"), (240, 320)


def write_toy(folder: Path, episodes: int, frames: int, cameras: Sequence[str]) -> None:
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
                    "observation": {camera: {"rgb": picture} for camera in cameras},
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


HEADS = {
    "mlp": {"name": "mlp", "hidden_dim": 256, "n_blocks": 3},
    "unet": {"name": "unet", "down_dims": [256, 512, 1024]},
}


def make_config(args: argparse.Namespace, *, layer: int = 11, **train: Any) -> RunConfig:
    encoder = {
        "clip_model_name": "ViT-B/32",
        "clip_layer": layer,
        "feature_dim": 512,
        "pretrained_backbone_weights": "random",
        "resize_shape": [224, 224],
        "overrides": {} if args.full else NARROW,
    }
    policy = {
        "cameras": {camera: list(PICTURE) for camera in CAMERAS[: args.cameras]},
        "n_obs_steps": 3,
        "horizon": 8,
        "n_action_steps": 6,
        "encoder": encoder,
        "denoiser": HEADS[args.head],
    }
    settings = {"num_steps": 1, "batch_size": args.batch_size, **train}
    return parse(RunConfig, {"policy": policy, "train": settings}, source="benchmark")


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
    parser.add_argument("--cameras", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="all layers against one live training")
    parser.add_argument("--head", choices=tuple(HEADS), default="mlp")
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 5000, 40000])
    parser.add_argument("--pictures", type=int, default=5000)
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
        + f"; {tower}, random weights, {args.cameras} cameras; medians of {args.turns}\n"
    )
    print("| what | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "toy"
        cameras = CAMERAS[: args.cameras]
        write_toy(source, args.episodes, args.frames, cameras)
        sizes = dict.fromkeys(cameras, PICTURE)
        store = open_or_build_store(source, None, sizes, workers=1, quiet=True)
        config = make_config(args)
        if args.sweep:
            measure_sweep(source, store, args, device)
        else:
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
    pictures = len(store.cameras) * sum(each.n_frames for each in store.episodes)
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


class Learner:
    """A policy that takes single steps on windows, as a training does."""

    def __init__(self, config: RunConfig, store: Store, device: torch.device) -> None:
        self.windows = make_windows(store, config)
        split = (list(range(len(store.episodes))), [])
        data = TaskData(store.path, store, split, TaskWindows(self.windows, None))
        self.policy = build_policy(config, {"toy": data}).to(device).train()
        self.tower = self.policy.encoder.tower
        self.average = EMA(self.policy, constant=self.policy.encoder.backbones)
        learning = [each for each in self.policy.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
        self.size, self.device = config.train.batch_size, device
        self.generator = torch.Generator().manual_seed(0)
        self.done = 0

    def step(self) -> float:
        """Its seconds."""
        began = time.perf_counter()
        n = len(self.windows)
        rows = rows_of_step(self.done, n=n, batch_size=self.size, seed=0)
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.windows.batch(rows).to(self.device)
        loss = self.policy.compute_loss(batch, self.generator)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.policy, 0.99)
        float(loss.detach())
        self.done += 1
        return time.perf_counter() - began


def measure_sweep(
    source: Path, store: Store, args: argparse.Namespace, device: torch.device
) -> None:
    """`--turns` steps of each layer's head, and after every third one step with the tower live."""

    def config_of(layer: int, **train: Any) -> RunConfig:
        return make_config(args, layer=layer, **train)

    live = Learner(config_of(11), store, device)
    tower = live.tower
    live.step()
    began = time.perf_counter()
    held = choose_readouts(tower, range(tower.num_layers), ["class_token"])
    features = extract(store, tower, held=held, device=device, quiet=True)
    pictures = len(store.cameras) * sum(each.n_frames for each in store.episodes)
    picture_s = (time.perf_counter() - began) / pictures
    heads, lives = [], []
    for layer in range(tower.num_layers):
        config = config_of(layer)
        head = Learner(config, store, device)
        wanted = wanted_of(complete(config.policy.encoder), head.tower)
        read = read_features(features, wanted, store, cache_mb=4000)
        head.windows.use_features(read)
        head.step()
        heads += [head.step() for _ in range(args.turns)]
        if layer % 3 == 0:
            lives.append(live.step())
        del head
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_run(
            config_of(11, features="auto"),
            data={"toy": source},
            folder=Path(folder),
            device=device,
            threads=1,
            quiet=True,
        )
    run_s = time.perf_counter() - began
    head_s, live_s = float(np.median(heads)), float(np.median(lives))
    learning = sum(each.numel() for each in live.policy.parameters() if each.requires_grad)
    print(f"| parameters that learn ({args.head}) | {learning / 1e6:.1f} million |")
    print(f"| extracting {tower.num_layers} layers of a picture | {1e3 * picture_s:.0f} ms |")
    print(f"| a step of {args.batch_size} windows x 3 steps, tower live | {live_s:.2f} s |")
    print(f"| the same from the store | {head_s:.3f} s |")
    print(f"| a run besides its steps: network, checkpoint, card | {run_s:.1f} s |")
    for steps in args.steps:
        one = run_s + steps * live_s
        extraction = args.pictures * picture_s
        sweep = extraction + tower.num_layers * (run_s + steps * head_s)
        print(
            f"| {steps} steps, {args.pictures} pictures: {tower.num_layers} heads against one live "
            f"(added up from the above) | {sweep / 3600:.2f} h ({extraction / 3600:.2f} of them "
            f"extraction) against {one / 3600:.2f} h: {sweep / one:.2f} x |"
        )


if __name__ == "__main__":
    main()
