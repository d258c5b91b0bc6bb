"""`card.md` beside a checkpoint: what it is and learnt from, its figures and cost, its use."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from twin_policy.agent import noise_generator
from twin_policy.checkpoint import PROVENANCE, WEIGHTS, load_checkpoint
from twin_policy.config import FUSION
from twin_policy.files import write_text
from twin_policy.pretrained import is_tower
from twin_train import lapo_card
from twin_train.loop import BEST, Result

CARD = "card.md"
NO_RATE = "None of them is a success rate: that takes an evaluation."
REPEATS = 5


def write_card(folder: Path, *, name: str, result: Result, device: torch.device) -> None:
    """Measures the checkpoint in `folder` as it would be deployed, and describes it.

    What was measured also goes to the provenance, as `inference`.
    """
    provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    provenance["inference"] = measure(folder, device)
    write_text(folder / PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True))
    write_text(folder / CARD, render(folder, provenance, name=name, result=result))


def has_card(folder: Path) -> bool:
    """Whether the checkpoint as it is has been described; training on takes that away."""
    provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    return "inference" in provenance and (folder / CARD).is_file()


def measure(folder: Path, device: torch.device) -> dict[str, Any]:
    """Median times of the parts of a decision, for one environment, and memory so far.

    On a CPU with one thread, as policies are deployed there: one process an environment.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(folder, device)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, device: torch.device) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder, device)
    policy, (task, entry) = checkpoint.policy, next(iter(checkpoint.tasks.items()))
    encoder, steps = policy.encoder, policy.config.n_obs_steps
    images = {
        camera: torch.zeros((1, *size, 3), dtype=torch.uint8, device=device)
        for camera, size in policy.config.cameras.items()
    }
    features = torch.zeros((1, steps, sum(encoder.widths.values())), device=device)
    state = torch.zeros((1, steps, entry.obs_spec.state_dim), device=device)
    found: dict[str, Any] = {
        "encode_ms": _median_ms(lambda: policy.encode_frames(images), device) if images else 0.0,
        "denoise_ms": _median_ms(
            lambda: policy.predict_from_features(features, state, [noise_generator(0, 0)], task),
            device,
        ),
        "machine": describe_machine(device),
        "peak_memory_mb": round(_peak_memory_mb(), 1),
        "weights_mb": round((folder / WEIGHTS).stat().st_size / 1e6, 1),
    }
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def _median_ms(work: Callable[[], object], device: torch.device) -> float:
    """After one call that prepares."""
    times = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times[1:]), 2)


def describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"one thread of {model}"


def _peak_memory_mb() -> float:
    """Of this process: its data and its training included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def render(folder: Path, provenance: Mapping[str, Any], *, name: str, result: Result) -> str:
    """The card's Markdown; a function of what is given."""
    tasks, backbone = provenance["tasks"], provenance["backbone"]
    parts = [
        f"# {name}: {', '.join(tasks)}",
        _opening(provenance, result),
        _table(
            ("task", "training episodes", "validation", "windows", "robot", "data SHA-256"),
            [
                (
                    task,
                    len(data["train_episodes"]),
                    len(data["val_episodes"]),
                    data["train_windows"],
                    data["embodiment"] or "unnamed",
                    f"`{data['data_sha256'][:16]}`",
                )
                for task, data in tasks.items()
            ],
        ),
        *_rewards(provenance),
        "## Backbone",
        _backbone(backbone, provenance["backbone_weights"]),
        "## Size",
        _sizes(provenance),
        "## Figures",
        _figures(provenance, result),
        "## Cost",
        _cost(provenance["inference"], result, diffuses="lapo" not in provenance),
        "## Use",
        _use(folder, list(tasks), variant_of(provenance), bool(result.best)),
    ]
    return "\n\n".join(parts) + "\n"


def variant_of(provenance: Mapping[str, Any]) -> str:
    """The folder in `policy/` that a checkpoint is for."""
    backbone = provenance["backbone"]["backbone"]
    if "lapo" in provenance:
        return "lapo"
    if backbone == FUSION:
        return "fusion_dp"
    return "clip_dp" if is_tower(backbone) else "dp_resnet"


def _opening(provenance: Mapping[str, Any], result: Result) -> str:
    if "lapo" in provenance:
        return lapo_card.opening(provenance, steps=result.steps)
    train = provenance["train_config"]
    return (
        f"A diffusion policy over pictures, {result.steps} optimiser steps of "
        f"{provenance['effective_batch_size']} windows (seed {train['seed']}, learning rate "
        f"{train['lr']:g})."
    )


def _rewards(provenance: Mapping[str, Any]) -> list[str]:
    if "lapo" not in provenance:
        return []
    return [_table(("episodes of", "successes", "failures"), lapo_card.episodes(provenance))]


def _sizes(provenance: Mapping[str, Any]) -> str:
    parameters = provenance["parameters"]
    weights = f"{provenance['inference']['weights_mb']:,} MB"
    if "lapo" in provenance:
        head, row = lapo_card.sizes(parameters)
        return _table((*head, "weights file"), [(*row, weights)])
    names = ("encoder", "denoiser", "all", "learning")
    return _table(
        (*names[:-1], "learning in the last stage", "weights file"),
        [(*(f"{parameters[part]:,}" for part in names), weights)],
    )


def _backbone(backbone: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    if "fusion" in backbone:
        return _models(backbone, weights)
    source = weights["source"]
    facts = [
        ("network", backbone["backbone"]),
        ("weights", f"**{source}**" if source == "random weights" else source),
        ("tag", weights.get("tag") or backbone["tag"]),
        ("file", weights.get("file")),
        ("SHA-256", weights.get("sha256")),
        ("licence of the weights", weights.get("licence")),
        ("dropped keys", sum(len(keys) for keys in weights.get("dropped", {}).values())),
        ("read", f"{backbone['layer']}, {backbone['pooling']}"),
        ("features a camera", backbone["feature_dim"]),
        ("normalisation", backbone["image_normalization"]),
        ("tuning", backbone["tuning"]),
    ]
    return _table(("", ""), [fact for fact in facts if fact[1] not in (None, "none", 0)])


def _models(backbone: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Of a fusion."""
    fusion = backbone["fusion"]
    facts = [
        ("scheme", fusion["scheme"]),
        ("mixing", fusion["mixing"]),
        ("grid of tokens", "x".join(map(str, fusion["grid"]))),
        ("read in cells", "x".join(map(str, fusion["cells"] or fusion["grid"]))),
        ("features a camera", backbone["feature_dim"]),
        ("tuning", backbone["tuning"]),
    ]
    if (aligned := weights.get("aligned")) is not None:
        facts += [
            ("distilled encoder", aligned["folder"]),
            ("its SHA-256", aligned["sha256"]),
            ("its teacher", aligned["teacher"].get("source")),
        ]
    models = [
        (
            name,
            each["backbone"],
            f"**{each['source']}**" if each["source"] == "random weights" else each["source"],
            each.get("sha256") or "",
            each.get("licence") or "",
        )
        for name, each in (
            (model["name"], weights["models"][model["name"]])
            for model in fusion["models"]
            if model["name"] in weights["models"]
        )
    ]
    return "\n\n".join(
        [
            _table(("", ""), [fact for fact in facts if fact[1] is not None]),
            _table(("model", "network", "weights", "SHA-256", "licence of the weights"), models),
        ]
    )


def _figures(provenance: Mapping[str, Any], result: Result) -> str:
    rows = [("training loss", f"{result.train_loss:.5f}")]
    if "lapo" in provenance:
        rows = [("the VAE's training loss", f"{result.train_loss:.3f}")]
        rows += lapo_card.figures(provenance, result.val)
        return _table(("", "at the end"), rows) + "\n\n" + NO_RATE
    if result.val:
        rows += [
            ("validation loss", f"{result.val['loss']:.5f}"),
            ("error of sampled actions, mean", f"{result.val['mean_abs']:.4f} rad"),
            ("error of sampled actions, worst joint", f"{result.val['max_dim_abs']:.4f} rad"),
            (
                f"best, at step {result.best['step']} (`{BEST}/`)",
                f"{result.best['mean_abs']:.4f} rad",
            ),
        ]
    else:
        rows.append(("validation", "no episodes were kept for it"))
    note = "These are of the moving average, which the checkpoint holds."
    return _table(("", "at the end"), rows) + f"\n\n{note} {NO_RATE}"


def _cost(inference: Mapping[str, Any], result: Result, *, diffuses: bool) -> str:
    rows = [
        ("training", f"{result.seconds:.0f} s"),
        ("encoding one step's pictures", f"{inference['encode_ms']} ms"),
        (
            "denoising one chunk" if diffuses else "decoding one chunk",
            f"{inference['denoise_ms']} ms",
        ),
        ("peak memory of the last session", f"{inference['peak_memory_mb']:,} MB"),
    ]
    if "peak_gpu_memory_mb" in inference:
        rows.append(("peak GPU memory", f"{inference['peak_gpu_memory_mb']:,} MB"))
    note = f"Medians of {REPEATS}, one environment, float32, on {inference['machine']}."
    return _table(("", ""), rows) + "\n\n" + note


def _use(folder: Path, tasks: list[str], variant: str, has_best: bool) -> str:
    lines = [
        "```bash",
        f"bash eval.sh {tasks[0]} {variant} --checkpoint {folder}",
        "```",
        "",
        "```python",
        "from twin_policy.checkpoint import load_checkpoint",
        f'policy = load_checkpoint("{folder}").policy',
        "```",
        "",
        "No weight file and no network are needed: this folder holds all weights.",
    ]
    if has_best:
        lines[-1] += f" `{BEST}/` is the same with the smallest error on validation."
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
