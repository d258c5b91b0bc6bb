"""The doctor finds what was broken on purpose, in every kind of policy, and leaves the rest be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from doctor_fixtures import KINDS, train_kind
from torch import Tensor
from training_fixtures import Run, make_frame, write_episodes

from twin_env.episodes import write_episode
from twin_eval.cli import main
from twin_policy.action_space import JointLayout
from twin_policy.checkpoint import (
    Checkpoint,
    load_checkpoint,
    prepare_checkpoint,
    save_weights,
)
from twin_policy.diffusion import ChunkPolicy
from twin_policy.normalizer import DimensionNormalizer, Normalizer
from twin_policy.specs import TaskEntry
from twin_train import diagnose_data
from twin_train.config import load_run_config
from twin_train.diagnose import check_error, check_jitter, check_use_of_pictures, diagnose
from twin_train.diagnose_data import (
    Trial,
    check_colours,
    check_history,
    frame_errors,
    make_trial,
)
from twin_train.findings import Finding
from twin_train.predict import read_recorded

SLOWLY = 7
"""By so much the red of a picture grows from frame to frame."""


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures for longer than these trainings take."""
    for module in ("run", "lapo_run"):
        monkeypatch.setattr(f"twin_train.{module}.write_card", lambda *_, **__: None)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Of each test its own: features lie beside them."""
    write_episodes(tmp_path / "toy", 2)
    return tmp_path / "toy"


def rewrite(folder: Path, to: Path, change: Callable[[Checkpoint], None]) -> Path:
    """A whole checkpoint again, with something else in it."""
    checkpoint = load_checkpoint(folder)
    change(checkpoint)
    prepare_checkpoint(to, policy=checkpoint.policy, tasks=checkpoint.tasks)
    save_weights(to, checkpoint.policy, checkpoint.provenance)
    return to


def use_normaliser(checkpoint: Checkpoint, normalizer: Normalizer) -> None:
    checkpoint.policy.joints_of("").normalizer = normalizer


def lose_statistics(checkpoint: Checkpoint) -> None:
    use_normaliser(checkpoint, Normalizer.identity(14, 14))


def freeze_a_joint(checkpoint: Checkpoint) -> None:
    old = checkpoint.policy.joints_of("").normalizer
    stored = old.action.to_dict()
    stored = stored | {"frozen": [True, *stored["frozen"][1:]]}
    use_normaliser(checkpoint, Normalizer(old.state, DimensionNormalizer.from_dict(stored)))


def spoil_a_weight(checkpoint: Checkpoint) -> None:
    *_, parameter = checkpoint.policy.parameters()
    parameter.data.view(-1)[0] = float("nan")


def blind(checkpoint: Checkpoint) -> None:
    for parameter in checkpoint.policy.encoder.parameters():
        parameter.data.zero_()


BROKEN: Mapping[str, Callable[[Checkpoint], None]] = {
    "normaliser": lose_statistics,
    "idle dimensions": freeze_a_joint,
    "weights": spoil_a_weight,
    "features": blind,
}
OF_A_TOWER = ("clip", "fusion")
OF_SHORT_TRAINING = {"open-loop error", "history"}
"""What a policy of a few steps may be found with."""


def run_on(folder: Path, *episodes: Path) -> list[Finding]:
    return list(diagnose(load_checkpoint(folder), folder, episodes=episodes, n_frames=3))


def faults(folder: Path, *episodes: Path) -> set[str]:
    return {each.check for each in run_on(folder, *episodes) if each.verdict == "fault"}


@pytest.mark.parametrize("kind", KINDS)
def test_broken_checkpoints_of_each_kind_are_found(
    run: Run,
    episodes: Path,
    config_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    settings = ["train.num_steps=2"] + (["train.features=auto"] if kind in OF_A_TOWER else [])
    folder = train_kind(run, config_path, tmp_path / kind, kind, *settings)
    path = episodes / "data" / "episode1.hdf5"
    whole = run_on(folder, path)
    assert {each.check for each in whole if each.verdict == "fault"} <= OF_SHORT_TRAINING
    for check, change in BROKEN.items():
        broken = rewrite(folder, tmp_path / f"broken {check}", change)
        without_data = check in ("normaliser", "weights")
        assert check in faults(broken, *(() if without_data else (path,))), check

    if kind in OF_A_TOWER:
        found = {each.check: each for each in whole}
        assert found["backbone"].verdict == found["feature drift"].verdict == "ok"
        assert "differ by" in found["feature drift"].said
        other = rewrite(folder, tmp_path / "other", lambda c: change_features(c.provenance))
        assert "backbone" in faults(other)
        stored = diagnose_data.read_parts
        with monkeypatch.context() as patched:
            patched.setattr(diagnose_data, "read_parts", lambda *a: louder(stored(*a)))
            assert "feature drift" in faults(folder, path)

    (folder / "normalizer.json").unlink()
    capsys.readouterr()
    assert main(["diagnose", str(folder), "--json", str(tmp_path / "found.json")]) == 1
    assert "normalizer.json is missing" in capsys.readouterr().out
    (first,) = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert (first["check"], first["verdict"]) == ("checkpoint", "fault")


def change_features(provenance: dict[str, Any]) -> None:
    used = provenance["features"]["toy"]
    first = used if "backbone_sha256" in used else next(iter(used.values()))
    first["backbone_sha256"] = "0" * 64


def louder(parts: Mapping[str, Any]) -> dict[str, Any]:
    class Louder:
        def __init__(self, part: Any) -> None:
            self.part = part

        def take(self, rows: Any) -> Tensor:
            return cast(Tensor, self.part.take(rows)) * 1.2

    return {camera: Louder(part) for camera, part in parts.items()}


def test_episodes_of_another_robot_and_the_ones_it_was_validated_on(
    run: Run,
    episodes: Path,
    config_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = train_kind(run, config_path, tmp_path / "dp", "dp", "train.num_steps=2")
    (franka,) = write_episodes(tmp_path / "franka", 1, arm=7)
    assert faults(folder, franka) == {"episodes"}
    capsys.readouterr()
    report = tmp_path / "found.json"
    call = ["diagnose", str(folder), "--frames", "3", "--threads", "1", "--json", str(report)]
    status = main(call)
    said = capsys.readouterr().out
    found = json.loads(report.read_text())
    assert status == int(found["faults"] > 0)
    assert "cameras, sizes and arms fit: episode" in said
    by_check = {each["check"]: each for each in found["findings"]}
    steps = by_check["open-loop error"]["values"]["by_step"]
    assert len(steps) == 7
    assert by_check["error in training"]["values"]["training"] > 0


class Oracle:
    """A policy that reads the time off the pictures, and knows what was recorded then."""

    def __init__(self, config: Any, *, channel: int = 0, ahead: int = 0, noise: float = 0) -> None:
        """`ahead`: frames by which it takes the pictures to be older than they are."""
        self.config, self.channel, self.ahead, self.noise = config, channel, ahead, noise
        self.device = torch.device("cpu")

    def encode_frames(self, images: Mapping[str, Tensor]) -> Tensor:
        return images["head_camera"].float().mean(dim=(1, 2))

    def predict_from_features(
        self, features: Tensor, state: Tensor, generators: Any, task: str
    ) -> Tensor:
        now = (features[:, -1, self.channel] / SLOWLY).round() + self.ahead
        steps = torch.arange(self.config.horizon) - (self.config.n_obs_steps - 1)
        chunk = torch.zeros(len(now), len(steps), 14)
        chunk[..., :7] = (now[:, None] + steps + 1)[..., None]
        chunk[..., 13] = 1
        for row, generator in enumerate(generators):
            chunk[row] += self.noise * torch.randn(14, generator=generator)
        return chunk


@pytest.fixture
def make_oracle(tmp_path: Path, config_path: Path) -> Callable[..., Trial]:
    frames = []
    for step in range(24):
        vector = np.zeros(14)
        vector[:7], vector[-1] = step, 1.0
        frames.append(make_frame(vector, (SLOWLY * step, 100, 0)))
    path = tmp_path / "oracle" / "episode0.hdf5"
    write_episode(path, frames)
    config = load_run_config(str(config_path), []).policy
    cameras = dict.fromkeys(config.cameras, (24, 32, 3))
    entry = TaskEntry.describe(config, layout=JointLayout(6, 6), cameras=cameras)
    recorded = read_recorded(path, entry, dict(config.cameras))

    def make(**options: Any) -> Trial:
        policy = cast(ChunkPolicy, Oracle(config, **options))
        return make_trial(policy, entry, recorded, task="", n_frames=12)

    return make


def examine(trial: Trial) -> dict[str, Finding]:
    predicted = trial.predictions()
    true = frame_errors(predicted)
    checks = [check_colours([trial], true), check_history([trial], true), check_jitter([trial])]
    checks += [check_error([predicted], trial.entry), check_use_of_pictures([trial], true)]
    return {each.check: each for each in checks}


def test_a_right_policy_is_found_right(make_oracle: Callable[..., Trial]) -> None:
    found = examine(make_oracle())
    assert {each.verdict for each in found.values()} == {"ok"}
    assert found["open-loop error"].values["executed"] == 0
    assert found["open-loop error"].values["holding_still"] > 0.5


def test_swapped_colours_are_found(make_oracle: Callable[..., Trial]) -> None:
    found = examine(make_oracle(channel=2))
    assert found["colour order"].verdict == "fault"
    assert found["colour order"].values["swapped"] == 0
    assert found["open-loop error"].verdict == "fault"


@pytest.mark.parametrize(
    ("ahead", "right"), [(1, "pictures one frame older"), (-1, "pictures one frame newer")]
)
def test_shifted_histories_are_found(
    make_oracle: Callable[..., Trial], ahead: int, right: str
) -> None:
    found = examine(make_oracle(ahead=ahead))
    assert found["history"].verdict == "fault"
    assert right in found["history"].meaning
    assert found["colour order"].verdict == "ok"


def test_jitter_and_blindness_are_noted(make_oracle: Callable[..., Trial]) -> None:
    assert examine(make_oracle(noise=20.0))["jitter"].verdict == "note"
    # Green is the same in all pictures.
    assert examine(make_oracle(channel=1))["use of pictures"].verdict == "note"
