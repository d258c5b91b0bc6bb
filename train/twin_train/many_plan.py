"""What training many runs would do, as plain values: towers, pictures, bytes, steps, faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin_env.episodes import list_episodes, read_episode
from twin_policy.backbones import VisionBackbone
from twin_policy.encoders import check_encoder
from twin_policy.lora import check_peft
from twin_policy.pretrained import RANDOM, is_tower
from twin_train.conversion import number_of
from twin_train.extraction import count_bytes, features_folder, measure_shapes
from twin_train.feature_use import make_tower
from twin_train.many import (
    TowerUse,
    check_readable,
    group_towers,
    is_served,
    read_provenance,
    tower_key,
)
from twin_train.provenance import RANDOM_WEIGHTS
from twin_train.runs_file import PlannedRun, RunSpec
from twin_train.sharing import Cameras, Shared
from twin_train.store import Store, StoreError, is_store, open_store


def describe_plan(
    specs: Sequence[RunSpec],
    planned: Mapping[str, PlannedRun],
    faults: Mapping[str, Exception],
    shared: Shared,
) -> dict[str, Any]:
    """Reads data, weights and features, and writes nothing.

    Args:
        planned: name to run, of those whose config can be.
        faults: name to why it cannot, of the others.
    """
    faults = dict(faults)
    towers: list[dict[str, Any]] = []
    for use in group_towers(list(planned.values()), shared):
        faults |= _describe_tower(use, shared, towers)
    faults |= _check_live([run for run in planned.values() if not run.shares_features])
    runs = [_describe_run(spec, planned.get(spec.name), faults.get(spec.name)) for spec in specs]
    return {"towers": towers, "runs": runs}


def _describe_tower(
    use: TowerUse, shared: Shared, towers: list[dict[str, Any]]
) -> dict[str, Exception]:
    """Adds what the runs of a tower share to `towers`; returns those that cannot be trained."""
    try:
        tower = use.make()
    except Exception as error:  # noqa: BLE001 what cannot be built is said of each run
        return {run.spec.name: error for run in use.runs}
    faults: dict[str, Exception] = {}
    held: dict[str, set[str]] = {}
    good = []
    for run in use.runs:
        try:
            layer, readout = check_readable(run, tower)
        except ValueError as error:
            faults[run.spec.name] = error
            continue
        held.setdefault(layer, set()).add(readout)
        good.append(run)
    if good:
        towers.append(_describe_features(use, good, tower, held, shared))
    return faults


def _describe_features(
    use: TowerUse,
    runs: Sequence[PlannedRun],
    tower: VisionBackbone,
    held: Mapping[str, set[str]],
    shared: Shared,
) -> dict[str, Any]:
    layers = [layer for layer in tower.layer_names if layer in held]
    frames = _count_frames(use)
    size = None
    if frames is not None:
        chosen = {layer: sorted(held[layer]) for layer in layers}
        shapes, _ = measure_shapes(tower, use.cameras, chosen)
        size = count_bytes(shapes, frames=sum(frames), episodes=len(frames), dtype="bf16")
    return {
        "task": use.task,
        "backbone": use.encoder.backbone,
        "weights": _weights(use.runs[0]),
        "layers": layers,
        "readouts": sorted(set().union(*held.values())),
        "runs": [run.spec.name for run in runs],
        "pictures": None if frames is None else sum(frames) * len(use.cameras),
        "bytes": size,
        "ready": all(_is_ready(run, tower, shared) for run in runs),
    }


def _is_ready(run: PlannedRun, tower: VisionBackbone, shared: Shared) -> bool:
    cameras = run.resolved.policy.cameras
    store = _peek(run.spec, cameras, shared)
    if store is None or not features_folder(store).is_dir():
        return False
    return is_served(run, tower, store)


def _peek(spec: RunSpec, cameras: Cameras, shared: Shared) -> Store | None:
    """The store of a run as it would be opened, if it is there whole."""
    path = shared.store_path(spec.source, cameras)
    if not is_store(path):
        return None
    try:
        store = open_store(path).select(cameras=cameras)
        if path == spec.source:
            numbers = [episode.number for episode in store.episodes[: spec.episodes]]
        else:
            numbers = [number_of(each) for each in list_episodes(spec.source)[: spec.episodes]]
        if spec.episodes is not None and len(numbers) < spec.episodes:
            return None
        return store.select(numbers=numbers)
    except (StoreError, FileNotFoundError, KeyError):
        return None


def _count_frames(use: TowerUse) -> list[int] | None:
    """Frames of each episode; None where too few are there, or a file is faulty."""
    try:
        if is_store(use.source):
            counts = [episode.n_frames for episode in open_store(use.source).episodes]
        else:
            paths = list_episodes(use.source)[: use.episodes]
            counts = [read_episode(path).n_frames for path in paths]
    except (ValueError, OSError):
        return None
    counts = counts[: use.episodes]
    return None if use.episodes is not None and len(counts) < use.episodes else counts


def _check_live(runs: Sequence[PlannedRun]) -> dict[str, Exception]:
    """Why encoders of runs without shared features cannot be; each tower is built once."""
    faults: dict[str, Exception] = {}
    by_tower: dict[str, list[PlannedRun]] = {}
    for run in runs:
        cameras, encoder = run.resolved.policy.cameras, run.encoder
        if cameras and encoder.fusion is None and is_tower(encoder.backbone):
            by_tower.setdefault(tower_key(encoder, run.config.train.seed), []).append(run)
        elif cameras:
            try:
                check_encoder(cameras, encoder, run.resolved.policy.n_obs_steps)
            except Exception as error:  # noqa: BLE001 what it is, the run's line says
                faults[run.spec.name] = error
    for same in by_tower.values():
        try:
            tower = make_tower(same[0].encoder, seed=same[0].config.train.seed)
        except Exception as error:  # noqa: BLE001
            faults |= {run.spec.name: error for run in same}
            continue
        for run in same:
            try:
                check_readable(run, tower)
                if run.encoder.tuning == "lora":
                    check_peft()
            except ValueError as error:
                faults[run.spec.name] = error
    return faults


def _describe_run(spec: RunSpec, run: PlannedRun | None, fault: Exception | None) -> dict[str, Any]:
    provenance = read_provenance(spec.folder)
    train = None if run is None else run.config.train
    return {
        "name": spec.name,
        "features": train is not None and train.features is not None,
        "live_backbone": "none" if run is None else _live_backbone(run),
        "total_steps": None if train is None else train.total_steps,
        "steps_done": int(provenance.get("steps", 0)),
        "batch_windows": None if train is None else train.batch_size * train.grad_accum_steps,
        "learning_parameters": provenance.get("parameters", {}).get("learning"),
        "weights": None if run is None else _weights(run),
        "backbone": None if run is None else run.encoder.backbone,
        "error": None if fault is None else str(fault) or type(fault).__name__,
    }


def _live_backbone(run: PlannedRun) -> str:
    """What of the backbone runs in every step of training."""
    if run.config.train.features is not None or not run.resolved.policy.cameras:
        return "none"
    return "frozen" if run.encoder.tuning == "frozen" else "tuned"


def _weights(run: PlannedRun) -> str | None:
    if (fusion := run.encoder.fusion) is not None:
        sources = {each.name: each.weights for each in fusion.used_models}
        if set(sources.values()) == {RANDOM}:
            return RANDOM_WEIGHTS
        return "; ".join(f"{name}: {source}" for name, source in sources.items())
    source = run.encoder.pretrained_backbone_weights
    return RANDOM_WEIGHTS if source == RANDOM else source
