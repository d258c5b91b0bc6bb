"""Ready-made sweeps: every variant is a config that training understands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from twin_eval.sweeps.spec import find_sweep, load_sweep
from twin_eval.sweeps.trainings import VERSION, describe_run
from twin_policy.aligned import AlignedEncoder
from twin_policy.fusion_config import AlignedConfig, AlignedModel
from twin_policy.parsing import plain
from twin_train.config import load_run_config
from twin_train.feature_use import check_trainable_from_features
from twin_train.runs_file import plan_runs, read_runs

SWEEPS = sorted(path.stem for path in find_sweep("clip_layers").parent.glob("*.yaml"))


def without_weights(policy: str, folder: Path) -> dict[str, Any]:
    """Settings of a fusion with random models of its kinds, and an encoder as if distilled."""
    fusion = load_run_config(policy).policy.encoder.fusion
    assert fusion is not None
    models = [replace(each, weights="random") for each in fusion.models]
    if not folder.exists():
        known = tuple(AlignedModel(each.name, each.backbone, 8, "final") for each in models)
        config = AlignedConfig(known, fusion.grid, fusion.cells, dim=8, embedding_dim=8)
        encoder = AlignedEncoder(config)
        encoder.set_teacher_mean(torch.zeros(8))
        encoder.save(folder)
    settings = {"models": plain(models), "aligned": str(folder)}
    return {f"policy.encoder.fusion.{key}": value for key, value in settings.items()}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_variant_can_be_resolved(name: str, tmp_path: Path) -> None:
    sweep = load_sweep(name)
    runs = [run for run in sweep.runs if run.seed == 0 and run.task == sweep.tasks[0]]
    entries = [describe_run(sweep, tmp_path, run) for run in runs]
    for entry in entries:  # Weights are looked at too, and here are none.
        entry["set"].setdefault("policy.encoder.pretrained_backbone_weights", None)
        if entry["policy"].startswith("fusion_dp"):
            entry["set"] |= without_weights(entry["policy"], tmp_path / "distilled")
        if entry["policy"].startswith("clip_dp"):
            entry["set"]["policy.encoder.pretrained_backbone_weights"] = "random"
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"version": VERSION, "runs": entries}))
    planned, faults = plan_runs(read_runs(path))
    assert not faults
    assert len(planned) == len(runs)
    configs = [each.resolved for each in planned.values()]
    assert len({str(config) for config in configs}) == len(configs)
    tower = [config.policy for config in configs if config.policy.encoder.tuning == "frozen"]
    # LAPO trains its own encoder.
    assert tower or all(entry["policy"].startswith("lapo") for entry in entries)
    for policy in tower:
        check_trainable_from_features(policy)
