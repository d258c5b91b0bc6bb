"""Weights of backbones that are refused, and what the message says to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_fixtures import CLIP_SIZES, OWN_VIT, VIT, load_clip, make_clip, save
from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from twin_policy.backbones import WeightsError, registry


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return make_clip(CLIP_SIZES["clip_vit_b32"], quick_gelu=True).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": None}, r"1 tensors are missing \['proj'\]"),
        ({"visual.head.weight": torch.ones(1)}, r"1 are unknown \['head.weight'\]"),
        ({"optimizer": torch.ones(1)}, r"1 are unknown \['optimizer'\]"),
        ({"visual.proj": torch.ones(64, 8)}, r"proj must have shape \(64, 32\), and has \(64, 8\)"),
        ({"visual.positional_embedding": torch.ones(4, 64)}, "3 position embeddings are not"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tensors: dict[str, Tensor], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    changed = {k: v for k, v in (tensors | change).items() if v is not None}
    path = save(changed, tmp_path / "openai" / "clip.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_clip("clip_vit_b32", path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle of the weight file was run",))


def test_a_weight_file_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "openai.pt"
    torch.save({"visual.proj": Bomb()}, path)
    with pytest.raises(WeightsError, match="not a whole file of tensors alone"):
        load_clip("clip_vit_b32", path)


def test_a_folder_must_hold_one_known_file(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "ViT-B-32.openai"
    save(tensors, folder / "clip.pt")
    with pytest.raises(WeightsError, match=r"one of open_clip_model.safetensors.*holds none"):
        load_clip("clip_vit_b32", folder)
    save(tensors, folder / "open_clip_model.safetensors")
    identity = load_clip("clip_vit_b32", folder).identity
    assert identity is not None
    assert identity.file == "open_clip_model.safetensors"
    save(tensors, folder / "ViT-B-32.pt")
    with pytest.raises(WeightsError, match=r"holds open_clip_model\.safetensors, ViT-B-32\.pt"):
        load_clip("clip_vit_b32", folder)


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("name", "weights", "repository", "file"),
    [
        (
            "ViT-B/32",
            "hub:openai",
            "timm/vit_base_patch32_clip_224.openai",
            "open_clip_model.safetensors",
        ),
        ("dinov3_vit_b16", "hub", "timm/vit_base_patch16_dinov3.lvd1689m", "model.safetensors"),
        ("timm:convnext_tiny.fb_in22k", "hub", "timm/convnext_tiny.fb_in22k", "model.safetensors"),
        ("resnet18_frozen_bn", "hub:a1_in1k", "timm/resnet18.a1_in1k", "model.safetensors"),
    ],
)
def test_offline_and_uncached_says_what_to_fetch_and_where_it_belongs(
    name: str, weights: str, repository: str, file: str
) -> None:
    with torch.device("meta"):
        tower = registry.build(registry.recipe(name, weights=weights))
    folder = f"weights/{repository.partition('/')[2]}"
    told = (
        f"{file} of {repository} on the Hugging Face hub is not in the local cache",
        f"`hf download {repository} {file} --local-dir {folder}`",
        f"set policy.backbone.weights to {folder}/{file}",
    )
    with pytest.raises(WeightsError, match=".*".join(map(re.escape, told))):
        registry.load(tower, weights, setting="policy.backbone.weights")
    assert tower.identity is None


def test_the_hubs_second_file_is_taken_where_there_is_no_first(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tensors, tmp_path / "open_clip_pytorch_model.bin")

    def fetched(repository: str, name: str) -> str:
        assert repository == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
        if name != path.name:
            raise EntryNotFoundError(name)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    tower = registry.create(
        "ViT-B/32", weights="hub:laion2b_s34b_b79k", overrides=CLIP_SIZES["clip_vit_b32"]
    )
    assert tower.identity is not None
    assert (tower.identity.source, tower.identity.quick_gelu) == ("hub:laion2b_s34b_b79k", False)


def test_a_hub_that_is_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(repository: str, name: str) -> str:
        asked.append(name)
        raise LocalEntryNotFoundError(f"no network for {repository}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(WeightsError, match="no network for"):
        registry.create("ViT-B/32", weights="hub:laion2b_s34b_b79k")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ViT-B/32", None, r"set weights to a file, a folder, or hub: .*'random' if random"),
        ("dinov3_vit_b16", None, "if random weights are what you want"),
        ("resnet18_frozen_bn", None, "if random weights are what you want"),
        ("ViT-B/32", "no/such.pt", rf"no weight file no/such.pt in {Path.cwd()}"),
        ("ViT-B/32", "Random", r"^a weight file ends in .* or to random"),
        ("croco_v2_vitl16", "no/such-1.1", rf"no folder no/such-1.1 in {Path.cwd()}, .* CroCo_V2"),
        ("resnet18", "hub:a1_in1k", "no published weights: train it from scratch"),
    ],
)
def test_random_weights_only_by_that_word(name: str, weights: str | None, message: str) -> None:
    small = {
        "ViT-B/32": CLIP_SIZES["clip_vit_b32"],
        "dinov3_vit_b16": VIT,
        "croco_v2_vitl16": OWN_VIT,
    }.get(name, {"channels": (16, 16, 16, 16)})
    with pytest.raises(WeightsError, match=message):
        registry.create(name, weights=weights, overrides=small)


def test_a_backbone_from_scratch_takes_no_file(tmp_path: Path) -> None:
    path = save({"0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="trained from scratch and takes no pretrained"):
        registry.create("small_cnn", weights=str(path))
