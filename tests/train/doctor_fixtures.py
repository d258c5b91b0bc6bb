"""A small checkpoint of each kind of policy, trained on the toy."""

from __future__ import annotations

from pathlib import Path

import lapo_training_fixtures
import yaml
from fusion_fixtures import make_fusion
from training_fixtures import CONFIG, Run, write_config

from twin_policy.parsing import plain

KINDS = ("dp", "clip", "fusion", "lapo")
CLIP = """{clip_model_name: ViT-B/32, clip_layer: 1, feature_dim: 16, resize_shape: [32, 64],
    pretrained_backbone_weights: random, weights_seed: 0,
    overrides: {width: 64, layers: 3, head_width: 16, embed_dim: 32}}"""


def write_kind(path: Path, kind: str) -> Path:
    """The toy's config with this kind of encoder."""
    if kind in ("dp", "lapo"):
        path.write_text(CONFIG if kind == "dp" else lapo_training_fixtures.CONFIG)
    elif kind == "clip":
        write_config(path, encoder=CLIP)
    else:
        fusion = {k: v for k, v in plain(make_fusion("direct")).items() if k != "aligned_config"}
        encoder = {"fusion": fusion, "pooling": "avg", "feature_dim": 6}
        write_config(path, encoder=yaml.safe_dump(encoder))
    return path


def train_kind(run: Run, config_path: Path, folder: Path, kind: str, *assignments: str) -> Path:
    """Trains it into `folder`, which is returned; `config_path` is the one that `run` reads."""
    write_kind(config_path, kind)
    run(folder, *assignments)
    return folder
