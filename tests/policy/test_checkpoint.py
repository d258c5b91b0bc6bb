"""Checkpoints: what is saved acts alike in a new process; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from policy_fixtures import make_batch, make_config, make_entry, make_observation, make_policy
from safetensors.torch import load_file, save_file

from twin_policy.agent import noise_generator
from twin_policy.checkpoint import (
    CheckpointError,
    load_checkpoint,
    prepare_checkpoint,
    save_weights,
)
from twin_policy.config import PolicyConfig
from twin_policy.diffusion import DiffusionPolicy
from twin_policy.specs import SpecMismatch


def save(folder: Path, policy: DiffusionPolicy) -> None:
    prepare_checkpoint(folder, policy=policy, tasks={"toy": make_entry(policy.config)})
    save_weights(folder, policy, {"steps": 7, "task": "toy"})


@pytest.fixture
def folder(tmp_path: Path, tiny_policy: DiffusionPolicy) -> Path:
    save(tmp_path / "checkpoint", tiny_policy)
    return tmp_path / "checkpoint"


def test_a_loaded_policy_acts_as_the_saved_one(folder: Path, tiny_policy: DiffusionPolicy) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.policy.config == tiny_policy.config
    assert loaded.tasks == {"toy": make_entry(tiny_policy.config)}
    assert loaded.entry() == loaded.entry("another") == loaded.tasks["toy"]
    assert loaded.provenance == {"steps": 7, "task": "toy"}
    assert not loaded.policy.training
    batch = make_batch(tiny_policy.config, 1)
    ours, theirs = (
        policy.predict_action(batch.images, batch.state, [noise_generator(3, 0)])
        for policy in (tiny_policy.eval(), loaded.policy)
    )
    assert torch.equal(ours, theirs)


def test_a_new_process_acts_alike(folder: Path) -> None:
    """G23."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[2])\n"
        "from policy_fixtures import make_observation\n"
        "from twin_policy.agent import Agent\n"
        "from twin_policy.checkpoint import load_checkpoint\n"
        "agent = Agent(load_checkpoint(sys.argv[1]))\n"
        "agent.observe(make_observation(0.3), seed=5)\n"
        "print(json.dumps(agent.act()[0].tolist()))\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    from twin_policy.agent import Agent

    agent = Agent(load_checkpoint(folder))
    agent.observe(make_observation(0.3), seed=5)
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), agent.act()[0], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "normalizer.json", "specs.json", "provenance.json", "model.safetensors"],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing: .*`bash train.sh "):
        load_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def edit(path: Path, change: Any) -> None:
    loaded = yaml.safe_load(path.read_text())
    change(loaded)
    dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
    path.write_text(dump(loaded))


def resign(folder: Path) -> None:
    """Writes the digest of the edited files into the weights, as a careful forger would."""
    from twin_policy.checkpoint import _digest

    tensors = load_file(folder / "model.safetensors")
    header = {
        "format": "twinbench-policy",
        "format_version": "2",
        "fixed_files_sha256": _digest(folder),
    }
    save_file(tensors, folder / "model.safetensors", metadata=header)


def test_another_format_version_is_refused(folder: Path) -> None:
    edit(folder / "config.yaml", lambda c: c.update(format_version=1))
    with pytest.raises(CheckpointError, match=r"version 1, this TwinBench reads 2: .*train again"):
        load_checkpoint(folder)


def test_files_of_two_runs_are_refused(folder: Path) -> None:
    edit(folder / "normalizer.json", lambda n: n["all"]["action"]["scale"].reverse())
    with pytest.raises(CheckpointError, match="not those that these weights were trained with"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("action_spec", "driven_dims", list(range(13)), "driven_dims: .*13] -> "),
        ("action_spec", "n_action_steps", 5, "n_action_steps: 6 -> 5"),
        ("obs_spec", "n_obs_steps", 2, "n_obs_steps: 3 -> 2"),
        ("obs_spec", "state_dim", 16, "state_dim: 14 -> 16"),
        ("obs_spec", "cameras", {"head_camera": [48, 64, 3]}, r"cameras: .*'left_camera'\] -> "),
        ("action_spec", "layout", {"left_arm": 7, "right_arm": 7}, "state_dim: 16 -> 14"),
    ],
)
def test_specs_that_do_not_fit_the_config_are_refused(
    folder: Path, part: str, key: str, value: Any, message: str
) -> None:
    edit(folder / "specs.json", lambda s: s["tasks"]["toy"][part].update({key: value}))
    resign(folder)
    with pytest.raises(
        CheckpointError, match=rf"specs\.json: does not fit config\.yaml: .*{message}"
    ):
        load_checkpoint(folder)


def test_a_normaliser_of_other_dimensions_is_refused(folder: Path) -> None:
    def shorten(normalizers: dict[str, Any]) -> None:
        for name, values in normalizers["all"]["action"].items():
            normalizers["all"]["action"][name] = values[:13]

    edit(folder / "normalizer.json", shorten)
    resign(folder)
    with pytest.raises(CheckpointError, match=r"actions of 13 dimensions, specs\.json says 14"):
        load_checkpoint(folder)
    edit(folder / "normalizer.json", lambda n: n.update(other=n.pop("all")))
    resign(folder)
    with pytest.raises(CheckpointError, match=r"normalizer\.json: all: not a normaliser"):
        load_checkpoint(folder)


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_checkpoint(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_unknown_config_key_is_refused(folder: Path) -> None:
    edit(folder / "config.yaml", lambda c: c["policy"].update(horizn=8))
    resign(folder)
    with pytest.raises(ValueError, match=r"config\.yaml.*did you mean 'horizon'"):
        load_checkpoint(folder)


def test_weights_of_another_network_are_refused(folder: Path, tiny_config: PolicyConfig) -> None:
    wider = dataclasses.replace(tiny_config.denoiser, hidden_dim=64)
    save_weights(folder, make_policy(tiny_config, denoiser=wider), {})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not fit config\.yaml"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole file"):
        load_checkpoint(folder)


def test_a_failed_save_keeps_the_old_weights(
    folder: Path, tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("twin_policy.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(folder, tiny_policy, {"steps": 8})
    assert (folder / "model.safetensors").read_bytes() == before
    assert not [path for path in folder.iterdir() if "part" in path.name]


def test_a_save_that_is_cut_short_never_passes_for_a_later_one(
    folder: Path, tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr("twin_policy.checkpoint.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            save_weights(folder, tiny_policy, {"steps": 8})
    assert load_checkpoint(folder).provenance["steps"] == 7
    with monkeypatch.context() as broken:
        broken.setattr("twin_policy.checkpoint.write_text", fail)
        with pytest.raises(OSError, match="disk full"):
            save_weights(folder, tiny_policy, {"steps": 8})
    with pytest.raises(CheckpointError, match=r"is of step 8, .* of step 7: .* training again"):
        load_checkpoint(folder)
    save_weights(folder, tiny_policy, {"steps": 8})
    assert load_checkpoint(folder).provenance["steps"] == 8


def test_a_checkpoint_that_knows_no_steps_loads(folder: Path) -> None:
    resign(folder)
    edit(folder / "provenance.json", lambda p: p.pop("steps"))
    load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["observation"].pop("left_camera"), "left_camera.*did you mean 'head_camera'"),
        (
            lambda o: o["observation"]["head_camera"].update(rgb=np.zeros((24, 32, 3), np.uint8)),
            r"trained on uint8 \(48, 64, 3\).*gives uint8 \(24, 32, 3\)",
        ),
        (
            lambda o: o["observation"]["head_camera"].update(rgb=np.zeros((48, 64, 3))),
            "gives float64",
        ),
        (lambda o: o["joint_action"].update(vector=np.zeros(16)), "trained on 14 .*gives 16"),
        (lambda o: o["joint_action"].update(left_arm=np.zeros(7)), "left_arm: .* 6 .*gives 7"),
        (lambda o: o.pop("joint_action"), "RoboTwin's groups"),
    ],
)
def test_an_environment_that_offers_something_else(change: Any, message: str) -> None:
    entry = make_entry(make_config())
    observation = make_observation(0)
    entry.check(observation)
    change(observation)
    with pytest.raises(SpecMismatch, match=message):
        entry.check(observation)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"color_order": "bgr"}, "trained with 'rgb', and 'bgr' is declared"),
        ({"n_obs_steps": 2}, "trained with 3, and 2 is declared"),
        ({"action_type": "ee"}, "trained with 'qpos'.*joint targets"),
        ({"left_arm_dim": 7}, "left_arm_dim: .* 6, .*another robot"),
        ({"right_arm_dim": 7}, "right_arm_dim: .* 6, .*another robot"),
    ],
)
def test_a_deployment_that_declares_something_else(declared: dict[str, Any], message: str) -> None:
    entry = make_entry(make_config())
    entry.check_declared()
    entry.check_declared(
        color_order="rgb", n_obs_steps=3, action_type="qpos", left_arm_dim=6, right_arm_dim=6
    )
    with pytest.raises(SpecMismatch, match=message):
        entry.check_declared(**declared)
