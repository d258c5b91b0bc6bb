"""Predicted against recorded actions: what an agent would do, of every kind of policy."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from doctor_fixtures import KINDS, train_kind
from training_fixtures import CAMERAS, Run, write_episodes

from twin_env.episodes import read_episode
from twin_eval.cli import main
from twin_policy.agent import Agent
from twin_policy.backbones import VisionBackbone
from twin_policy.checkpoint import load_checkpoint
from twin_policy.specs import SpecMismatch
from twin_train.predict import choose_frames, histories, joint_names, predict, read_recorded


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


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_what_an_agent_does(
    run: Run, episodes: Path, config_path: Path, tmp_path: Path, kind: str
) -> None:
    folder = train_kind(run, config_path, tmp_path / kind, kind, "train.num_steps=2")
    checkpoint = load_checkpoint(folder)
    entry, path = checkpoint.entry(), episodes / "data" / "episode1.hdf5"
    recorded = read_recorded(path, entry, dict(checkpoint.policy.config.cameras))
    assert len(recorded) == read_episode(path).n_frames - 1
    frames = np.arange(5)
    found = predict(checkpoint.policy, entry, recorded, frames=frames, seed=7)
    # An agent that acts at every frame draws the noise of frame t at its replanning t.
    agent = Agent(checkpoint)
    episode = read_episode(path)
    for frame in frames.tolist():
        pictures = {camera: {"rgb": episode.rgb(camera, [frame])[0]} for camera in CAMERAS}
        joints = {"vector": episode.vector[frame]}
        agent.observe({"observation": pictures, "joint_action": joints}, seed=7)
        (actions,) = agent.act()
        np.testing.assert_allclose(
            found.predicted[frame, : len(actions)], actions, rtol=1e-4, atol=1e-4
        )
    np.testing.assert_array_equal(found.recorded[2, 0], episode.vector[3])
    np.testing.assert_array_equal(found.present[2], episode.vector[2])


@pytest.mark.parametrize("kind", ["clip", "fusion"])
def test_stored_features_predict_what_pictures_do(
    run: Run,
    episodes: Path,
    config_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    settings = ["train.num_steps=2", "train.features=auto"]
    folder = train_kind(run, config_path, tmp_path / kind, kind, *settings)
    call = ["predict", str(folder), "--episode", str(episodes / "data" / "episode1.hdf5")]
    call += ["--every", "3", "--threads", "1"]
    monkeypatch.setattr("twin_train.predict_report.draw", lambda *_, **__: None)
    assert main([*call, "--out", str(tmp_path / "live")]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(VisionBackbone, "encode", lambda *_: pytest.fail("a backbone ran"))
        assert main([*call, "--out", str(tmp_path / "stored"), "--features", "auto"]) == 0
    live, stored = (read_csv(tmp_path / name / "predictions.csv") for name in ("live", "stored"))
    assert [line["joint"] for line in live] == [line["joint"] for line in stored]
    ours, theirs = ([float(line["predicted"]) for line in each] for each in (live, stored))
    span = np.ptp(ours)
    # Of a policy's actions: stores may hold half precision.
    np.testing.assert_allclose(ours, theirs, atol=0.02 * span)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_table_figure_and_csv(
    run: Run,
    episodes: Path,
    config_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = train_kind(run, config_path, tmp_path / "dp", "dp", "train.num_steps=2")
    capsys.readouterr()
    path, out = episodes / "data" / "episode0.hdf5", tmp_path / "out"
    call = ["predict", str(folder), "--episode", str(path), "--out", str(out), "--threads", "1"]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "3 chunks, 11 frames" in said
    assert "holding still" in said
    assert (out / "predictions.png").read_bytes()[:4] == b"\x89PNG"
    lines = read_csv(out / "predictions.csv")
    policy = load_checkpoint(folder).policy
    steps = policy.config.horizon - policy.config.n_obs_steps + 1
    assert len(lines) == 3 * steps * 14
    last = [line for line in lines if line["frame"] == "8"]
    # The last frame with an action is the tenth: two steps are beyond it, and more.
    assert {line["step"] for line in last if line["error"]} == {"0", "1", "2"}
    for line in lines[:20]:
        error = abs(float(line["predicted"]) - float(line["recorded"]))
        assert float(line["error"]) == pytest.approx(error)

    assert main([*call, "--frame", "11"]) == 2
    assert "--frame must be from 0 to 10" in capsys.readouterr().err
    assert main([*call, "--features", "auto"]) == 2
    assert "small_cnn" in capsys.readouterr().err


def test_another_robots_episode_is_refused(
    run: Run, episodes: Path, config_path: Path, tmp_path: Path
) -> None:
    folder = train_kind(run, config_path, tmp_path / "dp", "dp", "train.num_steps=2")
    entry = load_checkpoint(folder).entry()
    (path,) = write_episodes(tmp_path / "franka", 1, arm=7)
    with pytest.raises(SpecMismatch, match="trained on 6 and 6 joints, and it has 7 and 7"):
        read_recorded(path, entry, {})
    assert joint_names(entry)[5:8] == ["left_6", "left_gripper", "right_1"]


def test_histories_repeat_the_first_frame() -> None:
    frames = choose_frames(7, frame=None, every=3)
    assert histories(frames, 3).tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
