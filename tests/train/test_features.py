"""The feature store: what it writes, what it refuses, and losses equal to those of a live tower."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, stop_after, write_config, write_episodes

from twin_eval.cli import main
from twin_policy.agent import noise_generator
from twin_policy.backbones import VisionBackbone, registry
from twin_policy.checkpoint import load_checkpoint
from twin_policy.diffusion import action_error
from twin_policy.encoders import ObsEncoder
from twin_policy.pretrained import complete, resolve
from twin_train import extraction
from twin_train.config import RunConfig, load_run_config
from twin_train.conversion import open_or_build_store
from twin_train.dataset import Windows, read_transitions
from twin_train.extraction import choose_readouts, extract
from twin_train.features import (
    FeaturesError,
    open_features,
    parse_readout,
    read_features,
    wanted_of,
)
from twin_train.log import read_log
from twin_train.loop import Interrupted, TaskWindows, seeded_generator
from twin_train.run import TaskData, build_policy
from twin_train.store import Store
from twin_train.zarr_files import read_array

TOWER = {"width": 64, "layers": 3, "head_width": 16, "embed_dim": 32}
ENCODER = """{clip_model_name: ViT-B/32, clip_layer: 1, feature_dim: 16, resize_shape: [32, 64],
    pretrained_backbone_weights: random, state_noise: 0.01,
    overrides: {width: 64, layers: 3, head_width: 16, embed_dim: 32}}"""
CAMERAS = {"head_camera": (24, 32), "left_camera": (12, 16)}


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    return write_config(tmp_path / "clip_toy.yaml", encoder=ENCODER)


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures for longer than these trainings take."""
    monkeypatch.setattr("twin_train.run.write_card", lambda *_, **__: None)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Of each test its own: features lie beside them."""
    write_episodes(tmp_path / "toy", 3)
    return tmp_path / "toy"


@pytest.fixture
def store(episodes: Path) -> Store:
    return open_or_build_store(episodes, None, CAMERAS, workers=1, quiet=True)


def make_tower(seed: int = 0) -> VisionBackbone:
    torch.manual_seed(seed)
    return registry.create("ViT-B/32", weights="random", size=(32, 64), overrides=TOWER)


def write(store: Store, *readouts: str, layers: Any = (1,), seed: int = 0, **options: Any) -> Path:
    tower = make_tower(seed)
    held = choose_readouts(tower, layers, [parse_readout(word) for word in readouts])
    return extract(store, tower, held=held, quiet=True, **options).path


def losses(folder: Path) -> list[float]:
    return [
        line[name] for line in read_log(folder / "log.jsonl") for name in line if "loss" in name
    ]


def difference(first: Path, second: Path) -> float:
    """The largest one of losses of training and validation, relative."""
    ours, theirs = np.array(losses(first)), np.array(losses(second))
    assert len(ours) == len(theirs) > 6
    return float(np.max(np.abs(ours / theirs - 1)))


@pytest.mark.parametrize(
    ("layer", "pooling", "readout"),
    [
        (1, "class_token", "class_token"),
        ("final", "pooled", "pooled"),
        ("final", "projected", "projected"),
        (1, "avg", "mean"),
        (1, "avg", "tokens"),
        (1, "grid", "grid:1x2"),
        (1, "grid", "tokens"),
        (1, "spatial_softmax", "tokens"),
    ],
)
def test_losses_are_those_of_the_live_tower(
    store: Store, config_path: Path, tmp_path: Path, layer: int | str, pooling: str, readout: str
) -> None:
    settings = [f"policy.encoder.pooling={pooling}", "policy.encoder.grid_size=[1,2]"]
    settings += ["policy.encoder.adapter=linear", f"policy.encoder.clip_layer={layer}"]
    values = load_run_config(str(config_path), settings)
    policy_config = replace(values.policy, encoder=complete(values.policy.encoder))
    config = replace(values, policy=policy_config)

    def windows() -> Windows:
        return Windows(read_transitions(store), range(3), n_obs_steps=2, horizon=8, task="toy")

    live = windows()
    tasks = TaskWindows(live, None)
    policy = build_policy(config, {"toy": TaskData(tmp_path, store, ([0, 1, 2], []), tasks)})
    rows = np.arange(0, len(live), 2)
    wanted = wanted_of(policy.encoder.config, policy.encoder.tower)

    def errors_of(each: Windows) -> list[float]:
        noise = [noise_generator(0, row) for row in range(len(rows))]
        return list(action_error(policy.eval(), each.batch(rows), noise).values())

    def loss_of(each: Windows, *, training: bool) -> float:
        with torch.no_grad():
            return float(
                policy.train(training).compute_loss(each.batch(rows), seeded_generator(0, 1))
            )

    for dtype, allowed in (("fp32", 1e-5), ("bf16", 1e-3)):
        path = write(store, readout, layers=[layer], dtype=dtype, target=tmp_path / dtype)
        stored = windows()
        stored.use_features(read_features(open_features(path), wanted, store, cache_mb=10))
        assert not stored.batch(rows).images
        for training in (True, False):
            ours, theirs = (loss_of(each, training=training) for each in (stored, live))
            assert ours == pytest.approx(theirs, rel=allowed)
        assert errors_of(stored) == pytest.approx(errors_of(live), rel=allowed)


def test_checkpoints_are_alike_and_the_tower_does_not_run(
    run: Run, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "live")
    write(store, "class_token", "tokens", layers=[0, 1, "final"], dtype="fp32")
    with monkeypatch.context() as patched:
        patched.setattr(VisionBackbone, "encode", lambda *_: pytest.fail("the tower ran"))
        patched.setattr("twin_train.run.check_encoder", lambda *_: None)
        run(tmp_path / "stored", "train.features=auto")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("stored", "live"))
    assert difference(tmp_path / "stored", tmp_path / "live") < 1e-5
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=1e-4, atol=1e-5), name
    provenance = load_checkpoint(tmp_path / "stored").provenance
    used = provenance["features"]["toy"]
    assert used["dtype"] == "fp32"
    assert used["backbone_sha256"] == make_tower().fingerprint()
    frames = {c: torch.zeros((1, *size, 3), dtype=torch.uint8) for c, size in CAMERAS.items()}
    assert load_checkpoint(tmp_path / "stored").policy.encode_frames(frames).shape == (1, 32)


def test_auto_extracts_once_and_resumed_runs_are_whole(run: Run, tmp_path: Path) -> None:
    settings = ["train.features=auto", "train.num_steps=8"]
    run(tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", *settings, stop=stop_after(5))
    state = load_file(tmp_path / "parts" / "training_state" / "latest.safetensors")
    kept = [name for name in state if "encoder.backbones" in name]
    assert kept
    assert all(name.startswith("policy/") for name in kept)
    run(tmp_path / "parts", *settings)
    compare_runs(tmp_path / "whole", tmp_path / "parts")
    (found,) = next(tmp_path.glob("toy.*.features")).iterdir()
    features = open_features(found)
    assert (features.dtype, dict(features.held)) == ("bf16", {"block1": ("class_token",)})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("policy.encoder.crop_ratio=0.9", "needs policy.encoder.crop_ratio 1.0.*it is 0.9"),
        ("policy.encoder.color_jitter=0.1", "needs policy.encoder.color_jitter 0.0.*it is 0.1"),
        ("policy.encoder.freeze_clip=false", "needs policy.encoder.tuning frozen.*it is full"),
        ("policy.encoder={backbone: small_cnn}", "small_cnn is trained inside the encoder"),
        ("policy.cameras={}", "policy.cameras has none"),
    ],
)
def test_what_depends_on_more_than_the_picture_is_refused(
    run: Run, tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", "train.features=auto", setting)
    assert not (tmp_path / "out").exists()


def test_stale_and_foreign_stores_are_refused_by_name(
    run: Run, store: Store, episodes: Path, tmp_path: Path
) -> None:
    path = write(store, "class_token", target=tmp_path / "kept.zarr")
    features = f"train.features={path}"
    for setting, message in (
        ("train.seed=1", r"kept.zarr is stale: it was made with clip_vit_b32 \(random weights"),
        ("policy.encoder.image_normalization=imagenet", r"kept.zarr is stale.*extract to another"),
        ("policy.encoder.clip_layer=2", r"kept.zarr holds no class_token of block2, but block1"),
        ("policy.encoder.pooling=avg", r"holds no mean or tokens of block1.*--readout mean"),
        ("policy.cameras={head_camera: [12, 16]}", r"kept.zarr holds no head_camera at 12x16"),
    ):
        with pytest.raises(FeaturesError, match=message):
            run(tmp_path / "out", features, setting)
    with pytest.raises(FileNotFoundError, match=r"no feature store .*nowhere: make one with"):
        run(tmp_path / "out", "train.features=nowhere")
    with pytest.raises(FeaturesError, match=r"serves:\n  .*kept.zarr holds no class_token of"):
        run(tmp_path / "out", f"train.features={tmp_path}", "policy.encoder.clip_layer=0")

    shutil.rmtree(episodes)
    shutil.rmtree(store.path)
    write_episodes(episodes, 3, n_frames=11)
    with pytest.raises(FeaturesError, match=r"kept.zarr/episodes/000000 is stale: it was made of"):
        run(tmp_path / "out", features)


def test_damage_is_refused_by_name_and_mended_by_extracting_again(
    run: Run, store: Store, tmp_path: Path
) -> None:
    path = write(store, "class_token", target=tmp_path / "kept.zarr")
    folder = path / "episodes" / "000001"
    chunk = folder / "left_camera" / "block1" / "class_token" / "0.0"
    whole = chunk.read_bytes()
    for damaged, message in (
        (whole[:-2], "bytes, not"),
        (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], "not have the checksum"),
        (None, "No such file"),
    ):
        chunk.unlink()
        if damaged is not None:
            chunk.write_bytes(damaged)
        with pytest.raises(FeaturesError, match=f"000001 is damaged .*{message}.*delete it"):
            run(tmp_path / "out", f"train.features={path}")
        chunk.write_bytes(whole)
    shutil.rmtree(folder)
    with pytest.raises(FeaturesError, match="lacks 1 of 3 episodes, the first one episode 1: run"):
        run(tmp_path / "out", f"train.features={path}")
    write(store, "class_token", target=path)
    assert chunk.read_bytes() == whole
    run(tmp_path / "out", f"train.features={path}")


def test_a_killed_extraction_goes_on_with_the_next_episode(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls: list[int] = []
    read = extraction._read

    def dying(*args: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 12:
            raise Killed
        return read(*args)

    target = tmp_path / "parts.zarr"
    monkeypatch.setattr(extraction, "_read", dying)
    with pytest.raises(Killed):
        write(store, "class_token", target=target, batch_size=5)
    left_over = list((target / "episodes").glob(".*.part"))
    assert sorted(each.name for each in (target / "episodes").glob("0*")) == ["000000"]
    assert left_over
    first = (target / "episodes" / "000000" / ".zattrs").stat().st_mtime_ns
    calls[:] = [0] * 100
    write(store, "class_token", target=target, batch_size=5)
    # Two black pictures to see the shapes, and none of the first episode's 12.
    assert sum(calls) == 2 + 2 * (13 + 14)
    assert (target / "episodes" / "000000" / ".zattrs").stat().st_mtime_ns == first
    assert not list((target / "episodes").glob(".*.part"))
    whole = write(store, "class_token", target=tmp_path / "whole.zarr", batch_size=5)
    for chunk in whole.rglob("0.0"):
        assert (target / chunk.relative_to(whole)).read_bytes() == chunk.read_bytes()


def test_size_is_told_before_and_the_disk_is_looked_at(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    plans: list[extraction.Plan] = []
    check = extraction.check_disk
    monkeypatch.setattr(extraction, "check_disk", plans.append)
    kinds = ("tokens", "class_token", "grid:1x2")
    path = write(store, *kinds, layers=[0, 1, "final"], target=tmp_path / "f", say=said.append)
    written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert plans[0].n_bytes == pytest.approx(written, rel=0.1)
    assert "3 episodes to go, 39 frames of 2 cameras = 78 pictures; 3 layers" in said[0]

    usage = namedtuple("usage", "free")
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda _: usage(1_000))
    with pytest.raises(FeaturesError, match=r"needs .* kB and a tenth to spare.* 1.00 kB free: "):
        check(plans[0])
    monkeypatch.setattr(extraction, "check_disk", check)
    with pytest.raises(FeaturesError, match="--readout class_token or grid:4x4 instead of tokens"):
        write(store, "tokens", layers=[0, 1, 2], target=tmp_path / "g")


def test_arrays_are_what_the_tower_gives(store: Store) -> None:
    path = write(store, "class_token", "projected", "grid:1x2", layers=[2, "final"], dtype="fp32")
    features = open_features(path)
    kinds = {"block2": ("class_token", "grid:1x2")}
    assert dict(features.held) == kinds | {"final": ("class_token", "grid:1x2", "projected")}
    picture = torch.from_numpy(store.episodes[2].pictures["head_camera"].read(5))
    with torch.no_grad():
        found = make_tower().eval().encode(picture.permute(2, 0, 1)[None] / 255, [2, "final"])
    folder = features.episodes[2] / "head_camera"
    for layer, kind, shape in (("block2", "class_token", (64,)), ("final", "projected", (32,))):
        values = read_array(folder / layer / kind)
        assert values.shape == (14, *shape)
        expected = found[layer].readout(kind)[0].numpy()
        np.testing.assert_allclose(values[5], expected, rtol=1e-4, atol=1e-5)
    assert read_array(folder / "final" / "grid_1x2").shape == (14, 64, 1, 2)
    about = json.loads((features.episodes[2] / ".zattrs").read_text())
    assert about["sha256"] == store.episodes[2].sha256
    values = read_array(folder / "block2" / "class_token")
    assert about["crc32"]["head_camera/block2/class_token"] == zlib.crc32(values)
    zarr = pytest.importorskip("zarr")
    opened = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(
        opened["episodes/000002/head_camera/block2/class_token"][:], values
    )


def test_the_command_makes_what_training_finds(
    run: Run, episodes: Path, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", "extract", str(episodes), "--policy", str(config_path), "--threads", "1"]
    assert main([*words, "--layers", "0,1", "--device", "cpu"]) == 0
    assert "3 episodes to go" in (said := capsys.readouterr().out)
    assert "78 pictures; 2 layers, class_token, bf16: " in said
    assert main([*words, "--layers", "0,1", "--device", "cpu"]) == 0
    assert "0 episodes to go" in capsys.readouterr().out
    for layer in (0, 1):
        run(tmp_path / f"layer{layer}", "train.features=auto", f"policy.encoder.clip_layer={layer}")
    (folder,) = tmp_path.glob("toy.*.features")
    assert len(list(folder.iterdir())) == 1

    # What the policy reads, not a class token, and of all layers.
    averaged = ["--set", "policy.encoder.pooling=avg", "--layers", "all"]
    assert main([*words, *averaged]) == 0
    assert "78 pictures; 4 layers, mean, bf16: " in capsys.readouterr().out

    for wrong, message in (
        (["--layers", "7"], "has layers block0 to block2"),
        (["--readout", "grid"], "unknown readout 'grid'"),
        (["--readout", "projected"], "only the layer 'final' of a CLIP has one"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["features", "extract", str(episodes)]) == 2
    assert "which backbone? Give --backbone" in capsys.readouterr().err


def test_features_that_do_not_fit_in_memory_are_read_from_their_files(
    run: Run, tmp_path: Path, store: Store
) -> None:
    path = write(store, "tokens")
    settings = [f"train.features={path}", "policy.encoder.pooling=spatial_softmax"]
    settings += ["policy.encoder.spatial_softmax_num_keypoints=4"]
    run(tmp_path / "memory", *settings)
    run(tmp_path / "files", *settings, "train.image_cache_mb=0")
    compare_runs(tmp_path / "memory", tmp_path / "files")


def test_random_weights_of_a_seed_are_those_of_its_training(config_path: Path) -> None:
    config: RunConfig = load_run_config(str(config_path))
    torch.manual_seed(5)
    encoder = ObsEncoder(
        cameras=CAMERAS, n_obs_steps=2, state_dim=14, config=resolve(config.policy.encoder)
    )
    assert encoder.tower.fingerprint() == make_tower(5).fingerprint()
