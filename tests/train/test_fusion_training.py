"""Policies that fuse several models: trained from stores, in stages, many at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fusion_fixtures import CELLS, GRID, MODELS, make_fusion, write_aligned
from safetensors.torch import load_file
from training_fixtures import CONFIG, Run, write_episodes

from twin_policy.backbones import VisionBackbone
from twin_policy.checkpoint import load_checkpoint
from twin_policy.fusion_config import FusionConfig
from twin_policy.parsing import plain
from twin_policy.towers import Towers
from twin_train.conversion import open_or_build_store
from twin_train.extraction import extract
from twin_train.features import wanted_of
from twin_train.log import read_log
from twin_train.many import group_towers
from twin_train.runs_file import RunSpec, plan_runs
from twin_train.sharing import Shared

CAMERAS = {"head_camera": (24, 32), "left_camera": (12, 16)}


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures for longer than these trainings take."""
    monkeypatch.setattr("twin_train.run.write_card", lambda *_, **__: None)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Of each test its own: features lie beside them."""
    write_episodes(tmp_path / "toy", 3)
    return tmp_path / "toy"


def write_config(path: Path, fusion: FusionConfig, **encoder: Any) -> Path:
    values = yaml.safe_load(CONFIG)
    said = {key: value for key, value in plain(fusion).items() if key != "aligned_config"}
    values["policy"]["encoder"] = {"fusion": said, "pooling": "avg", "feature_dim": 6, **encoder}
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    write_aligned(tmp_path / "distilled")
    fusion = make_fusion("dual_stream_pooled", tmp_path / "distilled")
    return write_config(tmp_path / "fusion_toy.yaml", fusion)


def losses(folder: Path) -> np.ndarray:
    lines = read_log(folder / "log.jsonl")
    return np.array([line[name] for line in lines for name in line if "loss" in name])


def test_losses_from_stores_are_those_of_the_live_models(
    run: Run, episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "live")
    towers = Towers(MODELS, grid=GRID, cells=CELLS)
    towers.load_pretrained()
    store = open_or_build_store(episodes, None, CAMERAS, workers=1, quiet=True)
    for each in towers.configs:
        wanted = wanted_of(towers.encoder_config(each), towers[each.name])
        held = {wanted.layer: (wanted.readout,)}
        extract(store, towers[each.name], held=held, dtype="fp32", quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(VisionBackbone, "encode", lambda *_: pytest.fail("a model ran"))
        run(tmp_path / "stored", "train.features=auto")
    ours, theirs = losses(tmp_path / "stored"), losses(tmp_path / "live")
    assert len(ours) == len(theirs) > 6
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    provenance = load_checkpoint(tmp_path / "stored").provenance
    used = provenance["features"]["toy"]
    assert set(used) == {each.name for each in MODELS}
    assert {name: each["backbone_sha256"] for name, each in used.items()} == towers.fingerprints()
    assert provenance["backbone_weights"]["source"] == "random weights"
    assert provenance["backbone_weights"]["aligned"]["teacher"] == {"source": "random weights"}


def test_missing_features_are_extracted_model_by_model(run: Run, tmp_path: Path) -> None:
    settings = ["train.features=auto", "train.num_steps=2"]
    run(tmp_path / "first", *settings)
    (folder,) = tmp_path.glob("toy.*.features")
    stores = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stores) == len(MODELS)
    run(tmp_path / "second", *settings, "policy.encoder.fusion.scheme=direct")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stores


def test_the_second_stage_tunes_the_distilled_encoder(run: Run, tmp_path: Path) -> None:
    tuning = "train.fine_tuning={num_steps: 4, lr: 1e-2, backbone_lr: 1e-2, lr_warmup_steps: 0}"
    settings = ["train.features=auto", "policy.encoder.tuning=aligned"]
    settings += ["train.freeze_backbone=true", "train.num_steps=4"]
    run(tmp_path / "one", *settings)
    run(tmp_path / "two", *settings, tuning)
    distilled = load_file(tmp_path / "distilled" / "aligned.safetensors")
    prefix = "encoder.backbones.aligned."
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    for name, value in distilled.items():
        assert torch.equal(first[prefix + name], value)
    assert not all(torch.equal(second[prefix + name], each) for name, each in distilled.items())
    towers = [name for name in first if name.startswith("encoder.backbones.towers.")]
    assert all(torch.equal(first[name], second[name]) for name in towers)


def test_models_that_learn_are_not_read_from_stores(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs policy.encoder.tuning frozen.*it is last_blocks"):
        run(tmp_path / "out", "train.features=auto", "policy.encoder.tuning=last_blocks")


def test_runs_of_many_share_each_model(config_path: Path, episodes: Path, tmp_path: Path) -> None:
    schemes = ("single", "direct", "dual_stream_tokens")
    specs = [
        RunSpec(
            name=scheme,
            task="toy",
            policy=str(config_path),
            data=str(episodes),
            out=str(tmp_path / scheme),
            set={
                "policy.encoder.fusion.scheme": scheme,
                "policy.encoder.fusion.use_model": "dinov3",
                "train.features": "auto",
            },
        )
        for scheme in schemes
    ]
    planned, faults = plan_runs(specs)
    assert not faults
    uses = group_towers(list(planned.values()), Shared())
    shared = {use.encoder.backbone: [run.spec.name for run in use.runs] for use in uses}
    assert shared == {
        each.backbone: list(schemes if each.name == "dinov3" else schemes[1:]) for each in MODELS
    }


@pytest.mark.parametrize("kind", ["heads", "unified"])
def test_two_robots_share_the_models_and_what_was_distilled(
    run: Run, tmp_path: Path, kind: str
) -> None:
    """Heads for each, or slots and a learned vector for each task; all from stores."""
    write_episodes(tmp_path / "hammer", 2)
    write_episodes(tmp_path / "cup", 2, arm=7)
    run(
        tmp_path / "out",
        "train.features=auto",
        "train.num_steps=4",
        f"policy.action_space.kind={kind}",
        data={"hammer": tmp_path / "hammer", "cup": tmp_path / "cup"},
    )
    loaded = load_checkpoint(tmp_path / "out")
    used = loaded.provenance["features"]
    assert {task: set(stores) for task, stores in used.items()} == {
        task: {each.name for each in MODELS} for task in ("hammer", "cup")
    }
    distilled = load_file(tmp_path / "distilled" / "aligned.safetensors")
    held = loaded.policy.encoder.backbones["aligned"].state_dict()
    assert all(torch.equal(held[name], value) for name, value in distilled.items())
    images = {
        camera: torch.zeros(1, 2, *size, 3, dtype=torch.uint8) for camera, size in CAMERAS.items()
    }
    for task, dim in (("hammer", 14), ("cup", 16)):
        noise = [torch.Generator().manual_seed(0)]
        action = loaded.policy.predict_action(images, torch.zeros(1, 2, dim), noise, task)
        assert action.shape == (1, 4, dim)
