"""Feature stores of several frozen models, one each: extracted model by model, and filled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from twin_policy.backbones import VisionBackbone
from twin_policy.config import EncoderConfig
from twin_policy.frame_encoder import FrameEncoder
from twin_policy.fusion_config import FusionConfig, ModelConfig, check_cells
from twin_policy.names import unknown
from twin_policy.pretrained import build_backbone, complete, resolve
from twin_policy.towers import model_encoder, weights_setting
from twin_train.extraction import count_bytes, extract, in_words
from twin_train.feature_use import AUTO, find_or_extract, make_tower
from twin_train.features import (
    Dtype,
    FeatureStore,
    FrameFeatures,
    SideBySide,
    read_features,
    side_by_side,
    wanted_of,
)
from twin_train.store import Size, Store

Say = Callable[[str], object]


@dataclass(frozen=True)
class ModelPlan:
    """One model, and what it will take."""

    model: ModelConfig
    encoder: EncoderConfig
    """Resolved: a policy's that reads this model alone."""
    n_weights: int
    width: int
    """Channels of its tokens."""
    n_bytes: int
    """Of the features of all frames of all cameras."""

    def describe(self) -> str:
        size = self.encoder.resize_shape
        assert size is not None
        return (
            f"{self.model.name}: {self.model.backbone}, {self.n_weights / 1e6:.1f} M weights, "
            f"pictures {size[0]}x{size[1]}, {self.width} channels: {in_words(self.n_bytes)}"
        )


def choose_models(fusion: FusionConfig, names: Sequence[str] | None) -> tuple[ModelConfig, ...]:
    """Those of these names, in the fusion's order; all of them for None.

    Raises:
        ValueError: one that the fusion does not have, with its nearest match.
    """
    known = [model.name for model in fusion.models]
    for name in names or ():
        if name not in known:
            raise unknown("model of the policy", name, known)
    return tuple(model for model in fusion.models if names is None or model.name in names)


def plan_models(
    store: Store,
    models: Sequence[ModelConfig],
    *,
    grid: Size,
    cells: Size | None,
    dtype: Dtype,
) -> list[ModelPlan]:
    """What the models will be and take, before any weights are read.

    Args:
        grid: (h, w) of every model's tokens.
        cells: what they are averaged into; None: all tokens.

    Raises:
        ValueError: cells that the grid does not have; an unknown backbone, override or layer.
        WeightsError: no such weight file, or one of another backbone.
    """
    check_cells(grid, cells)
    plans = []
    for model in models:
        encoder = resolve(complete(model_encoder(model, grid=grid, cells=cells)))
        with torch.device("meta"):
            backbone = build_backbone(encoder)
        layer = backbone.layer_name(encoder.layer)
        width = backbone.widths[layer]
        height, columns = cells or grid
        shape = {(layer, "maps"): (width, height, columns)}
        n_bytes = count_bytes(
            dict.fromkeys(store.cameras, shape),
            frames=sum(episode.n_frames for episode in store.episodes),
            episodes=len(store.episodes),
            dtype=dtype,
        )
        n_weights = sum(value.numel() for value in backbone.network.parameters())
        plans.append(ModelPlan(model, encoder, n_weights, width, n_bytes))
    return plans


def describe_plans(store: Store, plans: Sequence[ModelPlan], dtype: Dtype) -> str:
    """The estimate of all models, a line each and a sum."""
    frames = sum(episode.n_frames for episode in store.episodes)
    total = sum(plan.n_bytes for plan in plans)
    return "\n".join(
        [
            f"{len(store.episodes)} episodes, {frames} frames of {len(store.cameras)} cameras, "
            f"{dtype}:",
            *(f"  {plan.describe()}" for plan in plans),
            f"  all: {in_words(total)}, less what is there already",
        ]
    )


def extract_models(
    store: Store,
    plans: Sequence[ModelPlan],
    *,
    dtype: Dtype = "bf16",
    devices: Sequence[torch.device],
    batch_size: int | None = None,
    threads: int = 1,
    quiet: bool = False,
    say: Say = lambda _: None,
) -> dict[str, FeatureStore]:
    """One feature store per model, beside the data, where a policy's training finds them.

    Each model goes to the next free device, the largest first; one device runs one model at a
    time, and holds no more than that one. Killed, it goes on where it was.

    Returns:
        Model to its store, in the order of the plans.

    Raises:
        WeightsError, FeaturesError, StoreError: as `make_tower` and `extract`. Models that run on
            other devices are finished first.
    """
    waiting = sorted(plans, key=lambda plan: plan.n_weights, reverse=True)
    free: SimpleQueue[torch.device] = SimpleQueue()
    for device in devices:
        free.put(device)
    # Fresh weights come from torch's global generator.
    building = threading.Lock()

    def run(plan: ModelPlan) -> FeatureStore:
        device = free.get()
        name = plan.model.name
        try:
            with building:
                backbone = make_tower(
                    plan.encoder, seed=0, setting=weights_setting(plan.model.name)
                )
            return extract_one(
                store,
                plan.encoder,
                backbone,
                dtype=dtype,
                device=device,
                batch_size=batch_size,
                threads=max(1, threads // len(devices)),
                quiet=quiet or len(devices) > 1,
                say=lambda line: say(f"{name} on {device}: {line}"),
            )
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        tasks = {plan.model.name: pool.submit(run, plan) for plan in waiting}
        try:
            return {plan.model.name: tasks[plan.model.name].result() for plan in plans}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def extract_one(
    store: Store,
    encoder: EncoderConfig,
    backbone: VisionBackbone,
    *,
    dtype: Dtype,
    device: torch.device,
    batch_size: int | None = None,
    threads: int,
    quiet: bool,
    say: Say,
) -> FeatureStore:
    """What a policy with this encoder reads, and nothing else."""
    wanted = wanted_of(encoder, backbone)
    return extract(
        store,
        backbone,
        held={wanted.layer: (wanted.readout,)},
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        threads=threads,
        quiet=quiet,
        say=say,
    )


def read_filled(
    encoder: FrameEncoder,
    store: Store,
    numbers: Sequence[int] | None = None,
    *,
    choice: str = AUTO,
    device: torch.device,
    threads: int = 1,
    cache_mb: float = 0.0,
    quiet: bool = True,
    say: Say = lambda _: None,
) -> Mapping[str, FrameFeatures | SideBySide]:
    """What an encoder reads of episodes: from feature stores, which are filled where they lack it.

    So a picture passes through the models once, however often it is asked for. Numbers are those
    of the stores, bfloat16 unless they were extracted in fp32.

    Args:
        encoder: with its weights; its models are run only for what is missing.
        numbers: of episodes; all by default.
        choice: as `train.features`: `auto`, or a feature store or a folder of them that must serve.
        cache_mb: 10^6 bytes that may be kept in memory.

    Returns:
        Camera to the transitions' features, as `encoder.read_frames` gives them.

    Raises:
        FileNotFoundError, FeaturesError: as `find_or_extract`.
    """
    chosen = store.select(cameras={name: store.cameras[name] for name in encoder.cameras})
    chosen = chosen.select(numbers=numbers)
    parts = []
    for config, backbone in encoder.stored_parts().values():
        wanted = wanted_of(config, backbone)
        features = find_or_extract(
            choice,
            wanted,
            chosen,
            backbone,
            device=device,
            threads=threads,
            quiet=quiet,
            say=say,
        )
        parts.append(read_features(features, wanted, chosen, cache_mb=cache_mb))
    return side_by_side(parts)
