"""What fusion_dp costs at full size on a CPU, with random weights: a Markdown table.

Not a test: timings and sizes never decide whether anything passes. One process holds all four
models, a distilled encoder and the head, as task_configs/policies/fusion_dp.yaml has them, and acts
through the agent that evaluations use. It takes minutes and 10 GB of memory, so `make benchmark`
leaves it out. `--in-turn` deploys with `models_in_turn`. `--checkpoint FOLDER` writes the policy
there (6.6 GB), or acts with what an earlier call wrote: memory then is that of an evaluation, which
reads a checkpoint.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from policy import LAYOUT, processor

from twin_policy.agent import Agent
from twin_policy.aligned import AlignedEncoder
from twin_policy.checkpoint import Checkpoint, prepare_checkpoint, save_weights
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import ChunkPolicy, count_parameters
from twin_policy.fusion_config import AlignedConfig, AlignedModel
from twin_policy.fusion_encoder import FusionEncoder
from twin_policy.loading import load_agent
from twin_policy.normalizer import Normalizer
from twin_policy.policies import TaskSpec, create_policy
from twin_policy.pretrained import complete
from twin_policy.specs import TaskEntry
from twin_policy.towers import Towers
from twin_train.config import load_run_config
from twin_train.distill_config import load_distill_config

MIB = 1 << 20
PICTURE = (240, 320, 3)


def peak_mib() -> float:
    """Of this process since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def row(what: str, action: Callable[[], Any]) -> Any:
    """Runs it once, and prints its CPU and wall seconds, and memory now and at most so far."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = action()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"| {what} | {cpu:.2f} | {wall:.2f} | {resident_mib() / 1024:.2f} | "
        f"{peak_mib() / 1024:.2f} |",
        flush=True,
    )
    return found


def make_config(scheme: str) -> PolicyConfig:
    """fusion_dp as shipped, but for its weights; its distilled encoder as `four_models` has it."""
    config = load_run_config("fusion_dp").policy
    fusion = config.encoder.fusion
    assert fusion is not None
    models = tuple(replace(each, weights="random") for each in fusion.models)
    with torch.device("meta"):
        towers = Towers(models, grid=fusion.grid, cells=fusion.cells)
    known = tuple(
        AlignedModel(each.name, each.backbone, width, towers.layers[each.name])
        for each, width in zip(models, towers.widths, strict=True)
    )
    student = load_distill_config("four_models").student
    aligned = AlignedConfig(
        known, fusion.grid, fusion.cells, fusion=student.fusion, dim=student.dim,
        pooling=student.pooling, context_layers=student.context_layers, embedding_dim=1280,
    )  # fmt: skip
    chosen = replace(fusion, scheme=scheme, models=models, aligned=None, aligned_config=aligned)  # type: ignore[arg-type]
    return replace(config, encoder=complete(replace(config.encoder, fusion=chosen)))


def make_policy(config: PolicyConfig) -> ChunkPolicy:
    torch.manual_seed(0)
    identity = Normalizer.identity(LAYOUT.dim, LAYOUT.dim)
    policy = create_policy(config, {"task": TaskSpec(LAYOUT, identity, "aloha")})
    assert isinstance(policy.encoder, FusionEncoder)
    if isinstance(policy.encoder.aligned, AlignedEncoder):
        policy.encoder.aligned.set_teacher_mean(torch.zeros(1280))
    return policy.eval().requires_grad_(False)


def make_entry(config: PolicyConfig) -> TaskEntry:
    return TaskEntry.describe(config, layout=LAYOUT, cameras=dict.fromkeys(config.cameras, PICTURE))


def observation(seed: int, config: PolicyConfig) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    pictures = {
        camera: {"rgb": random.integers(0, 255, PICTURE, np.uint8)} for camera in config.cameras
    }
    return {"observation": pictures, "joint_action": {"vector": random.normal(size=LAYOUT.dim)}}


def open_agent(args: argparse.Namespace, config: PolicyConfig) -> Agent:
    folder: Path | None = args.checkpoint
    if folder is None or not (folder / "config.yaml").exists():
        policy = row("build the policy", lambda: make_policy(config))
        if folder is None:
            if args.in_turn:
                policy.encoder.towers.place(["cpu"], in_turn=True)
            return Agent(Checkpoint(policy, {"task": make_entry(config)}, {}))
        prepare_checkpoint(folder, policy=policy, tasks={"task": make_entry(config)})
        row("write its checkpoint", lambda: save_weights(folder, policy, {}))
        raise SystemExit(f"\nwritten: {folder}; the same command again acts with it")
    options = {"device": "cpu", "models_in_turn": args.in_turn, "threads": args.threads}
    return row("read the checkpoint", lambda: load_agent(options, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", default="aligned_pooled")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--in-turn", action="store_true")
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = make_config(args.scheme)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
    print(
        f"{processor()}, {args.threads} threads; Python {platform.python_version()}, {versions}. "
        f"fusion_dp, {args.scheme}, {'models in turn, ' if args.in_turn else ''}random weights, "
        f"float32.\n\n| what | CPU s | wall s | memory GiB | peak GiB |\n|---|--:|--:|--:|--:|"
    )
    row("nothing yet", lambda: None)
    agent = open_agent(args, config)
    policy, encoder = agent.policy, agent.policy.encoder
    assert isinstance(encoder, FusionEncoder)
    picture = torch.rand((1, 3, *PICTURE[:2]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in encoder.towers.names:
            row(f"{name}, one picture", partial(encoder.towers.read_one, name, picture))
    cameras, steps = len(config.cameras), config.n_obs_steps
    agent.observe(observation(0, config), seed=0)
    first = f"first chunk of an episode: one frame of {cameras} cameras, and the head"
    row(first, agent.act)
    for step in range(1, steps + 1):
        agent.observe(observation(step, config))
    row(f"a later chunk: {steps} new frames of {cameras} cameras, and the head", agent.act)
    row("a chunk of frames that are encoded already: the head alone", agent.act)
    parts = {name: count_parameters(encoder.towers[name]) / 1e6 for name in encoder.towers.names}
    print(
        f"\nParameters: {', '.join(f'{name} {size:.0f} M' for name, size in parts.items())}, "
        f"distilled encoder {count_parameters(encoder.aligned) / 1e6:.1f} M, "  # type: ignore[arg-type]
        f"heads {sum(count_parameters(each) for each in policy.each_head()) / 1e6:.1f} M, "
        f"all {count_parameters(policy) / 1e6:.0f} M."
    )


if __name__ == "__main__":
    main()
