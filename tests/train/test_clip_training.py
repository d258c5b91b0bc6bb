"""Training with a tower of CLIP's kind: learning, resuming, early refusals, and the card."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, stop_after, write_config

from twin_policy.backbones import WeightsError
from twin_policy.checkpoint import load_checkpoint
from twin_train import run as training
from twin_train.card import CARD
from twin_train.log import read_log
from twin_train.loop import Interrupted

ENCODER = """{clip_model_name: ViT-B/32, clip_layer: 1, feature_dim: 16, resize_shape: [32, 64],
    pretrained_backbone_weights: random, color_jitter: 0.1,
    overrides: {width: 64, layers: 3, head_width: 16, embed_dim: 32}}"""
has_peft = importlib.util.find_spec("peft") and importlib.util.find_spec("transformers")


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    return write_config(tmp_path / "clip_toy.yaml", encoder=ENCODER)


def tower_of(folder: Path) -> dict[str, bytes]:
    tensors = load_file(folder / "model.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items() if "backbones" in name}


def test_training_lowers_the_loss_and_leaves_a_frozen_tower(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "out", "train.num_steps=60", "train.lr=5e-3", name="clip_toy")
    losses = [line["loss"] for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line]
    assert result.train_loss < 0.5 * losses[0]
    run(tmp_path / "short", "train.num_steps=1")
    assert tower_of(tmp_path / "out") == tower_of(tmp_path / "short")

    loaded = load_checkpoint(tmp_path / "out")
    provenance, encoder = loaded.provenance, loaded.policy.config.encoder
    assert provenance["backbone_weights"]["source"] == "random weights"
    assert provenance["backbone"]["layer"] == 1
    assert (encoder.backbone, encoder.tuning) == ("clip_vit_b32", "frozen")
    parameters = provenance["parameters"]
    assert 0 < parameters["learning"] < parameters["all"] - 100_000
    card = (tmp_path / "out" / CARD).read_text()
    (data,) = provenance["tasks"].values()
    for said in (
        "# clip_toy: toy",
        "| toy | 3 | 1 |",
        f"`{data['data_sha256'][:16]}`",
        "| network | clip_vit_b32 |",
        "| weights | **random weights** |",
        "| read | 1, class_token |",
        "| tuning | frozen |",
        f"{parameters['encoder']:,} | {parameters['denoiser']:,} | {parameters['all']:,}",
        f"| training loss | {result.train_loss:.5f} |",
        f"| error of sampled actions, mean | {result.val['mean_abs']:.4f} rad |",
        f"| best, at step {result.best['step']} (`best/`) |",
        f"| encoding one step's pictures | {provenance['inference']['encode_ms']} ms |",
        f"| denoising one chunk | {provenance['inference']['denoise_ms']} ms |",
        f"bash eval.sh toy clip_dp --checkpoint {tmp_path / 'out'}",
    ):
        assert said in card, said
    assert provenance["inference"]["encode_ms"] > 0


@pytest.mark.parametrize("tuning", ["frozen", "last_blocks", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one(run: Run, tmp_path: Path, tuning: str) -> None:
    if tuning == "lora" and not has_peft:
        pytest.skip("peft is not installed")
    freeze = str(tuning != "last_blocks").lower()
    settings = [f"policy.encoder.freeze_clip={freeze}", f"policy.encoder.tuning={tuning}"]
    settings += ["policy.encoder.trainable_blocks=1", "train.backbone_lr=1e-4"]
    settings += ["train.grad_accum_steps=2", "train.num_steps=8"]
    run(tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", *settings, stop=stop_after(5))
    run(tmp_path / "parts", *settings)
    compare_runs(tmp_path / "whole", tmp_path / "parts")
    assert load_checkpoint(tmp_path / "whole").policy.config.encoder.tuning == tuning
    run(tmp_path / "frozen", "train.num_steps=1")
    same = tower_of(tmp_path / "whole") == tower_of(tmp_path / "frozen")
    assert same is (tuning == "frozen")


def test_missing_weights_end_the_training_before_it_begins(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr(
        training, "open_run_store", lambda *_, **__: pytest.fail("data were opened")
    )
    for weights, message in (
        ("hub:openai", r"(?s)hub:openai: open_clip_model.*`hf download timm/vit_base_patch32_clip"),
        ("no/such.pt", r"no weight file no/such\.pt in .*: set"),
        ("null", "means little without pretrained weights: set policy.encoder.pretrained_backb"),
    ):
        with pytest.raises(WeightsError, match=message):
            run(tmp_path / "out", f"policy.encoder.pretrained_backbone_weights={weights}")
    for setting, message in (
        ("policy.encoder.clip_layer=7", "has layers block0 to block2, numbered 0 to 2 .*got 7"),
        ("policy.encoder.pooling=projected", "only the layer 'final' of a CLIP has one"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "out", setting)
    assert not (tmp_path / "out").exists()


def test_a_run_from_before_these_keys_goes_on(run: Run, tmp_path: Path) -> None:
    settings = ["policy.encoder={backbone: small_cnn, spatial_softmax_num_keypoints: 4}"]
    with pytest.raises(Interrupted):
        run(tmp_path / "out", *settings, stop=stop_after(5))
    path = tmp_path / "out" / "run.yaml"
    stored = yaml.safe_load(path.read_text())
    for name in ("tag", "overrides", "layer", "feature_dim", "tuning", "lora", "resize_shape"):
        del stored["policy"]["encoder"][name]
    path.write_text(yaml.safe_dump(stored))
    result = run(tmp_path / "out", *settings)
    card = (tmp_path / "out" / CARD).read_text()
    assert "| weights | from scratch |" in card
    assert "bash eval.sh toy dp_resnet" in card
    assert result.steps == json.loads((tmp_path / "out" / "provenance.json").read_text())["steps"]
