"""Rollouts: what is kept of an episode, that nothing changes by it, and what a kill leaves."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness_process import (
    BATCHED,
    evaluate,
    finish,
    rows,
    start,
    start_eval,
    untimed,
    wait_for_episodes,
)
from recorded_simulator import RecordedEnv

from twin_env.episodes import read_episode
from twin_env.replay_files import read_replay, read_replay_folder
from twin_eval.episode import EpisodeIdentity, EpisodeRequest, run_episode
from twin_eval.inference import LocalActor
from twin_eval.records import EpisodeRecord
from twin_eval.rollout_folder import settle
from twin_eval.rollouts import Rollout, RolloutMode, RolloutOrigin

SEED = 100_001
RECORDED = ("--provider", "recorded_simulator")
Act = Callable[[Any, Any, dict[str, Any]], None]


def play(act: Act, path: Path | None, env: Any = None, **keep: Any) -> EpisodeRecord:
    """One episode, recorded to `path` if there is one; times are left out of its record."""
    policy: Any = SimpleNamespace(eval=act, reset_model=lambda model: None)
    environment: Any = SimpleNamespace(
        task="reach_number", config_name="demo_clean", config={}, make=lambda: env or RecordedEnv()
    )
    rollout = None
    if path is not None:
        rollout = Rollout(
            path,
            RolloutOrigin(
                task="reach_number",
                policy="it",
                checkpoint="abc",
                seed=SEED,
                noise_seed=5,
                instruction="reach it",
            ),
        )
    record = run_episode(
        environment,
        LocalActor(policy, None),
        EpisodeRequest(index=0, seed=SEED, noise_seed=5),
        EpisodeIdentity(session="s", policy="it", checkpoint="abc"),
        rollout=rollout,
        **keep,
    )
    return dataclasses.replace(record, times={})


def in_chunks(length: int, *, solve: bool = True) -> Act:
    """Looks before each chunk only; its actions tell the light that it saw."""

    def act(env: Any, model: Any, observation: dict[str, Any]) -> None:
        for step in range(length):
            action = np.full(14, observation["target"] if solve else 9.0)
            action[1] = observation["light"] + step + np.random.uniform()  # noqa: NPY002
            env.take_action(action)

    return act


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollouts/data/episode0.hdf5"


def test_a_success_is_kept_with_every_frame_and_its_end(path: Path) -> None:
    record = play(in_chunks(3), path)
    assert (record.outcome, record.steps) == ("success", 5)
    episode = read_replay(path)
    assert episode.n_transitions == 5
    assert episode.reward.tolist() == [0, 0, 0, 0, 1]
    assert episode.terminal[-1]
    assert not episode.truncated.any()
    # The simulator's vector is its last action.
    np.testing.assert_array_equal(episode.action, episode.vector[1:])
    assert episode.stage is not None
    assert episode.stage.tolist() == [0, 0, 1, 1, 1, 2]
    about = episode.about
    assert (about.task, about.source, about.checkpoint) == ("reach_number", "it", "abc")
    assert (about.seed, about.noise_seed, about.n_stages) == (SEED, 5, 2)
    pictures = read_episode(path).rgb("left_camera")
    assert pictures.shape == (6, 24, 32, 3)
    brightness = pictures.mean(axis=(1, 2, 3)) - 8 * np.arange(6)
    assert ((brightness > -2) & (brightness < 22)).all()
    assert read_episode(path).instructions == ("reach it",)


def test_a_failure_is_cut_off_and_not_terminal(path: Path) -> None:
    assert play(in_chunks(4, solve=False), path).outcome == "failure"
    episode = read_replay(path)
    assert episode.n_transitions == 20
    assert episode.truncated[-1]
    assert not episode.terminal.any()
    assert not episode.reward.any()
    assert episode.about.outcome == "failure"


@pytest.mark.parametrize("act", [in_chunks(1), in_chunks(3), in_chunks(7, solve=False)])
def test_recording_changes_nothing(path: Path, act: Act) -> None:
    assert play(act, path) == play(act, None)


def test_a_moment_is_looked_at_once(path: Path) -> None:
    env = RecordedEnv()
    play(in_chunks(3), path, env)
    assert env.looks == [0, 1, 2, 3, 4, 5]


def test_what_the_policy_does_to_its_observation_is_its_own_affair(path: Path) -> None:
    def spoil(env: Any, model: Any, observation: dict[str, Any]) -> None:
        observation["observation"]["head_camera"]["rgb"][:] = 255
        target = observation["target"]
        observation["joint_action"]["vector"][:] = 3.0
        env.take_action(np.full(14, target))

    play(spoil, path)
    assert read_episode(path).rgb("head_camera", [0]).max() < 40
    assert abs(read_replay(path).vector[0]).max() == 0


def fail_later(env: Any, model: Any, observation: dict[str, Any]) -> None:
    env.take_action(np.full(14, np.nan if env.take_action_cnt == 3 else 0.5))


def test_an_error_leaves_no_file_and_removes_that_of_an_earlier_attempt(path: Path) -> None:
    play(in_chunks(3), path)
    assert path.exists()
    record = play(fail_later, path, keep_rollout=lambda outcome: outcome != "error")
    assert record.reason.startswith("InvalidActionError")
    assert not path.exists()


class Blind(RecordedEnv):
    def get_obs(self) -> dict[str, Any]:
        observation = super().get_obs()
        if self.take_action_cnt >= 2:
            del observation["joint_action"]["left_arm"]
        return observation


def test_what_cannot_be_recorded_is_said_and_spoils_no_episode(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert play(in_chunks(3), path, Blind()) == play(in_chunks(3), None)
    assert not path.exists()
    assert "have no joint_action/left_arm: turn `rgb` and `qpos` on" in caplog.text


def test_actions_that_are_no_joint_targets_are_refused(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def act(env: Any, model: Any, observation: dict[str, Any]) -> None:
        env.take_action(np.full(14, observation["target"]), action_type="ee")

    assert play(act, path).outcome == "success"
    assert not path.exists()
    assert "this policy's actions are ee" in caplog.text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("off", ""),
        ("all", "0s 0f 1s 1f 2s 2f"),
        ("successes", "0s 1s 2s"),
        ("failures", "0f 1f 2f"),
        ("first:2", "0s 0f 1s 1f"),
    ],
)
def test_modes(text: str, kept: str) -> None:
    mode = RolloutMode.parse(text)
    outcomes: dict[str, Any] = {"s": "success", "f": "failure", "e": "error"}
    found = [f"{i}{k}" for i in range(3) for k, o in outcomes.items() if mode.keeps(i, o)]
    assert " ".join(found) == kept


@pytest.mark.parametrize("text", ["", "some", "first:", "first:-1", "3"])
def test_unknown_modes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="off, all, successes, failures or first:K"):
        RolloutMode.parse(text)


def test_files_that_the_journal_does_not_confirm_are_removed(tmp_path: Path) -> None:
    run = tmp_path
    files = [run / f"rollouts/data/episode{index}.hdf5" for index in range(4)]
    records = [play(in_chunks(3), file) for file in files]
    records = [dataclasses.replace(record, index=i) for i, record in enumerate(records)]
    other = dataclasses.replace(records[1], actions_digest="0" * 16)
    lost = dataclasses.replace(records[2], outcome="error", reason="worker died")
    later = dataclasses.replace(records[0], index=9)
    settled = settle(run, [records[0], other, lost, later], RolloutMode())
    assert [file.exists() for file in files] == [True, False, False, False]
    assert "1 successes and 0 failures" in str(settled)
    assert "1 left out: ended in an error" in str(settled)
    assert "2 left out: played without being recorded" in str(settled)
    manifest = json.loads((run / "rollouts/replay.json").read_text())
    assert manifest["counts"] == {"it": {"success": 1, "failure": 0}}
    assert manifest["embodiment"] == {"left_arm": 6, "right_arm": 6}
    assert manifest["left_out"] == dict(settled.left_out)


# Whole evaluations ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unrecorded")
    status, output = evaluate(folder, *RECORDED, "--set", "mode=draw")
    assert status == 0, output
    return folder


@pytest.mark.processes
def test_the_table_is_the_same_with_rollouts(unrecorded: Path, tmp_path: Path) -> None:
    words = (*RECORDED, "--set", "mode=draw", "--rollouts", "all")
    status, output = evaluate(tmp_path, *words, workers=2)
    assert status == 0, output
    assert untimed(tmp_path) == untimed(unrecorded)
    table = rows(tmp_path)
    episodes = read_replay_folder(tmp_path / "run/rollouts")
    assert [e.about.outcome for e in episodes] == [row["outcome"] for row in table]
    assert [e.n_transitions for e in episodes] == [int(row["steps"]) for row in table]
    assert [str(e.about.noise_seed) for e in episodes] == [row["noise_seed"] for row in table]
    assert "rollouts of reach_number demo_clean scripted: " in output
    assert not (unrecorded / "run/rollouts").exists()
    definitions = [(folder / "run/run.json").read_text() for folder in (tmp_path, unrecorded)]
    assert definitions[0] == definitions[1]


@pytest.mark.processes
def test_a_shared_policy_is_recorded_too(tmp_path: Path) -> None:
    words = ("reach_number", BATCHED, "--episodes", "6", *RECORDED, "--out")
    tables = []
    for name, more in (("off", ()), ("on", ("--rollouts", "failures", "--inference", "shared"))):
        status, output = finish(start_eval(tmp_path, *words, name, "--workers", "2", *more))
        assert status == 0, output
        tables.append(untimed(tmp_path, f"{name}/episodes.csv"))
    assert tables[0] == tables[1]
    failures = [row for row in tables[0] if row["outcome"] == "failure"]
    episodes = read_replay_folder(tmp_path / "on/rollouts")
    assert [str(episode.about.seed) for episode in episodes] == [row["seed"] for row in failures]
    assert failures


@pytest.mark.processes
def test_kill_9_and_resume_leaves_one_file_an_episode(tmp_path: Path) -> None:
    words = (*RECORDED, "--set", "delay_s=0.02", "--rollouts", "all")
    torn = tmp_path / "run/rollouts/data/.episode0.1.part.hdf5"
    for episodes in (2, 6):
        with start(tmp_path, *words, workers=2) as process:
            wait_for_episodes(process, tmp_path / "run/journal.jsonl", episodes)
            process.send_signal(signal.SIGKILL)
    torn.touch()
    status, output = evaluate(tmp_path, *words, workers=2)
    assert status == 0, output
    table = rows(tmp_path)
    episodes = read_replay_folder(tmp_path / "run/rollouts")
    assert [str(e.about.seed) for e in episodes] == [row["seed"] for row in table]
    assert not torn.exists()
    assert json.loads((tmp_path / "run/rollouts/replay.json").read_text())["episodes"] == 12
