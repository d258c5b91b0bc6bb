"""Many trainings in one process: the same as alone, features of all from one pass, faults apart."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, write_config, write_episodes

from twin_env.files import locked
from twin_eval.cli import main
from twin_policy.backbones import VisionBackbone
from twin_policy.config import EncoderConfig
from twin_policy.parsing import ConfigError, set_values
from twin_policy.pretrained import build_backbone, complete
from twin_train import many
from twin_train.config import load_run_config
from twin_train.features import open_features
from twin_train.runs_file import camera_sets, plan_runs, read_runs
from twin_train.store import open_store

ENCODER = """{clip_model_name: ViT-B/32, clip_layer: 1, feature_dim: 16, resize_shape: [32, 64],
    pretrained_backbone_weights: random,
    overrides: {width: 64, layers: 3, head_width: 16, embed_dim: 32}}"""
SHORT = {"train.num_steps": 6, "train.val_every": 3, "train.checkpoint_every": 3}
LAYER, SEED, FEATURES = "policy.encoder.clip_layer", "train.seed", "train.features"
Write = Callable[..., Path]
Line = dict[str, Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card measures for longer than these trainings take."""

    def card(folder: Path, **_: Any) -> None:
        (folder / many.CARD).write_text("")

    monkeypatch.setattr("twin_train.run.write_card", card)
    monkeypatch.setattr("twin_train.run.draw_losses", lambda *_, **__: None)


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    return write_config(tmp_path / "clip_toy.yaml", encoder=ENCODER)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Of each test its own: features lie beside them."""
    write_episodes(tmp_path / "toy", 2)
    return tmp_path / "toy"


@pytest.fixture
def write(tmp_path: Path, config_path: Path) -> Write:
    """Writes a file of runs: name to settings, on top of short ones, and keys of the run."""

    def write(**runs: dict[str, Any]) -> Path:
        entries = []
        for name, given in runs.items():
            settings = {key: value for key, value in given.items() if "." in key}
            entry = {
                "name": name,
                "task": "toy",
                "policy": str(config_path),
                "set": {**SHORT, **settings},
                "data": str(tmp_path / "toy"),
                "env_config": "demo_clean",
                "episodes": 2,
                "out": str(tmp_path / "runs" / name),
            }
            entries.append({**entry, **{k: v for k, v in given.items() if "." not in k}})
        path = tmp_path / "runs.json"
        path.write_text(json.dumps({"version": 1, "runs": entries}))
        return path

    return write


def train(path: Path, *words: str) -> tuple[int, dict[str, Line]]:
    """The exit status, and what is reported of each run."""
    report = path.with_name("report.jsonl")
    report.unlink(missing_ok=True)
    options = ["--threads", "1", "--device", "cpu", "--report", str(report)]
    status = main(["train-many", str(path), *options, *words])
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len({line["name"] for line in lines}) == len(lines)
    return status, {line["name"]: line for line in lines}


def plan(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[Line], dict[str, Line]]:
    capsys.readouterr()
    assert main(["train-many", str(path), "--plan", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found["towers"], {run["name"]: run for run in found["runs"]}


def stored_features(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.features/*.zarr"))


def test_runs_are_those_that_are_trained_alone(
    write: Write, run: Run, tmp_path: Path, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {FEATURES: "auto"}
    path = write(
        first={LAYER: 0, **auto}, second={LAYER: 2, **auto}, other={LAYER: 2, SEED: 1}, again=auto
    )
    passed = []
    encode = VisionBackbone.encode
    monkeypatch.setattr(
        VisionBackbone, "encode", lambda self, *given: passed.append(given) or encode(self, *given)
    )
    assert train(path, "--prepare", "--only", "first", "second", "again")[0] == 0
    (features,) = stored_features(tmp_path)
    assert list(open_features(features).held) == ["block0", "block1", "block2"]
    # A black picture of each camera, and 2 x 2 pieces of episodes: all layers at once.
    assert [given[1] for given in passed] == [["block0", "block1", "block2"]] * 6

    passed.clear()
    (store,) = tmp_path.glob("toy.*.zarr")
    # Other processes read the same store at the same time.
    with locked(store), locked(features):
        status, lines = train(path, "--only", "first", "second")
    assert (status, passed) == (0, [])
    assert {name: line["steps"] for name, line in lines.items()} == {"first": 6, "second": 6}
    assert train(path)[0] == 0
    assert stored_features(tmp_path) == [features]
    settings = [f"{key}={value}" for key, value in SHORT.items()]
    for name, own in (
        ("second", (f"{LAYER}=2", f"{FEATURES}=auto")),
        ("other", (f"{LAYER}=2", f"{SEED}=1")),
    ):
        run(tmp_path / "alone" / name, *settings, *own)
        compare_runs(tmp_path / "alone" / name, tmp_path / "runs" / name)


def test_a_fault_is_of_its_run_alone(write: Write, tmp_path: Path, episodes: Path) -> None:
    auto = {FEATURES: "auto"}
    sized = {"policy.cameras": {"head_camera": [24, 32], "chest_camera": [12, 16]}}
    grid = {"policy.encoder.pooling": "grid", "policy.encoder.grid_size": [2, 2]}
    path = write(
        good=auto,
        layer={LAYER: 7, **auto},
        tuned={"policy.encoder.freeze_clip": False, **auto},
        typing={"train.batch": 1},
        camera={**sized, **auto},
        coarse={**grid, **auto},
        far={"train.lr": 1e30},
        many={"episodes": 3},
        weights={"policy.encoder.pretrained_backbone_weights": "no/such.pt", **auto},
    )
    status, lines = train(path)
    assert status == 1
    states = {name: line["state"] for name, line in lines.items()}
    assert states == dict.fromkeys(states, "failed") | {"good": "done"}
    for name, reason in (
        ("layer", "has layers block0 to block2"),
        ("tuned", "train.features needs policy.encoder.tuning frozen"),
        ("typing", "unknown key in 'train' 'batch'"),
        ("camera", "chest_camera"),
        ("coarse", "grid_size must be at most the layer's tokens, 1x2"),
        ("far", "not finite at step"),
        ("many", "holds 2 episodes, not 3: record them with `twinbench collect toy"),
        ("weights", "no weight file no/such.pt"),
    ):
        assert reason in lines[name]["reason"], (name, lines[name]["reason"])
    assert len(stored_features(tmp_path)) == 1


def test_finished_runs_are_skipped_and_other_configs_refused(
    write: Write, tmp_path: Path, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {FEATURES: "auto"}
    path = write(one=auto, two=auto)
    _, before = train(path, "--only", "one")
    monkeypatch.setattr(many, "train_run", lambda *_, **__: pytest.fail("it was trained again"))
    monkeypatch.setattr(many, "make_tower", lambda *_, **__: pytest.fail("a tower was built"))
    assert train(path, "--only", "one") == (0, before)
    path = write(one={"train.lr": 0.5, **auto})
    status, lines = train(path)
    assert status == 1
    assert (
        "holds another run, which differs in:\n  train.lr: 0.001 -> 0.5" in lines["one"]["reason"]
    )
    path = write(one={"episodes": 1, **auto})
    assert "data_sha256" in train(path)[1]["one"]["reason"]
    os.rename(episodes, tmp_path / "elsewhere")
    assert train(write(one=auto))[0] == 0


def test_an_interrupted_file_of_runs_goes_on(
    write: Write, tmp_path: Path, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {name: {LAYER: layer, FEATURES: "auto"} for layer, name in enumerate("abc")}
    path = write(**runs)
    train_run = many.train_run

    def terminated(*given: Any, **options: Any) -> Any:
        if options["folder"].name == "b":
            polls = iter(range(100))

            def stop() -> bool:
                if next(polls) == 4:
                    os.kill(os.getpid(), signal.SIGTERM)
                return bool(asked())

            asked, options["stop"] = options["stop"], stop
        return train_run(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(many, "train_run", terminated)
        status, lines = train(path)
    assert status == 130
    assert [line["state"] for line in lines.values()] == ["done", "interrupted", "interrupted"]
    assert [line["steps"] for line in lines.values()] == [6, 4, 0]
    assert train(path)[0] == 0
    whole = {**runs["b"], "out": str(tmp_path / "runs" / "whole")}
    assert train(write(b=whole))[0] == 0
    compare_runs(tmp_path / "runs" / "whole", tmp_path / "runs" / "b")


def test_the_plan_says_what_will_be(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = {FEATURES: "auto"}
    path = write(
        first={LAYER: 0, **auto},
        last={LAYER: "final", "policy.encoder.pooling": "projected", **auto},
        seeded={LAYER: 0, SEED: 1, **auto},
        frozen={"train.grad_accum_steps": 3},
        tuned={"policy.encoder.freeze_clip": False},
        blind={"policy.cameras": {}},
        wrong={LAYER: 9},
    )
    values = json.loads(path.read_text())
    del values["runs"][1]["set"][LAYER]
    values["runs"][1]["set"]["policy.encoder.use_final_features"] = True
    del values["runs"][1]["set"]["policy.encoder.pooling"]
    path.write_text(json.dumps(values))

    towers, runs = plan(path, capsys)
    assert [tower["runs"] for tower in towers] == [["first", "last"], ["seeded"]]
    assert [tower["pictures"] for tower in towers] == [None, None]
    assert (towers[0]["layers"], towers[0]["weights"]) == (["block0", "final"], "random weights")
    assert towers[0]["readouts"] == ["class_token", "projected"]
    live = {name: (run["features"], run["live_backbone"]) for name, run in runs.items()}
    assert live == {
        "first": (True, "none"),
        "last": (True, "none"),
        "seeded": (True, "none"),
        "frozen": (False, "frozen"),
        "tuned": (False, "tuned"),
        "blind": (False, "none"),
        "wrong": (False, "frozen"),
    }
    assert "has layers block0 to block2" in runs["wrong"]["error"]
    assert {run["error"] for name, run in runs.items() if name != "wrong"} == {None}
    assert (runs["frozen"]["total_steps"], runs["frozen"]["batch_windows"]) == (6, 24)
    assert runs["first"]["learning_parameters"] is None
    assert not list(tmp_path.glob("toy*"))

    write_episodes(tmp_path / "toy", 2)
    towers, _ = plan(path, capsys)
    assert [(tower["pictures"], tower["ready"]) for tower in towers] == [(50, False)] * 2
    assert not list(tmp_path.glob("toy.*"))
    assert train(path, "--only", "first", "last")[0] == 0
    towers, runs = plan(path, capsys)
    assert [tower["ready"] for tower in towers] == [True, False]
    (features,) = stored_features(tmp_path)
    numbers = [p for p in features.glob("episodes/*/*/*/*/*") if p.name[0].isdigit()]
    assert 0 < towers[0]["bytes"] - sum(each.stat().st_size for each in numbers) < 10_000
    assert runs["first"]["steps_done"] == 6
    assert runs["first"]["learning_parameters"] > 0


def test_one_store_serves_runs_of_fewer_cameras(
    write: Write, tmp_path: Path, episodes: Path
) -> None:
    auto = {FEATURES: "auto"}
    path = write(
        head={"policy.cameras": {"head_camera": [24, 32]}, **auto},
        both=auto,
        small={"policy.cameras": {"head_camera": [12, 16]}, **auto},
    )
    planned, faults = plan_runs(read_runs(path))
    assert not faults
    (sets,) = camera_sets(list(planned.values())).values()
    assert [dict(each) for each in sets] == [
        {"head_camera": (24, 32), "left_camera": (12, 16)},
        {"head_camera": (12, 16)},
    ]
    assert train(path, "--only", "head")[0] == 0
    (store,) = tmp_path.glob("toy.*.zarr")
    assert set(open_store(store).cameras) == {"head_camera", "left_camera"}
    assert train(path, "--only", "both", "small")[0] == 0
    assert len(list(tmp_path.glob("toy.*.zarr"))) == 2


def test_random_weights_with_a_seed_of_their_own_are_shared_by_all_seeds(
    write: Write, tmp_path: Path, episodes: Path
) -> None:
    own = {FEATURES: "auto", "policy.encoder.weights_seed": 5}
    assert train(write(a=own, b={**own, SEED: 1}))[0] == 0
    assert len(stored_features(tmp_path)) == 1
    ours, theirs = (load_file(tmp_path / "runs" / name / "model.safetensors") for name in "ab")
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert {name for name in ours if "backbones" in name} <= same
    assert any("head" in name for name in ours.keys() - same)

    config = complete(EncoderConfig(**EncoderConfig.translate(yaml.safe_load(ENCODER))))
    torch.manual_seed(5)
    fresh = build_backbone(config)
    seeded = set_values({"encoder": yaml.safe_load(ENCODER)}, {"encoder.weights_seed": 5})
    state = torch.random.get_rng_state()
    given = complete(EncoderConfig(**EncoderConfig.translate(seeded["encoder"])))
    assert build_backbone(given).fingerprint() == fresh.fingerprint()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version must be 1, and is 2"),
        ({"what": 1}, "unknown key 'what'"),
        ({"runs": [{"name": "a"}]}, "'runs\\[0\\].task' is missing"),
        ({"twice": True}, "two runs have the name a"),
    ],
)
def test_a_faulty_file_is_refused(write: Write, change: dict[str, Any], message: str) -> None:
    path = write(a={}, b={})
    values = json.loads(path.read_text())
    if change.pop("twice", False):
        values["runs"][1]["name"] = "a"
    path.write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        read_runs(path)


def test_words_of_the_command(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-many", str(write(alpha={})), "--only", "alpa"]) == 2
    assert "unknown run 'alpa'; did you mean 'alpha'" in capsys.readouterr().err
    assert main(["train-many", str(tmp_path / "none.json")]) == 2
    assert "no file of runs" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--set a\.b: 'a' holds a value"):
        set_values({"a": 1}, {"a.b": 2}, said="--set ")
    with pytest.raises(ConfigError, match="weights_seed is of random weights"):
        load_run_config("dp_resnet", ["policy.encoder.weights_seed=1"])
